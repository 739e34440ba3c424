"""LIME over superpixels (Ribeiro et al. 2016): a weighted linear model of what hiding parts of an image does."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import softmax
from skimage import segmentation
from sklearn.utils import check_random_state

from xaitune import device
from xaitune.errors import ConfigError, nearest
from xaitune.results import Superpixels
from xaitune.subjects import Images, Subject, open_subject

KERNEL_WIDTH = 0.25
RIDGE_ALPHA = 1.0
BATCH = 64
INTERVAL_DRAWS = 200
MIN_SUPERPIXELS = 8

SEGMENTERS: MappingProxyType[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "quickshift": lambda image: segmentation.quickshift(image, kernel_size=4, max_dist=200, ratio=0.2, rng=42),
        "slic": lambda image: segmentation.slic(image, n_segments=50, compactness=10, start_label=0),
        "felzenszwalb": lambda image: segmentation.felzenszwalb(image, scale=100, sigma=0.5, min_size=20),
    }
)
Segmenter = str | np.ndarray | Callable[[np.ndarray], np.ndarray]


def check_lime(num_samples: int, segmenter: Segmenter = "quickshift") -> None:
    """Raise ConfigError for too few samples or an unknown segmenter."""
    if num_samples < 2:
        raise ConfigError(f"num_samples must be at least 2. Received: {num_samples}.")
    if isinstance(segmenter, str) and segmenter not in SEGMENTERS:
        raise ConfigError(
            f"segmenter must be one of {', '.join(SEGMENTERS)}. Received: {segmenter!r}.{nearest(segmenter, SEGMENTERS)}"
        )


def lime_superpixels(
    model: Any,
    images: Images,
    *,
    class_name: str | None = None,
    num_samples: int = 1000,
    segmenter: Segmenter = "quickshift",
    hide_color: float | tuple[float, float, float] | None = None,
    exact: bool = False,
    precision: str = "auto",
    seed: int = 0,
) -> Superpixels:
    """The weight of each superpixel for a class's probability, for each image.

    The first sample shows everything, the others show each superpixel with probability 1/2; a hidden one is filled
    with its mean colour, or `hide_color` (0..255). Distance: cosine on the mask vectors; kernel sqrt(exp(-d^2 /
    0.25^2)); Ridge with alpha 1. `segmenter`: 'quickshift', 'slic', 'felzenszwalb', a function image -> labels, or a
    label image. `num_samples` is the number of forward passes an image. `exact` draws the masks as the `lime` package
    does with random_state=`seed` and computes in float32, so that the weights are its weights.
    Other arguments as in `gradcam_blocks`. Raises ModelError, ImageError, ConfigError.
    """
    check_lime(num_samples, segmenter)
    subject = open_subject(model)
    array, files = subject.read(images)
    predict = probability_function(subject, "float32" if exact else precision)
    index = subject.class_index(class_name)
    probabilities = predict(array.astype(np.float32))
    classes = probabilities.argmax(axis=1) if index < 0 else np.full(len(array), index)
    segments, weights, intervals, scores = [], [], [], []
    for i, image in enumerate(array):
        labels = segment(image, segmenter, finer=not exact)
        masks = draw_masks(int(labels.max()) + 1, num_samples, seed, exact)
        targets = predict_masked(predict, image, labels, masks, hide_color)
        kernel = sample_weights(masks)
        fitted, score = fit_linear(masks, targets, kernel, int(classes[i]))
        segments.append(labels)
        weights.append(fitted)
        scores.append(score)
        intervals.append(weight_interval(masks, targets[:, int(classes[i])], kernel, seed))
    return Superpixels(
        images=array,
        files=files,
        classes=classes,
        class_names=subject.class_names,
        probabilities=probabilities,
        segments=tuple(segments),
        class_weights=tuple(weights),
        interval=tuple(intervals),
        score=np.array(scores),
        num_samples=num_samples,
        resize=subject.resize,
    )


def probability_function(subject: Subject, precision: str = "auto") -> Callable[[np.ndarray], np.ndarray]:
    """(n, h, w, 3) 0..255 -> (n, classes) softmax probabilities, computed in `precision`."""
    resolved, _ = device.resolve_precision(precision)
    model = subject.model if resolved == "float32" else device.with_precision(subject.model, resolved)
    logits = device.predict_logits(model, BATCH)
    return lambda images: softmax(logits(np.asarray(images, np.float32)).astype(np.float64), axis=1)


def segment(image: np.ndarray, segmenter: Segmenter = "quickshift", *, finer: bool = False) -> np.ndarray:
    """A label image (h, w) with ids 0..m-1 of an (h, w, 3) image in 0..255. Raises ConfigError.

    `finer`: where a named segmenter gives fewer than MIN_SUPERPIXELS, which explain nothing (quickshift often does on
    small images), slic's about 50 take their place.
    """
    if isinstance(segmenter, str):
        check_lime(2, segmenter)
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        labels = SEGMENTERS[segmenter](pixels)
        if finer and len(np.unique(labels)) < MIN_SUPERPIXELS:
            labels = SEGMENTERS["slic"](pixels)
    else:
        labels = segmenter(image) if callable(segmenter) else np.asarray(segmenter)
    if labels.shape != image.shape[:2]:
        raise ConfigError(f"A segmentation must have the image's shape {image.shape[:2]}. Received: {labels.shape}.")
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def draw_masks(superpixels: int, num_samples: int, seed: int, exact: bool = False) -> np.ndarray:
    """(num_samples, superpixels) of 0 and 1, the first row all 1; `exact` in the order of the lime package."""
    if exact:
        state = check_random_state(seed)
        state.randint(0, high=1000)  # lime draws its segmenter's seed first
        masks = state.randint(0, 2, num_samples * superpixels).reshape(num_samples, superpixels)
    else:
        masks = np.random.default_rng(seed).integers(0, 2, (num_samples, superpixels))
    masks[0] = 1
    return masks


def predict_masked(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    hide_color: float | tuple[float, float, float] | None = None,
) -> np.ndarray:
    """(samples, classes) probabilities of the image with the superpixels of each mask shown."""
    image = image.astype(np.float32)
    if hide_color is None:
        area = np.bincount(labels.ravel())
        sums = np.stack([np.bincount(labels.ravel(), image[..., c].ravel()) for c in range(3)], axis=1)
        fill = (sums / area[:, None]).astype(np.float32)[labels]  # (h, w, 3)
    else:
        fill = np.broadcast_to(np.asarray(hide_color, np.float32), image.shape)
    out = []
    for start in range(0, len(masks), BATCH):
        shown = masks[start : start + BATCH][:, labels][..., None]  # (b, h, w, 1)
        out.append(predict(np.where(shown, image, fill)))
    return np.concatenate(out)


def sample_weights(masks: np.ndarray) -> np.ndarray:
    """(samples,) sqrt(exp(-d^2 / 0.25^2)), d = 1 - sqrt(share of superpixels shown), the cosine distance to all ones."""
    distance = 1 - np.sqrt(masks.mean(axis=1))
    return np.sqrt(np.exp(-(distance**2) / KERNEL_WIDTH**2))


def fit_linear(masks: np.ndarray, targets: np.ndarray, kernel: np.ndarray, index: int) -> tuple[np.ndarray, float]:
    """((classes, superpixels) Ridge weights, weighted R^2 of class `index`)."""
    weights = _ridge(masks, targets, kernel[None])[0]  # (classes, superpixels)
    share = kernel / kernel.sum()
    y = targets[:, index] - share @ targets[:, index]
    centred = masks - share @ masks
    residual = y - centred @ weights[index]
    total = share @ y**2
    # A constant answer leaves only rounding to explain: no score.
    return weights, float(1 - (share @ residual**2) / total) if total > 1e-24 else 0.0


def weight_interval(masks: np.ndarray, target: np.ndarray, kernel: np.ndarray, seed: int) -> np.ndarray:
    """(superpixels, 2): 95 % percentile interval of the weights over resampled samples."""
    n = len(masks)
    counts = np.random.default_rng([seed, 1]).multinomial(n, np.full(n, 1 / n), INTERVAL_DRAWS)
    drawn = _ridge(masks, target[:, None], counts * kernel)[:, 0]  # (draws, superpixels)
    return np.percentile(drawn, [2.5, 97.5], axis=0).T


def _ridge(masks: np.ndarray, targets: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Weighted Ridge with an intercept for each row of `kernels` (k, n): (k, classes, superpixels)."""
    x, y = masks.astype(np.float64), targets.astype(np.float64)
    total = kernels.sum(axis=1)
    mean_x, mean_y = kernels @ x / total[:, None], kernels @ y / total[:, None]  # (k, m), (k, classes)
    gram = np.stack([(x * w[:, None]).T @ x for w in kernels])
    gram -= total[:, None, None] * mean_x[:, :, None] * mean_x[:, None, :]
    cross = np.stack([(x * w[:, None]).T @ y for w in kernels])
    cross -= total[:, None, None] * mean_x[:, :, None] * mean_y[:, None, :]
    solved = np.linalg.solve(gram + RIDGE_ALPHA * np.eye(x.shape[1]), cross)
    return solved.transpose(0, 2, 1)
