"""The widget "Batch (Knitworks)": a folder of images worked through by `knit` in a process of its own."""

from __future__ import annotations

import json
import os
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

from qtpy.QtCore import QProcess, QProcessEnvironment, QTimer
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from knit_plugin._background import Background
from knit_plugin._recipe_form import add_keys, add_row, form_layout
from knit_plugin._run_panel import without_options, wrapped_label
from knit_plugin._settings import keep_inputs, last_inputs
from knitcore import Image, InputError, KnitError, load_recipe, read_image
from knitcore.masks import SUFFIX, WORDS, is_mask_word
from knitcore.recipe import RECIPES, Recipe, make_recipe, run_sections
from knitcore.run_file import RunFile, Source, load_run, save_run

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy")
KILL_AFTER = 10_000  # ms from a polite stop to one that cannot be refused
WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
RUN_FILE = "knit-run.yaml"
RUN_FILES = "Run files, recipes and records (*.yaml *.yml *.json)"
LEFT_OUT = "left out"
SIGNS = {WAITING: "·", RUNNING: "…", DONE: "✓", FAILED: "✗", STOPPED: "–", LEFT_OUT: " "}


class PathInput(QWidget):
    """A line for a path, and a button to look for it.

    Parameters
    ----------
    what : {"folder", "new folder", "file", "any"}
    placeholder : str
    """

    def __init__(self, what: str, placeholder: str = "") -> None:
        super().__init__()
        self._what = what
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        self.button = QToolButton()
        self.button.setText("…")
        self.button.setToolTip("Look for it")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.line)
        row.addWidget(self.button)
        self.setFocusProxy(self.line)
        self.button.clicked.connect(self._look)

    @property
    def text(self) -> str:
        """What is written, without spaces around it."""
        return self.line.text().strip()

    def _look(self) -> None:
        start = self.text or str(Path.home())
        if self._what.endswith("folder"):
            found = QFileDialog.getExistingDirectory(self, "Choose a folder", start)
        else:
            found, _ = QFileDialog.getOpenFileName(self, "Choose a file", start)
        if found:
            self.line.setText(found)


