"""`knit inpaint`, `knit denoise` and `knit super-resolve`: their options and help pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from knit_cli.options import Option, Range, SectionedCommand, recipe_options
from knit_cli.runs import run


def _option(*names: str, section: str = "Files", **settings: Any) -> Callable:
    settings = {"is_flag": "metavar" not in settings, **settings}
    return click.option(*names, cls=Option, section=section, **settings)


def _task(
    task: str, default: str, *saves: tuple[str, str], first: tuple[Callable, ...] = ()
) -> Callable:
    """Make a task's command of a function that holds the head of its help page.

    Parameters
    ----------
    task : str
    default : str
        Name of an output for which none is given, in words.
    *saves : tuple of str
        Name and help text of what it may write besides.
    first : tuple of decorators
        Options that only this task has.
    """
    options = [
        click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
        *first,
        _option(
            "-o",
            "--output",
            "out",
            metavar="OUT",
            help=f"A file for one input, else a folder. [default: {default} beside each input]",
        ),
        _option("--overwrite", help="Replace existing outputs."),
        *(_option(f"--save-{name}", help=f"Also write {text}") for name, text in saves),
        _option(
            "--recipe",
            "recipe_file",
            metavar="FILE",
            help="Settings from a YAML or JSON file, or from a record NAME.knit.json, which repeats "
            "that run. Options given here take precedence.",
        ),
        *recipe_options(task),
        *_OTHERS,
    ]

    def decorate(page: Callable[[], None]) -> click.Command:
        @click.pass_context
        def command(ctx: click.Context, inputs: tuple[str, ...], **values: Any) -> None:
            run(ctx, task, inputs, values)

        function: Any = command
        for option in reversed(options):
            function = option(function)
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        make = click.command(
            task, cls=SectionedCommand, help=page.__doc__, context_settings=settings
        )
        return make(function)

    return decorate


_OTHERS = [
    _option(
        "--max-pixels",
        section="Other",
        type=Range(int, min=1),
        default=2**31,
        metavar="N",
        help="Refuse files that declare more values than this. [default: 2147483648]",
    ),
    _option(
        "--allow-damaged",
        section="Other",
        help="Take what is readable of a damaged TIFF; the record says so.",
    ),
    _option("--json", "as_json", section="Other", help="One JSON object a line on stdout."),
    _option("-q", "--quiet", section="Other", help="Nothing on stderr but errors."),
    _option("-v", "--verbose", section="Other", help="Notes and skipped files, too."),
    _option("--debug", section="Other", help="Show where in the program an error arose."),
]


@_task(
    "inpaint",
    "NAME_inpainted",
    ("std", "NAME_std.tif: the expected error of each filled pixel, in grey levels."),
    ("synthesised", "NAME_synthesised: white where a pixel was filled."),
    first=(
        _option(
            "-m",
            "--mask",
            metavar="MASK",
            help="What to fill: an image (non-zero = fill), a folder of them matched by name (a.tif "
            "goes with a.tif, a.png or a_mask.*), or a word: nan, saturated, hot, alpha, value=0, "
            "above=4000, below=10 (any number).",
        ),
    ),
)
def inpaint() -> None:
    """Fill the masked pixels of one or more images.

    INPUT is a TIFF, PNG, JPEG or .npy file, or a folder of them. All other pixels stay as they are,
    bit for bit; type, axes, pixel size and unit too. Beside each output lies its record,
    NAME.knit.json.

    \b
      knit inpaint cells.tif --mask dust.png
      knit inpaint scans/ --mask masks/ -o repaired/
      knit inpaint movie.tif --mask value=0 --ensemble 8 --save-std
    """


@_task(
    "denoise",
    "NAME_denoised",
    ("std", "NAME_std.tif: the expected error of each pixel, in grey levels."),
    ("residual", "NAME_residual.tif: input minus output. Structure that shows in it was lost."),
)
def denoise() -> None:
    """Take the noise out of one or more images; nothing else is needed to learn from.

    INPUT is a TIFF, PNG, JPEG or .npy file, or a folder of them. Type, axes, pixel size and unit
    stay. The noise is estimated unless given. Beside each output lies its record, NAME.knit.json,
    which tells the noise.

    \b
      knit denoise cells.tif
      knit denoise scans/ -o clean/ --save-residual
      knit denoise camera.tif --noise poisson-gaussian --gain 2.1 --offset -120
    """


@_task(
    "super-resolve",
    "NAME_x2, for scale 2,",
    ("std", "NAME_std.tif: the expected error of each pixel, in grey levels."),
    ("kernel", "NAME_kernel.tif, which --kernel reads, and a picture of it, NAME_kernel.png."),
)
def super_resolve() -> None:
    """Enlarge one or more images, and find the kernel by which they lost their resolution.

    INPUT is a TIFF, PNG, JPEG or .npy file, or a folder of them. Type, axes and unit stay; the
    pixel size is divided by the scale. Beside each output
    lies its record, NAME.knit.json, which tells the kernel.

    \b
      knit super-resolve cells.tif --scale 2
      knit super-resolve stack.tif --scale 1x2x2 --kernel gaussian:1.5
      knit super-resolve scans/ -o fine/ --kernel psf.tif
    """
