"""Scores of a segmentation: IoU and its relatives from pixel counts, and F1@IoU from one region per image.

Pixel class 0 is the background. Everything is computed from the confusion matrices of single images (rows: truth, columns:
prediction; counts of pixels), so that intervals resample images or groups of them.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xaitune.config.choices import IGNORED, PIXEL_METRICS
from xaitune.stats.metrics import ratio, scores_from_confusion

THRESHOLDS = (0.25, 0.5, 0.75)  # of F1@IoU
THRESHOLD = 0.5  # of the metric f1_at_iou


def pixel_counts(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(n, C, C) whole numbers: how many pixels of each true class (row) got each class (column), image by image.

    `true` and `predicted` are (n, h, w) class numbers; pixels that are IGNORED in the truth are not counted.

    Examples:
        >>> pixel_counts(np.array([[[0, 1, 255]]]), np.array([[[0, 0, 1]]]), 2).tolist()
        [[[1, 0], [1, 0]]]
    """
    count = len(true)
    image = np.arange(count)[:, None, None]
    cells = (image * num_classes + true.astype(np.int64)) * num_classes + predicted
    counts = np.bincount(cells[true != IGNORED], minlength=count * num_classes**2)
    return counts.reshape(count, num_classes, num_classes)


def largest_class(pixels: np.ndarray) -> np.ndarray:
    """(n,) the class with the most pixels but for background, from pixels (n, C) of each class; 0 where none is marked.

    Examples:
        >>> largest_class(np.array([[9, 1, 3], [9, 0, 0]])).tolist()
        [2, 0]
    """
    marked = pixels[:, 1:]
    return np.where(marked.any(axis=1), marked.argmax(axis=1) + 1, 0)


class Regions(NamedTuple):
    """For each image the class of its region in truth and prediction, (n,), and the IoU (n,) of the true class's region.

    0 is an image without a region. The IoU is NaN where truth has none.
    """

    true: np.ndarray
    predicted: np.ndarray
    iou: np.ndarray


def regions(counts: np.ndarray) -> Regions:
    """The regions of images with these pixel counts (n, C, C).

    The class of an image is the one, but for background, with the most pixels; of equal ones the first.

    Examples:
        >>> regions(np.array([[[90, 2], [2, 6]], [[99, 1], [0, 0]]]))
        Regions(true=array([1, 0]), predicted=array([1, 1]), iou=array([0.6, nan]))
    """
    truth, predicted = counts.sum(2), counts.sum(1)
    names = largest_class(truth), largest_class(predicted)
    rows = np.arange(len(counts))
    hits = counts[rows, names[0], names[0]]
    iou = hits / np.maximum(truth[rows, names[0]] + predicted[rows, names[0]] - hits, 1)
    return Regions(names[0], names[1], np.where(names[0] > 0, iou, np.nan))


def found_counts(found: Regions, num_classes: int, threshold: float = THRESHOLD) -> np.ndarray:
    """(n, C, C) counts of images, of which `f1_at_iou` is the score: rows truth, columns prediction, 0 for none.

    The rule of a study of animal X-rays: an image counts only if its class is right and its region reaches the IoU
    `threshold`. An image of the right class whose region does not reach it is both a miss and a false alarm of that class, as
    in object detection. An image without a region in truth is right if none is predicted, and else a false alarm.

    Examples:
        >>> found_counts(Regions(np.array([1]), np.array([1]), np.array([0.4])), 2)[0].tolist()
        [[0, 1], [1, 0]]
    """
    counts = np.zeros((len(found.true), num_classes, num_classes), np.int64)
    rows = np.arange(len(counts))
    right = (found.true == found.predicted) & ((found.true == 0) | (np.nan_to_num(found.iou) >= threshold))
    counts[rows[right], found.true[right], found.true[right]] = 1
    missed, alarm = ~right & (found.true > 0), ~right & (found.predicted > 0)
    counts[rows[missed], found.true[missed], 0] = 1
    counts[rows[alarm], 0, found.predicted[alarm]] = 1
    return counts


def segmentation_metrics(counts: np.ndarray, loss: float, class_names: Sequence[str]) -> dict[str, Any]:
    """All scores of one model on one split, as plain numbers that can be stored as JSON.

    `counts` (n, C, C) as from `pixel_counts`. Keys: loss, PIXEL_METRICS, f1_at_iou_0.25 and so on, dice_mean (over the classes
    that occur), iou_per_image (the mean IoU of the true regions), pixel_accuracy, per_class {name: iou, dice, precision,
    recall, pixels, images}, pixels (a list of rows: the confusion matrix), absent (classes without a pixel in the truth). A class
    that neither truth nor prediction has scores None.
    """
    total, found = counts.sum(0).astype(float), regions(counts)
    hits, support, claimed = np.diagonal(total), total.sum(1), total.sum(0)
    occurs = support + claimed > 0
    by_class = {
        "iou": ratio(hits, support + claimed - hits),
        "dice": ratio(2 * hits, support + claimed),
        "precision": ratio(hits, claimed),
        "recall": ratio(hits, support),
    }
    classes = len(class_names)
    metrics: dict[str, Any] = {"loss": loss, "iou_mean": float(scores_from_confusion(total, "iou_mean"))}
    for threshold in THRESHOLDS:
        matrix = found_counts(found, classes, threshold).sum(0)
        metrics[f"f1_at_iou_{threshold:g}"] = float(scores_from_confusion(matrix, "f1_at_iou"))
    metrics["f1_at_iou"] = metrics[f"f1_at_iou_{THRESHOLD:g}"]
    metrics["dice_mean"] = float(by_class["dice"][occurs].mean())
    known = ~np.isnan(found.iou)
    metrics["iou_per_image"] = float(found.iou[known].mean()) if known.any() else None
    metrics["pixel_accuracy"] = float(hits.sum() / max(total.sum(), 1))
    images = (counts.sum(2) > 0).sum(0)
    metrics["per_class"] = {
        str(name): {score: float(values[c]) if occurs[c] else None for score, values in by_class.items()}
        | {"pixels": int(support[c]), "images": int(images[c])}
        for c, name in enumerate(class_names)
    }
    metrics["pixels"] = total.astype(int).tolist()
    metrics["absent"] = [str(name) for name, pixels in zip(class_names, support, strict=True) if not pixels]
    return metrics


def background_metrics(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """`segmentation_metrics` of a model that answers background everywhere, on the images with these counts; its loss is NaN."""
    answers = np.zeros_like(counts)
    answers[:, :, 0] = counts.sum(2)
    return segmentation_metrics(answers, math.nan, class_names)


def metric_counts(counts: np.ndarray, metric: str) -> np.ndarray:
    """(n, C, C) the counts of which `metric`, one of PIXEL_METRICS, is the score: of pixels, or of images."""
    assert metric in PIXEL_METRICS, metric
    return counts if metric == "iou_mean" else found_counts(regions(counts), counts.shape[1])
