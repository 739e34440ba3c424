"""Readable names of metrics and freezing depths, counts, durations and sizes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METRIC_NAMES = {
    "f1_macro": "macro F1",
    "f1_weighted": "weighted F1",
    "f1_micro": "micro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "iou_mean": "mean IoU",
    "f1_at_iou": "F1@IoU 0.5",
    "f1_at_iou_0.25": "F1@0.25",
    "f1_at_iou_0.5": "F1@0.5",
    "f1_at_iou_0.75": "F1@0.75",
}


def metric_name(metric: str) -> str:
    """The readable name of a metric; an unknown name is returned unchanged.

    Examples:
        >>> metric_name("f1_macro")
        'macro F1'
    """
    return METRIC_NAMES.get(metric, metric)


def plural(number: int, word: str) -> str:
    """A count with its word.

    Examples:
        >>> plural(1, "image"), plural(1344, "image"), plural(6, "class"), plural(2, "box")
        ('1 image', '1,344 images', '6 classes', '2 boxes')
    """
    ending = "" if number == 1 else "es" if word.endswith(("s", "x")) else "s"
    return f"{number:,} {word}{ending}"


def points(share: float) -> str:
    """A difference of scores in points, to one decimal.

    Examples:
        >>> points(0.111), points(0.01)
        ('11.1 points', '1.0 points')
    """
    return f"{share * 100:.1f} points"


def gap_text(gap: Any, metric: str, other: str) -> str:
    """A difference (`Difference`, or anything with difference, low and high) in words, with its interval.

    Examples:
        >>> from types import SimpleNamespace
        >>> gap_text(SimpleNamespace(difference=-0.111, low=-0.225, high=0.002), "f1_macro", "Block 1")
        '11.1 points of macro F1 below Block 1 [95 % interval: 22.5 below to 0.2 above]'
        >>> gap_text(SimpleNamespace(difference=0.03, low=0.012, high=0.048), "f1_macro", "Block 1")
        '3.0 points of macro F1 above Block 1 [95 % interval: 1.2 to 4.8 above]'
    """

    def side(value: float) -> str:
        return "below" if value < 0 else "above"

    interval = "no interval"
    if math.isfinite(gap.low):
        low, high = (f"{abs(end) * 100:.1f}" for end in (gap.low, gap.high))
        crosses = side(gap.low) != side(gap.high)
        smaller, larger = (high, low) if gap.high < 0 else (low, high)
        ends = f"{low} below to {high} above" if crosses else f"{smaller} to {larger} {side(gap.high)}"
        interval = f"95 % interval: {ends}"
    return f"{points(abs(gap.difference))} of {metric_name(metric)} {side(gap.difference)} {other} [{interval}]"


def short_file(file: Any) -> str:
    """A file by its folder and its own name, which is as much of a path as a picture or a table has room for.

    Examples:
        >>> short_file("/data/steel/images/crack/part1.png"), short_file("part1.png")
        ('crack/part1.png', 'part1.png')
    """
    return "/".join(Path(file).parts[-2:])


def listed(names: Sequence[str]) -> str:
    """Names in a row, with 'and' before the last.

    Examples:
        >>> listed(["Block 1"]), listed(["Block 1", "Block 1-2", "Block 1-3"])
        ('Block 1', 'Block 1, Block 1-2 and Block 1-3')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def frozen_name(through: int) -> str:
    """The blocks that `freeze_through` freezes.

    Examples:
        >>> frozen_name(0), frozen_name(1), frozen_name(3)
        ('nothing', 'Block 1', 'Block 1-3')
    """
    return {0: "nothing", 1: "Block 1"}.get(int(through), f"Block 1-{int(through)}")


def combination_name(through: int, optimizer: str) -> str:
    """A combination of a freezing depth and an optimizer, as a sweep trains it.

    Examples:
        >>> combination_name(3, "nag"), combination_name(0, "sgd")
        ('Block 1-3 frozen with nag', 'no block frozen with sgd')
    """
    return f"{frozen_name(through) if through else 'no block'} frozen with {optimizer}"


def duration(seconds: float) -> str:
    """Seconds in a readable unit.

    Examples:
        >>> duration(0.04), duration(45), duration(150), duration(720), duration(12600), duration(111600)
        ('0.1 s', '45 s', '2.5 min', '12 min', '3.5 h', '31 h')
    """
    if 0 < seconds < 0.95:
        return f"{max(seconds, 0.1):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36000 else f"{seconds / 3600:.0f} h"


def disk_size(size: float) -> str:
    """Bytes in a readable unit: '35 MB' or '1.2 GB'."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"
