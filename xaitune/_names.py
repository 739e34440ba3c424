"""Names and numbers as a user reads them."""

import math

METRIC_NAMES = {
    "f1_macro": "macro F1",
    "f1_weighted": "weighted F1",
    "f1_micro": "micro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
}


def metric_name(metric: str) -> str:
    """'macro F1' for 'f1_macro', and so on; an unknown name as it is."""
    return METRIC_NAMES.get(metric, metric)


def frozen_name(through: int) -> str:
    """What `freeze_through` freezes: 'nothing', 'Block 1', 'Block 1-3'."""
    return {0: "nothing", 1: "Block 1"}.get(int(through), f"Block 1-{int(through)}")


def duration(seconds: float) -> str:
    """'45 s', '12 min' or '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def disk_size(size: float) -> str:
    """'35 MB' or '1.2 GB'."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"
