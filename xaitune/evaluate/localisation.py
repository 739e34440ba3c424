"""Localisation of heatmaps against masks: IoU, relevance mass inside, pointing game, average precision, F1@IoU.

The conventions for shapes, negative values, constant maps and empty masks are those of `xaitune.evaluate`. Shapes that
do not fit raise InputError.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xaitune.errors import InputError
from xaitune.evaluate.maps import as_maps, by_chunk, check_masks, positive_part


class Localisation(NamedTuple):
    """The scores of a map against a mask, each by the function of its name; `iou` by `iou_at`."""

    mass_inside: Any
    pointing_game: Any
    average_precision: Any
    best_iou: Any
    iou: Any


class F1AtIoU(NamedTuple):
    """`f1`: mean over the classes, 0..1. `images`: those with a mask. `left_out`: those without one."""

    f1: float
    images: int
    left_out: int


def iou_at(maps: Any, masks: Any, threshold: float) -> Any:
    """Intersection over union of the mask and the pixels of at least `threshold` times the map's maximum, 0..1.

    `threshold` is above 0 and at most 1; negative values count as 0. Raises InputError for a threshold out of range.

    Examples:
        >>> iou_at([[4.0, 3.0], [1.0, 0.0]], [[1, 0], [0, 0]], 0.5).item()
        0.5
    """
    _check_threshold(threshold)
    return _scored(lambda m, k: _iou(m, k, threshold), maps, masks)


def best_iou(maps: Any, masks: Any) -> Any:
    """The highest intersection over union that any threshold on the map reaches, 0..1.

    The threshold is chosen for each map with knowledge of the mask, so this is an upper bound; report it with `iou_at`.
    A constant map scores the mask's share of the area.

    Examples:
        >>> best_iou([[4.0, 3.0], [1.0, 0.0]], [[1, 0], [0, 0]]).item()
        1.0
    """
    return _scored(lambda m, k: _best_iou(_down_the_ranking(m, k), k), maps, masks)


def mass_inside(maps: Any, masks: Any) -> Any:
    """Share of the map's positive relevance that lies inside the mask, 0..1.

    A constant map, or one without positive values, scores the mask's share of the area.

    Examples:
        >>> mass_inside([[4.0, 3.0], [1.0, 0.0]], [[1, 0], [0, 0]]).item()
        0.5
    """
    return _scored(_mass_inside, maps, masks)


def pointing_game(maps: Any, masks: Any) -> Any:
    """Whether the map's maximum lies inside the mask: 1, 0, or the share of tied maxima inside.

    From Zhang et al. 2016 (excitation backprop), without their tolerance of 15 pixels and with ties counted as
    fractions: a constant map scores the mask's share of the area, not 1.

    Examples:
        >>> pointing_game([[4.0, 3.0], [1.0, 0.0]], [[1, 0], [0, 0]]).item()
        1.0
    """
    return _scored(_pointing_game, maps, masks)


def average_precision(maps: Any, masks: Any) -> Any:
    """Average precision of the map as a ranking of pixels for the mask, 0..1.

    Equal to scikit-learn's `average_precision_score`. Tied pixels enter together, so a constant map scores the mask's
    share of the area.

    Examples:
        >>> average_precision([[4.0, 3.0], [1.0, 0.0]], [[0, 1], [0, 0]]).item()
        0.5
    """
    return _scored(lambda m, k: _average_precision(_down_the_ranking(m, k), k), maps, masks)


def localise(maps: Any, masks: Any, *, threshold: float = 0.5) -> Localisation:
    """All scores above at once, with the pixels sorted only once; `iou` is `iou_at` the given threshold."""
    _check_threshold(threshold)

    def score(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        ranking = _down_the_ranking(maps, masks)
        by_rank = _average_precision(ranking, masks), _best_iou(ranking, masks)
        return np.stack(
            [_mass_inside(maps, masks), _pointing_game(maps, masks), *by_rank, _iou(maps, masks, threshold)], -1
        )

    return Localisation(*np.moveaxis(_scored(score, maps, masks), -1, 0))


def f1_at_iou(true: Any, predicted: Any, iou: Any, *, threshold: float = 0.5) -> F1AtIoU:
    """Macro F1 that counts an image as correct only if its class is right and its IoU reaches `threshold`.

    `true`, `predicted` and `iou` are (n,). An incorrect image is a false negative of its true class and a false
    positive of the predicted one, even where the two are the same. The mean is over the classes that occur in truth or
    prediction. Images whose IoU is NaN (an empty mask) are left out and counted. F1 is NaN where no image remains.
    Raises InputError for different lengths.

    Examples:
        >>> f1_at_iou([0, 1], [0, 1], [0.6, 0.2]).f1
        0.5
    """
    true, predicted, iou = np.asarray(true), np.asarray(predicted), np.asarray(iou, float)
    if not true.shape == predicted.shape == iou.shape or true.ndim != 1:
        shapes = f"{true.shape}, {predicted.shape}, {iou.shape}"
        raise InputError(f"true, predicted and iou must have one entry per image. Received: {shapes}.")
    has_mask = ~np.isnan(iou)
    true, predicted = true[has_mask], predicted[has_mask]
    correct = (true == predicted) & (iou[has_mask] >= threshold)
    classes = np.union1d(true, predicted)[:, None]  # (classes, 1)
    true_positives = ((true == classes) & correct).sum(1)
    occurrences = (true == classes).sum(1) + (predicted == classes).sum(1)
    f1 = float(np.mean(2 * true_positives / occurrences)) if len(classes) else float("nan")
    return F1AtIoU(f1, int(has_mask.sum()), int((~has_mask).sum()))


# ---- the scores of flattened maps and masks (rows, pixels), no mask empty


def _scored(score: Callable[[np.ndarray, np.ndarray], np.ndarray], maps: Any, masks: Any) -> Any:
    """`score` of all maps, NaN where the mask is empty."""
    maps = as_maps(maps)

    def nan_where_empty(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        has_mask = masks.any(-1)
        known = score(maps[has_mask], masks[has_mask])
        scores = np.full((len(maps), *known.shape[1:]), np.nan)
        scores[has_mask] = known
        return scores

    return by_chunk(nan_where_empty, maps, check_masks(masks, maps))


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1. Received: threshold={threshold!r}.")


def _down_the_ranking(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per pixel, the most relevant first: is it in the mask; and up to its last tie, pixels in the mask and pixels in all.

    Tied pixels enter together, so their order does not matter.
    """
    order = np.argsort(-maps, axis=-1)
    values = np.take_along_axis(maps, order, -1)
    inside = np.take_along_axis(masks, order, -1)
    pixels = maps.shape[-1]
    last = np.full(maps.shape, pixels - 1)
    ends = values[:, :-1] != values[:, 1:]
    last[:, :-1] = np.where(ends, np.arange(pixels - 1), pixels - 1)
    last = np.minimum.accumulate(last[:, ::-1], -1)[:, ::-1]  # index of the last pixel tied with each
    return inside, np.take_along_axis(inside.cumsum(-1), last, -1), last + 1


def _iou(maps: np.ndarray, masks: np.ndarray, threshold: float) -> np.ndarray:
    relevance = positive_part(maps)
    chosen = relevance >= threshold * relevance.max(-1, keepdims=True)
    return (chosen & masks).sum(-1) / (chosen | masks).sum(-1)


def _best_iou(ranking: tuple[np.ndarray, np.ndarray, np.ndarray], masks: np.ndarray) -> np.ndarray:
    _, hits, chosen = ranking
    return (hits / (chosen + masks.sum(-1, keepdims=True) - hits)).max(-1)


def _mass_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    relevance = positive_part(maps)
    return (relevance * masks).sum(-1) / relevance.sum(-1)


def _pointing_game(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    top = maps == maps.max(-1, keepdims=True)
    return (top & masks).sum(-1) / top.sum(-1)


def _average_precision(ranking: tuple[np.ndarray, np.ndarray, np.ndarray], masks: np.ndarray) -> np.ndarray:
    inside, hits, chosen = ranking
    return (inside * hits / chosen).sum(-1) / masks.sum(-1)
