"""A sweep over folds as one: the runs of a cell and seed in all folds, with their test images put together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xaitune.comparison.cells import Tests
from xaitune.stats.metrics import scores_from_confusion


class Pooled(NamedTuple):
    """The rows of the runs and of the linear heads, the runs of the folds behind each (`parts`), and the test images."""

    runs: list[dict[str, Any]]
    heads: list[dict[str, Any]]
    parts: dict[str, tuple[str, ...]]
    test: Tests


def pool_folds(folds: Sequence[Any]) -> Pooled:
    """Put the tables of a sweep's folds together: one row for the runs that all folds have of a cell and seed.

    Its test score is that of all test images, its validation score the mean, its learning rate the most frequent of those
    that the folds have chosen.
    """
    pool = _Pool(folds)
    for depth, optimizer in folds[0].cells[["freeze_through", "optimizer"]].itertuples(index=False):
        found = [f.cells[(f.cells["freeze_through"] == depth) & (f.cells["optimizer"] == optimizer)] for f in folds]
        if any(cell.empty for cell in found):
            continue
        runs = [fold.cell_runs(depth, optimizer).set_index("seed") for fold in folds]
        rate = pd.concat([part["learning_rate"] for part in runs]).mode()[0]
        for seed in sorted(set.intersection(*(set(part.index) for part in runs))):
            about = {"freeze_through": int(depth), "optimizer": optimizer, "seed": int(seed), "learning_rate": rate}
            about["rates"] = max(int(cell["rates"].iloc[0]) for cell in found)
            row = pool.row(f"freeze{depth}-{optimizer}-seed{seed}", [part.loc[seed] for part in runs])
            pool.runs.append(row | about)
    for name in folds[0].heads["name"] if len(folds[0].heads) else ():
        found = [fold.heads[fold.heads["name"] == name] if len(fold.heads) else fold.heads for fold in folds]
        if all(len(head) for head in found):
            heads = [head.iloc[0] for head in found]
            chosen = {tuple(head["blocks"]) for head in heads}
            blocks = list(chosen.pop()) if len(chosen) == 1 else []  # [] where the folds chose different ones
            about = {"freeze_through": 5, "blocks": blocks, "penalty": heads[0]["penalty"]}
            pool.heads.append(pool.row(name, heads) | about)
    return Pooled(pool.runs, pool.heads, pool.parts, pool.tests)


class _Pool:
    """What `pool_folds` has put together so far."""

    def __init__(self, folds: Sequence[Any]) -> None:
        self.folds = folds
        self.runs: list[dict[str, Any]] = []
        self.heads: list[dict[str, Any]] = []
        self.parts: dict[str, tuple[str, ...]] = {}
        self.tests = Tests(folds[0].class_names, folds[0].metric, np.zeros(0), {})

    def row(self, name: str, runs: Sequence[pd.Series]) -> dict[str, Any]:
        """The row `name` for these runs, one per fold."""
        pairs = list(zip(self.folds, runs, strict=True))
        self.parts[name] = tuple(f"{fold.path.name}/{run['name']}" for fold, run in pairs)
        together = pd.concat([test_rows(fold.predictions(run["name"])) for fold, run in pairs])
        self.tests = self.tests._replace(groups=together["group"].to_numpy(str))
        self.tests.tables[name] = together
        matrix = self.tests.outcomes([name]).matrix()
        return {
            "name": name,
            "state": "finished",
            "precision": runs[0]["precision"],
            "clipping": runs[0]["clipping"],
            "validation": float(np.mean([run["validation"] for run in runs])),
            "train": float(np.mean([run["train"] for run in runs])),
            "epochs": sum(run["epochs"] for run in runs),
            "seconds": sum(run["seconds"] for run in runs),
            "test": float(scores_from_confusion(matrix, self.tests.metric)),
            "test_accuracy": float((together["true"] == together["predicted"]).mean()),
        }


def test_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of the test images."""
    return predictions[predictions["split"] == "test"]
