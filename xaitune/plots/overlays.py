"""Heatmaps, masks and superpixels drawn over images, and pictures side by side; arrays in, uint8 arrays out.

Heatmaps use matplotlib's perceptually uniform inferno, always on the fixed scale 0..1, with opacity proportional to the
value, so that zero shows the image itself.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np

from xaitune.errors import InputError

# RGB of evidence for a class (bluish green) and against it (vermilion)
POSITIVE, NEGATIVE = (0, 158, 115), (213, 94, 0)
HEATMAP = "inferno"
ALPHA = 0.8  # opacity of the strongest value
PANEL_PIXELS = 240  # height of pictures shown side by side
SIGN = (240, 228, 66)  # RGB of the sign on maps that should not be relied on (yellow)
FOUND, TRUE = (86, 180, 233), (80, 220, 100)  # RGB of boxes from a map (light blue) and of true ones (green)


def _rgb(image: Any) -> np.ndarray:
    """(h, w, 3) float32 0..255 from a grey or RGB image 0..255."""
    image = np.asarray(image, np.float32)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"An image must be (height, width) or (height, width, 3). Received: shape {image.shape}.")
    return image


def _blend(image: Any, colour: Any, alpha: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3): the image with `colour` (RGB 0..255, one for all or one per pixel) over it at opacity `alpha` (h, w)."""
    image = _rgb(image)
    if alpha.shape != image.shape[:2]:
        raise InputError(f"A map must have its image's size {image.shape[:2]}. Received: {alpha.shape}.")
    alpha = alpha[:, :, None].astype(np.float32)
    mixed = image * (1 - alpha) + np.asarray(colour, np.float32) * alpha
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def heat_colours(heat: Any) -> np.ndarray:
    """uint8 (h, w, 3): a map in inferno's colours, on the fixed scale 0..1; values beyond it are clipped."""
    colours = matplotlib.colormaps[HEATMAP](np.clip(np.nan_to_num(np.asarray(heat, float)), 0, 1))[..., :3]
    return np.rint(colours * 255).astype(np.uint8)


def overlay(image: Any, heat: Any, alpha: float = ALPHA) -> np.ndarray:
    """uint8 (h, w, 3): a heatmap over its image, more opaque for higher values; 0 leaves the image as it is.

    `image` (h, w[, 3]) 0..255; `heat` (h, w) on the fixed scale 0..1, so that maps can be compared. `alpha`: opacity
    of the value 1. Raises InputError if the sizes differ.
    """
    heat = np.clip(np.nan_to_num(np.asarray(heat, np.float32)), 0, 1)
    return _blend(image, heat_colours(heat), alpha * heat)


def tint(image: Any, mask: Any, colour: Sequence[int], alpha: float = 0.5) -> np.ndarray:
    """uint8 (h, w, 3): the image with `mask` (h, w) bool tinted in `colour` (RGB 0..255)."""
    return _blend(image, colour, np.asarray(mask, np.float32) * alpha)


def signed_overlay(image: Any, signed: Any, alpha: float = ALPHA) -> np.ndarray:
    """uint8 (h, w, 3): the colour POSITIVE where a map is evidence for the class, NEGATIVE where it is evidence against.

    `signed` (h, w), any scale: opacity is |value| over the map's largest |value|, so both signs share one scale.
    """
    signed = np.nan_to_num(np.asarray(signed, np.float32))
    peak = float(np.abs(signed).max(initial=0))
    colour = np.where(signed[..., None] > 0, POSITIVE, NEGATIVE)  # (h, w, 3)
    return _blend(image, colour, alpha * np.abs(signed) / (peak or 1.0))


