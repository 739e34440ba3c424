"""Scores of a classifier from confusion matrices (rows: true class, columns: predicted class)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xaitune.config.choices import METRICS, PIXEL_METRICS
from xaitune.errors import InputError, nearest

CLASS_MEANS = ("f1_macro", "balanced_accuracy", "iou_mean", "f1_at_iou")


def class_numbers(values: Any, num_classes: int, name: str) -> np.ndarray:
    """`values` as an int64 array. Raises InputError, which mentions `name`, unless they are in 0..num_classes - 1."""
    labels = np.asarray(values)
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{name} must be class numbers 0..{num_classes - 1}. Received: dtype {labels.dtype}.")
    if labels.size == 0:
        raise InputError(f"{name} is empty: there are no images to score.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"{name} must be class numbers 0..{num_classes - 1}. Received: {labels.min()}..{labels.max()}."
        )
    return labels.astype(np.int64)


def truth_and_predictions(true: Any, predicted: Any, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """`true` (n,) and `predicted` (..., n) as int64 arrays. Raises InputError for wrong labels or lengths."""
    true, predicted = class_numbers(true, num_classes, "true"), class_numbers(predicted, num_classes, "predicted")
    if true.ndim != 1 or predicted.shape[-1] != len(true):
        raise InputError(
            f"true and predicted must have one entry per image. Received: {true.shape}, {predicted.shape}."
        )
    return true, predicted


def confusion(true: Any, predicted: Any, num_classes: int) -> np.ndarray:
    """How many images of each true class (row) were predicted as each class (column).

    `true` and `predicted` are class numbers (n,). Returns whole numbers (C, C). Raises InputError for labels outside
    0..C-1 or of different length.

    Examples:
        >>> confusion([0, 0, 1], [0, 1, 1], num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    true, predicted = truth_and_predictions(true, predicted, num_classes)
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, or 0 where bottom is 0 (scikit-learn's zero_division=0)."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.zeros(top.shape), where=bottom > 0)


def scores_from_confusion(confusion: np.ndarray, metric: str, known: np.ndarray | None = None) -> np.ndarray:
    """One of config.METRICS from confusion matrices, equal to scikit-learn's with zero_division=0, or of PIXEL_METRICS.

    `confusion` is (..., C, C) with true classes in rows, counts or weights; the result is (...), 0..1. Macro F1 is the
    mean over the classes that occur in truth or prediction, balanced accuracy the mean over those that occur in truth,
    so a class without images or predictions is left out rather than counted as 0. With `known` (C,) booleans, a class that
    is True there counts only where it occurs in truth: a resample that has lost it leaves it out, false alarms of it or
    not. A matrix without any image scores NaN. `iou_mean` is the mean over classes of hits / (truth + predictions - hits)
    for matrices that count pixels (scikit-learn's jaccard, macro); `f1_at_iou` is macro F1 over the classes but the first,
    'background', for matrices that count images (`segmentation.found_counts`). Raises InputError for an unknown metric.

    Examples:
        >>> matrices = np.array([[[2, 0], [0, 2]], [[1, 1], [0, 2]]])
        >>> scores_from_confusion(matrices, "accuracy").tolist()
        [1.0, 0.75]
    """
    metrics = (*METRICS, *PIXEL_METRICS)
    if metric not in metrics:
        raise InputError(
            f"metric must be one of {', '.join(metrics)}. Received: metric={metric!r}.{nearest(metric, metrics)}"
        )
    confusion = np.asarray(confusion, float)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (..., C)
    support, predicted = confusion.sum(-1), confusion.sum(-2)  # images per true class and per predicted class
    total = support.sum(-1)
    if metric in ("accuracy", "f1_micro"):  # with one label per image, each error is one miss and one false alarm
        score = ratio(hits.sum(-1), total)
    elif metric == "balanced_accuracy":
        score = ratio(ratio(hits, support).sum(-1), (support > 0).sum(-1))
    else:
        each = ratio(2 * hits, support + predicted)  # F1
        if metric == "iou_mean":
            each = ratio(hits, support + predicted - hits)
        occurs = support + predicted > 0 if known is None else np.where(known, support > 0, predicted > 0)
        weights = support if metric == "f1_weighted" else occurs.astype(float)
        if metric == "f1_at_iou":
            weights = np.where(np.arange(weights.shape[-1]) > 0, weights, 0)
        score = ratio((each * weights).sum(-1), weights.sum(-1))
    return np.where(total > 0, score, np.nan)


def classification_metrics(true: Any, probabilities: Any, class_names: Sequence[str]) -> dict[str, Any]:
    """All scores of one model on one split, as plain numbers that can be stored as JSON.

    `true` is (n,), `probabilities` (n, C), with rows that sum to 1. Keys: loss (mean cross-entropy in nats; a
    probability of 0 counts as 1e-15), the names of config.METRICS, precision_macro, precision_weighted, recall_macro,
    recall_weighted, per_class {name: precision, recall, f1, support}, confusion (a list of rows). Averages are taken
    as in scikit-learn; recall_macro differs from balanced_accuracy if a class is predicted that does not occur.
    Raises InputError for wrong shapes or labels, and for probabilities that are not finite.
    """
    probabilities = np.asarray(probabilities, float)
    classes = len(class_names)
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise InputError(f"probabilities must be (images, {classes} classes). Received: shape {probabilities.shape}.")
    if not np.isfinite(probabilities).all():
        raise InputError("probabilities must be finite. Received NaN or infinity: the model has diverged.")
    true, predicted = truth_and_predictions(true, probabilities.argmax(1), classes)
    counts = confusion(true, predicted, classes)
    hits, support, predicted_counts = np.diagonal(counts), counts.sum(1), counts.sum(0)
    by_class = {
        "precision": ratio(hits, predicted_counts),
        "recall": ratio(hits, support),
        "f1": ratio(2 * hits, support + predicted_counts),
    }
    occurs = support + predicted_counts > 0
    of_true_class = np.clip(probabilities[np.arange(len(true)), true], 1e-15, 1)
    metrics: dict[str, Any] = {"loss": float(-np.log(of_true_class).mean())}
    metrics |= {metric: float(scores_from_confusion(counts, metric)) for metric in METRICS}
    for name in ("precision", "recall"):
        metrics[f"{name}_macro"] = float(by_class[name][occurs].mean())
        metrics[f"{name}_weighted"] = float(np.average(by_class[name], weights=support))
    metrics["per_class"] = {
        str(label): {name: float(values[c]) for name, values in by_class.items()} | {"support": int(support[c])}
        for c, label in enumerate(class_names)
    }
    metrics["confusion"] = counts.tolist()
    return metrics
