"""ROAD (Rong et al. 2022): faithfulness when removed pixels are filled in by noisy linear imputation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from xaitune.errors import InputError
from xaitune.evaluate.faithfulness import (
    Batches,
    Predict,
    check_inputs,
    class_probabilities,
    index_batches,
    pixel_ranks,
)

PERCENTAGES = (10, 30, 50, 70, 90)  # shares of the pixels that are removed
ROAD_NOISE = 0.01  # standard deviation on filled pixels, as a share of the range 0..255
# (down, right, weight) of a pixel's eight neighbours, as in the authors' code: 1/6 at its sides, 1/12 at its corners.
NEIGHBOURS = tuple(
    (down, right, 1 / 12 if down and right else 1 / 6)
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
)
_UNKNOWNS = 2**15  # missing pixels solved for at once: about 20 MB of factors


def fill_linear(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The images with every missing pixel set to the weighted mean of all its neighbours, missing ones included.

    `images` (n, h, w, c) float; `known` (n, h, w) bool, at least one True in each image. The weights are those of
    NEIGHBOURS, renormalised at the border. One sparse system for several images is solved directly, so the filling is
    exact; its cost grows a little faster than the number of missing pixels.
    """
    step = max(1, _UNKNOWNS // known[0].size)
    parts = [_solve_missing(images[i : i + step], known[i : i + step]) for i in range(0, len(images), step)]
    return np.concatenate(parts)


def _solve_missing(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    filled = images.copy()
    missing = ~known
    count = int(missing.sum())
    if count == 0:
        return filled
    height, width = known.shape[1:]
    border = ((0, 0), (1, 1), (1, 1))
    number = np.full(known.shape, -1)
    number[missing] = np.arange(count)
    number = np.pad(number, border, constant_values=-2)  # 0, 1, ... missing, -1 known, -2 outside
    values = np.pad(np.where(known[..., None], images, 0), (*border, (0, 0)))
    diagonal, right_side = np.zeros(count), np.zeros((count, images.shape[-1]))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for down, right, weight in NEIGHBOURS:
        place = (slice(None), slice(1 + down, 1 + down + height), slice(1 + right, 1 + right + width))
        neighbour = number[place][missing]
        diagonal += weight * (neighbour > -2)
        right_side += weight * values[place][missing]  # 0 for missing pixels and those outside
        rows = np.flatnonzero(neighbour >= 0)
        entries.append((np.full(len(rows), -weight), rows, neighbour[rows]))
    entries.append((diagonal, np.arange(count), np.arange(count)))
    data, rows, columns = (np.concatenate(part) for part in zip(*entries, strict=True))
    system = sparse.csc_array((data, (rows, columns)), shape=(count, count))
    # Symmetric and diagonally dominant: no pivoting is needed, which halves the factors.
    factors = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    filled[missing] = factors.solve(right_side)
    return filled


class Road(NamedTuple):
    """`score` (-0.5..0.5) and the curves (..., percentages) with the `most` and the `least` relevant pixels removed.

    `calls`: the number of images predicted.
    """

    score: np.ndarray
    most: np.ndarray
    least: np.ndarray
    calls: int


def road_scores(
    predict: Predict,
    images: Any,
    maps: Any,
    classes: Any,
    *,
    percentages: Sequence[float] = PERCENTAGES,
    noise: float = ROAD_NOISE,
    seed: int = 0,
    batch_size: int = 64,
) -> Road:
    """ROAD: the class's probability after the most, or the least, relevant pixels are removed and filled in.

    A removed pixel becomes the weighted mean of its neighbours (1/6 at its sides, 1/12 at its corners; see
    `fill_linear`) plus Gaussian noise of `noise` * 255 grey values. So the filling neither leaves the images'
    distribution nor shows the model the map's outline, as a fixed fill does. Each of the `percentages` of the pixels,
    above 0 and below 100, is removed separately; at least one pixel is kept. `most` and `least` hold the probabilities,
    and `score` is the mean over the percentages of (least - most) / 2: above 0 is good. In both orders tied pixels go
    from the top left, so a constant map scores 0. One noise field, fixed by `seed`, is used for all images and maps, so
    that they are compared on the same noise. `predict` gets 2 maps * percentages images; for large images the filling
    costs more than that (a sparse system for each of them: at 224x224 about a third of a second).

    Source: Rong et al. 2022, who report the accuracy over a data set instead of a probability; weights and noise are
    those of their code, the combination is that of pytorch-grad-cam's ROADCombined. Raises InputError for shapes,
    classes or percentages that do not fit.
    """
    images, maps, classes = check_inputs(images, maps, classes, batch_size)
    shares = np.asarray(percentages, float) / 100
    if shares.ndim != 1 or not len(shares) or not ((shares > 0) & (shares < 1)).all():
        raise InputError(f"percentages must lie above 0 and below 100. Received: percentages={percentages!r}.")
    if noise < 0:
        raise InputError(f"noise must be 0 or more, as a share of the range. Received: noise={noise!r}.")
    pixels, leading = maps.shape[-2] * maps.shape[-1], maps.shape[:-2]
    counts = np.minimum(np.round(shares * pixels).astype(int), pixels - 1)
    field = np.random.default_rng(seed).normal(0, 255 * noise, images.shape[1:]).astype(np.float32)
    batches = _removed(images, maps.reshape(-1, pixels), classes, counts, field, batch_size)
    curves = class_probabilities(predict, batches).astype(np.float64).reshape(*leading, 2, len(counts))
    most, least = curves[..., 0, :], curves[..., 1, :]
    return Road((least - most).mean(-1) / 2, most, least, curves.size)


def _removed(
    images: np.ndarray, maps: np.ndarray, classes: np.ndarray, counts: np.ndarray, field: np.ndarray, batch_size: int
) -> Batches:
    """Batches over (map, most then least relevant first, percentage); `maps` is (images * blocks, pixels)."""
    blocks = len(maps) // len(images)
    for row, least, step in index_batches((len(maps), 2, len(counts)), batch_size):
        needed = maps[row[0] : row[-1] + 1]
        ranks = np.stack([pixel_ranks(needed), pixel_ranks(-needed)], 1)  # (maps, order, pixels)
        known = (ranks[row - row[0], least] >= counts[step][:, None]).reshape(-1, *images.shape[1:3])
        image = row // blocks
        filled = fill_linear(images[image], known)
        yield np.where(known[..., None], filled, filled + field), classes[image]
