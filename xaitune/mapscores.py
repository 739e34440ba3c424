"""How good is a heatmap: localisation against a mask, faithfulness to the model, concentration and agreement.

Takes arrays and callables, never a model. Maps are (..., height, width) at image resolution with any axes in front,
such as (images, blocks, height, width); masks broadcast against them ((images, 1, height, width) serves all blocks);
a score has the axes in front, and is a plain number for one map. Maps may hold negative values (CAM, LIME):

- what depends on order alone (best_iou, pointing_game, average_precision, agreement, stability, deletion_insertion)
  uses the values as they are, negative ones ranking last;
- what measures shares (iou_at, mass_inside, concentration) counts negative values as 0. A map without any positive
  value is taken as constant there: it says nothing about where, and scores what chance would.

An empty mask scores NaN, to be left out of means and counted. Maps that are not finite raise InputError.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.stats import rankdata

from xaitune.errors import InputError

Predict = Callable[[np.ndarray], Any]
FILLS = ("mean", "blur")
_CHUNK = 2**21  # pixels sorted at once: 16 MB of float64


class Faithfulness(NamedTuple):
    """`deletion` and `insertion` areas (0..1), and `calls`, the number of images that were predicted."""

    deletion: np.ndarray
    insertion: np.ndarray
    calls: int


class Concentration(NamedTuple):
    """`gini`: 0 uniform, 1 a single pixel. `entropy`: 1 uniform, 0 a single pixel."""

    gini: Any
    entropy: Any


class Agreement(NamedTuple):
    """`spearman`: rank correlation over pixels, -1..1. `top_iou`: overlap of the most relevant pixels, 0..1."""

    spearman: Any
    top_iou: Any


class F1AtIoU(NamedTuple):
    """`f1` over the classes (0..1), over `images` with a mask; `left_out` have none."""

    f1: float
    images: int
    left_out: int


# ---- shared steps


def _check_maps(maps: Any, name: str = "maps") -> np.ndarray:
    maps = np.asarray(maps)
    maps = maps.astype(np.float64 if maps.dtype.kind in "iub" else np.result_type(maps.dtype, np.float32), copy=False)
    if maps.ndim < 2 or maps.size == 0:
        raise InputError(f"{name} must be (..., height, width). Received: shape {maps.shape}.")
    if not np.isfinite(maps).all():
        raise InputError(f"{name} must be finite. Received NaN or infinity in {name} of shape {maps.shape}.")
    return maps


def _check_masks(masks: Any, maps: np.ndarray) -> np.ndarray:
    masks = np.asarray(masks) != 0
    try:
        return np.broadcast_to(masks, maps.shape)
    except ValueError:
        raise InputError(
            f"masks must fit the maps' shape {maps.shape}, resized beforehand. Received: {masks.shape}."
        ) from None


def _by_chunk(score: Callable[..., np.ndarray], *arrays: np.ndarray) -> Any:
    """`score` of flattened maps (rows, pixels), a bounded number of pixels at a time; axes in front are kept."""
    front, pixels = arrays[0].shape[:-2], arrays[0].shape[-2] * arrays[0].shape[-1]
    flat = [a.reshape(-1, pixels) for a in arrays]
    step = max(1, _CHUNK // pixels)
    parts = [score(*(a[i : i + step] for a in flat)) for i in range(0, len(flat[0]), step)]
    found = np.concatenate(parts)
    return found.reshape(front + found.shape[1:])[()]


def _share(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _positive(maps: np.ndarray) -> np.ndarray:
    """Negative values as 0, and maps without positive ones as constant 1; float64 against cancellation."""
    positive = np.maximum(maps, 0).astype(np.float64)
    positive[positive.max(-1) == 0] = 1
    return positive


def _hits_down_the_ranking(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels from the most relevant down: is it in the mask, and up to the end of its ties how many are, of how many.

    Tied pixels enter together, so no order among them matters.
    """
    order = np.argsort(-maps, axis=-1, kind="stable")
    values = np.take_along_axis(maps, order, -1)
    inside = np.take_along_axis(masks, order, -1)
    pixels = maps.shape[-1]
    last = np.full(maps.shape, pixels - 1)
    ends = values[:, :-1] != values[:, 1:]
    last[:, :-1] = np.where(ends, np.arange(pixels - 1), pixels - 1)
    last = np.minimum.accumulate(last[:, ::-1], -1)[:, ::-1]  # index of the end of each pixel's ties
    return inside, np.take_along_axis(inside.cumsum(-1), last, -1), last + 1