class BatchWidget(QWidget):
    """Work through a folder: one child process, one row for each file.

    A fault in one file never costs another one, and one in the process never the viewer. Stop ends it
    without half a file; Run goes on with what is not done.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    verb: ClassVar[str] = "Batch"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.process: QProcess | None = None
        self.rows: dict[Path, int] = {}
        self.states: dict[Path, str] = {}
        self.outputs: dict[Path, Path] = {}
        self._stopping = False
        self._errors = ""
        self._half = b""
        self._of: tuple[str, ...] = ()  # inputs that the table's states are of
        self._dock: Any = None

        self.task_box = QComboBox()
        self.task_box.addItems(list(RECIPES))
        self.source = PathInput("folder")
        self.pattern = QLineEdit("*")
        self.mask_path = PathInput("any", "folder, file, nan, saturated, hot, …")
        self.recipe = PathInput("file", "defaults")
        self.target = PathInput("new folder")
        self.jobs_box = QSpinBox()
        self.jobs_box.setRange(1, max(1, os.cpu_count() or 1))
        self.replace_box = QCheckBox()
        self.run_button = QPushButton("Run")
        self.run_button.setToolTip("Start, or go on with the files that are not done.")
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip(
            "Stop now. Files that are done stay; none is left half written."
        )
        self.open_button = QPushButton("Open…")
        self.open_button.setToolTip(
            "Fill in what a run file, a recipe or the record of a run says; or drop it here."
        )
        add_keys(self, {"Ctrl+Return": self.run_button, "Esc": self.stop_button})
        self._opened: RunFile | None = None  # with what it says that no input here shows
        self._opened_path = ""
        self.bar = QProgressBar()
        self.table = QTableWidget(0, 3)
        self.hint, self.summary = wrapped_label(), wrapped_label()
        self._lay_out()

        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.timeout.connect(self._kill)
        # while somebody types a path, the disk is looked at only after a pause
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(300)
        self._pause.timeout.connect(self.check)
        for line in (
            self.source.line,
            self.target.line,
            self.recipe.line,
            self.mask_path.line,
            self.pattern,
        ):
            line.textChanged.connect(lambda _: self._pause.start())
            line.setAcceptDrops(False)  # a file that is dropped on it is for the whole widget
        self.task_box.currentTextChanged.connect(self._show_rows)
        self.run_button.clicked.connect(self.run)
        self.stop_button.clicked.connect(self.stop)
        self.open_button.clicked.connect(self._choose_file)
        self.setAcceptDrops(True)
        self.table.cellDoubleClicked.connect(self._open)
        self._reading = Background(self)
        self._reading.done.connect(self._show_images)
        self._reading.failed.connect(self._fail)
        self._recall()
        self._show_rows()

    # layout

    def _lay_out(self) -> None:
        self._rows = rows = form_layout()
        add_row(rows, "Task", self.task_box, "What is done to each image.")
        add_row(rows, "Images", self.source, "Folder of the images; they are not changed.")
        tip = "Which files of the folder: *.tif, cell_??.png; several patterns with spaces."
        add_row(rows, "Files", self.pattern, tip)
        tip = (
            "What to fill: a folder of masks matched by name (a.tif goes with a.tif, a.png or "
            "a_mask.*), one mask for all, or a word: nan, saturated, hot, value=0, above=4000."
        )
        add_row(rows, "Mask", self.mask_path, tip)
        tip = "A recipe (.yaml) or the record of a run (.knit.json); empty: the defaults."
        add_row(rows, "Recipe", self.recipe, tip)
        add_row(rows, "Results", self.target, "Folder for the results and their records.")
        tip = "How many files at a time, each in a process of its own with a torch of its own."
        add_row(rows, "At once", self.jobs_box, tip)
        tip = "Write over results of other settings in that folder. Otherwise such a file fails."
        add_row(rows, "Replace results", self.replace_box, tip)
        self.table.setHorizontalHeaderLabels(["", "File", "What came out"])
        header, side = self.table.horizontalHeader(), self.table.verticalHeader()
        assert header is not None
        assert side is not None
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        side.hide()
        self.table.setColumnWidth(1, 100)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setToolTip("Double-click a file that is done to see it beside its source.")
        self.table.setTabKeyNavigation(False)  # Tab leaves the table
        self.table.setMinimumHeight(120)
        self.table.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.stop_button)
        buttons.addWidget(self.open_button)
        layout = QVBoxLayout(self)
        layout.addLayout(rows)
        layout.addWidget(self.hint)
        layout.addLayout(buttons)
        for widget in (self.bar, self.table, self.summary):
            layout.addWidget(widget)
        self.bar.hide()

    def _show_rows(self) -> None:
        masked = self.task_box.currentText() == "inpaint"
        self.mask_path.setVisible(masked)
        label = self._rows.labelForField(self.mask_path)
        if label is not None:
            label.setVisible(masked)
        self.check()

    # before the run

    def files(self) -> list[Path]:
        """The images that are meant.

        Returns
        -------
        list of Path
            Sorted by name.

        Raises
        ------
        InputError
            No such folder, or nothing in it.
        """
        if not self.source.text:
            raise InputError("Choose the folder of the images.")
        folder = Path(self.source.text).expanduser()
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        patterns = self.pattern.text().split() or ["*"]
        told = self._told().source
        found = sorted(
            path
            for path in (folder.rglob("*") if told.recursive else folder.iterdir())
            if path.suffix.lower() in SUFFIXES
            and not path.name.startswith(".")
            and any(fnmatch(path.name, pattern) for pattern in patterns)
            and not any(fnmatch(path.name, pattern) for pattern in told.exclude)
            and path.is_file()
        )
        found = without_masks(found, folder, self.mask_path.text)
        if not found:
            raise InputError(f"{folder}: no image is called {' or '.join(patterns)}")
        return found

    def _told(self) -> RunFile:
        """The run file that was opened, while its recipe is still the one that is meant."""
        opened = self._opened
        if opened is None or self.recipe.text != self._opened_path:
            return RunFile(recipe=make_recipe("denoise"))
        return opened

    def _choose_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Run file, recipe or record", "", RUN_FILES)
        if path:
            self._try_file(path)

    def _try_file(self, path: str) -> None:
        try:
            self.show_file(path)
        except KnitError as problem:
            self._fail(str(problem))

    def show_file(self, path: str | Path) -> None:
        """Fill in what a run file says; of a recipe or a record, the task and the recipe.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        RecipeError
            It cannot be used.
        InputError
            A batch is under way, or the run file names images of several folders.
        """
        path = Path(path).expanduser().absolute()
        if self.process is not None:
            raise InputError("A batch is under way: wait for its end, or stop it")
        if not run_sections(path)[0]:
            self._opened = None
            self.task_box.setCurrentText(load_recipe(path).task)
            self.recipe.line.setText(str(path))
            self.check()
            return
        # to show places is not to use them: they may lie anywhere
        run = load_run(path, allow_outside=True)
        folder, patterns = _one_folder(run.source)
        self._opened, self._opened_path = run, str(path)
        self.task_box.setCurrentText(run.recipe.task)
        texts = {
            "source": folder,
            "pattern": patterns,
            "mask": run.source.mask or "",
            "recipe": str(path),
            "target": run.target.folder or "",
        }
        for name, line in self._inputs().items():
            line.setText(texts[name])
        self.replace_box.setChecked(run.target.overwrite)
        self.jobs_box.setValue(run.executor.jobs)
        self.check()
        kept = _without_input(run)
        told = f"; from the file also: {', '.join(kept)}" if kept else ""
        self.summary.setText(f"Filled in from {path.name}{told}.")

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Take files."""
        if event is not None and (data := event.mimeData()) is not None and data.hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        """A folder becomes the one of the images; of a file, what it says is filled in."""
        if event is None or (data := event.mimeData()) is None:
            return
        event.acceptProposedAction()
        path = data.urls()[0].toLocalFile()
        if Path(path).is_dir():
            self.source.line.setText(path)
        elif path:
            self._try_file(path)

    def make_recipe(self) -> Recipe:
        """The recipe that is meant, checked.

        Returns
        -------
        Recipe

        Raises
        ------
        RecipeError
            The file cannot be used.
        InputError
            It is for another task.
        """
        task: Any = self.task_box.currentText()
        if not self.recipe.text:
            return make_recipe(task)
        recipe = load_recipe(Path(self.recipe.text).expanduser())
        if recipe.task != task:
            raise InputError(f"{self.recipe.text}: is for the task {recipe.task}, not {task}")
        return recipe

    def check(self) -> None:
        """List the files, and say what is missing; Run is on when nothing is."""
        if self.process is not None:
            return
        try:
            files = self.files()
            recipe = self.make_recipe()
            if not self.target.text:
                raise InputError("Choose the folder for the results.")
            target = Path(self.target.text).expanduser()
            if target.resolve() == Path(self.source.text).expanduser().resolve():
                raise InputError("Choose another folder for the results than for the images.")
            if self.task_box.currentText() == "inpaint":
                _refuse_unknown_mask(self.mask_path.text)
        except (KnitError, OSError) as problem:
            self._fill([])
            self._say(str(problem))
            self.run_button.setEnabled(False)
            self.stop_button.setEnabled(False)
            return
        self._say("")
        lines = (line.text() for line in self._inputs().values())
        asked = (recipe.model_dump_json(), *lines)
        if asked != self._of:  # what came of other settings says nothing
            self._fill([])
            self._of = asked
        self._fill(files)
        self.run_button.setEnabled(True)
        self.stop_button.setEnabled(False)
        left = sum(state != DONE for state in self.states.values())
        self.run_button.setText("Resume" if 0 < left < len(files) else "Run")

    def _fill(self, files: list[Path]) -> None:
        before = {path: (self.states[path], self._text(path)) for path in self.rows}
        self.table.setRowCount(len(files))
        self.rows = {path: row for row, path in enumerate(files)}
        self.states = {}
        for path, row in self.rows.items():
            name = QTableWidgetItem(path.name)
            name.setToolTip(str(path))
            self.table.setItem(row, 0, QTableWidgetItem())
            self.table.setItem(row, 1, name)
            self.table.setItem(row, 2, QTableWidgetItem())
            self._set(path, *before.get(path, (WAITING, "")))

    def _text(self, path: Path) -> str:
        item = self.table.item(self.rows[path], 2)
        return item.text() if item is not None else ""

    def _set(self, path: Path, state: str, text: str) -> None:
        self.states[path] = state
        row = self.rows[path]
        sign, told = self.table.item(row, 0), self.table.item(row, 2)
        assert sign is not None
        assert told is not None
        sign.setText(SIGNS[state])
        sign.setToolTip(state)
        beside = f"{Path(self.source.text).expanduser().parent}{os.sep}"
        text = in_words(text)
        told.setText(text.replace(beside, ""))  # whole paths are too wide for a cell
        told.setToolTip(text)

    def _say(self, text: str) -> None:
        self.hint.setText(text)
        self.hint.setVisible(bool(text))

    # the run

    def command(self) -> list[str]:
        """Arguments of the child process, after the interpreter.

        Returns
        -------
        list of str
        """
        # the paths of the file lie anywhere, for it is we who wrote them
        return ["-m", "knit_cli", "run", str(self.run_path), "--allow-outside", "--events", "json"]

    @property
    def run_path(self) -> Path:
        """Where the run file is written: among the results, to repeat the batch with `knit run`."""
        return Path(self.target.text).expanduser().absolute() / RUN_FILE

    def run_file(self) -> RunFile:
        """What the widget asks for, as `knit run` takes it.

        Returns
        -------
        RunFile
        """
        mask = None
        if self.task_box.currentText() == "inpaint":
            mask = self.mask_path.text
            path = Path(mask).expanduser()
            mask = str(path.absolute()) if path.exists() else mask
        patterns = self.pattern.text().split()
        told = self._told()
        source = {
            "images": [str(Path(self.source.text).expanduser().absolute())],
            "include": [pattern for pattern in patterns if pattern != "*"],
            "mask": mask,
        }
        target = {
            "folder": str(self.run_path.parent),
            "overwrite": self.replace_box.isChecked(),
        }
        return RunFile(
            recipe=self.make_recipe(),
            source=told.source.model_copy(update=source),
            target=told.target.model_copy(update=target),
            executor=told.executor.model_copy(update={"jobs": self.jobs_box.value()}),
        )

    def run(self) -> None:
        """Start the child process on all that is not done."""
        if self.process is not None:
            return
        self.check()
        if not self.run_button.isEnabled():
            return
        self.summary.setText("")
        try:
            self.run_path.parent.mkdir(parents=True, exist_ok=True)
            save_run(self.run_file(), self.run_path)
        except OSError as error:
            self._fail(f"{self.target.text}: cannot write there: {error.strerror}")
            return
        self._keep()
        for path in self.rows:
            self._set(path, WAITING, "")
        self._stopping, self._errors, self._half = False, "", b""
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONUNBUFFERED", "1")
        environment.insert("PYTHONIOENCODING", "utf-8")
        process.setProcessEnvironment(environment)
        process.readyReadStandardOutput.connect(self._read)
        process.readyReadStandardError.connect(self._read_errors)
        process.finished.connect(self._end)
        process.errorOccurred.connect(self._end_unstarted)
        self.process = process
        self.run_button.setEnabled(False)
        self.stop_button.setEnabled(True)
        self.bar.setRange(0, len(self.rows))
        self.bar.setFormat("%v of %m files")
        self.bar.show()
        self._count()
        process.start(sys.executable, self.command())

    def stop(self) -> None:
        """End the child process; harmless when there is none, and twice."""
        process = self.process
        if process is None:
            return
        self._stopping = True
        self.stop_button.setEnabled(False)
        self.summary.setText("stopping…")
        if sys.platform == "win32":
            process.kill()  # a console program hears no terminate there
            return
        process.terminate()
        self._patience.start(KILL_AFTER)

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def _read(self) -> None:
        if self.process is None:
            return
        *lines, self._half = (
            self._half + bytes(self.process.readAllStandardOutput().data())
        ).split(b"\n")
        for line in lines:
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if isinstance(told, dict) and "event" in told:
                self._take(told)

    def _read_errors(self) -> None:
        if self.process is not None:
            text = bytes(self.process.readAllStandardError().data()).decode(errors="replace")
            self._errors = (self._errors + text)[-4000:]

    def _take(self, told: dict[str, Any]) -> None:
        path = Path(self.source.text).expanduser() / str(told.get("file", ""))
        if path not in self.rows:
            return
        if told["event"] == "progress":
            self._set(path, RUNNING, f"{100 * told.get('progress', 0):.0f} %")
            return
        if told["event"] != "file":
            return
        state = told.get("state")
        if state in ("done", "skipped"):
            self.outputs[path] = self.run_path.parent / str(told["output"])
            seconds = told.get("seconds")
            self._set(path, DONE, f"{seconds:.1f} s" if seconds else "done before")
        elif state == "failed":
            self._set(path, FAILED, str(told.get("reason", "")))
        self._count()

    def _count(self) -> None:
        states = list(self.states.values())
        self.bar.setValue(states.count(DONE) + states.count(FAILED))
        counts = [(DONE, "done"), (FAILED, "failed"), (STOPPED, "not started")]
        parts = [f"{states.count(state)} {word}" for state, word in counts if state in states]
        left = states.count(WAITING) + states.count(RUNNING)
        self.summary.setText(" · ".join([*parts, *([f"{left} to go"] if left else [])]))

    def _end_unstarted(self, error: Any) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._errors = f"{sys.executable} could not be started"
            self._end(1)

    def _end(self, code: int, *rest: Any) -> None:
        if self.process is None:
            return
        self._read()
        self._read_errors()
        self._patience.stop()
        self.process.deleteLater()
        self.process = None
        # a run that came to its end has left out what serves as a mask of another image
        worked = {DONE, FAILED} & set(self.states.values())
        ended = code in (0, 1) and bool(worked) and not self._stopping
        for path, state in list(self.states.items()):
            if state in (WAITING, RUNNING):
                self._set(path, *((LEFT_OUT, "no image of its own") if ended else (STOPPED, "")))
        self._count()
        self.bar.hide()
        broken = STOPPED in self.states.values() and not self._stopping
        states = [state for state in self.states.values() if state != LEFT_OUT]
        self.run_button.setEnabled(True)
        self.stop_button.setEnabled(False)
        self.run_button.setText("Resume" if 0 < states.count(DONE) < len(states) else "Run")
        if broken:
            lines = [line for line in self._errors.splitlines() if line.strip()]
            text = lines[-1] if lines else f"the process ended with code {code}"
            self._fail(f"The batch ended early: {text.removeprefix('Error: ')}")

    def _fail(self, text: str) -> None:
        from napari.utils.notifications import show_error

        text = in_words(text)
        self.summary.setText(f"{self.summary.text()}\n{text}".strip())
        show_error(text)

    def _open(self, row: int, column: int) -> None:
        path = next(path for path, at in self.rows.items() if at == row)
        if self.states[path] != DONE:
            return
        files = [f for f in (path, self.outputs[path]) if f.name not in self.viewer.layers]
        self._reading.ask(lambda: [(file.name, read_image(file)) for file in files])

    def _show_images(self, images: list[tuple[str, Image]]) -> None:
        from knit_plugin._sample_data import place_in_layers

        for name, image in images:
            rgb = image.axes.endswith("S") and image.shape[-1] > 2
            self.viewer.add_image(image.data, name=name, rgb=rgb, **place_in_layers(image))

    # between sessions

    def _inputs(self) -> dict[str, Any]:
        return {
            "source": self.source.line,
            "pattern": self.pattern,
            "mask": self.mask_path.line,
            "recipe": self.recipe.line,
            "target": self.target.line,
        }

    def _keep(self) -> None:
        lines = {name: line.text() for name, line in self._inputs().items()}
        keep_inputs("batch", {**lines, "task": self.task_box.currentText()})

    def _recall(self) -> None:
        kept = last_inputs("batch")
        for name, line in self._inputs().items():
            if isinstance(kept.get(name), str):
                line.setText(kept[name])
        if kept.get("task") in RECIPES:
            self.task_box.setCurrentText(kept["task"])

    # the end of the widget

    def showEvent(self, event: QShowEvent | None) -> None:
        """Find the dock, when napari has put the widget into one."""
        dock = self.parent()
        if dock is not None and dock is not self._dock:
            self._dock = dock
            # napari takes the widget out of a dock that is closed, and it lives on unseen
            dock.destroyed.connect(self._lose_dock)
        super().showEvent(event)

    def _lose_dock(self) -> None:
        self._dock = None
        if self.process is not None:
            self.stop()
            self.process.waitForFinished(KILL_AFTER)


