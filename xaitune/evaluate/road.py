"""Pixels filled in from those around them: the noisy linear imputation of ROAD (Rong et al. 2022)."""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

# (down, right, weight) of a pixel's eight neighbours, as in the authors' code: 1/6 beside it, 1/12 at its corners.
NEIGHBOURS = tuple(
    (down, right, 1 / 12 if down and right else 1 / 6)
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
)
_UNKNOWNS = 2**15  # pixels solved for at once: about 20 MB of factors


def fill_linear(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The images with each missing pixel at the weighted mean of its neighbours, missing ones among them included.

    `images` (n, h, w, c) float; `known` (n, h, w) bool, at least one True in each image. The weights are NEIGHBOURS,
    renormalised at the border. One sparse system for several images, solved directly, so the filling is exact; its
    cost grows a little faster than the number of missing pixels.
    """
    step = max(1, _UNKNOWNS // known[0].size)
    parts = [_filled(images[i : i + step], known[i : i + step]) for i in range(0, len(images), step)]
    return np.concatenate(parts)


def _filled(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    filled = images.copy()
    missing = ~known
    count = int(missing.sum())
    if count == 0:
        return filled
    height, width = known.shape[1:]
    border = ((0, 0), (1, 1), (1, 1))
    number = np.full(known.shape, -1)
    number[missing] = np.arange(count)
    number = np.pad(number, border, constant_values=-2)  # 0.. the unknown's number, -1 known, -2 outside
    values = np.pad(np.where(known[..., None], images, 0), (*border, (0, 0)))
    diagonal, right_side = np.zeros(count), np.zeros((count, images.shape[-1]))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for down, right, weight in NEIGHBOURS:
        place = (slice(None), slice(1 + down, 1 + down + height), slice(1 + right, 1 + right + width))
        neighbour = number[place][missing]
        diagonal += weight * (neighbour > -2)
        right_side += weight * values[place][missing]  # unknown pixels and those outside hold 0 here
        rows = np.flatnonzero(neighbour >= 0)
        entries.append((np.full(len(rows), -weight), rows, neighbour[rows]))
    entries.append((diagonal, np.arange(count), np.arange(count)))
    data, rows, columns = (np.concatenate(part) for part in zip(*entries, strict=True))
    system = sparse.csc_array((data, (rows, columns)), shape=(count, count))
    # Symmetric and diagonally dominant: no pivoting is needed, which halves the factors.
    factors = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    filled[missing] = factors.solve(right_side)
    return filled