# ---- localisation


def iou_at(maps: Any, masks: Any, threshold: float) -> Any:
    """Intersection over union of the mask and the pixels of at least `threshold` times the map's maximum.

    `threshold` above 0, at most 1; negative values count as 0. 0..1; NaN for an empty mask. Raises InputError for a
    threshold out of range or shapes that do not fit.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1. Received: threshold={threshold!r}.")
    maps = _check_maps(maps)

    def score(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        positive = _positive(maps)
        chosen = positive >= threshold * positive.max(-1, keepdims=True)
        iou = (chosen & masks).sum(-1) / (chosen | masks).sum(-1)
        return np.where(masks.any(-1), iou, np.nan)

    return _by_chunk(score, maps, _check_masks(masks, maps))


def best_iou(maps: Any, masks: Any) -> Any:
    """The highest intersection over union that any threshold on the map reaches, 0..1; NaN for an empty mask.

    The threshold is chosen with the mask in view, per map: an upper bound, to be stated beside `iou_at`. A constant
    map scores the mask's share of the area. Raises InputError for shapes that do not fit.
    """
    maps = _check_maps(maps)

    def score(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        _, hits, chosen = _hits_down_the_ranking(maps, masks)
        area = masks.sum(-1, keepdims=True)
        return np.where(area[:, 0] > 0, (hits / (chosen + area - hits)).max(-1), np.nan)

    return _by_chunk(score, maps, _check_masks(masks, maps))


def mass_inside(maps: Any, masks: Any) -> Any:
    """Share of the map's positive relevance that lies inside the mask, 0..1; NaN for an empty mask.

    A constant map, and one without positive values, scores the mask's share of the area. Raises InputError for shapes
    that do not fit.
    """
    maps = _check_maps(maps)

    def score(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        positive = _positive(maps)
        return np.where(masks.any(-1), (positive * masks).sum(-1) / positive.sum(-1), np.nan)

    return _by_chunk(score, maps, _check_masks(masks, maps))


def pointing_game(maps: Any, masks: Any) -> Any:
    """Whether the map's maximum lies inside the mask: 1, 0, or the share of the tied maxima that do.

    From Zhang et al. 2016 (excitation backprop), without their tolerance of 15 pixels, and with ties counted
    fractionally: a constant map scores the mask's share of the area, not 1. NaN for an empty mask. Raises InputError
    for shapes that do not fit.
    """
    maps = _check_maps(maps)

    def score(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        top = maps == maps.max(-1, keepdims=True)
        return np.where(masks.any(-1), (top & masks).sum(-1) / top.sum(-1), np.nan)

    return _by_chunk(score, maps, _check_masks(masks, maps))


def average_precision(maps: Any, masks: Any) -> Any:
    """Average precision of the map as a ranking of pixels for the mask, 0..1; NaN for an empty mask.

    Equal to scikit-learn's `average_precision_score`; tied pixels enter together, so a constant map scores the mask's
    share of the area. Raises InputError for shapes that do not fit.
    """
    maps = _check_maps(maps)

    def score(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        inside, hits, chosen = _hits_down_the_ranking(maps, masks)
        return _share((inside * hits / chosen).sum(-1), masks.sum(-1))

    return _by_chunk(score, maps, _check_masks(masks, maps))


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
        raise InputError(f"true, predicted and iou must have one entry an image. Received: {shapes}.")
    kept = ~np.isnan(iou)
    true, predicted = true[kept], predicted[kept]
    found = (true == predicted) & (iou[kept] >= threshold)
    classes = np.union1d(true, predicted)[:, None]  # (classes, 1)
    hits = ((true == classes) & found).sum(1)
    claims = (true == classes).sum(1) + (predicted == classes).sum(1)
    f1 = float(np.mean(2 * hits / claims)) if len(classes) else float("nan")
    return F1AtIoU(f1, int(kept.sum()), int((~kept).sum()))


# ---- shape of one map, likeness of two


def concentration(maps: Any) -> Concentration:
    """How concentrated a map's positive relevance is, as Gini coefficient and entropy, each scaled to 0..1.

    `gini`: mean absolute difference of two pixels over twice the mean, times p / (p - 1) for p pixels, so that a
    single pixel scores 1; 0 for a uniform map. `entropy`: of the relevance shares over log p; 1 uniform, 0 a single
    pixel. A map without positive values counts as uniform. NaN for maps of one pixel.
    """
    maps = _check_maps(maps)
    if maps.shape[-1] * maps.shape[-2] == 1:
        nothing = np.full(maps.shape[:-2], np.nan)[()]
        return Concentration(nothing, nothing)

    def score(maps: np.ndarray) -> np.ndarray:
        shares = np.sort(_positive(maps), -1)
        shares /= shares.sum(-1, keepdims=True)
        pixels = shares.shape[-1]
        ranks = 2 * np.arange(1, pixels + 1) - pixels - 1  # Gini = sum rank_i x_i / (p sum x), x ascending
        gini = shares @ ranks / (pixels - 1)
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        return np.stack([gini, -(shares * logs).sum(-1) / np.log(pixels)], -1)

    found = np.clip(_by_chunk(score, maps), 0, 1)  # rounding leaves -1e-17
    return Concentration(found[..., 0], found[..., 1])


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise rank correlation (ties averaged); NaN where a row is constant."""
    a, b = (rankdata(x, axis=-1) for x in (a, b))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return _share((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def _top_membership(maps: np.ndarray, count: int) -> np.ndarray:
    """1 for the `count` highest pixels, 0 for others; pixels tied at the border share what is left."""
    border = np.partition(maps, maps.shape[-1] - count, axis=-1)[:, maps.shape[-1] - count, None]
    above, tied = maps > border, maps == border
    left = count - above.sum(-1, keepdims=True)
    return above + tied * (left / tied.sum(-1, keepdims=True))


def agreement(maps_a: Any, maps_b: Any, *, top: float = 0.1) -> Agreement:
    """How alike two maps of one size are: Spearman over pixels, and IoU of the `top` share of pixels.

    Ties take their average rank; pixels tied at the border of the top share belong to it in part (the IoU is then sum
    of minima over sum of maxima), so no pixel order matters. Two random maps have a top IoU near top / (2 - top), not
    0. Both are NaN where a map is constant. Raises InputError for shapes that differ or a `top` outside 0..1.
    """
    maps_a, maps_b = _check_maps(maps_a, "maps_a"), _check_maps(maps_b, "maps_b")
    if maps_a.shape != maps_b.shape:
        raise InputError(f"Both maps must have the same shape. Received: {maps_a.shape} and {maps_b.shape}.")
    if not 0 < top <= 1:
        raise InputError(f"top must be a share above 0, at most 1. Received: top={top!r}.")
    count = max(1, round(top * maps_a.shape[-1] * maps_a.shape[-2]))

    def score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        spearman = _spearman(a, b)
        in_a, in_b = _top_membership(a, count), _top_membership(b, count)
        iou = np.minimum(in_a, in_b).sum(-1) / np.maximum(in_a, in_b).sum(-1)
        return np.stack([spearman, np.where(np.isnan(spearman), np.nan, iou)], -1)

    found = _by_chunk(score, maps_a, maps_b)
    return Agreement(found[..., 0], found[..., 1])


def stability(maps: Any, changed: Any) -> Any:
    """Mean Spearman correlation of a map with the maps of slightly changed inputs, -1..1.

    `maps` (..., h, w); `changed` (k, ..., h, w), the maps of k changed copies of the same inputs, moved back where the
    change moved the image. NaN where the map itself is constant; a changed map that became constant counts 0, since
    nothing of the order was kept. Raises InputError for shapes that do not fit.
    """
    maps, changed = _check_maps(maps), _check_maps(changed, "changed")
    if changed.shape[1:] != maps.shape:
        raise InputError(f"changed must be (copies, *{maps.shape}). Received: shape {changed.shape}.")
    rows = np.broadcast_to(maps, changed.shape)
    found = np.asarray(_by_chunk(_spearman, rows, changed))  # (k, ...)
    constant = maps.max((-2, -1)) == maps.min((-2, -1))
    return np.where(constant, np.nan, np.nan_to_num(found).mean(0))[()]


def random_like(maps: Any, rng: np.random.Generator) -> np.ndarray:
    """Null maps: each map shifted over its edges and mirrored, also turned by 90 degrees where it is square.

    Each map of (..., h, w) gets its own random shift, mirroring and turn, all equally likely save the one that leaves
    it in place. The values are the same, so histogram, concentration and smoothness are kept (the one seam where the
    edges meet aside); only the place is lost. Raises InputError for maps of one pixel, which have no other place.
    """
    maps = np.asarray(maps)
    h, w = maps.shape[-2:]
    flat = maps.reshape(-1, h, w)
    if h * w == 1:
        raise InputError(f"A map of one pixel has no other place. Received: shape {maps.shape}.")
    # Mirroring two pixels is the same as shifting them by one.
    kinds = (2 if h == w else 1, 2 if h > 2 else 1, 2 if w > 2 else 1, h, w)
    # Number 0 is: not turned, not mirrored, shifted by 0. It is the one that is never drawn.
    numbers = rng.integers(1, np.prod(kinds), size=len(flat))
    turned, down, across, shift_y, shift_x = (x[:, None] for x in np.unravel_index(numbers, kinds))
    if h == w:
        flat = np.where(turned[..., None] == 1, flat.swapaxes(1, 2), flat)
    rows = ((1 - 2 * down) * np.arange(h) + shift_y) % h  # (maps, h)
    columns = ((1 - 2 * across) * np.arange(w) + shift_x) % w
    return flat[np.arange(len(flat))[:, None, None], rows[:, :, None], columns[:, None, :]].reshape(maps.shape)


# ---- faithfulness to the model


def _filled(images: np.ndarray, fill: Any) -> np.ndarray:
    """What stands where a pixel is taken away, as whole images."""
    if isinstance(fill, str) and fill == "mean":
        return np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    if isinstance(fill, str) and fill == "blur":
        sigma = max(images.shape[1:3]) / 16
        return np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])
    return np.broadcast_to(np.asarray(fill, np.float32), images.shape)


