"""`knit inpaint`, `knit denoise` and `knit super-resolve`: their options and help pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from knit_cli.jobs import FORMATS
from knit_cli.options import Option, Range, SectionedCommand, Shard, Size, recipe_options
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
            help=f"A file for one input, else a folder; - is stdout. [default: {default} beside each "
            "input]",
        ),
        _option("--overwrite", help="Replace existing outputs."),
        *FILES,
        *(_option(f"--save-{name}", help=f"Also write {text}") for name, text in saves),
        _option(
            "--recipe",
            "recipe_file",
            metavar="FILE",
            help="Settings from a YAML or JSON file, or from a record NAME.knit.json, which repeats "
            "that run. Options given here take precedence.",
        ),
        *recipe_options(task),
        *BATCH,
        *OTHERS,
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


FILES = [
    _option(
        "--format",
        "format",
        type=click.Choice(FORMATS),
        metavar="|".join(FORMATS),
        is_flag=False,
        help="Format of the outputs. [default: that of each input; PNG for JPEG]",
    ),
    _option(
        "--include",
        metavar="PATTERN",
        multiple=True,
        help="Of folders, take only these: '*.tif', 'day1/*'. May be given several times.",
    ),
    _option("--exclude", metavar="PATTERN", multiple=True, help="Of folders, leave these out."),
    _option("-r", "--recursive", help="Search folders further down, and keep their structure."),
    _option(
        "--keep-extension", help="a.png gives a.png_denoised.png, so that a.jpg may be beside it."
    ),
]

BATCH = [
    _option(
        "-j",
        "--jobs",
        section="Batch",
        type=Range(int, min=1, max=1024),
        default=1,
        metavar="N",
        help="Files worked on at a time, each in a process of its own. [default: 1]",
    ),
    _option(
        "--dask",
        section="Batch",
        metavar="ADDRESS",
        help="Let the workers of a dask cluster do it, such as tcp://host:8786.",
    ),
    _option(
        "--dask-local",
        section="Batch",
        type=Range(int, min=1, max=1024),
        metavar="N",
        help="Start a dask cluster of N workers on this machine.",
    ),
    _option(
        "--timeout",
        section="Batch",
        type=Range(float, min=0, min_open=True),
        metavar="SECONDS",
        help="Give up a file that takes longer.",
    ),
    _option(
        "--max-memory",
        section="Batch",
        type=Size(),
        metavar="SIZE",
        help="Give up a file whose worker needs more, such as 4G.",
    ),
    _option(
        "--retries",
        section="Batch",
        type=Range(int, min=0, max=10),
        default=1,
        metavar="N",
        help="Try a file again so often whose worker crashed. [default: 1]",
    ),
    _option("--retry-failed", section="Batch", help="Only those that the report tells as failed."),
    _option(
        "--verify",
        section="Batch",
        help="Hash finished outputs, too, rather than count their bytes.",
    ),
    _option("-n", "--dry-run", section="Batch", help="Show what would be done, and how long."),
    _option("--wait", section="Batch", help="Wait while another run uses the output folder."),
    _option(
        "--shard",
        section="Batch",
        type=Shard(),
        metavar="I/N",
        help="Only the I-th of N parts of the files, for N machines on one folder.",
    ),
    _option(
        "--max-time",
        section="Batch",
        type=Range(float, min=0, min_open=True),
        metavar="HOURS",
        help="Do not begin a run that would take longer. [default: 720]",
    ),
    _option("-y", "--yes", section="Batch", help="Begin it all the same."),
    _option(
        "--events",
        section="Batch",
        type=click.Choice(["json"]),
        metavar="json",
        is_flag=False,
        help="On stdout, one JSON object for each event.",
    ),
    _option(
        "--log", section="Batch", metavar="FILE", help="Add all lines to a file, with the time."
    ),
]

OTHERS = [
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
    _option(
        "--series",
        section="Other",
        type=Range(int, min=0),
        metavar="N",
        help="Which image of a file that holds several, from 0 on.",
    ),
    _option(
        "--missing-as-hole",
        section="Other",
        help="Fill what missing chunks of a Zarr would hold (inpaint).",
    ),
    _option(
        "--keep-metadata",
        section="Other",
        type=click.Choice(["usual", "all"]),
        default="usual",
        metavar="all",
        help="Let the input's texts, such as names, places and dates, into output and record, too. "
        "[default: usual: axes, pixel size, units, channel names]",
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
            "goes with a.tif, a.png or a_mask.*), suffix:_m (a_m.* beside a.tif), or a word: nan, "
            "saturated, hot, alpha, value=0, above=4000, below=10 (any number).",
        ),
    ),
)
def inpaint() -> None:
    """Fill the masked pixels of one or more images.

    INPUT is a TIFF, PNG, JPEG or .npy file, a folder of them, or - for names on stdin. All other pixels stay as they are,
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

    INPUT is a TIFF, PNG, JPEG or .npy file, a folder of them, or - for names on stdin. Type, axes, pixel size and unit
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

    INPUT is a TIFF, PNG, JPEG or .npy file, a folder of them, or - for names on stdin. Type, axes and unit stay; the
    pixel size is divided by the scale. Beside each output
    lies its record, NAME.knit.json, which tells the kernel.

    \b
      knit super-resolve cells.tif --scale 2
      knit super-resolve stack.tif --scale 1x2x2 --kernel gaussian:1.5
      knit super-resolve scans/ -o fine/ --kernel psf.tif
    """
