"""Results of earlier runs, so that the same run again is there at once; off unless asked for."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from dataclasses import replace

import numpy as np

from knitcore import Image, Result
from knitcore.recipe import Recipe, recipe_fields
from knitcore.result import array_hash

# The latest last. Only one run at a time comes here: see `_worker`.
_results: OrderedDict[str, Result] = OrderedDict()


def run_key(recipe: Recipe, image: Image, mask: Image | None) -> str:
    """What decides a run's result and record.

    Parameters
    ----------
    recipe : Recipe
    image : Image
        In memory.
    mask : Image or None

    Returns
    -------
    str
    """
    # layers may have been renamed meanwhile
    inputs = [
        (replace(one, data=None, name=""), array_hash(one.data)) for one in (image, mask) if one
    ]
    return hashlib.sha256(repr((recipe_fields(recipe), inputs)).encode()).hexdigest()


def kept_result(key: str, image: Image) -> Result | None:
    """The result of an earlier run that had the same key.

    Parameters
    ----------
    key : str
    image : Image
        The input, which is not kept.

    Returns
    -------
    Result or None
        With arrays of its own: a layer's pixels may be edited.
    """
    found = _results.get(key)
    if found is None:
        return None
    _results.move_to_end(key)
    again = _copied(found, image)
    before = again.record["image"]["name"]
    again.record["image"]["name"] = image.name
    for note in again.record["notes"]:
        note["text"] = note["text"].replace(before, image.name)
    return again


def keep_result(key: str, result: Result, most_mb: float) -> None:
    """Keep a result, and let go of the oldest ones that there is no room for.

    Parameters
    ----------
    key : str
    result : Result
    most_mb : float
        Megabytes for all of them; 0: none.
    """
    if isinstance(result.image, np.ndarray) and _size(result) <= most_mb * 1e6:
        _results[key] = _copied(result, replace(result.source, data=None))
        _results.move_to_end(key)
    trim(most_mb)


def trim(most_mb: float) -> None:
    """Let go of the oldest results that there is no room for.

    Parameters
    ----------
    most_mb : float
        As for `keep_result`.
    """
    while _results and sum(map(_size, _results.values())) > most_mb * 1e6:
        _results.popitem(last=False)


def _size(result: Result) -> int:
    kernel = 0 if result.kernel is None else result.kernel.nbytes
    return result.image.nbytes + result.synthesised.nbytes + result.std.nbytes + kernel


def _copied(result: Result, source: Image) -> Result:
    arrays = {name: getattr(result, name).copy() for name in ("image", "synthesised", "std")}
    return replace(result, source=source, record=copy.deepcopy(result.record), **arrays)
