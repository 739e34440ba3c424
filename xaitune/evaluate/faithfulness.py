"""How faithful a heatmap is to the model: what the model says when the pixels that a map names are gone, or alone left.

`predict` is a function (images (m, h, w, 3) 0..255 -> softmax probabilities (m, C)), never a model. `images` are
(n, h, w, 3) 0..255, `maps` (n, ..., h, w) at their resolution, such as (n, blocks, h, w), `classes` (n,) the class of
each image, which stays fixed. A score has the maps' axes in front. `predict` sees at most `batch_size` images at a time.
A map is followed in the order of its values, negative ones last; tied pixels go in row-major order, from the top left.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from xaitune.errors import InputError
from xaitune.evaluate.maps import check_maps

Predict = Callable[[np.ndarray], Any]
FILLS = ("mean", "blur")
Batches = Iterator[tuple[np.ndarray, np.ndarray]]  # images and their classes


class Faithfulness(NamedTuple):
    """`deletion` and `insertion` areas (0..1), and `calls`, the number of images that were predicted."""

    deletion: np.ndarray
    insertion: np.ndarray
    calls: int


class DropIncrease(NamedTuple):
    """For each map `drop` (0..1) and `increase` (0 or 1), whose means are the paper's figures; and the `calls`."""

    drop: np.ndarray
    increase: np.ndarray
    calls: int


# ---- shared steps


