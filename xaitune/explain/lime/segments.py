"""Superpixels of an image: label maps from scikit-image's segmenters, neither too few nor too many to explain."""

import warnings
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from skimage import segmentation

from xaitune.config.rules import require_choice
from xaitune.errors import ConfigError, XaituneWarning

FEWEST, MOST = 4, 400  # superpixels worth explaining: fewer say nothing, more cannot be told apart
_COARSENESS = (2.0, 4.0)  # tried in turn where there are too many superpixels; the inverses where there are too few


def _quickshift(pixels: np.ndarray, coarseness: float) -> np.ndarray:
    return segmentation.quickshift(pixels, kernel_size=4 * coarseness, max_dist=200, ratio=0.2, rng=42)


def _slic(pixels: np.ndarray, coarseness: float) -> np.ndarray:
    segments = max(FEWEST, round(50 / coarseness**2))
    return segmentation.slic(pixels, n_segments=segments, compactness=10, start_label=0)


def _felzenszwalb(pixels: np.ndarray, coarseness: float) -> np.ndarray:
    smallest = round(20 * coarseness)
    return segmentation.felzenszwalb(pixels, scale=100 * coarseness**2, sigma=0.5, min_size=smallest)


# (uint8 image (h, w, 3), coarseness) -> labels (h, w). Quickshift at coarseness 1 is the lime package's default.
SEGMENTERS: MappingProxyType[str, Callable[[np.ndarray, float], np.ndarray]] = MappingProxyType(
    {"quickshift": _quickshift, "slic": _slic, "felzenszwalb": _felzenszwalb}
)
Segmenter = str | np.ndarray | Callable[[np.ndarray], np.ndarray]


def segment(image: np.ndarray, segmenter: Segmenter = "quickshift", *, bounded: bool = True) -> np.ndarray:
    """A label image (h, w) with ids 0..m-1 of an (h, w, 3) image in 0..255.

    `segmenter`: 'quickshift' (kernel 4, max_dist 200, ratio 0.2, as in the lime package), 'slic', 'felzenszwalb', a
    function image -> labels, or the labels themselves. `bounded`: where a named segmenter gives fewer than FEWEST or
    more than MOST superpixels, a finer or coarser setting is used instead, or a grid from slic where none fits, with an
    XaituneWarning. Raises ConfigError for an unknown name or labels of another shape.

    Examples:
        >>> segment(np.zeros((2, 4, 3)), np.array([[7, 7, 3, 3], [7, 7, 9, 9]])).tolist()
        [[1, 1, 0, 0], [1, 1, 2, 2]]
    """
    if isinstance(segmenter, str):
        require_choice("segmenter", segmenter, SEGMENTERS)
        labels = _named(np.clip(np.rint(image), 0, 255).astype(np.uint8), segmenter, bounded)
    else:
        labels = segmenter(image) if callable(segmenter) else np.asarray(segmenter)
    if labels.shape != image.shape[:2]:
        raise ConfigError(f"A segmentation must have the image's shape {image.shape[:2]}. Received: {labels.shape}.")
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def _named(pixels: np.ndarray, name: str, bounded: bool) -> np.ndarray:
    """The labels of a named segmenter, or of the first other setting that gives an explainable number of superpixels."""
    labels = SEGMENTERS[name](pixels, 1.0)
    count = len(np.unique(labels))
    if not bounded or FEWEST <= count <= MOST:
        return labels
    too_few = count < FEWEST
    for other, coarseness in [*((name, 1 / c if too_few else c) for c in _COARSENESS), ("slic", 1.0)]:
        labels = SEGMENTERS[other](pixels, coarseness)
        if FEWEST <= len(np.unique(labels)) <= MOST:
            break
    instead = f"a {'finer' if too_few else 'coarser'} {name}" if other == name else "slic"
    few_or_many = f"fewer than {FEWEST} superpixels, too few" if too_few else f"more than {MOST} superpixels, too many"
    choose = "" if name == "slic" else " The segmenter slic gives about 50 in every image."
    warnings.warn(
        f"In at least one image {name} finds {few_or_many} to explain it; {instead} is used there instead.{choose}",
        XaituneWarning,
        stacklevel=2,
    )
    return labels