def boundaries(image: Any, segments: Any, colour: Sequence[int] = (240, 228, 66)) -> np.ndarray:
    """uint8 (H, W, 3): the image with thin lines between its segments (h, w).

    Small images are first enlarged by a whole factor to a height of about PANEL_PIXELS, so that the lines hide little.
    """
    image, segments = _rgb(image), np.asarray(segments)
    if segments.shape != image.shape[:2]:
        raise InputError(f"Segments must have their image's size {image.shape[:2]}. Received: {segments.shape}.")
    factor = max(1, round(PANEL_PIXELS / image.shape[0]))
    image, segments = (np.kron(a, np.ones((factor, factor) + (1,) * (a.ndim - 2), a.dtype)) for a in (image, segments))
    edge = np.zeros(segments.shape, bool)
    edge[:, :-1] |= segments[:, :-1] != segments[:, 1:]
    edge[:-1] |= segments[:-1] != segments[1:]
    return _blend(image, colour, edge.astype(np.float32))


def rectangles(image: Any, boxes: Any, colour: Sequence[int]) -> np.ndarray:
    """uint8 (H, W, 3): the image with lines around `boxes`, which hide nothing inside and have a dark outer edge.

    `boxes` (k, 4): x, y, width and height as shares of the image's width and height. At the image's border lines are inside.
    Small images are first enlarged by a whole factor to a height of about PANEL_PIXELS; lines are thicker on larger ones.
    """
    image = np.clip(np.rint(_rgb(image)), 0, 255).astype(np.uint8)
    factor = max(1, round(PANEL_PIXELS / image.shape[0]))
    image = np.kron(image, np.ones((factor, factor, 1), np.uint8))
    size, line = np.array(image.shape[1::-1]), 2 * max(1, round(image.shape[0] / PANEL_PIXELS))
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    starts = np.clip(np.rint(boxes[:, :2] * size).astype(int), line, None)
    stops = np.clip(np.rint((boxes[:, :2] + boxes[:, 2:]) * size).astype(int), None, size - line)
    for start, stop in zip(starts, stops, strict=True):
        inside = image[start[1] : stop[1], start[0] : stop[0]].copy()
        for reach, shade in ((line + line // 2, 0), (line, colour), (0, inside)):
            left, upper = np.maximum(start - reach, 0)
            right, lower = np.minimum(stop + reach, size)
            image[upper:lower, left:right] = shade
    return image


def caution(image: Any) -> np.ndarray:
    """uint8 (H, W, 3): the image with a small warning sign in its upper left corner.

    Small images are first enlarged by a whole factor to a height of about PANEL_PIXELS; the sign is a seventh of the height.
    """
    image = np.clip(np.rint(_rgb(image)), 0, 255).astype(np.uint8)
    factor = max(1, round(PANEL_PIXELS / image.shape[0]))
    image = np.kron(image, np.ones((factor, factor, 1), np.uint8))
    side = max(8, min(image.shape[:2]) // 7)
    left = upper = side // 4
    middle, base = left + side // 2, upper + side * 7 // 8
    corners = np.array([(middle, upper), (left + side, base), (left, base)], np.int32)
    cv2.fillConvexPoly(image, corners, SIGN, cv2.LINE_AA)
    cv2.polylines(image, [corners], True, (0, 0, 0), max(1, side // 16), cv2.LINE_AA)
    cv2.line(image, (middle, upper + side * 3 // 10), (middle, upper + side * 9 // 16), (0, 0, 0), max(1, side // 10))
    cv2.circle(image, (middle, upper + side * 23 // 32), max(1, side // 18), (0, 0, 0), -1, cv2.LINE_AA)
    return image


def to_height(image: Any, height: int) -> np.ndarray:
    """uint8 (height, w', 3), with the same aspect ratio: area averages to shrink, Lanczos to enlarge."""
    image = np.clip(np.rint(_rgb(image)), 0, 255).astype(np.uint8)
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    interpolation = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LANCZOS4
    return cv2.resize(image, (width, height), interpolation=interpolation)


def strip(images: Sequence[Any], *, height: int = PANEL_PIXELS, gap: int = 8) -> np.ndarray:
    """uint8 (height, W, 3): pictures side by side at one height, with white gaps."""
    if not len(images):
        raise InputError("A strip needs at least one picture.")
    white = np.full((height, gap, 3), 255, np.uint8)
    parts = [part for image in images for part in (to_height(image, height), white)]
    return np.concatenate(parts[:-1], axis=1)
