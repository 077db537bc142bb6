"""`knit-report.jsonl`: one line for each file that a batch has finished with."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import time
from pathlib import Path
from typing import Any

REPORT = "knit-report.jsonl"


class Report:
    """Appends whole lines, each in one write.

    Parameters
    ----------
    folder : Path
        The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / REPORT

    def append(self, line: dict[str, Any]) -> None:
        """Add a line.

        Parameters
        ----------
        line : dict

        Raises
        ------
        OSError
            It cannot be written.
        """
        data = dump(line).encode() + b"\n"
        flags = os.O_APPEND | os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
        handle = os.open(self.path, flags, 0o666)
        try:
            # a line that a power cut has torn stays a line of its own
            size = os.fstat(handle).st_size
            if size and hasattr(os, "pread") and os.pread(handle, 1, size - 1) != b"\n":
                data = b"\n" + data
            if os.write(handle, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)

    def read(self) -> dict[str, dict[str, Any]]:
        """The last line about each output; lines that are no JSON are passed over.

        Returns
        -------
        dict
            By output, as named in the line.
        """
        last: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError), self.path.open("rb") as lines:
            for raw in lines:
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue
                if isinstance(line, dict) and isinstance(line.get("output"), str):
                    last[line["output"]] = line
        return last


def dump(line: dict[str, Any]) -> str:
    """A line as JSON; names that are no text are given in base64, too.

    Parameters
    ----------
    line : dict

    Returns
    -------
    str
    """
    more = {}
    for name in ("file", "output"):
        value = line.get(name)
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                more[f"{name}_base64"] = base64.b64encode(os.fsencode(value)).decode()
    return json.dumps({**line, **more}, default=float)


def report_line(name: str, outcome: dict[str, Any], output: str) -> dict[str, Any]:
    """What the report tells about a file.

    Parameters
    ----------
    name : str
        Of the file in the run.
    outcome : dict
    output : str
        The output's path in the output folder.

    Returns
    -------
    dict
    """
    hashes = outcome.get("hashes") or {}
    written = outcome.get("written") or {}
    own = written.get(Path(output).name) or {}
    return {
        "event": "file",
        "time": time.strftime("%FT%T%z"),
        "file": name,
        "state": outcome["status"],
        "reason": outcome.get("error") or "",
        "seconds": outcome.get("seconds"),
        "peak_memory": outcome.get("peak_memory"),
        "output": output,
        "bytes": own.get("bytes"),
        "sha256": {
            "input": hashes.get("input"),
            "mask": hashes.get("mask"),
            "output": own.get("sha256"),
        },
        "key": outcome.get("key"),
        "device": outcome.get("device"),
    }
