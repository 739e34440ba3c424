"""LIME over superpixels (Ribeiro et al. 2016): a weighted linear model of what hiding parts of an image does."""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from scipy.special import softmax

from xaitune.config.schema import parse_fill
from xaitune.errors import ConfigError
from xaitune.explain.classifier import Images, Subject, open_subject
from xaitune.explain.lime.fit import STABLE, Fit, draw_halves, fit_package, fit_pairs, package_masks, r_squared
from xaitune.explain.lime.segments import Segmenter, check_segmenter, segment
from xaitune.models import backend as device
from xaitune.models import ncnn as winograd
from xaitune.results import Superpixels

BATCH = 64
FIRST, GROWTH = 128, 1.25  # samples before the first look at how stable the weights are, and from look to look
Fill = str | float | tuple[float, float, float]
Predict = Callable[[np.ndarray], np.ndarray]
SampleProgress = Callable[[int, int, int], None]  # an image's number, samples done, at most how many


def check_lime(num_samples: int, segmenter: Segmenter = "quickshift", fill: Fill = "mean") -> None:
    """Raise ConfigError for too few samples, an unknown segmenter or fill."""
    if num_samples < 2:
        raise ConfigError(f"num_samples must be at least 2. Received: {num_samples}.")
    check_segmenter(segmenter)
    parse_fill(fill)


def lime_superpixels(
    model: Any,
    images: Images,
    *,
    class_name: str | None = None,
    num_samples: int = 1000,
    segmenter: Segmenter = "quickshift",
    fill: Fill = "mean",
    exact: bool = False,
    precision: str = "auto",
    seed: int = 0,
    progress: SampleProgress | None = None,
) -> Superpixels:
    """The weight of each superpixel for every class's probability, for each image.

    Superpixels are shown or hidden at random, each with probability 1/2; the first sample shows everything. A hidden
    one takes its mean colour ('mean'), the blurred image ('blur': Gaussian, sigma a sixteenth of the longer side) or a
    colour (0..255). Distance: cosine on the mask vectors; kernel sqrt(exp(-d^2 / 0.25^2)); Ridge with alpha 1.
    `segmenter`: as in `segments.segment`.

    Masks come in complementary pairs, none twice (all 2^m where that is fewer), and no more are drawn when two
    independent runs would agree (Spearman 0.9 over the superpixels, Jaccard 0.8 of the five most positive); `num_samples`
    is the most forward passes an image. See `surrogate.fit_pairs` for the estimate, which departs from the lime package's
    with few samples and equals its limit with many. `exact` draws `num_samples` masks as the `lime` package does with
    random_state=`seed` and computes in float32, so that the weights are its weights.
    `progress` hears of every batch. Other arguments as in `gradcam_blocks`. Raises ModelError, ImageError, ConfigError.
    """
    check_lime(num_samples, segmenter, fill)
    subject = open_subject(model)
    array, files = subject.read(images)
    predict = probability_function(subject, "float32" if exact else precision, exact)
    index = subject.class_index(class_name)
    probabilities = predict(array.astype(np.float32))
    classes = probabilities.argmax(axis=1) if index < 0 else np.full(len(array), index)
    segments, fits, scores, samples = [], [], [], []
    for number, (image, explained) in enumerate(zip(array, classes, strict=True)):
        labels = segment(image, segmenter, bounded=not exact)
        asked = _counted(predict, progress, number, num_samples) if progress else predict
        fitted, masks, targets = _explained(asked, image, labels, int(explained), num_samples, fill, exact, seed)
        if progress:  # it may have stopped before the ceiling
            progress(number, num_samples, num_samples)
        segments.append(labels)
        fits.append(fitted)
        samples.append(len(masks))
        scores.append([r_squared(masks, t, w) for t, w in zip(targets.T, fitted.weights, strict=True)])
    return Superpixels(
        images=array,
        files=files,
        classes=classes,
        class_names=subject.class_names,
        probabilities=probabilities,
        segments=tuple(segments),
        class_weights=tuple(f.weights for f in fits),
        class_interval=tuple(f.interval for f in fits),
        class_score=np.array(scores),
        class_stability=np.stack([f.stability for f in fits]),
        samples=np.array(samples),
        resize=subject.resize,
        precision="float32" if exact else device.resolve_precision(precision)[0],
    )


