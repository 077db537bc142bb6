"""Options made from the fields of a recipe: one text for `--help`, docs and widgets."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic.fields import FieldInfo

from knitcore.recipe import PRESETS, RECIPES

_FIT = ("preset", "seed", "device")
SECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "inpaint": {
        "Fit": (*_FIT, "precision", "fill", "ensemble", "steps", "validation"),
        "Mask": ("mask_label", "invert_mask", "alpha_channel", "saturated_as_hole"),
    },
    "denoise": {
        "Noise": ("noise", "sigma", "gain", "offset", "blind_spot"),
        "Image": ("channels", "planes", "hot_pixels", "nan_as_hole"),
        "Fit": (*_FIT, "precision", "steps"),
    },
    "super-resolve": {
        "Scale and kernel": ("scale", "kernel", "anchor"),
        "Image": ("sigma", "channels", "nan_as_hole"),
        "Fit": _FIT,
    },
}
UNUSED = {"super-resolve": ("planes",)}  # axes that do not grow are worked through one by one
FLAGS = {"validation": "validate"}  # options that read better as a verb
ADVANCED, KNITWORK = "Advanced", "Knitwork (--method knitwork, as --preset paper)"
METAVARS = {
    "device": "auto|cpu|cuda|mps",
    "planes": "AXES",
    "blind_spot": "auto|x|y|N",
    "scale": "S|SxSxS",
    "kernel": "estimate|delta|gaussian:S|FILE",
}
F = TypeVar("F", bound=Callable[..., Any])


class Option(click.Option):
    """An option with a section of the help page."""

    def __init__(self, *names: Any, section: str = "Other", **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help shows its options by section, in the order they first appear."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if isinstance(param, click.Option) and row is not None:
                sections.setdefault(getattr(param, "section", "Other"), []).append(row)
        for last in ("Other", ADVANCED, KNITWORK):
            sections[last] = sections.pop(last, [])
        for section, rows in sections.items():
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: write numbers with commas between them, such as 1,2,4")

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "N,N,..."


def recipe_options(task: str) -> list[Callable[[F], F]]:
    """An option for each field of a task's recipe, in the order of the help page.

    Only fields given on the command line reach the command; the others are None.

    Parameters
    ----------
    task : str

    Returns
    -------
    list of decorators
    """
    model = RECIPES[task]
    usual = {name: section for section, names in SECTIONS[task].items() for name in names}
    for name in (*model.__annotations__, *model.model_fields):
        # what all recipes have is the knitwork's, which only inpainting fits by default
        own = name in model.__annotations__ and not name.startswith("kernel_")
        usual.setdefault(name, ADVANCED if own or task == "inpaint" else KNITWORK)
    for name in ("task", *UNUSED.get(task, ())):
        del usual[name]
    return [
        _option(name, model.model_fields[name], section, task) for name, section in usual.items()
    ]


def given_fields(task: str, values: dict[str, Any]) -> dict[str, Any]:
    """Recipe fields among a command's values that were given.

    Parameters
    ----------
    task : str
    values : dict

    Returns
    -------
    dict
    """
    fields = {name: values.get(name) for name in RECIPES[task].model_fields}
    return {name: value for name, value in fields.items() if value is not None}


def _option(name: str, field: FieldInfo, section: str, task: str) -> Callable[[F], F]:
    text = _help(name, field, task)
    flag = "--" + FLAGS.get(name, name).replace("_", "-")
    kind: Any = field.annotation
    if kind is bool:
        both = f"{flag}/--no-{flag[2:]}"
        return click.option(both, name, cls=Option, section=section, default=None, help=text)
    return click.option(
        flag,
        name,
        cls=Option,
        section=section,
        type=_type(kind, field.metadata),
        default=None,
        metavar=METAVARS.get(name),
        help=text,
    )


def _help(name: str, field: FieldInfo, task: str) -> str:
    text = str(field.description).rstrip()
    defaults = {
        preset: _shown(values.get(name, field.default)) for preset, values in PRESETS[task].items()
    }
    standard = defaults.pop("fast")
    told = [f"default: {standard}"] if standard else []
    if name != "preset":
        told += [f"{one}: {value or 'off'}" for one, value in defaults.items() if value != standard]
    return f"{text} [{'; '.join(told)}]" if told else text


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else ""
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _type(kind: Any, metadata: list[Any]) -> click.ParamType:
    if typing.get_origin(kind) is typing.Literal:
        return click.Choice([str(choice) for choice in typing.get_args(kind)])
    if isinstance(kind, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return Numbers(item if item is int else float)
    if kind in (int, float):
        bounds = {}
        for limit in metadata:
            for word, (edge, is_open) in {
                "ge": ("min", False),
                "gt": ("min", True),
                "le": ("max", False),
                "lt": ("max", True),
            }.items():
                if (value := getattr(limit, word, None)) is not None:
                    bounds[edge] = value
                    bounds[f"{edge}_open"] = is_open
        return Range(kind, **bounds)
    return click.STRING


class Range(click.ParamType):
    """A number within bounds, which its metavar shows."""

    def __init__(self, kind: type, **bounds: Any) -> None:
        self.kind, self.bounds = kind, bounds
        self.name = "integer" if kind is int else "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        check = click.IntRange if self.kind is int else click.FloatRange
        return check(**self.bounds).convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "INTEGER" if self.kind is int else "NUMBER"


class Size(click.ParamType):
    """Bytes, with a suffix for the unit."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
        found = re.fullmatch(
            r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE
        )
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r}: write a size such as 800M or 4G")
        return int(float(found[1]) * units[found[2].upper()])


class Shard(click.ParamType):
    """Which part of how many."""

    name = "shard"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(value))
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"{value!r}: write the part and their count, such as 1/4")
        return int(found[1]), int(found[2])
