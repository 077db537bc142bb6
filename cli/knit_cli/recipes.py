"""`knit recipe` and `knit info`."""

from __future__ import annotations

import json
from typing import Any

import click

from knit_cli.main import USAGE, recipe_checked
from knit_cli.render import shown
from knitcore.errors import RecipeError
from knitcore.recipe import PRESETS, RECIPES, Recipe, load_recipe, make_recipe, recipe_fields
from knitcore.run_file import load_run

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_task_option = click.option(
    "--task",
    type=click.Choice(list(RECIPES)),
    default="inpaint",
    help="For which command. [default: inpaint]",
)


@click.group(context_settings=SETTINGS)
def recipe() -> None:
    """Show, check or start a file of settings (a recipe, or the record of a run)."""


@recipe.command(context_settings=SETTINGS)
@click.argument("file")
def show(file: str) -> None:
    """Print every setting of a recipe or record, as YAML."""
    click.echo(_yaml(_load(file)), nl=False)


@recipe.command(context_settings=SETTINGS)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Tell whether recipes are valid, and what is wrong where."""
    wrong = 0
    for file in files:
        try:
            load_run(file, allow_outside=True)  # a recipe is a run file without sections
            click.echo(f"{shown(file)}: valid")
        except RecipeError as error:
            wrong += 1
            click.echo(f"Error: {shown(error, lines=True)}", err=True)
    ctx.exit(USAGE if wrong else 0)


@recipe.command(context_settings=SETTINGS)
@_task_option
@click.option(
    "--preset", type=click.Choice(list(PRESETS["inpaint"])), default="fast", help="Which preset."
)
def defaults(task: str, preset: str) -> None:
    """Print a preset's settings, each with its meaning: a file to start from.

    \b
      knit recipe defaults > run.yaml
      knit inpaint cells.tif --mask dust.png --recipe run.yaml
    """
    with recipe_checked():
        fields = recipe_fields(make_recipe(task, preset=preset))
    for name, value in fields.items():
        field = RECIPES[task].model_fields.get(name)
        if field is not None:
            click.echo(f"\n# {field.description}")
        click.echo(_yaml_line(name, value), nl=False)


@recipe.command(context_settings=SETTINGS)
@_task_option
def schema(task: str) -> None:
    """Print the JSON schema of a recipe, for editors that check YAML against it."""
    click.echo(json.dumps(RECIPES[task].model_json_schema(), indent=2))


@click.command(context_settings=SETTINGS)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(as_json: bool) -> None:
    """Print versions, devices and file formats found here."""
    from importlib.util import find_spec

    import torch

    from knitcore.device import choose_device, device_name
    from knitcore.result import versions

    deep = find_spec("imagecodecs") is not None
    zarr = ["OME-Zarr"] if find_spec("zarr") else []
    vendors = ["makers' formats through bioio"] if find_spec("bioio") else []
    cards = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    names = ["cpu", *(f"cuda:{i}" for i in cards)]
    names += ["mps"] if torch.backends.mps.is_available() else []
    facts = {
        "versions": versions(),
        "devices": {name: device_name(torch.device(name)) for name in names},
        "auto": str(choose_device("auto")),
        "threads": torch.get_num_threads(),
        "formats": {
            "read": ", ".join(["TIFF, PNG, JPEG, .npy", *zarr, *vendors]),
            "write": ", ".join(["TIFF, PNG, .npy", *zarr]),
            "imagecodecs": "found: all TIFF compressions, 16-bit colour PNG"
            if deep
            else "not found: pip install imagecodecs for LZW and JPEG TIFF, 16-bit colour PNG",
        },
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            width = max(map(len, value))
            for key, text in value.items():
                click.echo(f"  {key:{width}}  {text}")
        else:
            click.echo(f"{name}: {value}")


def _load(file: str) -> Recipe:
    with recipe_checked():
        return load_recipe(file)


def _yaml(recipe: Recipe) -> str:
    return "".join(_yaml_line(name, value) for name, value in recipe_fields(recipe).items())


def _yaml_line(name: str, value: Any) -> str:
    import yaml

    if isinstance(value, list):
        return f"{name}: {value}\n"
    return yaml.safe_dump({name: value}, default_flow_style=False, allow_unicode=True, width=1000)
