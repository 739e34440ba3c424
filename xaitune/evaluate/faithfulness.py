"""Faithfulness of heatmaps to the model: its probabilities when relevant pixels are removed, or only they are kept.

`predict` is a function (images (m, h, w, 3) in 0..255 -> softmax probabilities (m, C)), never a model, and is called
with at most `batch_size` images. `images` are (n, h, w, 3) in 0..255, `maps` (n, ..., h, w) at the same resolution,
such as (n, blocks, h, w), `classes` (n,) the class explained for each image. A score has the maps' leading axes. Pixels
are ranked by the map's values, negative ones last; tied pixels in row-major order, from the top left.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from xaitune.errors import InputError
from xaitune.evaluate.maps import as_maps

Predict = Callable[[np.ndarray], Any]
FILLS = ("mean", "blur")
Batches = Iterator[tuple[np.ndarray, np.ndarray]]  # images and their classes


class Faithfulness(NamedTuple):
    """The areas `deletion` and `insertion`, 0..1, and `calls`, the number of images predicted."""

    deletion: np.ndarray
    insertion: np.ndarray
    calls: int


class DropIncrease(NamedTuple):
    """For each map `drop` (0..1) and `increase` (0 or 1), whose means are the paper's figures; `calls`: images predicted."""

    drop: np.ndarray
    increase: np.ndarray
    calls: int


# ---- shared steps


