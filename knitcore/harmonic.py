"""Harmonic fill: the smoothest surface through the known pixels, and the bar every method must clear."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu


def harmonic_fill(values: np.ndarray, known: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve Laplace's equation in the target with the known pixels as boundary.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
        Masks may differ between channels.
    target : ndarray of bool, shape (*spatial)
        Where a fill is wanted. Unknown pixels outside it take part in the solve as well.

    Returns
    -------
    ndarray of float64, shape (C, *spatial)
        `values` with every unknown pixel filled; the image border is free (no flux through it).
    """
    filled = np.where(known, values, 0.0).astype(np.float64)
    for c in range(len(values)):
        unknown = ~known[c]
        if not (unknown & target).any() or not known[c].any():
            continue
        filled[c][unknown] = _solve(filled[c], unknown)
    return filled


def _solve(plane: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    count = int(unknown.sum())
    number = np.full(plane.shape, -1)
    number[unknown] = np.arange(count)
    rows, columns = [], []
    degree, right = np.zeros(count), np.zeros(count)
    for axis in range(plane.ndim):
        first = [slice(None)] * plane.ndim
        second = [slice(None)] * plane.ndim
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        for here, there in ((first, second), (second, first)):
            own, other = number[tuple(here)], number[tuple(there)]
            inside = own >= 0
            np.add.at(degree, own[inside], 1.0)
            both = inside & (other >= 0)
            rows.append(own[both])
            columns.append(other[both])
            edge = inside & (other < 0)
            np.add.at(right, own[edge], plane[tuple(there)][edge])
    row, column = np.concatenate(rows), np.concatenate(columns)
    diagonal = np.arange(count)
    matrix = coo_matrix(
        (
            np.concatenate([np.full(len(row), -1.0), degree]),
            (np.concatenate([row, diagonal]), np.concatenate([column, diagonal])),
        ),
        shape=(count, count),
    ).tocsc()
    return splu(matrix).solve(right)
