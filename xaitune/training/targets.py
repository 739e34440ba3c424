"""What a network learns, and how its answers are judged: the class of an image, or the class of every pixel."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax

from xaitune.config.choices import IGNORED, LOSSES, METRICS, PIXEL_METRICS
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.data.splits import SPLITS
from xaitune.errors import ConfigError, nearest
from xaitune.stats.metrics import classification_metrics, confusion, scores_from_confusion
from xaitune.stats.segmentation import metric_counts, pixel_counts, segmentation_metrics
from xaitune.training.inputs import in_batches
from xaitune.training.run import pixel_table, prediction_table

Predict = Callable[[np.ndarray], np.ndarray]


class Results(NamedTuple):
    """Split -> metrics, and the table of predictions.csv."""

    metrics: dict[str, dict[str, Any]]
    predictions: pd.DataFrame


class ClassTargets:
    """The class of each image."""

    def __init__(self, data: ImageData, config: TrainConfig) -> None:
        self.data, self.class_names = data, data.class_names
        one_hot = LOSSES[config.loss][1]
        self.targets = np.eye(len(data.class_names), dtype=np.float32)[data.labels] if one_hot else data.labels
        self.weights = image_weights(data, config)

    def batch(self, rows: np.ndarray, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The targets and the weights in the loss of the data set's `rows`."""
        return self.targets[rows], self.weights[rows]

    def validate(self, predict: Predict, inputs: Any) -> dict[str, float]:
        """The columns of the history about the validation images: the loss and every metric."""
        rows = self.data.indices("validation")
        return validation_scores(logits_of(predict, inputs, rows), self.data.labels[rows])

    def judge(self, predict: Predict, inputs: Any) -> Results | None:
        """The results on all images; None if a prediction is not finite."""
        probabilities = softmax(logits_of(predict, inputs, np.arange(len(self.data))), axis=1)
        if not np.isfinite(probabilities).all():
            return None
        metrics = {}
        for split in SPLITS:
            rows = self.data.indices(split)
            metrics[split] = classification_metrics(self.data.labels[rows], probabilities[rows], self.class_names)
        return Results(metrics, prediction_table(self.data, probabilities))


