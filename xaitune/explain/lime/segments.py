"""Superpixels of an image: label maps from scikit-image's segmenters, neither too few nor too many to explain."""

import warnings
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from skimage import segmentation

from xaitune.config.rules import require_choice
from xaitune.errors import ConfigError, XaituneWarning

FEWEST, MOST = 4, 400  # superpixels that are worth explaining: fewer say nothing, more cannot be told apart
_COARSER = (1.0, 2.0, 4.0)  # tried in turn where there are too many; their inverses where there are too few

# name -> (uint8 image (h, w, 3), coarseness) -> labels. At coarseness 1 the first is the lime package's default.
SEGMENTERS: MappingProxyType[str, Callable[[np.ndarray, float], np.ndarray]] = MappingProxyType(
    {
        "quickshift": lambda image, coarse: segmentation.quickshift(
            image, kernel_size=4 * coarse, max_dist=200, ratio=0.2, rng=42
        ),
        "slic": lambda image, coarse: segmentation.slic(
            image, n_segments=max(FEWEST, round(50 / coarse**2)), compactness=10, start_label=0
        ),
        "felzenszwalb": lambda image, coarse: segmentation.felzenszwalb(
            image, scale=100 * coarse**2, sigma=0.5, min_size=round(20 * coarse)
        ),
    }
)
Segmenter = str | np.ndarray | Callable[[np.ndarray], np.ndarray]


def segment(image: np.ndarray, segmenter: Segmenter = "quickshift", *, bounded: bool = True) -> np.ndarray:
    """A label image (h, w) with ids 0..m-1 of an (h, w, 3) image in 0..255.

    `segmenter`: 'quickshift' (kernel 4, max_dist 200, ratio 0.2: the lime package's), 'slic', 'felzenszwalb', a
    function image -> labels, or the labels themselves. `bounded`: where a named segmenter gives fewer than FEWEST or
    more than MOST superpixels, a finer or coarser setting takes its place, and a grid of slic's where none fits, with an
    XaituneWarning. Raises ConfigError for an unknown name or labels of another shape.
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
    labels = SEGMENTERS[name](pixels, 1.0)
    found = len(np.unique(labels))
    if not bounded or FEWEST <= found <= MOST:
        return labels
    too_few = found < FEWEST
    settings = [(name, 1 / c if too_few else c) for c in _COARSER[1:]] + [("slic", 1.0)]
    for other, coarseness in settings:
        labels = SEGMENTERS[other](pixels, coarseness)
        count = len(np.unique(labels))
        if FEWEST <= count <= MOST:
            break
    instead = f"a {'finer' if too_few else 'coarser'} {name}" if other == name else "slic"
    warnings.warn(
        f"{name} gives {found} superpixel{'s' if found > 1 else ''}, {'fewer' if too_few else 'more'} than "
        f"{FEWEST if too_few else MOST}: {instead} with {count} is used instead.",
        XaituneWarning,
        stacklevel=2,
    )
    return labels
