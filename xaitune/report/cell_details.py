"""The learning curves and the confusion matrix of every cell of a sweep, and whether its trainings had levelled off."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xaitune._names import combination_name, metric_name
from xaitune.comparison.table import SweepTable
from xaitune.errors import RunError
from xaitune.stats.metrics import confusion
from xaitune.training.run import read_history

CURVES = {"score": "val_{metric}", "val_loss": "val_loss", "train_loss": "train_loss"}


def sweep_details(sweep: SweepTable, best: str) -> dict[str, Any]:
    """The curves of every run and the confusion matrix of every cell, by the cells' names; `best` is the cell shown first."""
    finished = sweep.cells[sweep.cells["test"].notna()].to_dict("records")
    return {
        "metric": metric_name(sweep.metric),
        "classes": sweep.class_names,
        "best": best,
        "titles": {c["name"]: combination_name(c["freeze_through"], c["optimizer"]) for c in finished},
        "cells": {c["name"]: _details(sweep, c) for c in finished},
    }


def _details(sweep: SweepTable, cell: dict[str, Any]) -> dict[str, Any]:
    """One cell: a run for each seed, and the confusion matrix of the one that is best on validation."""
    runs = sweep.cell_runs(cell["freeze_through"], cell["optimizer"])
    shown = str(runs.loc[runs["validation"].idxmax(), "name"]) if runs["validation"].notna().any() else ""
    curves = []
    for run in runs.to_dict("records"):
        try:
            history = sweep.history(run["name"])
        except OSError:  # its folder was moved or tidied
            continue
        named = {key: _points(history, column.format(metric=sweep.metric)) for key, column in CURVES.items()}
        curves.append({"seed": int(run["seed"]), "head": int((history["stage"] == "head").sum()), **named})
    return {"run": shown, "runs": curves, "counts": _counts(sweep, shown)}


def still_improving(history: pd.DataFrame, metric: str) -> bool:
    """Whether the score on validation images was the best at the last epoch.

    Examples:
        >>> still_improving(pd.DataFrame({"val_accuracy": [0.4, 0.6, 0.7]}), "accuracy")
        True
        >>> still_improving(pd.DataFrame({"val_accuracy": [0.4, 0.7, 0.7]}), "accuracy")
        False
    """
    scores = np.asarray(history.get(f"val_{metric}", []), float)
    return len(scores) > 1 and bool(np.isfinite(scores).any()) and int(np.nanargmax(scores)) == len(scores) - 1


def improving_runs(sweep: SweepTable, cell: Any) -> tuple[int, int]:
    """(trainings of a cell that were still improving at their last epoch, trainings whose history is there)."""
    runs = sweep.cell_runs(cell["freeze_through"], cell["optimizer"])
    improving = []
    for name in (part for run in runs["name"] for part in sweep.parts.get(run, (run,))):
        try:
            improving.append(still_improving(read_history(sweep.path / name), sweep.metric))
        except (OSError, RunError):  # its folder was moved or tidied
            continue
    return sum(improving), len(improving)


def _points(history: pd.DataFrame, column: str) -> list[float | None]:
    """A column of a history, with None where it has no finite value."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in history.get(column, [])]


def _counts(sweep: SweepTable, name: str) -> Sequence[Sequence[int]] | None:
    """The confusion matrix of a run's test images; None where its predictions are missing."""
    try:
        table = sweep.predictions(name)
    except RunError:
        return None
    test, names = table[table["split"] == "test"], list(sweep.class_names)
    true, predicted = (pd.Categorical(test[c].astype(str), names).codes.astype(int) for c in ("true", "predicted"))
    return confusion(true, predicted, len(names)).tolist()
