"""What the user sees: a bar and notes on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import time
from statistics import median
from typing import Any

import click

from knitcore.events import Event, Note, Progress

STATES = ("done", "skipped", "failed", "not started")


def shown(text: Any, *, lines: bool = False) -> str:
    """A path or message as safe to print: control characters and stray bytes escaped.

    Parameters
    ----------
    text : object
    lines : bool
        Let line ends through.

    Returns
    -------
    str
    """
    return "".join(
        c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def _is_log(path: str) -> bool:
    """Whether lines can be added to a file: new, empty or ours; a pipe or a terminal, too."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return True
    with open(path, "rb") as handle:
        return re.match(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", handle.read(20)) is not None


class Terminal:
    """Writes to stderr while a run goes on; the bar only where stderr is a terminal.

    Parameters
    ----------
    quiet : bool
        Errors only.
    verbose : bool
        Notes at the level "info" as well as warnings.
    log : str, optional
        A file to which every line goes as well, with its time.
    """

    def __init__(
        self, *, quiet: bool = False, verbose: bool = False, log: str | None = None
    ) -> None:
        self.quiet, self.verbose = quiet, verbose
        self._log: Any = None
        if log is not None:
            try:
                if not _is_log(log):
                    raise click.UsageError(f"--log {log}: is no log of knit's; choose another name")
                self._log = open(log, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise click.UsageError(f"--log {log}: cannot write: {reason}") from None
        self.board: Board | None = None
        self._bar: Any = None
        self._task: Any = None

    def start(self, label: str) -> None:
        """Begin a file's bar."""
        if self.quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[stage]}", markup=False, style="dim"),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task = self._bar.add_task(shown(label), total=1.0, stage="", left="")
        self._bar.start()

    def finish(self) -> None:
        """End a file's bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def event(self, event: Event) -> None:
        """Show what a task reports."""
        if isinstance(event, Note):
            if event.level == "warning" or self.verbose:
                self.say("Warning" if event.level == "warning" else "Note", event.text)
        elif isinstance(event, Progress) and self._bar is not None:
            losses = {k: v for k, v in event.losses.items() if math.isfinite(v)}
            loss = "".join(f"  {name} {value:.2g}" for name, value in list(losses.items())[:1])
            left = "" if math.isnan(event.remaining) else f"{_clock(event.remaining)} left"
            self._bar.update(
                self._task, completed=event.fraction, stage=event.stage + loss, left=left
            )

    def say(self, kind: str, text: str) -> None:
        """A line of a kind ("Note", "Warning", "Error"); only errors pass `quiet`."""
        self.log(f"{kind}: {text}")
        if self.quiet and kind != "Error":
            return
        colour = {"Error": "red", "Warning": "yellow"}.get(kind)
        line = click.style(f"{kind}:", fg=colour, bold=kind == "Error") + " " + shown(text)
        if self._bar is not None:
            from rich.text import Text

            self._bar.console.print(Text.from_ansi(line))
        elif self.board is not None and self.board.live is not None:
            from rich.text import Text

            self.board.live.console.print(Text.from_ansi(line))
        else:
            click.echo(line, err=True)

    def log(self, text: str) -> None:
        """A line for the log file only."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.write(f"{time.strftime('%F %T')} {shown(text)}\n")
                self._log.flush()


class Board:
    """How far a batch is: a table that stays in place in a terminal, else a line now and then.

    Parameters
    ----------
    terminal : Terminal
    total : int
        Files of the run.
    workers : int
    """

    def __init__(self, terminal: Terminal, total: int, workers: int) -> None:
        self.terminal, self.total, self.workers = terminal, total, workers
        self.counts = {"done": 0, "skipped": 0, "failed": 0}
        # by worker and name: a worker may have several files under way
        self.running: dict[tuple[int, str], tuple[float, str, float]] = {}
        self.began = self._told = time.monotonic()
        self.live: Any = None
        if sys.stderr.isatty() and not terminal.quiet:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False)
            self.live = Live(console=console, get_renderable=self._table, refresh_per_second=4)
            self.live.transient = True
            self.live.start()
        terminal.board = self

    def close(self) -> None:
        """Take the table away."""
        self.terminal.board = None
        if self.live is not None:
            self.live.stop()
            self.live = None

    def at_work(self, worker: int, name: str, fraction: float, stage: str) -> None:
        """What a worker is doing."""
        since = self.running.get((worker, name), (0.0, "", time.monotonic()))[2]
        self.running[worker, name] = (fraction, stage, since)

    def ended(self, worker: int | None, name: str, state: str) -> None:
        """A file is finished with."""
        if worker is not None:
            self.running.pop((worker, name), None)
        if state in self.counts:
            self.counts[state] += 1
        now = time.monotonic()
        if self.live is None and now - self._told > 10 and not self.terminal.quiet:
            self._told = now
            click.echo(self._headline(), err=True)

    def gone(self, worker: int) -> None:
        """A worker died."""
        self.running = {key: told for key, told in self.running.items() if key[0] != worker}

    def _headline(self) -> str:
        counts, seconds = self.counts, time.monotonic() - self.began
        over = sum(counts.values())
        text = f"{over} of {self.total} files · done {counts['done']} · skipped {counts['skipped']}"
        text += f" · failed {counts['failed']} · running {len(self.running)}"
        worked = over - counts["skipped"]
        if worked and over < self.total:
            text += f" · about {_clock(seconds / worked * (self.total - over))} left"
        return text

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column(no_wrap=True)
        for worker in sorted({worker for worker, _ in self.running}):
            names = [name for other, name in self.running if other == worker]
            fraction, stage, since = self.running[worker, names[0]]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            table.add_row(
                Text(f"worker {worker + 1}", style="dim"),
                Text(shown(names[0])[-40:] + more),
                Text(f"{100 * fraction:3.0f} %"),
                Text(f"{_clock(time.monotonic() - since)}  {shown(stage)[:40]}", style="dim"),
            )
        from rich.console import Group

        return Group(Text(self._headline(), style="bold"), table)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def result_line(outcome: dict[str, Any], as_json: bool) -> str:
    """The line on stdout for a file that is done (with JSON: for a failed one, too).

    Parameters
    ----------
    outcome : dict
        status, task, input, output, seconds and what the task found out; or error.
    as_json : bool

    Returns
    -------
    str
    """
    if as_json:
        return json.dumps(outcome, default=float)
    did = {"inpaint": _filled, "denoise": _denoised, "super-resolve": _enlarged}[outcome["task"]]
    return shown(f"{outcome['input']} -> {outcome['output']}: {did(outcome)}")


