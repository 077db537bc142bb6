"""What the user sees: a bar and notes on stderr, results on stdout."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import click

from knitcore.events import Event, Note, Progress


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


class Terminal:
    """Writes to stderr while a run goes on; the bar only where stderr is a terminal.

    Parameters
    ----------
    quiet : bool
        Errors only.
    verbose : bool
        Notes at the level "info" as well as warnings.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
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
        if self.quiet and kind != "Error":
            return
        colour = {"Error": "red", "Warning": "yellow"}.get(kind)
        line = click.style(f"{kind}:", fg=colour, bold=kind == "Error") + " " + shown(text)
        if self._bar is not None:
            from rich.text import Text

            self._bar.console.print(Text.from_ansi(line))
        else:
            click.echo(line, err=True)


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
        status, input, output, record, filled, fraction, regions, seconds, notes; or error.
    as_json : bool

    Returns
    -------
    str
    """
    if as_json:
        return json.dumps(outcome)
    filled, regions = outcome["filled"], outcome["regions"]
    did = "nothing to fill, copied"
    if filled:
        did = (
            f"{filled:,} {'pixel' if filled == 1 else 'pixels'} filled in "
            f"{regions:,} {'region' if regions == 1 else 'regions'}, "
            f"{outcome['seconds']:.1f} s"
        )
    return shown(f"{outcome['input']} -> {outcome['output']}: {did}")


def summary(outcomes: list[dict[str, Any]], total: int) -> str:
    """The table after several files: how many, and which failed and why.

    Parameters
    ----------
    outcomes : list of dict
        Of the files that were started.
    total : int
        Files of the whole run.

    Returns
    -------
    str
    """
    failed = [o for o in outcomes if o["status"] == "failed"]
    done = len(outcomes) - len(failed)
    lines = [f"done {done} · failed {len(failed)} · not started {total - len(outcomes)}"]
    width = max((len(Path(o["input"]).name) for o in failed), default=0)
    for outcome in failed:
        name = Path(outcome["input"]).name
        reason = outcome["error"].removeprefix(outcome["input"]).lstrip(": ")
        lines.append(shown(f"  {name:{min(width, 40)}}  {reason}"))
    return "\n".join(lines)
