"""Which images: files and folders as named, by patterns, or from a list on stdin."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click

from knitcore.files import split_suffix

READABLE = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".zarr")
VENDORS = (".czi", ".nd2", ".lif", ".oib", ".zvi", ".ims")  # read through bioio
NOISE = ("thumbs.db", "desktop.ini", "knit-report.jsonl")  # passed over without a word


@dataclass(frozen=True)
class Listed:
    """An image to work on.

    Attributes
    ----------
    path : Path
    below : Path
        Folders between the folder that was named and the image; empty for a file named itself.
    fault : str
        Why it is known already that it cannot be read, if it is.
    """

    path: Path
    below: Path = Path()
    fault: str = ""

    @property
    def name(self) -> str:
        """Name in the run, with "/" between folders."""
        return (self.below / self.path.name).as_posix()


@dataclass(frozen=True)
class Choice:
    """Which files of folders are taken.

    Attributes
    ----------
    include, exclude : tuple of str
        Shell patterns, of the name or of the path below the folder.
    recursive : bool
    out : Path or None
        The output folder, which is not searched.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    recursive: bool = False
    out: Path | None = None

    def takes(self, name: str, below: Path) -> bool:
        """Whether the patterns let a file of a folder through."""
        whole = (below / name).as_posix()

        def fits(patterns: Iterable[str]) -> bool:
            return any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(whole, p) for p in patterns)

        return (not self.include or fits(self.include)) and not fits(self.exclude)


@dataclass
class Listing:
    """What was found.

    Attributes
    ----------
    images : list of Listed
    skipped : list of Path
        Files in folders that are no images.
    """

    images: list[Listed] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)


def names_from_stdin() -> list[str]:
    """Names on stdin, one a line, or with NUL between them.

    Returns
    -------
    list of str
    """
    data = sys.stdin.buffer.read()
    separator = b"\0" if b"\0" in data else b"\n"
    names = (
        name.removesuffix(b"\r") if separator == b"\n" else name for name in data.split(separator)
    )
    return [os.fsdecode(name) for name in names if name]


def list_images(inputs: Iterable[str], choice: Choice, is_ours: dict[str, str]) -> Listing:
    """Image files named, and those in the folders named.

    Parameters
    ----------
    inputs : iterable of str
        Files and folders.
    choice : Choice
    is_ours : dict
        Endings of what is written beside an output, by kind.

    Returns
    -------
    Listing

    Raises
    ------
    click.UsageError
        A folder without an image, or one that cannot be read.
    """
    listing = Listing()
    seen: set[str] = set()
    for text in inputs:
        path = Path(text)
        # unlike those of a Path, these do not raise for names that no file can have
        if not os.path.isdir(path) or path.suffix.lower() == ".zarr":
            _add(listing, Listed(path), seen)
            continue
        before = len(listing.images)
        _walk(path, Path(), choice, is_ours, listing, seen, {_identity(path)}, top=True)
        if len(listing.images) == before:
            looked = ", ".join(choice.include or READABLE)
            raise click.UsageError(f"no image in the folder {path} (looked for {looked})")
    return listing


def _add(listing: Listing, image: Listed, seen: set[str]) -> None:
    real = os.path.realpath(image.path)
    if real not in seen:
        seen.add(real)
        listing.images.append(image)


def _walk(
    folder: Path,
    below: Path,
    choice: Choice,
    is_ours: dict[str, str],
    listing: Listing,
    seen: set[str],
    above: set[tuple[int, int]],
    *,
    top: bool = False,
) -> None:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        if top:
            raise click.UsageError(f"cannot read the folder {folder}: {error.strerror}") from None
        reason = f"cannot read the folder: {(error.strerror or str(error)).lower()}"
        _add(listing, Listed(folder, below.parent, reason), seen)
        return
    ours = our_files(names, is_ours)
    folders = []
    for name in names:
        path = folder / name
        if name.startswith(".") or name.lower() in NOISE or name in ours:
            continue
        if name.endswith((".knit.json", ".part")):
            continue
        is_image = path.suffix.lower() in READABLE + VENDORS
        if path.is_dir() and not (is_image and path.suffix.lower() == ".zarr"):
            folders.append(name)
        elif is_image and (path.exists() or path.is_symlink()):
            if choice.takes(name, below):
                _add(listing, Listed(path, below), seen)
        else:
            listing.skipped.append(path)
    for name in folders if choice.recursive else ():
        path = folder / name
        if path.is_symlink() or (choice.out is not None and same_file(path, choice.out)):
            continue  # links are not followed below the folder that was named
        identity = _identity(path)
        if identity not in above:
            _walk(path, below / name, choice, is_ours, listing, seen, above | {identity})


def our_files(names: Iterable[str], endings: dict[str, str]) -> set[str]:
    """Outputs among the names of a folder: those that have a record, or one about to be placed.

    Parameters
    ----------
    names : iterable of str
    endings : dict
        Endings of what is written beside an output, by kind.

    Returns
    -------
    set of str
    """
    ours = set()
    for name in names:
        if name.startswith(".") and name.endswith(".part") and ".knit.json." in name:
            name = name[1:].rsplit(".knit.json.", 1)[0] + ".knit.json"
        if name.endswith(".knit.json"):
            output = name.removesuffix(".knit.json")
            stem = split_suffix(output)[0]
            ours |= {output, *(side_name(output, stem, ending) for ending in endings.values())}
    return ours


def side_name(output: str, stem: str, ending: str) -> str:
    """Name of a file beside an output; where the ending has no suffix, in the output's format."""
    if "." in ending:
        return stem + ending
    return stem + ending + (".png" if output.lower().endswith(".png") else ".tif")


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder that is there."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
