"""Which files, masks, kernels and outputs: all decided and checked before the first fit."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from knitcore.errors import FileError, InputError
from knitcore.files import record_path, split_suffix
from knitcore.masks import NUMBERED, WORDS, parse_value

READABLE = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy")
WRITABLE = (".tif", ".tiff", ".png", ".npy")

# What may be written beside an output, and how its name ends. Marks go by the output's format.
SIDES = {
    "std": "_std.tif",
    "synthesised": "_synthesised",
    "residual": "_residual.tif",
    "kernel_file": "_kernel.tif",
    "kernel_picture": "_kernel.png",
}


class PlaceError(click.ClickException):
    """The place for the outputs cannot be written: nothing to be done about by options."""

    exit_code = 3


@dataclass(frozen=True)
class Job:
    """One image to work on.

    Attributes
    ----------
    image, output : Path
    mask : Path, str or None
        A file, a word, or none.
    sides : dict of str to Path
        Where the files beside the output go, those that are wanted; keys of `SIDES`.
    fault : str
        Why it cannot even start, or empty.
    """

    image: Path
    output: Path
    mask: Path | str | None = None
    sides: dict[str, Path] = field(default_factory=dict)
    fault: str = ""

    def outputs(self) -> list[Path]:
        """Every file it will write."""
        return [self.output, *self.sides.values(), record_path(self.output)]


def parse_mask(text: str) -> Path | str:
    """A mask as given on the command line: a word, a file or a folder.

    Parameters
    ----------
    text : str

    Returns
    -------
    Path or str
        A Path for files and folders, a str for words.

    Raises
    ------
    click.UsageError
        Neither.
    """
    word = text.lower()
    if word in ("nan", "saturated", "hot", "alpha"):
        return word
    if word.startswith(NUMBERED):
        try:
            parse_value(word)
        except InputError as error:
            raise click.UsageError(f"--mask {error}") from None
        return word
    if not Path(text).exists():
        raise click.UsageError(f"--mask {text}: no such file or folder, nor a word ({WORDS})")
    return Path(text)


def list_images(
    inputs: tuple[str, ...], mask: Path | str | None, kernel: Path | None = None
) -> tuple[list[Path], list[Path]]:
    """Image files named, and those in the folders named.

    Parameters
    ----------
    inputs : tuple of str
        Files and folders; folders are not searched further down.
    mask : Path, str or None
    kernel : Path, optional
        Files in a folder that serve as masks of others, or as the kernel, are no inputs.

    Returns
    -------
    images, skipped : list of Path

    Raises
    ------
    click.UsageError
        A folder without an image.
    """
    images: list[Path] = []
    skipped: list[Path] = []
    for text in inputs:
        path = Path(text)
        if not path.is_dir():
            images.append(path)
            continue
        found, passed = _images_in(path, mask, kernel)
        if not found:
            looked = ", ".join(READABLE)
            raise click.UsageError(f"no image in the folder {path} (looked for {looked})")
        images += found
        skipped += passed
    unique = {os.path.realpath(path): path for path in reversed(images)}
    return [path for path in images if unique.pop(os.path.realpath(path), None)], skipped


def _images_in(
    folder: Path, mask: Path | str | None, kernel: Path | None
) -> tuple[list[Path], list[Path]]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise click.UsageError(f"cannot read the folder {folder}: {error.strerror}") from None
    ours = set()
    for name in names:
        if name.endswith(".knit.json"):
            output = name.removesuffix(".knit.json")
            stem = split_suffix(output)[0]
            ours |= {output, *(_side(output, stem, name) for name in SIDES)}
    found, skipped = [], []
    for name in names:
        path = folder / name
        if name.startswith(".") or name in ours or name.endswith((".knit.json", ".part")):
            continue
        if path.suffix.lower() in READABLE and path.is_file():
            found.append(path)
        elif not path.is_dir():
            skipped.append(path)
    helpers = [one for one in (mask, kernel) if isinstance(one, Path) and one.is_file()]
    if isinstance(mask, Path) and mask.is_dir():
        helpers += [one for image in found if isinstance(one := find_mask(image, mask), Path)]
    found = [path for path in found if not any(_same(path, one) for one in helpers)]
    return found, skipped


def find_mask(image: Path, folder: Path) -> Path | str:
    """The mask of an image in a folder, by name.

    Parameters
    ----------
    image, folder : Path

    Returns
    -------
    Path or str
        The file: of the same name, else of the same stem, else "<stem>_mask" with any suffix; or
        the reason why there is none.
    """
    stem = split_suffix(image)[0]
    own = _same(image.parent, folder)
    exact = folder / image.name
    if not own and exact.is_file():
        return exact
    # in the image's own folder the same stem is another image, not a mask
    for wanted in (f"{stem}_mask",) if own else (stem, f"{stem}_mask"):
        found = [
            folder / name
            for name in sorted(os.listdir(folder))
            if split_suffix(name)[0] == wanted and Path(name).suffix.lower() in READABLE
        ]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            return f"several masks for {image.name} in {folder}: {names}; leave one"
        if found:
            return found[0]
    same = "" if own else f"{image.name}, {stem}.* or "
    return f"no mask for {image.name} in {folder} (looked for {same}{stem}_mask.*)"


def plan_jobs(
    images: list[Path],
    out: str | None,
    ending: str,
    *,
    many: bool,
    overwrite: bool,
    sides: Collection[str] = (),
    mask: Path | str | None = None,
    kernel: Path | None = None,
) -> list[Job]:
    """Decide every mask and output, and check what can be checked without reading pixels.

    Parameters
    ----------
    images : list of Path
    out : str or None
        A file for one image, else a folder.
    ending : str
        Of an output's stem where no file is named, such as "_inpainted".
    many : bool
        Whether `out` must be a folder.
    overwrite : bool
    sides : collection of str
        Which of `SIDES` are wanted.
    mask : Path, str or None
    kernel : Path, optional
        Only to be kept from being written over.

    Returns
    -------
    list of Job
        Those that cannot start carry a fault.

    Raises
    ------
    click.UsageError
        The plan is wrong as a whole; nothing was written.
    PlaceError
        A folder cannot be made or written.
    """
    folder = _folder(out, many)
    jobs = []
    for image in images:
        chosen, fault = mask, ""
        if isinstance(mask, Path) and mask.is_dir():
            found = find_mask(image, mask)
            chosen, fault = (found, "") if isinstance(found, Path) else (None, found)
        if out and folder is None:
            output = Path(out)
        else:
            output = (folder or image.parent) / _name(image, ending)
        stem = split_suffix(output)[0]
        places = {name: output.with_name(_side(output.name, stem, name)) for name in sides}
        jobs.append(Job(image, output, chosen, places, fault))
    _check_clashes(jobs, kernel)
    _prepare_folders(jobs)
    return [job if job.fault else _with_fault(job, overwrite) for job in jobs]


def _folder(out: str | None, many: bool) -> Path | None:
    """The output folder, or None if `out` is a file or not given."""
    if out is None:
        return None
    path = Path(out)
    if many or path.is_dir() or out.endswith(("/", os.sep)):
        if path.exists() and not path.is_dir():
            raise click.UsageError(f"-o {out}: must be a folder for several inputs, is a file")
        return path
    if path.suffix.lower() not in WRITABLE:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            text = "JPEG would change the pixels"
        else:
            text = f"cannot write {path.suffix or 'a file without suffix'}"
        raise click.UsageError(f"-o {out}: {text}; use {', '.join(WRITABLE)} or a folder")
    return None


def _name(image: Path, ending: str) -> str:
    stem, suffix = split_suffix(image)
    if suffix.lower() in (".jpg", ".jpeg"):
        suffix = ".png"
    elif not suffix.lower().endswith(WRITABLE):
        suffix = ".tif"
    return f"{stem}{ending}{suffix}"


def _side(output: str, stem: str, name: str) -> str:
    """Name of a file beside the output."""
    marks = ".png" if output.lower().endswith(".png") else ".tif"
    return stem + SIDES[name] + (marks if name == "synthesised" else "")


def _check_clashes(jobs: list[Job], kernel: Path | None) -> None:
    taken: dict[str, Job] = {}
    for job in jobs:
        for path in job.outputs():
            key = os.path.normcase(os.path.abspath(path))
            other = taken.setdefault(key, job)
            if other is not job:
                raise click.UsageError(
                    f"{other.image} and {job.image} would both be written to {path}; "
                    "rename one, or run them with different -o"
                )
    paths = [kernel, *(path for job in jobs for path in (job.image, job.mask))]
    read = {os.path.realpath(path) for path in paths if path}
    inodes = {(s.st_dev, s.st_ino) for path in read if (s := _stat(path)) is not None}
    for job in jobs:
        if isinstance(job.mask, Path) and _same(job.mask, job.image):
            raise click.UsageError(f"{job.image}: is both the image and its mask")
        for path in job.outputs():
            status = _stat(path)
            if status is not None and (status.st_dev, status.st_ino) in inodes:
                raise click.UsageError(f"{path}: is an input; choose another output")


def _prepare_folders(jobs: list[Job]) -> None:
    for folder in {job.output.parent: None for job in jobs}:
        probe = folder / f".knit.{secrets.token_hex(4)}.part"
        try:
            # only the last part is made: a mistyped path should not grow a tree
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
            probe.touch(exist_ok=False)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise PlaceError(f"{folder}: cannot write there: {reason}") from None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()


def _with_fault(job: Job, overwrite: bool) -> Job:
    """The job, with its fault if its outputs are in the way of something."""
    for path in job.outputs():
        if len(os.fsencode(path.name)) > 255:
            return replace(job, fault=f"{path}: the output's name is longer than 255 bytes")
        if path.is_dir():
            return replace(job, fault=f"{path}: is a folder, where the output should go")
        if os.path.lexists(path) and not overwrite:
            return replace(job, fault=f"{path}: exists; use --overwrite, or another -o")
    return job


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def recorded_mask(record: dict, record_file: Path, image: Path) -> Path | str | None:
    """The mask a record names, if none was given.

    Parameters
    ----------
    record : dict
    record_file, image : Path
        Its file is looked for beside these.

    Returns
    -------
    Path, str or None
        A file, a word, or None if the run had no mask.

    Raises
    ------
    FileError
        The mask's file is not there.
    """
    mask = (record.get("files") or {}).get("mask")
    if not isinstance(mask, dict):
        return None
    if mask.get("word"):
        return parse_mask(str(mask["word"]))
    name = Path(str(mask.get("name"))).name
    for folder in (image.parent, record_file.parent):
        if (folder / name).is_file():
            return folder / name
    raise FileError(f"the record's mask {name} is not beside the image; name it with --mask")