def _check_fill(fill: Any) -> None:
    if isinstance(fill, str):
        good = fill in FILLS
    else:
        colour = np.asarray(fill)
        good = colour.dtype.kind in "iuf" and colour.shape in ((), (3,))
    if not good:
        raise InputError(f"fill must be 'mean', 'blur', or a colour such as (0, 0, 0). Received: fill={fill!r}.")


def _chosen_probabilities(predict: Predict, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Probability of each image's class; `batches` gives images and their classes."""
    return np.concatenate([np.asarray(predict(x))[np.arange(len(x)), chosen] for x, chosen in batches])


def _perturbed(
    images: np.ndarray, maps: np.ndarray, classes: np.ndarray, counts: np.ndarray, fill: Any, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches over (map, deletion then insertion, step); `maps` is (images * blocks, pixels)."""
    blocks = len(maps) // len(images)
    kinds = (len(maps), 2, len(counts))
    for start in range(0, int(np.prod(kinds)), batch_size):
        jobs = np.arange(start, min(start + batch_size, int(np.prod(kinds))))
        row, insertion, step = np.unravel_index(jobs, kinds)
        first = row[0]
        order = np.argsort(-maps[first : row[-1] + 1], axis=-1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(maps.shape[1])[None], -1)  # 0: the most relevant pixel
        top = (rank[row - first] < counts[step][:, None]).reshape(-1, *images.shape[1:3], 1)
        image = row // blocks
        own = images[image[0] : image[-1] + 1]
        kept = top == (insertion == 1)[:, None, None, None]  # deletion keeps all but the top, insertion the top
        yield np.where(kept, own[image - image[0]], _filled(own, fill)[image - image[0]]), classes[image]


def deletion_insertion(
    predict: Predict,
    images: Any,
    maps: Any,
    classes: Any,
    *,
    steps: int = 10,
    fill: Any = "mean",
    batch_size: int = 64,
) -> Faithfulness:
    """Area under the class's probability while the most relevant pixels are taken away, or put back, first.

    `images` (n, h, w, 3) 0..255; `maps` (n, h, w) or (n, blocks, h, w) at image resolution; `classes` (n,) stay fixed;
    `predict` gives softmax probabilities (images, C). Deletion starts at the image and ends at the fill, insertion the
    other way; both curves have `steps` + 1 points at equal shares of the pixels, and their trapezoid area over 0..1 is
    returned, shape (n,) or (n, blocks): low deletion and high insertion are good. Tied pixels go in row-major order,
    from the top left. `fill`: "mean" (each image's own mean colour), "blur" (Gaussian, sigma a sixteenth of the longer
    side) or a colour; steps and fill belong beside the figure. `predict` sees 2 n + 2 n blocks (steps - 1) images, at
    most `batch_size` at a time: the two ends are shared by all maps of an image.

    Source: Petsiuk et al. 2018 (RISE), who insert into a blurred and delete to a black image. Raises InputError for
    shapes, classes, steps or fill that do not fit.
    """
    images, maps, classes = np.asarray(images, np.float32), _check_maps(maps), np.asarray(classes)
    _check_deletion(images, maps, classes, steps, batch_size)
    _check_fill(fill)
    pixels = maps.shape[-2] * maps.shape[-1]
    counts = np.round(np.arange(steps + 1) * pixels / steps).astype(int)
    starts = range(0, len(images), batch_size)
    whole = _chosen_probabilities(predict, ((images[i : i + batch_size], classes[i : i + batch_size]) for i in starts))
    empty = _chosen_probabilities(
        predict, ((_filled(images[i : i + batch_size], fill), classes[i : i + batch_size]) for i in starts)
    )
    front = maps.shape[:-2]
    ends = np.stack([np.stack([whole, empty], -1), np.stack([empty, whole], -1)], 1)  # (n, kind, first and last)
    ends = np.repeat(ends, int(np.prod(front[1:])), axis=0)
    curves = ends
    if steps > 1:
        batches = _perturbed(images, maps.reshape(-1, pixels), classes, counts[1:-1], fill, batch_size)
        inner = _chosen_probabilities(predict, batches).reshape(-1, 2, steps - 1)
        curves = np.concatenate([ends[..., :1], inner, ends[..., 1:]], -1)
    heights = (curves[..., 1:] + curves[..., :-1]).astype(np.float64) / 2
    areas = (heights * np.diff(counts / pixels)).sum(-1)  # (maps, 2)
    calls = 2 * len(images) + len(areas) * 2 * (steps - 1)
    return Faithfulness(areas[:, 0].reshape(front), areas[:, 1].reshape(front), calls)


def _check_deletion(images: np.ndarray, maps: np.ndarray, classes: np.ndarray, steps: int, batch_size: int) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise InputError(f"images must be (n, height, width, 3). Received: shape {images.shape}.")
    if maps.ndim < 3 or len(maps) != len(images) or maps.shape[-2:] != images.shape[1:3]:
        raise InputError(
            f"maps must be (n, ..., height, width) at the images' resolution {images.shape[:3]}. "
            f"Received: shape {maps.shape}."
        )
    if classes.shape != (len(images),) or classes.dtype.kind not in "iu":
        raise InputError(f"classes must be one class number an image. Received: {classes.dtype} {classes.shape}.")
    if not 1 <= steps <= maps.shape[-2] * maps.shape[-1]:
        raise InputError(f"steps must be 1 to the number of pixels. Received: steps={steps}.")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
