"""The group of commands, loaded when called, and how a run ends: exit codes and signals."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from types import FrameType
from typing import Any

import click

DONE, FAILED, USAGE, SURROUNDINGS, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

# Described here, so that `knit --help` loads none of them.
COMMANDS = {
    "inpaint": ("knit_cli.tasks:inpaint", "Fill masked pixels: holes, scratches, dead lines."),
    "denoise": ("knit_cli.tasks:denoise", "Take the noise out, without a clean image."),
    "super-resolve": ("knit_cli.tasks:super_resolve", "Enlarge, and find the blurring kernel."),
    "compare": ("knit_cli.compare:compare", "Several methods side by side on one picture."),
    "run": ("knit_cli.run_command:run_file", "Do what a run file says: recipe, images, target."),
    "recipe": ("knit_cli.recipes:recipe", "Show, check or start a file of settings."),
    "info": ("knit_cli.recipes:info", "Versions, devices and file formats found here."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"knit {package_version()}")
        ctx.exit()


def package_version() -> str:
    """Version of the installed package.

    Returns
    -------
    str
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("napari-knitworks")
    except PackageNotFoundError:
        return "(not installed)"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 a file failed; 2 wrong options or recipe, nothing written; "
    "3 disk full, output not writable or device absent; 130 Ctrl-C; 143 terminated.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and leave.",
)
def cli() -> None:
    """Restore images with small networks trained on each of them, there and then."""


class WrongPlan(click.ClickException):
    """Options or a recipe are wrong: nothing was started."""

    exit_code = USAGE


@contextlib.contextmanager
def recipe_checked() -> Iterator[None]:
    """A `RecipeError` of the block is a wrong plan."""
    from knit_cli.render import shown
    from knitcore.errors import RecipeError

    try:
        yield
    except RecipeError as error:
        raise WrongPlan(shown(error, lines=True)) from None


class Stopped(BaseException):
    """A signal asks to end: not an Exception, so that no handler of a bad file swallows it."""

    def __init__(self, code: int) -> None:
        self.code = code


class _Signals:
    """What has been received so far."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.code = 0
        self.count = 0
        self.shields = 0
        self.gentle = False  # somebody looks at `count` often, and need not be interrupted
        self.told = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.code = INTERRUPTED if number == signal.SIGINT else TERMINATED
        self.count += 1
        self.stop.set()
        if self.count > 2:
            os._exit(self.code)
        if self.gentle:
            return
        # a result being put in place is finished first; the second signal does not wait
        if not self.shields or self.count > 1:
            raise Stopped(self.code)


signals = _Signals()


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Put off the first signal to the end of the block."""
    signals.shields += 1
    try:
        yield
    finally:
        signals.shields -= 1
    if signals.count:
        raise Stopped(signals.code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code.

    Parameters
    ----------
    arguments : list of str, optional
        In place of those of the process.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # a crash in a codec or driver ends this process: at least the place is told
        faulthandler.enable(sys.stderr, all_threads=False)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # a signal that is ignored (nohup) stays so
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), signals)
    code: Any = DONE
    try:
        code = cli.main(arguments, prog_name="knit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Stopped as stop:
        code = stop.code
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"Error: {internal(error)}", err=True)
        code = FAILED
    code = code if isinstance(code, int) else DONE
    if {"torch", "distributed", "zarr"} & set(sys.modules):
        # unloading the first two takes a second or two, which nobody needs to wait for; what zarr was
        # still reading when a chunk turned out to be damaged would complain of its end
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def internal(error: Exception) -> str:
    """One line about an error that nobody foresaw: memory that ran out, or else our own fault.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    str
    """
    from knitcore.errors import memory_ran_out

    if memory_ran_out(error):
        return "not enough memory"
    text = " ".join(str(error).split())[:300]
    return f"unexpected {type(error).__name__}: {text} (--debug shows where; please report it)"