def check_inputs(images: Any, maps: Any, classes: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three as arrays. Raises InputError where they do not fit."""
    images, maps, classes = np.asarray(images, np.float32), as_maps(maps), np.asarray(classes)
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise InputError(f"images must be (n, height, width, 3). Received: shape {images.shape}.")
    if maps.ndim < 3 or len(maps) != len(images) or maps.shape[-2:] != images.shape[1:3]:
        raise InputError(
            f"maps must be (n, ..., height, width) at the images' resolution {images.shape[:3]}. "
            f"Received: shape {maps.shape}."
        )
    if classes.shape != (len(images),) or classes.dtype.kind not in "iu":
        raise InputError(f"classes must be one class number per image. Received: {classes.dtype} {classes.shape}.")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
    return images, maps, classes


def class_probabilities(predict: Predict, batches: Batches) -> np.ndarray:
    """The probability of each image's class."""
    return np.concatenate([np.asarray(predict(x))[np.arange(len(x)), classes] for x, classes in batches])


def index_batches(shape: tuple[int, ...], batch_size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """All indices into an array of this shape, row-major, a batch at a time."""
    count = int(np.prod(shape))
    for start in range(0, count, batch_size):
        yield np.unravel_index(np.arange(start, min(start + batch_size, count)), shape)


def pixel_ranks(maps: np.ndarray) -> np.ndarray:
    """The rank of each pixel in its map (rows, pixels): 0 for the most relevant."""
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
    """Area under the curve of the class's probability as pixels are deleted, or inserted, in order of relevance.

    Deletion goes from the image to the fill, insertion from the fill to the image. Both curves have `steps` + 1 points
    at equal shares of the pixels, and their trapezoid area over 0..1 is returned: low deletion and high insertion are
    good. `fill`: "mean" (each image's own mean colour), "blur" (Gaussian, sigma a sixteenth of the longer side) or a
    colour; report steps and fill with the scores. `predict` gets 2 n + 2 maps (steps - 1) images: the two ends are
    shared by all maps of an image.

    Source: Petsiuk et al. 2018 (RISE), who insert into a blurred and delete to a black image. Raises InputError for
    shapes, classes, steps or fill that do not fit.
    """
    images, maps, classes = check_inputs(images, maps, classes, batch_size)
    pixels, leading = maps.shape[-2] * maps.shape[-1], maps.shape[:-2]
    if not 1 <= steps <= pixels:
        raise InputError(f"steps must be 1 to the number of pixels. Received: steps={steps}.")
    _check_fill(fill)
    counts = np.round(np.arange(steps + 1) * pixels / steps).astype(int)
    batches = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
    whole = class_probabilities(predict, ((images[b], classes[b]) for b in batches))
    empty = class_probabilities(predict, ((_fill_images(images[b], fill), classes[b]) for b in batches))
    # (n, deletion and insertion, first and last point)
    ends = np.stack([np.stack([whole, empty], -1), np.stack([empty, whole], -1)], 1)
    ends = np.repeat(ends, int(np.prod(leading[1:])), axis=0)
    curves = ends
    if steps > 1:
        perturbed = _perturbed(images, maps.reshape(-1, pixels), classes, counts[1:-1], fill, batch_size)
        inner = class_probabilities(predict, perturbed).reshape(-1, 2, steps - 1)
        curves = np.concatenate([ends[..., :1], inner, ends[..., 1:]], -1)
    heights = (curves[..., 1:] + curves[..., :-1]).astype(np.float64) / 2
    areas = (heights * np.diff(counts / pixels)).sum(-1)  # (maps, 2)
    calls = 2 * len(images) + len(areas) * 2 * (steps - 1)
    return Faithfulness(areas[:, 0].reshape(leading), areas[:, 1].reshape(leading), calls)


def _check_fill(fill: Any) -> None:
    if isinstance(fill, str):
        valid = fill in FILLS
    else:
        colour = np.asarray(fill)
        valid = colour.dtype.kind in "iuf" and colour.shape in ((), (3,))
    if not valid:
        raise InputError(f"fill must be 'mean', 'blur', or a colour such as (0, 0, 0). Received: fill={fill!r}.")


def _fill_images(images: np.ndarray, fill: Any) -> np.ndarray:
    """The images with every pixel deleted."""
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
    for row, insertion, step in index_batches((len(maps), 2, len(counts)), batch_size):
        image = row // blocks
        ranks = pixel_ranks(maps[row[0] : row[-1] + 1])[row - row[0]]
        top = (ranks < counts[step][:, None]).reshape(-1, *images.shape[1:3], 1)
        # Deletion keeps all pixels but the top ones, insertion only these.
        keep = top == (insertion == 1)[:, None, None, None]
        originals = images[image[0] : image[-1] + 1]
        which = image - image[0]
        yield np.where(keep, originals[which], _fill_images(originals, fill)[which]), classes[image]


# ---- average drop and increase


def average_drop_increase(
    predict: Predict, images: Any, maps: Any, classes: Any, *, batch_size: int = 64
) -> DropIncrease:
    """Loss of the class's probability Y when the image is multiplied by its map: max(0, Y - O) / Y, and whether O > Y.

    O is the probability of the image times its unit map (negative values 0, divided by the maximum; a map without
    positive values gives a black image). Means over images are the paper's average drop (low is good) and increase of
    confidence (high is good), there in percent. A map that shows everything loses nothing: read the drop together with
    `map_concentration`, or compare it with that of `random_like`. Where Y is 0 the drop is 0. `predict` gets n + maps
    images.

    Source: Chattopadhay et al. 2018 (Grad-CAM++), equations 11 and 12. Here the image is raw RGB, so hidden pixels are
    black; in implementations on preprocessed images they have the mean colour. Raises InputError for shapes or classes
    that do not fit.
    """
    images, maps, classes = check_inputs(images, maps, classes, batch_size)
    leading = maps.shape[:-2]
    rows = maps.reshape(-1, *maps.shape[-2:])
    image = np.repeat(np.arange(len(images)), len(rows) // len(images))  # of each row

    def multiplied() -> Batches:
        for (row,) in index_batches((len(rows),), batch_size):
            relevance = np.maximum(rows[row], 0).astype(np.float32)
            peak = relevance.max((1, 2), keepdims=True)
            unit = relevance / np.where(peak > 0, peak, 1)
            yield images[image[row]] * unit[..., None], classes[image[row]]

    whole = ((images[i], classes[i]) for (i,) in index_batches((len(images),), batch_size))
    y = class_probabilities(predict, whole).astype(np.float64)[image]
    o = class_probabilities(predict, multiplied()).astype(np.float64)
    drop = np.divide(np.maximum(y - o, 0), y, out=np.zeros(len(y)), where=y > 0)
    return DropIncrease(drop.reshape(leading), (o > y).astype(float).reshape(leading), len(images) + len(rows))