class PixelTargets:
    """The class of each pixel."""

    def __init__(self, data: ImageData, config: TrainConfig) -> None:
        self.data, self.labels = data, labels_of_pixels(data)
        self.class_names = self.labels.class_names
        counts = self.labels.counts[data.indices("train")].sum(0)
        self.weight_of = np.zeros(256, np.float32)  # 0 for ignored pixels
        named = config.weights_by_class
        _require_names(named, self.class_names)
        self.weight_of[: len(counts)] = class_weights(counts, config.class_weight, named, self.class_names)

    def batch(self, rows: np.ndarray, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The class numbers and the weights in the loss, (n, h, w), of the data set's `rows`, or of changed `labels`."""
        labels = self.labels.load(rows) if labels is None else labels
        return labels, self.weight_of[labels]

    def validate(self, predict: Predict, inputs: Any) -> dict[str, float]:
        """The columns of the history about the validation images: the loss and every metric."""
        loss, counts = self._answers(predict, inputs, self.data.indices("validation"))
        scores = {m: float(scores_from_confusion(metric_counts(counts, m).sum(0), m)) for m in PIXEL_METRICS}
        return {"val_loss": loss, **{f"val_{metric}": score for metric, score in scores.items()}}

    def judge(self, predict: Predict, inputs: Any) -> Results | None:
        """The results on all images; None if a prediction is not finite."""
        metrics, counts = {}, np.zeros((len(self.data), *[len(self.class_names)] * 2), np.int64)
        for split in SPLITS:
            rows = self.data.indices(split)
            loss, counts[rows] = self._answers(predict, inputs, rows)
            if not np.isfinite(loss):
                return None
            metrics[split] = segmentation_metrics(counts[rows], loss, self.class_names)
        return Results(metrics, pixel_table(self.data, counts, self.class_names))

    def _answers(self, predict: Predict, inputs: Any, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean of -log p of the true class over the pixels, and the pixel counts (rows, C, C)."""
        losses, pixels, counts = 0.0, 0, []
        for batch, images in in_batches(inputs, rows):
            logits, true = predict(images), self.labels.load(batch)
            known = true != IGNORED
            log_p = log_softmax(logits, axis=-1)
            own = np.take_along_axis(log_p, np.where(known, true, 0)[..., None], axis=-1)[..., 0]
            losses, pixels = losses - float(own[known].sum(dtype=np.float64)), pixels + int(known.sum())
            counts.append(pixel_counts(true, logits.argmax(axis=-1), len(self.class_names)))
        return losses / max(pixels, 1), np.concatenate(counts)


Targets = ClassTargets | PixelTargets


def make_targets(data: ImageData, config: TrainConfig) -> Targets:
    """What a run learns. Raises DataError for masks that cannot be used, ConfigError for an unknown class."""
    return PixelTargets(data, config) if config.segments else ClassTargets(data, config)


def class_names(data: ImageData, config: TrainConfig) -> tuple[str, ...]:
    """The names of the classes that a run predicts."""
    return labels_of_pixels(data).class_names if config.segments else data.class_names


def pixel_digest(data: ImageData, config: TrainConfig) -> str:
    """What stands for the pixel labels in a run's identity; '' for a classification."""
    return labels_of_pixels(data).digest if config.segments else ""


def require_trainable(data: ImageData, config: TrainConfig) -> None:
    """Raise DataError if training would be meaningless, and ConfigError for a name that is not a class of the data."""
    if config.segments:
        labels_of_pixels(data).require_trainable()
        _require_names(config.weights_by_class, labels_of_pixels(data).class_names)
    else:
        data.require_trainable()
    data.require_classes(config.named_classes)


def _require_names(named: Mapping[str, float], known: tuple[str, ...]) -> None:
    for name in named:
        if name not in known:
            raise ConfigError(
                f"class_weight must be classes of the pixels ({', '.join(known)}). Received: {name}.{nearest(name, known)}"
            )


def class_weights(
    counts: np.ndarray, kind: str | None, named: Mapping[str, float], names: tuple[str, ...]
) -> np.ndarray:
    """The weight of each class (C,) in the loss, by how often each occurs in the training images.

    'balanced': 1 / (f * classes) for the frequency f; 'share': 1 - f, as a study of animal X-rays has it; named weights: those,
    and 1 for the other classes; None: 1.
    """
    if kind == "balanced":
        return counts.sum() / (len(counts) * np.maximum(counts, 1))
    if kind == "share":
        return 1 - counts / counts.sum()
    return np.array([named.get(name, 1.0) for name in names])


def image_weights(data: ImageData, config: TrainConfig) -> np.ndarray:
    """The weight of each image in the loss (images,), that of its class; see `class_weights`."""
    counts = np.bincount(data.labels[data.indices("train")], minlength=len(data.class_names))
    weights = class_weights(counts, config.class_weight, config.weights_by_class, data.class_names)
    return weights[data.labels].astype(np.float32)


def mean_loss(logits: np.ndarray, true: np.ndarray) -> float:
    """The mean of -log p of the true class, for logits (n, classes) and class numbers (n,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(-np.log(np.maximum(softmax(logits, axis=1)[np.arange(len(true)), true], 1e-12)).mean())


def validation_scores(logits: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The columns of the history about the validation images, from logits (n, classes) and class numbers (n,)."""
    matrix = confusion(true, logits.argmax(axis=1), logits.shape[1])
    scores = {f"val_{metric}": float(scores_from_confusion(matrix, metric)) for metric in METRICS}
    return {"val_loss": mean_loss(logits, true), **scores}


def train_scores(logits: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The columns of the history about the training images, for a head that is not trained step by step."""
    return {"train_loss": mean_loss(logits, true), "train_accuracy": float((logits.argmax(axis=1) == true).mean())}


def logits_of(predict: Predict, inputs: Any, rows: np.ndarray) -> np.ndarray:
    """(rows, classes) logits of the images or features at `rows`, as float64."""
    return np.concatenate([predict(images) for _, images in in_batches(inputs, rows)]).astype(np.float64)