def _counted(predict: Predict, progress: SampleProgress, number: int, total: int) -> Predict:
    """`predict` that tells `progress` how many masks it has answered."""
    done = 0

    def counting(batch: np.ndarray) -> np.ndarray:
        nonlocal done
        answers = predict(batch)
        done += len(batch)
        progress(number, done, total)
        return answers

    return counting


def _explained(
    predict: Predict,
    image: np.ndarray,
    labels: np.ndarray,
    explained: int,
    num_samples: int,
    fill: Fill,
    exact: bool,
    seed: int,
) -> tuple[Fit, np.ndarray, np.ndarray]:
    """(weights, masks used, their probabilities) of one image."""
    superpixels = int(labels.max()) + 1
    if exact:
        masks = package_masks(superpixels, num_samples, seed)
        targets = predict_masked(predict, image, labels, masks, fill, exact)
        return fit_package(masks, targets, seed), masks, targets
    halves = draw_halves(superpixels, num_samples // 2, seed)
    shown = hidden = np.zeros((0, 0))
    for stop in _looks(len(halves), superpixels):
        new = halves[len(shown) : stop]
        both = predict_masked(predict, image, labels, np.concatenate([new, 1 - new]), fill)
        old = (shown, hidden) if len(shown) else (both[:0], both[:0])
        shown, hidden = np.concatenate([old[0], both[: len(new)]]), np.concatenate([old[1], both[len(new) :]])
        fitted = fit_pairs(halves[:stop], shown, hidden, seed)
        if (fitted.stability[explained] >= STABLE).all():
            break
    used = halves[:stop]
    return fitted, np.concatenate([used, 1 - used]), np.concatenate([shown, hidden])


def _looks(pairs: int, superpixels: int) -> Iterator[int]:
    """Numbers of pairs after which to look, the last one `pairs`."""
    at = max(FIRST / 2, 1.5 * superpixels)
    while at < pairs:
        yield round(at)
        at *= GROWTH
    yield pairs


def probability_function(subject: Subject, precision: str = "auto", exact: bool = False) -> Predict:
    """(n, h, w, 3) 0..255 -> (n, classes) softmax probabilities, computed in `precision`.

    In float32 by `winograd.forward` where it can, else by Keras; `exact`: by Keras always. The function raises ModelError
    where the model's answers are not finite.
    """
    resolved, _ = device.resolve_precision(precision)
    model = subject.model if resolved == "float32" else device.with_precision(subject.model, resolved)
    logits = (None if exact else winograd.forward(model)) or device.predictor(model)

    def probabilities(images: np.ndarray) -> np.ndarray:
        found = subject.require_finite(logits(np.asarray(images, np.float32)))
        return softmax(found.astype(np.float64), axis=1)

    return probabilities


def _hidden(image: np.ndarray, labels: np.ndarray, fill: Fill) -> np.ndarray:
    """(h, w, 3): what stands where superpixels are hidden."""
    if fill == "mean":
        area = np.bincount(labels.ravel())
        sums = np.stack([np.bincount(labels.ravel(), image[..., c].ravel()) for c in range(3)], axis=1)
        return (sums / area[:, None]).astype(np.float32)[labels]
    if fill == "blur":
        return cv2.GaussianBlur(image, (0, 0), max(image.shape[:2]) / 16)
    return np.broadcast_to(np.asarray(fill, np.float32), image.shape)


def predict_masked(
    predict: Predict,
    image: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    fill: Fill = "mean",
    exact: bool = False,
) -> np.ndarray:
    """(samples, classes) probabilities of the image with the superpixels of each mask shown.

    `exact`: mean colours take the image's own type as in the lime package, whole numbers for a uint8 image.
    """
    own_type = image.dtype if exact else np.float32
    image = image.astype(np.float32)
    hidden = _hidden(image, labels, fill).astype(own_type).astype(np.float32)
    out = []
    for start in range(0, len(masks), BATCH):
        shown = masks[start : start + BATCH].astype(bool)[:, labels][..., None]  # (b, h, w, 1)
        out.append(predict(np.where(shown, image, hidden)))
    return np.concatenate(out)
