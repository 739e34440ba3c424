"""Thresholds on the probability of one class: what is missed and what is a false alarm, on validation and on test images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xaitune.report.texts import percent_text
from xaitune.stats.intervals import mean_intervals, wilson_interval

THRESHOLDS: np.ndarray = np.array([0.001, 0.005, *(np.arange(1, 100) / 100), 0.995, 0.999])
COST_RATIO = 10.0  # false alarms that one missed image costs as much as, to begin with
DRAWS = 1000
MOST_CLASSES = 20  # for which the page has these figures: those that are found worst


def threshold_section(
    predictions: pd.DataFrame, class_names: Sequence[str], f1: Sequence[float] | None = None
) -> dict[str, Any] | None:
    """Missed images and false alarms of each class at every threshold; None without probabilities of test images.

    An image counts as found where the probability of the class is at least the threshold. Missed are images of the class that
    are not found, false alarms images of other classes that are. The threshold with the lowest cost is chosen on validation
    images, where the predictions have some, and its figures are shown for test images. `f1`: that of each class on test images;
    the class with the lowest is shown first, and of more than MOST_CLASSES those with the lowest are kept.
    """
    columns = [f"p({name})" for name in class_names]
    if not len(predictions) or not set(columns) <= set(predictions):
        return None
    test, validation = (predictions[predictions["split"] == split] for split in ("test", "validation"))
    if not len(test):
        return None
    chosen_on = validation if len(validation) else test
    known = [n for n, name in enumerate(class_names) if all((t["true"] == name).any() for t in (test, chosen_on))]
    if not known:
        return None
    worst = sorted(known, key=lambda n: (float(np.nan_to_num(f1[n], nan=np.inf)) if f1 is not None else 0.0, n))
    classes, rows = [], []
    for number in sorted(worst[:MOST_CLASSES]):
        name, column = class_names[number], columns[number]
        chosen, shown = _counts(chosen_on, name, column), _counts(test, name, column)
        intervals = {kind: _intervals(test, name, column, kind) for kind in ("missed", "false")}
        classes.append({"class": number, "chosen": chosen, "test": shown, "intervals": intervals})
        place = cheapest(chosen["missed"], chosen["false"], COST_RATIO)
        rows.append(_row(str(name), place, shown, intervals))
    first = next(place for place, row in enumerate(classes) if row["class"] == worst[0])
    data = {"grid": THRESHOLDS.tolist(), "classes": classes, "names": list(class_names), "first": first}
    return {
        "data": data,
        "rows": rows,
        "ratio": f"{COST_RATIO:g}",
        "optimistic": not len(validation),
        "left_out": [class_names[number] for number in worst[MOST_CLASSES:]],
        "unknown": [name for number, name in enumerate(class_names) if number not in known],
    }


def cheapest(missed: Sequence[int], false: Sequence[int], ratio: float) -> int:
    """The position with the lowest ratio * missed + false; of equal ones the middle one.

    Examples:
        >>> cheapest([0, 1, 1, 5], [30, 3, 3, 0], ratio=10)
        2
    """
    cost = ratio * np.asarray(missed, float) + np.asarray(false, float)
    lowest = np.flatnonzero(cost == cost.min())
    return int(lowest[len(lowest) // 2])


def _outcomes(table: pd.DataFrame, name: str, column: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, thresholds) whether each image is missed, or a false alarm, and the groups of these n images."""
    part = table[(table["true"] == name) == (kind == "missed")]
    found = part[column].to_numpy(float)[:, None] >= THRESHOLDS
    return (~found if kind == "missed" else found), part["group"].to_numpy(str)


def _counts(table: pd.DataFrame, name: str, column: str) -> dict[str, Any]:
    """How many images are of the class and of others, and how many are missed and false alarms at each threshold."""
    missed, false = (_outcomes(table, name, column, kind)[0] for kind in ("missed", "false"))
    return {"of": len(missed), "others": len(false), "missed": missed.sum(0).tolist(), "false": false.sum(0).tolist()}


def _intervals(table: pd.DataFrame, name: str, column: str, kind: str) -> list[tuple[float, float]]:
    """(low, high) of the share at each threshold: over resampled groups, and at least as wide as Wilson's over images."""
    hits, groups = _outcomes(table, name, column, kind)
    if not len(hits):
        return [(0.0, 1.0)] * len(THRESHOLDS)
    _, low, high = mean_intervals(hits, groups, draws=DRAWS)
    counts, place = np.unique(hits.sum(0), return_inverse=True)
    wilson = np.array([wilson_interval(int(count), len(hits)) for count in counts])[place]
    low, high = np.fmin(low, wilson[:, 0]).clip(0, 1), np.fmax(high, wilson[:, 1]).clip(0, 1)
    return [(round(float(a), 3), round(float(b), 3)) for a, b in zip(low, high, strict=True)]


def _row(name: str, place: int, test: dict[str, Any], intervals: dict[str, Any]) -> dict[str, Any]:
    """A class's row of the table: the threshold, and what it misses and finds falsely among the test images."""
    figures = [
        (f"{test[kind][place]:,} of {test[of]:,}", "[{}, {}]".format(*map(percent_text, intervals[kind][place])))
        for kind, of in (("missed", "of"), ("false", "others"))
    ]
    return {"name": name, "threshold": f"{THRESHOLDS[place]:g}", "figures": figures}