def _filled(outcome: dict[str, Any]) -> str:
    filled, regions = outcome["filled"], outcome["regions"]
    if not filled:
        return "nothing to fill, copied"
    told = (
        f"{filled:,} {'pixel' if filled == 1 else 'pixels'} filled in "
        f"{regions:,} {'region' if regions == 1 else 'regions'}, "
        f"{outcome['seconds']:.1f} s"
    )
    validation = outcome.get("validation")
    if validation:
        count = validation["holes"]
        told += (
            f"; expected error of this fill: ±{validation['rmse']:.3g} grey levels (RMSE over {count} "
            f"held-out {'hole' if count == 1 else 'holes'} of the same shape)"
        )
    return told


def _denoised(outcome: dict[str, Any]) -> str:
    noise, seconds = outcome["noise"], f"{outcome['seconds']:.1f} s"
    kinds = {one["kind"] for one in noise} - {"none"}
    if not kinds:
        return f"no noise found, {seconds}"
    if kinds == {"unknown"}:  # the article's knitwork estimates none
        return f"fitted by the knitwork in {seconds}"
    kind = kinds.pop() if len(kinds) == 1 else "several kinds of"
    facts, count = [f"{kind} noise"], 0
    for name in {"gaussian": ["sigma"], "poisson-gaussian": ["gain", "offset"]}.get(kind, []):
        values = [v for one in noise if one["kind"] == kind for v in _numbers(one.get(name))]
        if values:
            middle, count = median(values), len(values)
            facts.append(f"{name} {middle:.0f}" if abs(middle) >= 1000 else f"{name} {middle:.3g}")
    if count > 1:
        channels = len(noise) == 1 or "channel" in noise[0].get("where", "")
        facts.append(
            f"median of {count if channels else len(noise)} {'channels' if channels else 'planes'}"
        )
    return f"{', '.join(facts)}, taken out in {seconds}"


def _enlarged(outcome: dict[str, Any]) -> str:
    kernel = outcome["kernel"]
    pairs = zip(outcome["axes"], outcome["output_shape"], outcome["input_shape"], strict=True)
    sides = [(new, old) for axis, new, old in pairs if axis in "YX" or (axis == "Z" and new != old)]
    new, old = (" × ".join(str(pair[i]) for pair in sides) for i in (0, 1))
    name, widths = kernel["choice"], _numbers(kernel.get("sigmas_output_pixels"))
    if any(widths):
        name = f"gaussian {' × '.join(f'{width:.1f}' for width in widths)} px"
        name += f" at {kernel['angle']:.0f}°" if kernel.get("angle") else ""
    elif name == "estimate":
        name = kernel.get("family", name)
    if kernel.get("learned"):
        name = f"learned, from {name}"
    count = len(outcome["residual"])
    planes = f" in {count} planes" if count > 1 else ""
    return f"{new} from {old}{planes} (kernel: {name}), {outcome['seconds']:.1f} s"


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [float(one) for one in values if isinstance(one, (int, float))]


def summary(counts: dict[str, int], failed: list[tuple[str, str]]) -> str:
    """The table after several files: how many, and which failed and why.

    Parameters
    ----------
    counts : dict
        Files by state: done, skipped, failed, not started.
    failed : list of (str, str)
        Name and reason.

    Returns
    -------
    str
    """
    lines = [" · ".join(f"{name} {counts.get(name, 0)}" for name in STATES)]
    width = max((len(name) for name, _ in failed), default=0)
    for name, reason in failed:
        lines.append(shown(f"  {name:{min(width, 40)}}  {reason}"))
    return "\n".join(lines)
