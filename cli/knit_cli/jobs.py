"""Which files, masks, kernels and outputs: all decided and checked before the first fit."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import click

from knit_cli.listing import READABLE, Listed, same_file, side_name
from knitcore.errors import FileError, InputError
from knitcore.files import is_folder, record_path, split_suffix
from knitcore.masks import SUFFIX, WORDS, is_mask_word

WRITABLE = (".tif", ".tiff", ".png", ".npy", ".zarr")
FORMATS = ("tif", "ome.tif", "png", "npy", "ome.zarr")

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
    try:
        if is_mask_word(text):
            return text if is_suffix(text) else text.lower()
    except InputError as error:
        raise click.UsageError(f"--mask {error}") from None
    if not os.path.exists(text):
        raise click.UsageError(f"--mask {text}: no such file or folder, nor a word ({WORDS})")
    return Path(text)


def without_helpers(
    images: list[Listed], mask: Path | str | None, kernel: Path | None
) -> list[Listed]:
    """Images of folders, less those that serve as masks of others or as the kernel.

    Parameters
    ----------
    images : list of Listed
    mask : Path, str or None
    kernel : Path or None

    Returns
    -------
    list of Listed
    """
    helpers: list[Path] = [one for one in (mask, kernel) if isinstance(one, Path)]
    if (isinstance(mask, Path) and is_folder(mask)) or is_suffix(mask):
        found = (find_mask(image.path, mask_folder(image, mask), mask) for image in images)
        helpers += [one for one in found if isinstance(one, Path)]
    taken = {(s.st_dev, s.st_ino) for path in helpers if (s := _stat(path)) is not None}
    if not taken:
        return images
    return [
        image
        for image in images
        if (s := _stat(image.path)) is None or (s.st_dev, s.st_ino) not in taken
    ]


def is_suffix(mask: Path | str | None) -> bool:
    """Whether masks lie beside their images, told by the end of their names."""
    return isinstance(mask, str) and mask.startswith(SUFFIX)


def mask_folder(image: Listed, mask: Path | str | None) -> Path:
    """The folder to look for an image's mask in: of the same sub-folder, if the masks have it."""
    if not isinstance(mask, Path):
        return image.path.parent
    below = mask / image.below
    return below if os.path.isdir(below) else mask


