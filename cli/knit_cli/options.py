"""Options made from the fields of a recipe: one text for `--help`, docs and widgets."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic.fields import FieldInfo

from knitcore.recipe import PRESETS, Inpaint

SECTIONS = {
    "Fit": ("preset", "seed", "device", "ensemble", "steps"),
    "Mask": ("mask_label", "invert_mask", "alpha_channel", "saturated_as_hole"),
}
ADVANCED = "Advanced"
METAVARS = {"device": "auto|cpu|cuda|mps", "planes": "AXES"}
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
        for last in ("Other", ADVANCED):
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


def recipe_options(function: F) -> F:
    """Add an option for each field of `Inpaint` to a command.

    Only fields given on the command line reach the command; the others are None.
    """
    usual = {name: section for section, names in SECTIONS.items() for name in names}
    names = [*usual, *(n for n in Inpaint.model_fields if n not in usual and n != "task")]
    for name in reversed(names):
        option = _option(name, Inpaint.model_fields[name], usual.get(name, ADVANCED))
        function = option(function)
    return function


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Recipe fields among a command's values that were given.

    Parameters
    ----------
    values : dict

    Returns
    -------
    dict
    """
    fields = {name: values.get(name) for name in Inpaint.model_fields}
    return {name: value for name, value in fields.items() if value is not None}


def _option(name: str, field: FieldInfo, section: str) -> Callable[[F], F]:
    text = _help(name, field)
    flag = "--" + name.replace("_", "-")
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


def _help(name: str, field: FieldInfo) -> str:
    text = str(field.description).rstrip()
    defaults = {
        preset: _shown(values.get(name, field.default))
        for preset, values in PRESETS["inpaint"].items()
    }
    standard = defaults.pop("fast")
    if not standard or name == "preset":
        return text if not standard else f"{text} [default: {standard}]"
    others = [
        f"{preset}: {value or 'off'}" for preset, value in defaults.items() if value != standard
    ]
    return f"{text} [{'; '.join([f'default: {standard}', *others])}]"


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
