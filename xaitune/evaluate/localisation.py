"""Where a heatmap points, against a mask: IoU, relevance mass inside, pointing game, average precision, F1@IoU.

Conventions (shapes, negative values, constant maps) as in `xaitune.evaluate`. An empty mask scores NaN, to be left out
of means and counted. Shapes that do not fit raise InputError.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xaitune.errors import InputError
from xaitune.evaluate.maps import by_chunk, check_maps, check_masks, positive_part


class Localisation(NamedTuple):
    """The scores of a map against a mask, each as the function of its name gives it; `iou` at the threshold."""

    mass_inside: Any
    pointing_game: Any
    average_precision: Any
    best_iou: Any
    iou: Any


class F1AtIoU(NamedTuple):
    """`f1` over the classes (0..1), over `images` with a mask; `left_out` have none."""

    f1: float
    images: int
    left_out: int


def iou_at(maps: Any, masks: Any, threshold: float) -> Any:
    """Intersection over union of the mask and the pixels of at least `threshold` times the map's maximum, 0..1.

    `threshold` above 0, at most 1; negative values count as 0. Raises InputError for a threshold out of range.
    """
    _check_threshold(threshold)
    return _scored(lambda m, k: _iou(m, k, threshold), maps, masks)


def best_iou(maps: Any, masks: Any) -> Any:
    """The highest intersection over union that any threshold on the map reaches, 0..1.

    The threshold is chosen with the mask in view, per map: an upper bound, to be stated beside `iou_at`. A constant
    map scores the mask's share of the area.
    """
    return _scored(lambda m, k: _best_iou(_down_the_ranking(m, k), k), maps, masks)


def mass_inside(maps: Any, masks: Any) -> Any:
    """Share of the map's positive relevance that lies inside the mask, 0..1.

    A constant map, and one without positive values, scores the mask's share of the area.
    """
    return _scored(_mass_inside, maps, masks)


def pointing_game(maps: Any, masks: Any) -> Any:
    """Whether the map's maximum lies inside the mask: 1, 0, or the share of the tied maxima that do.

    From Zhang et al. 2016 (excitation backprop), without their tolerance of 15 pixels, and with ties counted
    fractionally: a constant map scores the mask's share of the area, not 1.
    """
    return _scored(_pointing_game, maps, masks)


def average_precision(maps: Any, masks: Any) -> Any:
    """Average precision of the map as a ranking of pixels for the mask, 0..1.

    Equal to scikit-learn's `average_precision_score`; tied pixels enter together, so a constant map scores the mask's
    share of the area.
    """
    return _scored(lambda m, k: _average_precision(_down_the_ranking(m, k), k), maps, masks)


def localise(maps: Any, masks: Any, *, threshold: float = 0.5) -> Localisation:
    """All scores above at once, which sorts the pixels once; `iou` is `iou_at` this threshold."""
    _check_threshold(threshold)

    def score(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        ranking = _down_the_ranking(maps, masks)
        by_rank = _average_precision(ranking, masks), _best_iou(ranking, masks)
        return np.stack(
            [_mass_inside(maps, masks), _pointing_game(maps, masks), *by_rank, _iou(maps, masks, threshold)], -1
        )

    return Localisation(*np.moveaxis(_scored(score, maps, masks), -1, 0))


def f1_at_iou(true: Any, predicted: Any, iou: Any, *, threshold: float = 0.5) -> F1AtIoU:
    """Macro F1 where an image counts as found only if its class is right and its IoU reaches `threshold`.

    `true`, `predicted` and `iou` are (n,). An image that is not found is a miss of its true class and a false alarm of
    the predicted one, the same class included. The mean is over the classes that occur in truth or prediction. Images
    whose IoU is NaN (an empty mask) are left out and counted. F1 is NaN where no image is left. Raises InputError for
    different lengths.
    """
    true, predicted, iou = np.asarray(true), np.asarray(predicted), np.asarray(iou, float)
    if not true.shape == predicted.shape == iou.shape or true.ndim != 1:
        shapes = f"{true.shape}, {predicted.shape}, {iou.shape}"
        raise InputError(f"true, predicted and iou must have one entry per image. Received: {shapes}.")
    kept = ~np.isnan(iou)
    true, predicted = true[kept], predicted[kept]
    found = (true == predicted) & (iou[kept] >= threshold)
    classes = np.union1d(true, predicted)[:, None]  # (classes, 1)
    hits = ((true == classes) & found).sum(1)
    claims = (true == classes).sum(1) + (predicted == classes).sum(1)
    f1 = float(np.mean(2 * hits / claims)) if len(classes) else float("nan")
    return F1AtIoU(f1, int(kept.sum()), int((~kept).sum()))


# ---- the same of rows: maps and masks (rows, pixels), every mask with a pixel


def _scored(score: Callable[[np.ndarray, np.ndarray], np.ndarray], maps: Any, masks: Any) -> Any:
    maps = check_maps(maps)

    def with_nan(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        has = masks.any(-1)
        some = score(maps[has], masks[has])
        found = np.full((len(maps), *some.shape[1:]), np.nan)
        found[has] = some
        return found

    return by_chunk(with_nan, maps, check_masks(masks, maps))


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1. Received: threshold={threshold!r}.")


def _down_the_ranking(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels from the most relevant down: is it in the mask, and up to the end of its ties how many are, of how many.

    Tied pixels enter together, so no order among them matters.
    """
    order = np.argsort(-maps, axis=-1)
    values = np.take_along_axis(maps, order, -1)
    inside = np.take_along_axis(masks, order, -1)
    pixels = maps.shape[-1]
    last = np.full(maps.shape, pixels - 1)
    ends = values[:, :-1] != values[:, 1:]
    last[:, :-1] = np.where(ends, np.arange(pixels - 1), pixels - 1)
    last = np.minimum.accumulate(last[:, ::-1], -1)[:, ::-1]  # index of the end of each pixel's ties
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