@lru_cache(maxsize=64)
def _by_stem(folder: str, stamp: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        if Path(name).suffix.lower() in READABLE:
            names.setdefault(split_suffix(name)[0], []).append(name)
    return names


def find_mask(image: Path, folder: Path, mask: Path | str | None = None) -> Path | str:
    """The mask of an image in a folder, by name.

    Parameters
    ----------
    image, folder : Path
    mask : Path or str, optional
        "suffix:_m" looks for "<stem>_m.*" only.

    Returns
    -------
    Path or str
        The file: of the same name, else of the same stem, else "<stem>_mask" with any suffix; or
        the reason why there is none.
    """
    stem = split_suffix(image)[0]
    own = same_file(image.parent, folder)
    exact = folder / image.name
    ending = mask.removeprefix(SUFFIX) if isinstance(mask, str) and is_suffix(mask) else "_mask"
    if not own and os.path.exists(exact) and not is_folder(exact):
        return exact
    try:
        # kept for the folder as it is now: thousands of images share one
        names = _by_stem(str(folder), os.stat(folder).st_mtime_ns)
    except OSError as error:
        return f"cannot read the folder of masks {folder}: {(error.strerror or '').lower()}"
    # in the image's own folder the same stem is another image, not a mask
    for wanted in (f"{stem}{ending}",) if own else (stem, f"{stem}{ending}"):
        found = [folder / name for name in names.get(wanted, ())]
        if len(found) > 1:
            listed = ", ".join(path.name for path in found)
            return f"several masks for {image.name} in {folder}: {listed}; leave one"
        if found:
            return found[0]
    same = "" if own else f"{image.name}, {stem}.* or "
    return f"no mask for {image.name} in {folder} (looked for {same}{stem}{ending}.*)"


def plan_jobs(
    images: list[Listed],
    out: str | None,
    ending: str,
    *,
    many: bool,
    overwrite: bool,
    keep_extension: bool = False,
    suffix: str | None = None,
    sides: Collection[str] = (),
    mask: Path | str | None = None,
    kernel: Path | None = None,
) -> list[Job]:
    """Decide every mask and output, and check what can be checked without reading pixels.

    Parameters
    ----------
    images : list of Listed
    out : str or None
        A file for one image, else a folder.
    ending : str
        Of an output's stem where no file is named, such as "_inpainted".
    many : bool
        Whether `out` must be a folder.
    overwrite : bool
        For several images, what stands in an output's place is looked at later: it may be ours.
    keep_extension : bool
        "a.png" gives "a.png_denoised.png".
    suffix : str, optional
        Of all outputs, such as ".tif", in place of the inputs'.
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
        if (isinstance(mask, Path) and is_folder(mask)) or is_suffix(mask):
            found = find_mask(image.path, mask_folder(image, mask), mask)
            chosen, fault = (found, "") if isinstance(found, Path) else (None, found)
        fault = image.fault or fault
        if out and folder is None:
            output = Path(out)
            if suffix is not None and not _is_kind(output, suffix):
                raise click.UsageError(f"-o {out} and --format {suffix[1:]} contradict each other")
        else:
            name = _name(image.path, ending, keep_extension, suffix)
            output = folder / image.below / name if folder else image.path.parent / name
        stem = split_suffix(output)[0]
        places = {
            name: output.with_name(side_name(output.name, stem, SIDES[name])) for name in sides
        }
        jobs.append(Job(image.path, output, chosen, places, fault))
    _check_clashes(jobs, kernel, keep_extension)
    return [job if job.fault else _with_fault(job, overwrite or many) for job in jobs]


def _folder(out: str | None, many: bool) -> Path | None:
    """The output folder, or None if `out` is a file or not given."""
    if out is None:
        return None
    path = Path(out)
    if many or is_folder(path) or out.endswith(("/", os.sep)):
        if os.path.exists(path) and not os.path.isdir(path):
            raise click.UsageError(f"-o {out}: must be a folder for several inputs, is a file")
        return path
    if path.suffix.lower() not in WRITABLE:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            text = "JPEG would change the pixels"
        else:
            text = f"cannot write {path.suffix or 'a file without suffix'}"
        raise click.UsageError(f"-o {out}: {text}; use {', '.join(WRITABLE)} or a folder")
    return None


def _is_kind(output: Path, suffix: str) -> bool:
    """Whether a file name tells the format of a suffix."""
    name = output.name.lower()
    return name.endswith(suffix) or (suffix == ".tif" and name.endswith(".tiff"))


def _name(image: Path, ending: str, keep_extension: bool, wanted: str | None) -> str:
    stem, suffix = split_suffix(image)
    if keep_extension:
        stem = image.name
    if wanted is not None:
        suffix = wanted
    elif suffix.lower() in (".jpg", ".jpeg"):
        suffix = ".png"
    elif not suffix.lower().endswith(WRITABLE):
        suffix = ".tif"
    return f"{stem}{ending}{suffix}"


def _check_clashes(jobs: list[Job], kernel: Path | None, keep_extension: bool) -> None:
    taken: dict[str, Job] = {}
    clashes: dict[tuple[Path, Path], Path] = {}
    blind: dict[Path, bool] = {}
    for job in jobs:
        folder = job.output.parent
        if folder not in blind:
            blind[folder] = _is_case_blind(folder)
        for path in job.outputs():
            key = os.path.normcase(os.path.abspath(path))
            other = taken.setdefault(key.casefold() if blind[folder] else key, job)
            if other is not job:
                clashes.setdefault((other.image, job.image), path)
    if clashes:
        lines = [
            f"{one} and {other} would both be written to {path}"
            for (one, other), path in list(clashes.items())[:20]
        ]
        lines += [f"and {len(clashes) - 20} more pairs"] if len(clashes) > 20 else []
        way = "Rename one" if keep_extension else "Use --keep-extension, rename one"
        raise click.UsageError("; ".join(lines) + f". {way}, or run them with different -o")
    paths = [kernel, *(path for job in jobs for path in (job.image, job.mask))]
    read = {os.path.realpath(path) for path in paths if path}
    inodes = {(s.st_dev, s.st_ino) for path in read if (s := _stat(path)) is not None}
    for job in jobs:
        if isinstance(job.mask, Path) and same_file(job.mask, job.image):
            raise click.UsageError(f"{job.image}: is both the image and its mask")
        for path in job.outputs():
            status = _stat(path)
            if status is not None and (status.st_dev, status.st_ino) in inodes:
                raise click.UsageError(f"{path}: is an input; choose another output")


def _is_case_blind(folder: Path) -> bool:
    """Whether names that differ in case are one file there."""
    for one in (Path(os.path.abspath(folder)), *Path(os.path.abspath(folder)).parents):
        other = one.with_name(one.name.swapcase()) if one.name else one
        if os.path.exists(one) and other.name != one.name:
            return same_file(one, other)
    return False


def prepare_folders(jobs: list[Job], root: Path | None = None) -> None:
    """Make the folders of some jobs' outputs, and find out whether they can be written.

    Parameters
    ----------
    jobs : list of Job
    root : Path, optional
        The output folder: what lies below it is made as needed.

    Raises
    ------
    PlaceError
        They cannot.
    """
    for folder in {job.output.parent: None for job in jobs}:
        probe = folder / f".knit.{secrets.token_hex(4)}.part"
        try:
            # only the last part is made: a mistyped path should not grow a tree
            for one in (root or folder, folder):
                with contextlib.suppress(FileExistsError):
                    one.mkdir(parents=root is not None and one is folder)
            with probe.open("xb") as handle:
                handle.write(b"\0" * 512)  # a full disk still takes an empty file
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise cannot_write(folder, error) from None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()


def cannot_write(folder: Path, error: OSError) -> PlaceError:
    """Why a folder could not be made or written, and what to do.

    Parameters
    ----------
    folder : Path
    error : OSError

    Returns
    -------
    PlaceError
    """
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, FileNotFoundError):
        missing = next((one for one in reversed(folder.parents) if not os.path.exists(one)), folder)
        reason += f": {missing}; make that folder first, if it is meant"
    return PlaceError(f"{folder}: cannot write there: {reason}")


def _with_fault(job: Job, overwrite: bool) -> Job:
    """The job, with its fault if its outputs are in the way of something."""
    for path in job.outputs():
        if len(os.fsencode(path.name)) > 255:
            return replace(job, fault=f"{path}: the output's name is longer than 255 bytes")
        if is_folder(path):
            return replace(job, fault=f"{path}: is a folder, where the output should go")
        if os.path.lexists(path) and not overwrite:
            return replace(job, fault=f"{path}: exists; use --overwrite, or another -o")
    return job


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
        if (folder / name).exists() and not is_folder(folder / name):
            return folder / name
    raise FileError(f"the record's mask {name} is not beside the image; name it with --mask")
