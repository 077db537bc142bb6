"""The output folder of a batch: who may use it, what a killed run left, what is done already."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from knit_cli.jobs import Job, PlaceError, cannot_write
from knitcore.errors import FileError
from knitcore.files import bytes_below, read_record, record_path, written_facts

STATE = ".knit"  # folder in the output folder
_PART = re.compile(r"^\.(?P<name>.+)\.[0-9a-f]{8}(\.old)?\.part$", re.DOTALL)


@contextlib.contextmanager
def locked(
    folder: Path, *, shard: tuple[int, int] | None = None, patient: bool = False
) -> Iterator[None]:
    """Keep other batches out of an output folder.

    Parameters
    ----------
    folder : Path
    shard : (int, int), optional
        Number and count: shards of one run may work side by side, but not beside a whole run.
    patient : bool
        Wait for the other run to end.

    Raises
    ------
    PlaceError
        Another run is using it, or it cannot be written.
    """
    from filelock import FileLock

    state = folder / STATE
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    with contextlib.ExitStack() as held:
        whole = FileLock(state / "lock")
        _take(whole, folder, held, patient)
        if shard is None:
            for path in sorted(state.glob("lock.*-of-*")):
                if path.suffix != ".json":
                    _take(FileLock(path), folder, held, patient)
            _sign(state / "lock")
            yield
        else:
            own = FileLock(state / f"lock.{shard[0]}-of-{shard[1]}")
            _take(own, folder, held, patient)
            _sign(Path(own.lock_file))
            whole.release()  # held only while it was being looked at
            yield


def _take(lock: Any, folder: Path, held: contextlib.ExitStack, patient: bool) -> None:
    from filelock import Timeout

    path = Path(lock.lock_file)
    try:
        # looked at again soon after: a shard that starts holds the whole run's lock for a moment
        lock.acquire(timeout=-1 if patient else 0.5, poll_interval=0.1)
    except Timeout:
        raise PlaceError(
            f"{folder}: in use by {_owner(path)}; wait for it (--wait), or use another -o"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PlaceError(f"{path}: cannot lock: {reason}") from None
    held.callback(lock.release)


def _sign(path: Path) -> None:
    """Tell who holds a lock, in a file beside it: the lock itself may be emptied by who tries it."""
    told = {"pid": os.getpid(), "host": socket.gethostname(), "start": time.strftime("%F %H:%M:%S")}
    with contextlib.suppress(OSError):
        path.with_name(path.name + ".json").write_text(json.dumps(told))


def _owner(path: Path) -> str:
    try:
        told = json.loads(path.with_name(path.name + ".json").read_text())
        return f"pid {told['pid']} on host {told['host']} since {told['start']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"


class Leftovers:
    """What a killed run left in the output folders: each of its files is finished or dropped."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[Path]]] = {}

    def settle(self, job: Job, *, again: bool = False) -> None:
        """Put in place what was whole, and remove the rest, of one job.

        All of a job's files are written under temporary names, the record last. So if a whole
        record is there, everything it names is, too, and only has to be moved.

        Parameters
        ----------
        job : Job
        again : bool
            Look at the folder anew, as after a worker's death.
        """
        folder = job.output.parent
        if again or folder not in self._folders:
            self._folders[folder] = _parts(folder)
        parts = self._folders[folder]
        if not parts:
            return
        names = [path.name for path in job.outputs()]
        mine = {name: parts.pop(_short(name), []) for name in names}
        for path in mine[record_path(job.output).name]:
            if _roll_forward(path, record_path(job.output), mine):
                break
        for path in (path for paths in mine.values() for path in paths):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _short(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:220])


def _parts(folder: Path) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if found := _PART.match(name):
                parts.setdefault(found["name"], []).append(folder / name)
    return parts


def _roll_forward(part: Path, place: Path, mine: dict[str, list[Path]]) -> bool:
    """Finish the moves of a job that had written everything."""
    try:
        written = read_record(part)["written"]
        moves = []
        for name, facts in written.items():
            final = place.with_name(name)
            if final.exists() and written_facts(final) == facts:
                continue
            found = [one for one in mine.get(name, []) if written_facts(one) == facts]
            if not found:
                return False
            moves.append((found[0], final))
        for source, final in moves:
            if final.is_dir():
                shutil.rmtree(final)
            os.replace(source, final)
        os.replace(part, place)
    except (OSError, FileError, KeyError, AttributeError, TypeError):
        return False
    return True


def state_of(job: Job, key: str | None, *, overwrite: bool, verify: bool) -> tuple[str, str]:
    """Whether a job is still to be done.

    Parameters
    ----------
    job : Job
    key : str or None
        Of today's input, mask and recipe; None if they cannot be read.
    overwrite : bool
    verify : bool
        Hash the outputs rather than count their bytes.

    Returns
    -------
    state, reason : str
        "run", "redo" (over files that are ours), "done" or "failed" with the reason.
    """
    standing = [path for path in job.outputs() if os.path.lexists(path)]
    folder = next((p for p in standing if p.is_dir() and p.suffix.lower() != ".zarr"), None)
    if folder is not None:
        return "failed", f"{folder}: is a folder, where the output should go"
    if not standing:
        return "run", ""
    if overwrite:
        return "redo", ""
    try:
        record = read_record(record_path(job.output))
        written = dict(record["written"])
        same = key is not None and record["key"] == key
    except (FileError, KeyError, TypeError, ValueError):
        return "failed", f"{standing[0]}: exists; use --overwrite, or another -o"
    if not same:
        return "failed", (
            f"{job.output}: exists, made from another input, mask or recipe; use --overwrite, or "
            "another -o"
        )
    whole = True
    for path in (job.output, *job.sides.values()):
        facts = written.get(path.name)
        if not os.path.lexists(path):
            whole = False
        elif not isinstance(facts, dict):
            return "failed", f"{path}: exists; use --overwrite, or another -o"
        elif bytes_below(path) != facts.get("bytes") or (verify and written_facts(path) != facts):
            return "failed", f"{path}: was changed since it was written; use --overwrite to redo it"
    return ("done", "") if whole else ("redo", "")
