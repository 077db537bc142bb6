"""Run files: a recipe with the images it is for, where results go, and what does the work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from knitcore.errors import RecipeError
from knitcore.masks import NUMBERED
from knitcore.recipe import (
    RUN_SECTIONS,
    Recipe,
    load_recipe,
    recipe_fields,
    run_sections,
    section_errors,
)

QUEUES = ("slurm", "pbs", "lsf", "sge")  # also spelt out in `Executor.kind`


def _one_line(text: str) -> str:
    # goes into a job script: what looks like one option must not become several lines
    if not text or not text.isprintable():
        raise ValueError("must be one line of plain text")
    return text


Line = Annotated[str, Field(max_length=2000), AfterValidator(_one_line)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Source(_Section):
    """Which images."""

    images: list[str] = Field(
        default_factory=list, max_length=100_000, description="Files and folders."
    )
    include: list[str] = Field(
        default_factory=list, max_length=100, description="Patterns of names to take."
    )
    exclude: list[str] = Field(
        default_factory=list, max_length=100, description="Patterns of names to leave out."
    )
    recursive: bool = Field(default=False, description="Search folders further down.")
    mask: str | None = Field(
        default=None, description="A file, a folder, a suffix (suffix:_m) or a word."
    )


class Target(_Section):
    """Where results go."""

    folder: str | None = Field(default=None, description="The output folder.")
    format: Literal["tif", "ome.tif", "png", "npy", "ome.zarr"] | None = Field(
        default=None, description="Format of the outputs; that of each input if not given."
    )
    keep_extension: bool = Field(default=False, description="a.png gives a.png_denoised.png.")
    overwrite: bool = Field(default=False, description="Replace existing outputs.")
    save: list[Literal["std", "synthesised", "residual", "kernel"]] = Field(
        default_factory=list, description="What is written beside each output."
    )


class Executor(_Section):
    """What does the work: processes of this machine, or the workers of a dask cluster."""

    kind: Literal["processes", "dask", "dask-local", "slurm", "pbs", "lsf", "sge"] = Field(
        default="processes",
        description="Processes of this machine; a dask cluster that runs; one of this machine; or "
        "jobs of a queue.",
    )
    jobs: int = Field(default=1, ge=1, le=1024, description="Worker processes.")
    timeout: float | None = Field(
        default=None, gt=0, le=1e7, description="Seconds a file may take."
    )
    max_memory: str | None = Field(default=None, description="Memory of a worker, such as 4G.")
    retries: int = Field(
        default=1, ge=0, le=10, description="New tries of a file whose worker died."
    )
    address: Line | None = Field(
        default=None, description="Of the scheduler, for dask: tcp://host:8786."
    )
    workers: int | None = Field(
        default=None, ge=1, le=10_000, description="For dask-local and queues: workers or jobs."
    )
    cores: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Cores of each worker; each does one file at a time.",
    )
    worker_timeout: float | None = Field(
        default=None,
        gt=0,
        le=1e7,
        description="Seconds without any worker after which the run ends: 300, for queues a day.",
    )
    memory: Line | None = Field(default=None, description="For queues: memory of a job.")
    walltime: Line | None = Field(default=None, description="For queues: time of a job.")
    queue: Line | None = Field(default=None, description="For queues: name, or partition.")
    account: Line | None = Field(default=None, description="For queues: account, or project.")
    interface: Line | None = Field(
        default=None, description="For queues: network interface, such as ib0."
    )
    directives: list[Line] = Field(
        default_factory=list, max_length=100, description="For queues: more options of a job."
    )
    prologue: list[Line] = Field(
        default_factory=list,
        max_length=100,
        description="For queues: shell commands before a worker starts.",
    )
    options: dict[str, bool | int | float | Line | list[Line]] = Field(
        default_factory=dict, description="For queues: anything else that dask-jobqueue takes."
    )

    @property
    def is_queue(self) -> bool:
        """Whether workers are jobs of a batch system."""
        return self.kind in QUEUES

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Executor:
        only = {
            "jobs": ("processes",),
            "address": ("dask",),
            "workers": ("dask-local", *QUEUES),
            "cores": ("dask", "dask-local", *QUEUES),
            "worker_timeout": ("dask", "dask-local", *QUEUES),
            **dict.fromkeys(
                ("memory", "walltime", "queue", "account", "interface", "directives"), QUEUES
            ),
            **dict.fromkeys(("prologue", "options"), QUEUES),
        }
        for name, kinds in only.items():
            if name in self.model_fields_set and self.kind not in kinds:
                raise ValueError(f"`{name}` is for kind: {', '.join(kinds)}; not for {self.kind}")
        needed = {"dask": ("address",)} | dict.fromkeys(QUEUES, ("workers", "memory", "walltime"))
        lacking = [name for name in needed.get(self.kind, ()) if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"kind {self.kind} needs `{lacking[0]}`")
        return self


class RunFile(_Section):
    """A recipe with source, target and executor.

    Attributes
    ----------
    recipe : Inpaint, Denoise or SuperResolve
    source : Source
    target : Target
    executor : Executor
    """

    recipe: Recipe
    source: Source = Field(default_factory=Source)
    target: Target = Field(default_factory=Target)
    executor: Executor = Field(default_factory=Executor)


def load_run(path: str | Path, *, allow_outside: bool = False) -> RunFile:
    """Read a run file; its paths come back joined to its folder.

    Parameters
    ----------
    path : path-like
        YAML or JSON: fields of a recipe, and the sections `source`, `target`, `executor`.
    allow_outside : bool
        Let its paths lead out of its folder.

    Returns
    -------
    RunFile

    Raises
    ------
    RecipeError
        As `load_recipe`; also for a path that leads out of the file's folder.
    """
    path = Path(path)
    recipe = load_recipe(path)
    sections, text = run_sections(path)
    models: dict[str, type[_Section]] = {"source": Source, "target": Target, "executor": Executor}
    made: dict[str, Any] = {}
    wrong: list[str] = []
    for name in RUN_SECTIONS:
        values = sections.get(name)
        if values is None:
            continue
        try:
            made[name] = models[name].model_validate(values)
        except ValidationError as error:
            wrong.append(section_errors(error, models[name], name, path, text))
    if wrong:
        raise RecipeError("\n".join(wrong))
    run = RunFile(recipe=recipe, **made)
    place = _Place(path.parent, path, allow_outside)
    mask = run.source.mask
    if mask is not None and not _is_word(mask):
        mask = place.join(mask, "source.mask")
    folder = run.target.folder
    return RunFile(
        recipe=recipe,
        source=run.source.model_copy(
            update={
                "images": [place.join(one, "source.images") for one in run.source.images],
                "mask": mask,
            }
        ),
        target=run.target.model_copy(
            update={"folder": place.join(folder, "target.folder") if folder else None}
        ),
        executor=run.executor,
    )


def save_run(run: RunFile, path: str | Path) -> None:
    """Write a run file, every field of its recipe concrete.

    Parameters
    ----------
    run : RunFile
        Its paths as they shall stand in the file: relative to its folder.
    path : path-like
        Overwritten if present.
    """
    fields: dict[str, Any] = recipe_fields(run.recipe)
    for name in RUN_SECTIONS:
        values = getattr(run, name).model_dump(mode="json", exclude_defaults=True)
        if values:
            fields[name] = values
    path = Path(path)
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        part.write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), "utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _is_word(mask: str) -> bool:
    word = mask.lower()
    return word in ("nan", "saturated", "hot", "alpha") or word.startswith(("suffix:", *NUMBERED))


class _Place:
    """The folder that a run file's paths are meant from, and may not leave."""

    def __init__(self, folder: Path, file: Path, allow_outside: bool) -> None:
        self.folder, self.file, self.allow_outside = folder, file, allow_outside

    def join(self, text: str, key: str) -> str:
        if "\0" in text:
            raise RecipeError(f"{self.file}: `{key}`: a path cannot hold a NUL byte")
        if text == "~" or text.startswith("~/"):
            raise RecipeError(
                f"{self.file}: `{key}`: {text}: ~ stands for no folder here; write the path out, or "
                "./~ for a folder of that name"
            )
        joined = self.folder / text  # no expansion of ~ or $NAME: a name may hold them
        inside = Path(os.path.realpath(self.folder))
        real = Path(os.path.realpath(joined))
        if not self.allow_outside and real != inside and inside not in real.parents:
            raise RecipeError(
                f"{self.file}: `{key}`: {text} leads out of the file's folder; give it on the "
                "command line, or allow it with --allow-outside"
            )
        return str(joined)
