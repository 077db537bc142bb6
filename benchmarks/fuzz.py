"""Read many damaged files, each kind in a process of its own, and report crashes, hangs, tracebacks.

    python benchmarks/fuzz.py --cases 50000 --out fuzz_findings

The seeds are those of tests/core/test_fuzz.py. A case is made from its number alone, so that a
finding repeats; what it held is kept in the output folder.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "core")]
KINDS = ("tiff", "png", "jpeg", "npy", "yaml", "json")
LIMIT = 20.0  # seconds a case may take


def make_case(kind: str, number: int) -> bytes:
    """Bytes of a case: one of the seeds with one to six changes.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    number : int

    Returns
    -------
    bytes
    """
    from test_fuzz import WORDS, seeds

    draw = random.Random(f"{kind} {number}")
    whole = draw.choice(seeds(kind))
    content = bytearray(whole)
    for _ in range(draw.randint(1, 6)):
        # headers are short and decide most
        reach = len(content) if draw.random() < 0.5 else min(len(content), 400)
        place = draw.randrange(max(1, reach))
        how = draw.randrange(6)
        if how == 0:
            content[place : place + 1] = bytes([draw.randrange(256)])
        elif how == 1 and content:
            content[min(place, len(content) - 1)] ^= 1 << draw.randrange(8)
        elif how == 2:
            word = draw.choice(WORDS)
            content[place : place + len(word)] = word
        elif how == 3 and draw.random() < 0.3:
            del content[place:]
        else:
            size, other = draw.randint(1, 64), draw.randrange(max(1, len(content)))
            content[place : place + size] = content[other : other + size] if how == 4 else b""
    return bytes(content)


def work(kind: str, first: int, last: int, folder: Path) -> None:
    """Run cases; the number of the one at work is in a file for the parent to see.

    Parameters
    ----------
    kind : str
    first, last : int
        The last is not run.
    folder : Path
    """
    from test_fuzz import check, read_both

    from knitcore.recipe import load_recipe

    read = load_recipe if kind in ("yaml", "json") else read_both
    path, at = folder / f"a.{kind}", folder / "number"
    warnings.simplefilter("ignore")
    for number in range(first, last):
        at.write_text(str(number))
        try:
            check(path, make_case(kind, number), read)
        except Exception:
            print(f"{kind} {number}: {traceback.format_exc()}", flush=True)
    at.write_text(str(last))


def run(kind: str, cases: int, first: int, out: Path) -> int:
    """Run cases of a kind in child processes, a new one after each crash or hang.

    Parameters
    ----------
    kind : str
    cases, first : int
    out : Path
        Where the bytes of findings go.

    Returns
    -------
    int
        Findings.
    """
    found, last, began = 0, first + cases, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        at, log = folder / "number", folder / "log"
        while first < last:
            at.write_text(str(first))
            span = ["--work", kind, str(first), str(last), name]
            with log.open("a") as handle:
                child = subprocess.Popen([sys.executable, __file__, *span], stdout=handle)
            number, since = first, time.monotonic() + 60  # imports take their time
            while child.poll() is None:
                time.sleep(0.2)
                now = int(at.read_text() or number)
                if now != number:
                    number, since = now, time.monotonic()
                elif time.monotonic() - since > LIMIT:
                    child.kill()
                    child.wait()
            number = int(at.read_text() or number)
            if number < last:
                found += 1
                (out / f"{kind}_{number}").write_bytes(make_case(kind, number))
                print(f"{kind} {number}: process ended with {child.returncode} (or over {LIMIT} s)")
            first = number + 1
        told = log.read_text()
        found += told.count("Traceback")
        if told:
            (out / f"{kind}_{last}.log").write_text(told)
    print(
        f"{kind}: {cases:,} cases, {found} findings, {time.monotonic() - began:.0f} s", flush=True
    )
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=50_000, help="in all, shared by the kinds")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("fuzz_findings"))
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        kind, first, last, folder = options.work
        work(kind, int(first), int(last), Path(folder))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    each = options.cases // len(options.kinds)
    sys.exit(any([run(kind, each, options.first, options.out) for kind in options.kinds]))


if __name__ == "__main__":
    main()