def _checked(images: Any, maps: Any, classes: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images, maps, classes = np.asarray(images, np.float32), check_maps(maps), np.asarray(classes)
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise InputError(f"images must be (n, height, width, 3). Received: shape {images.shape}.")
    if maps.ndim < 3 or len(maps) != len(images) or maps.shape[-2:] != images.shape[1:3]:
        raise InputError(
            f"maps must be (n, ..., height, width) at the images' resolution {images.shape[:3]}. "
            f"Received: shape {maps.shape}."
        )
    if classes.shape != (len(images),) or classes.dtype.kind not in "iu":
        raise InputError(f"classes must be one class number an image. Received: {classes.dtype} {classes.shape}.")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
    return images, maps, classes


def _chosen_probabilities(predict: Predict, batches: Batches) -> np.ndarray:
    """Probability of each image's class."""
    return np.concatenate([np.asarray(predict(x))[np.arange(len(x)), chosen] for x, chosen in batches])


def _jobs(kinds: tuple[int, ...], batch_size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """The indices into an array of shape `kinds`, row-major, a batch at a time."""
    count = int(np.prod(kinds))
    for start in range(0, count, batch_size):
        yield np.unravel_index(np.arange(start, min(start + batch_size, count)), kinds)


def _ranks(maps: np.ndarray) -> np.ndarray:
    """Each pixel's place in its map (rows, pixels): 0 the most relevant."""
    order = np.argsort(-maps, axis=-1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(maps.shape[1])[None], -1)
    return ranks


# ---- deletion and insertion


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

    Deletion starts at the image and ends at the fill, insertion the other way; both curves have `steps` + 1 points at
    equal shares of the pixels, and their trapezoid area over 0..1 is returned: low deletion and high insertion are
    good. `fill`: "mean" (each image's own mean colour), "blur" (Gaussian, sigma a sixteenth of the longer side) or a
    colour; steps and fill belong beside the figure. `predict` sees 2 n + 2 maps (steps - 1) images: the two ends are
    shared by all maps of an image.

    Source: Petsiuk et al. 2018 (RISE), who insert into a blurred and delete to a black image. Raises InputError for
    shapes, classes, steps or fill that do not fit.
    """
    images, maps, classes = _checked(images, maps, classes, batch_size)
    pixels, front = maps.shape[-2] * maps.shape[-1], maps.shape[:-2]
    if not 1 <= steps <= pixels:
        raise InputError(f"steps must be 1 to the number of pixels. Received: steps={steps}.")
    _check_fill(fill)
    counts = np.round(np.arange(steps + 1) * pixels / steps).astype(int)
    starts = range(0, len(images), batch_size)
    whole = _chosen_probabilities(predict, ((images[i : i + batch_size], classes[i : i + batch_size]) for i in starts))
    empty = _chosen_probabilities(
        predict, ((_filled(images[i : i + batch_size], fill), classes[i : i + batch_size]) for i in starts)
    )
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


def _check_fill(fill: Any) -> None:
    if isinstance(fill, str):
        good = fill in FILLS
    else:
        colour = np.asarray(fill)
        good = colour.dtype.kind in "iuf" and colour.shape in ((), (3,))
    if not good:
        raise InputError(f"fill must be 'mean', 'blur', or a colour such as (0, 0, 0). Received: fill={fill!r}.")


def _filled(images: np.ndarray, fill: Any) -> np.ndarray:
    """What stands where a pixel is taken away, as whole images."""
    if isinstance(fill, str) and fill == "mean":
        return np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    if isinstance(fill, str) and fill == "blur":
        sigma = max(images.shape[1:3]) / 16
        return np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])
    return np.broadcast_to(np.asarray(fill, np.float32), images.shape)


def _perturbed(
    images: np.ndarray, maps: np.ndarray, classes: np.ndarray, counts: np.ndarray, fill: Any, batch_size: int
) -> Batches:
    """Batches over (map, deletion then insertion, step); `maps` is (images * blocks, pixels)."""
    blocks = len(maps) // len(images)
    for row, insertion, step in _jobs((len(maps), 2, len(counts)), batch_size):
        first, image = row[0], row // blocks
        top = (_ranks(maps[first : row[-1] + 1])[row - first] < counts[step][:, None]).reshape(
            -1, *images.shape[1:3], 1
        )
        own = images[image[0] : image[-1] + 1]
        kept = top == (insertion == 1)[:, None, None, None]  # deletion keeps all but the top, insertion the top
        yield np.where(kept, own[image - image[0]], _filled(own, fill)[image - image[0]]), classes[image]


# ---- average drop and increase


def average_drop_increase(
    predict: Predict, images: Any, maps: Any, classes: Any, *, batch_size: int = 64
) -> DropIncrease:
    """How much probability Y an image loses when it is multiplied by its map: max(0, Y - O) / Y, and whether O > Y.

    O is the probability of the image times its unit map (negative values 0, divided by the maximum; a map without
    positive values gives a black image). Means over images are the paper's average drop (low is good) and increase of
    confidence (high is good), there in percent. A map that shows everything loses nothing: read the drop beside
    `map_concentration` or against `random_like`. Without any probability to lose the drop is 0.
    `predict` sees n + maps images.

    Source: Chattopadhay et al. 2018 (Grad-CAM++), equations 11 and 12. Here the image is raw RGB, so that what a map
    hides is black; implementations on preprocessed images hide with the mean colour. Raises InputError for shapes or
    classes that do not fit.
    """
    images, maps, classes = _checked(images, maps, classes, batch_size)
    front = maps.shape[:-2]
    rows = maps.reshape(-1, *maps.shape[-2:])
    of_image = np.repeat(np.arange(len(images)), len(rows) // len(images))

    def shown() -> Batches:
        for (row,) in _jobs((len(rows),), batch_size):
            relevance = np.maximum(rows[row], 0).astype(np.float32)
            peak = relevance.max((1, 2), keepdims=True)
            unit = relevance / np.where(peak > 0, peak, 1)
            yield images[of_image[row]] * unit[..., None], classes[of_image[row]]

    whole = _chosen_probabilities(predict, ((images[i], classes[i]) for (i,) in _jobs((len(images),), batch_size)))
    y, o = whole.astype(np.float64)[of_image], _chosen_probabilities(predict, shown()).astype(np.float64)
    drop = np.divide(np.maximum(y - o, 0), y, out=np.zeros(len(y)), where=y > 0)
    return DropIncrease(drop.reshape(front), (o > y).astype(float).reshape(front), len(images) + len(rows))


# ---- remove and debias
