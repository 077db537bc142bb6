"""`knit run`: a recipe with its images, target and executor, from one file."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from knit_cli.main import recipe_checked
from knit_cli.options import Option, SectionedCommand, Size
from knit_cli.runs import run
from knit_cli.tasks import BATCH, FILES, OTHERS
from knitcore.run_file import RunFile, load_run


def _options(function: Any) -> Any:
    own = [
        click.argument("run_yaml", metavar="RUN.yaml"),
        click.argument("inputs", nargs=-1, metavar="[INPUT...]"),
        click.option(
            "-m", "--mask", cls=Option, section="Files", metavar="MASK", help="As `inpaint`."
        ),
        click.option(
            "-o",
            "--output",
            "out",
            cls=Option,
            section="Files",
            metavar="OUT",
            help="In place of the target of the file.",
        ),
        click.option(
            "--overwrite",
            cls=Option,
            section="Files",
            is_flag=True,
            help="Replace existing outputs.",
        ),
        *FILES,
        click.option(
            "--allow-outside",
            cls=Option,
            section="Files",
            is_flag=True,
            help="Let paths in the file lead out of its folder.",
        ),
        *BATCH,
        *OTHERS,
    ]
    for option in reversed(own):
        function = option(function)
    return function


@click.command(
    "run",
    cls=SectionedCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@_options
@click.pass_context
def run_file(ctx: click.Context, run_yaml: str, inputs: tuple[str, ...], **values: Any) -> None:
    """Do what a run file says: a recipe with `source`, `target` and `executor`.

    The napari widget Batch writes such files. Paths in it are meant from its folder. INPUTs and
    options given here take precedence.

    \b
      knit run night.yaml --dry-run
      knit run night.yaml
      knit run night.yaml other_images/ -o other_results/
    """
    with recipe_checked():
        told = load_run(run_yaml, allow_outside=values.pop("allow_outside"))
    inputs = inputs or tuple(told.source.images)
    if not inputs:
        raise click.UsageError(f"{run_yaml}: names no images; add `source:` or give INPUT")
    given = {
        name
        for name in values
        if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
    }
    values |= {name: value for name, value in _values(told).items() if name not in given}
    if {"jobs", "dask", "dask_local"} & given:
        values["cluster"] = None
    task = told.recipe.task
    if task != "inpaint" and values.pop("mask", None):
        raise click.UsageError(f"{run_yaml}: the task {task} takes no mask")
    # a folder is meant even if only one image is named
    values |= {"recipe_file": run_yaml, "kernel": None, "many": True}
    run(ctx, task, inputs, values, told.recipe)


def _values(told: RunFile) -> dict[str, Any]:
    """A run file in the words of the options."""
    memory = told.executor.max_memory
    try:
        size = None if memory is None else Size().convert(memory, None, None)
    except click.BadParameter as error:
        raise click.UsageError(f"`executor.max_memory`: {error.message}") from None
    return {
        "out": told.target.folder,
        "format": told.target.format,
        "keep_extension": told.target.keep_extension,
        "overwrite": told.target.overwrite,
        **{f"save_{name}": True for name in told.target.save},
        "include": tuple(told.source.include),
        "exclude": tuple(told.source.exclude),
        "recursive": told.source.recursive,
        "mask": told.source.mask,
        "jobs": told.executor.jobs,
        "timeout": told.executor.timeout,
        "max_memory": size,
        "retries": told.executor.retries,
        "cluster": None if told.executor.kind == "processes" else told.executor,
    }
