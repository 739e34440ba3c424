"""LIME over superpixels (Ribeiro et al. 2016): a weighted linear model of the effect of hiding parts of an image."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xaitune._progress import shown_progress
from xaitune.config.explain_settings import LimeOptions
from xaitune.explain.classifier import Classifier, Images, open_classifier
from xaitune.explain.lime.fit import STABLE, Fit, fit_labels, fit_package, fit_pairs, r_squared
from xaitune.explain.lime.masks import draw_halves, package_masks
from xaitune.explain.lime.predict import Fill, predict_masked
from xaitune.explain.lime.result import Superpixels
from xaitune.explain.lime.segments import Segmenter, segment
from xaitune.explain.probabilities import Predict, Probabilities
from xaitune.models.precision import resolve_precision

FIRST_CHECK, GROWTH = 128, 1.25  # samples before the first check of stability, and their growth from check to check
SampleProgress = Callable[[int, int, int], None]  # image number, samples done, maximum number of samples


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
    """The weight of each superpixel for the probability of every class, for each image.

    Superpixels are shown or hidden at random, each with probability 1/2; the first sample shows everything. A hidden
    one is replaced by its mean colour ('mean'), the blurred image ('blur': Gaussian, sigma a sixteenth of the longer
    side) or a colour (0..255). Distance: cosine on the mask vectors; kernel sqrt(exp(-d^2 / 0.25^2)); Ridge with alpha
    1. `segmenter`: as in `segments.segment`.

    Masks come in complementary pairs, none twice (all 2^m where that is fewer). Drawing stops when two independent runs
    would agree (Spearman 0.9 over the superpixels, Jaccard 0.8 of the five most positive); `num_samples` is the maximum
    number of forward passes per image. The estimate, `fit.fit_pairs`, differs from the lime package's for few samples
    and has the same limit for many. `exact` draws `num_samples` masks as the `lime` package does with
    random_state=`seed` and computes in float32, which gives the package's weights. `progress` is called after every
    batch of masks with the image number, the samples done and their maximum number. Other arguments as in
    `gradcam_blocks`. Raises ModelError, ImageError, ConfigError.

    Examples:
        >>> superpixels = lime_superpixels("runs/first", "images/crack", class_name="crack")  # doctest: +SKIP
        >>> superpixels.to_dataframe()[["superpixel", "weight", "low", "high"]]  # doctest: +SKIP
    """
    options = LimeOptions(num_samples, segmenter, fill, exact, seed)
    classifier = open_classifier(model)
    array, files = classifier.read(images)
    explanation = explain_superpixels(
        classifier, array, options, class_name, precision, progress or sample_bar(len(array))
    )
    return dataclasses.replace(explanation, files=files)


def sample_bar(images: int) -> SampleProgress | None:
    """The bar of so many images' samples in a notebook; None elsewhere."""
    bar = shown_progress(None, "LIME")
    if bar is None:
        return None

    def report_samples(number: int, done: int, total: int) -> None:
        bar(number * total + done, images * total, f"image {number + 1} of {images}")

    return report_samples


def explain_superpixels(
    classifier: Classifier,
    images: np.ndarray,
    options: LimeOptions,
    class_name: str | None,
    precision: str,
    progress: SampleProgress | None,
) -> Superpixels:
    """`lime_superpixels` for images (n, h, w, 3) at the classifier's input size."""
    exact = options.exact
    predict = Probabilities(classifier, "float32" if exact else precision, exact)
    index = classifier.class_index(class_name)
    probabilities = predict(images.astype(np.float32))
    classes = probabilities.argmax(axis=1) if index < 0 else np.full(len(images), index)
    segments, fits, scores, samples = [], [], [], []
    for number, (image, explained) in enumerate(zip(images, classes, strict=True)):
        labels = segment(image, options.segmenter, bounded=not exact)
        counted = _CountedPredict(predict, progress, number, options.num_samples) if progress else predict
        fit, masks, targets = _explain_image(counted, image, labels, int(explained), options, classifier.labels)
        if progress:  # drawing may have stopped before the maximum
            progress(number, options.num_samples, options.num_samples)
        segments.append(labels)
        fits.append(fit)
        samples.append(len(masks))
        scores.append([r_squared(masks, t, w) for t, w in zip(targets.T, fit.weights, strict=True)])
    return Superpixels(
        images=images,
        files=tuple(f"image {i}" for i in range(len(images))),
        classes=classes,
        class_names=classifier.class_names,
        probabilities=probabilities,
        segments=tuple(segments),
        class_weights=tuple(f.weights for f in fits),
        class_interval=tuple(f.interval for f in fits),
        class_score=np.array(scores),
        class_stability=np.stack([f.stability for f in fits]),
        class_learnt=np.stack([f.learnt for f in fits]),
        samples=np.array(samples),
        resize=classifier.resize,
        bit_depth=classifier.bit_depth,
        precision="float32" if exact else resolve_precision(precision)[0],
    )


class _CountedPredict:
    """`predict`, reporting how many masked images of one image it has predicted."""

    def __init__(self, predict: Predict, progress: SampleProgress, number: int, total: int) -> None:
        self.predict, self.progress, self.number, self.total, self.done = predict, progress, number, total, 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        probabilities = self.predict(batch)
        self.done += len(batch)
        self.progress(self.number, self.done, self.total)
        return probabilities


def _explain_image(
    predict: Predict, image: np.ndarray, labels: np.ndarray, explained: int, options: LimeOptions, separate: bool
) -> tuple[Fit, np.ndarray, np.ndarray]:
    """The fit of one image, the masks used, and their probabilities; `separate`: these do not add up to 1."""
    superpixels, num_samples, seed = int(labels.max()) + 1, options.num_samples, options.seed
    if options.exact:
        masks = package_masks(superpixels, num_samples, seed)
        targets = predict_masked(predict, image, labels, masks, options.fill, exact=True)
        return fit_package(masks, targets, seed), masks, targets
    halves = draw_halves(superpixels, num_samples // 2, seed)
    shown = hidden = np.zeros((0, 0))
    for stop in _checkpoints(len(halves), superpixels):
        new = halves[len(shown) : stop]
        both = predict_masked(predict, image, labels, np.concatenate([new, 1 - new]), options.fill)
        new_shown, new_hidden = both[: len(new)], both[len(new) :]
        if len(shown):
            new_shown, new_hidden = np.concatenate([shown, new_shown]), np.concatenate([hidden, new_hidden])
        shown, hidden = new_shown, new_hidden
        fit = (fit_labels if separate else fit_pairs)(halves[:stop], shown, hidden, seed)
        if (fit.stability[explained] >= STABLE).all():
            break
    used = halves[:stop]
    return fit, np.concatenate([used, 1 - used]), np.concatenate([shown, hidden])


def _checkpoints(pairs: int, superpixels: int) -> Iterator[int]:
    """The numbers of pairs after which stability is checked; the last is `pairs`."""
    count = max(FIRST_CHECK / 2, 1.5 * superpixels)
    while count < pairs:
        yield round(count)
        count *= GROWTH
    yield pairs
