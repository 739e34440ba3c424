"""The run that the page shows: its test score, confusion matrix, per-class figures and learning curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import read_json
from xaitune._names import metric_name, plural
from xaitune.advise.recommended import Recommended
from xaitune.comparison.table import SweepTable
from xaitune.config.choices import PIXEL_METRICS
from xaitune.errors import XaituneError
from xaitune.report.texts import SHADES, interval_text, picture, score_text
from xaitune.stats.intervals import outcome_interval
from xaitune.stats.metrics import confusion
from xaitune.stats.per_class import ClassScore, PerClass, per_class_intervals, per_pixel_class_intervals
from xaitune.stats.resampling import FEW_GROUPS
from xaitune.training.run import Run, outcomes_of, pixel_counts_of


def shown_run(result: Run | SweepTable, recommended: Recommended | None = None) -> dict[str, Any]:
    """The run, or a sweep's recommended model: which it is and why, its test figures, confusion matrix and curves."""
    about = ""
    if isinstance(result, Run):
        name, metric = result.name, result.config.metric
        predictions, metadata = result.predictions, result.metadata
    else:
        name, metric = recommended.run if recommended else "", result.metric
        predictions = pd.DataFrame()
        metadata = read_or_empty(result.folder(name) / "metadata.json") if name else {}
        if recommended is not None:
            about = f"{recommended.title}, the model that the sweep recommends ({recommended.why})"
    shown: dict[str, Any] = {"name": name, "about": about, "metric": metric_name(metric)}
    shown |= {"class_names": result.class_names, "missing": "", "metadata": metadata}
    shown |= {"predictions": predictions, "history": None}
    try:
        if isinstance(result, SweepTable) and name:
            shown["predictions"] = predictions = result.predictions(name)
        if isinstance(result, Run) and len(result.history):
            shown["history"] = picture(result.plot_history(), f"Learning curves of {name}")
        return shown | _test_figures(predictions, result.class_names, metric)
    except XaituneError as error:
        return shown | {"missing": str(error)}


def read_or_empty(file: Path) -> dict[str, Any]:
    """A JSON file of a run's folder; {} where it is missing or damaged: the page says less then."""
    try:
        return read_json(file)
    except XaituneError:
        return {}


def _test_figures(predictions: pd.DataFrame, class_names: Sequence[str], metric: str) -> dict[str, Any]:
    """Score, confusion matrix and per-class figures on the test images, with intervals over groups."""
    test = predictions[predictions["split"] == "test"] if len(predictions) else predictions
    if not len(test):
        return {"missing": "There are no predictions on test images."}
    true, predicted = (
        pd.Categorical(test[c].astype(str), list(class_names)).codes.astype(int) for c in ("true", "predicted")
    )
    groups, segments = test["group"].to_numpy(), metric in PIXEL_METRICS
    value = outcome_interval(outcomes_of([test], class_names, metric), groups, metric)
    counts = confusion(true, predicted, len(class_names))
    if segments:
        scores = per_pixel_class_intervals(pixel_counts_of(test, class_names), groups)
    else:
        scores = per_class_intervals(true, predicted, groups, len(class_names))
    return {
        "value": value.value,
        "interval": interval_text(value.low, value.high),
        "few": value.few,
        "basis": f"{plural(value.images, 'test image')} in {plural(value.groups, 'group')}",
        "confusion": confusion_rows(counts, class_names),
        "counts": counts.tolist(),
        "f1": scores.f1.value.tolist(),
        "confusion_of": "the class of its largest region" if segments else "class",
        "of": "Pixels of the test images" if segments else "Test images",
        "score": "IoU" if segments else "F1",
        "per_class": per_class_rows(scores, class_names),
        "few_groups": FEW_GROUPS,
    }


def confusion_rows(counts: np.ndarray, names: Sequence[str]) -> list[tuple[str, list[tuple[int, int]]]]:
    """For each true class (C, C) its name and (images, shade) by predicted class; shades 0..SHADES are shares of the row.

    Examples:
        >>> confusion_rows(np.array([[3, 1], [0, 0]]), ["crack", "hole"])
        [('crack', [(3, 8), (1, 3)]), ('hole', [(0, 0), (0, 0)])]
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shades = np.ceil(shares * SHADES).astype(int)
    return [(str(name), list(zip(counts[i].tolist(), shades[i].tolist(), strict=True))) for i, name in enumerate(names)]


def per_class_rows(scores: PerClass, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row per class: its name, (value, interval) of precision, recall and F1 (of pixels IoU) as text, images and groups."""
    columns = (scores.precision, scores.recall, scores.iou or scores.f1)
    return [
        {
            "name": str(name),
            "figures": [(score_text(s.value[c]), _interval(s, c)) for s in columns],
            "images": int(scores.images[c]),
            "groups": int(scores.groups[c]),
        }
        for c, name in enumerate(names)
    ]


def _interval(score: ClassScore, number: int) -> str:
    """The interval of a class's score. Where all resamples give the same score, they tell nothing of how sure it is."""
    low, high = score.low[number], score.high[number]
    if low == high:
        return "[no interval]" if low else "(none found)"
    return interval_text(low, high)