def _one_folder(source: Source) -> tuple[str, str]:
    """The folder of a run file's images, and the patterns of their names."""
    paths = [Path(one) for one in source.images]
    if len(paths) == 1 and not paths[0].is_file():
        return str(paths[0]), " ".join(map(_as_pattern, source.include)) or "*"
    folders = {str(path.parent) for path in paths}
    if len(folders) > 1 or any(path.is_dir() for path in paths):
        raise InputError(
            f"the run file names images in {len(paths)} places; here it can be one folder. "
            "In a shell, knit run takes it as it is"
        )
    names = " ".join(_as_pattern(path.name) for path in paths)
    return (folders.pop(), names) if folders else ("", "*")


def _as_pattern(name: str) -> str:
    # patterns are kept apart by spaces
    return name.replace(" ", "?")


def _without_input(run: RunFile) -> list[str]:
    """What a run file says that the widget has no input for, and goes on to say."""
    shown = {"images", "include", "mask", "folder", "overwrite", "jobs"}
    sections = (run.source, run.target, run.executor)
    return [
        f"{name} {value}" if value is not True else name
        for section in sections
        for name, value in section.model_dump(exclude_defaults=True).items()
        if name not in shown
    ]


def without_masks(files: list[Path], folder: Path, mask: str) -> list[Path]:
    """Images of a folder, less the masks that lie beside them.

    Parameters
    ----------
    files : list of Path
    folder : Path
        Of the images.
    mask : str
        As written: a folder, or "suffix:_m".

    Returns
    -------
    list of Path
    """
    if mask.startswith(SUFFIX):
        ending = mask.removeprefix(SUFFIX)
    elif mask and Path(mask).expanduser().resolve() == folder.resolve():
        ending = "_mask"
    else:
        return files
    stems = {(file.parent, file.name.split(".")[0]) for file in files}

    def serves(file: Path) -> bool:
        stem = file.name.split(".")[0]
        return stem.endswith(ending) and (file.parent, stem.removesuffix(ending)) in stems

    return [file for file in files if not serves(file)]


def _refuse_unknown_mask(mask: str) -> None:
    if not mask:
        raise InputError("Say what is to be filled: a mask, or a word such as nan.")
    if not is_mask_word(mask) and not Path(mask).expanduser().exists():
        raise InputError(f"Mask: {mask}: no such file or folder, nor a word ({WORDS}).")


def in_words(text: str) -> str:
    """A message of the command in this widget's words.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
    """
    for theirs, ours in (
        ("use --overwrite", "tick Replace results"),
        ("another -o", "another folder"),
    ):
        text = text.replace(theirs, ours)
    return without_options(text)
