"""The table of a sweep: its runs and cells with intervals, the best cell, and its folder on disk."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xaitune._files import read_json
from xaitune.config.choices import OPTIMIZERS
from xaitune.errors import DataError, ModelError, RunError
from xaitune.plots import charts
from xaitune.stats.comparisons import paired_bootstrap
from xaitune.stats.intervals import bootstrap_interval
from xaitune.training.folder import CONFIG, RESULT, folder_kind
from xaitune.training.run import Run, load_run, read_history, read_predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, eq=False)
class SweepTable:
    """A grid of runs, freeze depth x optimizer x seed.

    `runs`: one row a run (name, freeze_through, optimizer, seed, state, validation, test, seconds, ...).
    `cells`: one row a cell: means over the seeds, the interval of the test score over groups, `difference`,
    `low` and `high` against the best, and whether it `equals` the best. Where a cell tried several learning rates
    (`rates`), all of it is of the one that is best on validation (`learning_rate`).
    """

    path: Path
    metric: str
    runs: pd.DataFrame
    cells: pd.DataFrame
    class_names: tuple[str, ...]
    fingerprint: str
    weights: str
    groups: int
    images: int

    def predictions(self, name: str) -> pd.DataFrame:
        """The predictions of a run by its name: file, group, split, true, predicted and a probability per class."""
        return read_predictions(self.path / name)

    def history(self, name: str) -> pd.DataFrame:
        """The history of a run by its name: one row per epoch."""
        return read_history(self.path / name)

    @property
    def complete(self) -> pd.DataFrame:
        """The cells with all seeds finished; see `complete_cells`."""
        return complete_cells(self.cells)

    @property
    def best(self) -> pd.Series:
        """The cell with the best validation score; see `best_cell`."""
        return best_cell(self.cells)

    @property
    def equals(self) -> pd.DataFrame:
        """The cells that cannot be told from the best on the test images, the cheapest to train first."""
        return self.cells[self.cells["equals"]].sort_values("seconds")

    def cell(self, freeze_through: int, optimizer: str) -> pd.Series:
        """One cell. Raises ModelError where the sweep lacks it."""
        match = self.cells[(self.cells["freeze_through"] == freeze_through) & (self.cells["optimizer"] == optimizer)]
        if match.empty:
            raise ModelError(
                f"The sweep has no finished cell freeze_through={freeze_through}, optimizer={optimizer!r}."
            )
        return match.iloc[0]

    def cell_runs(self, freeze_through: int, optimizer: str) -> pd.DataFrame:
        """The finished runs of a cell, one a seed, at the learning rate that the cell keeps."""
        same = (self.runs["freeze_through"] == freeze_through) & (self.runs["optimizer"] == optimizer)
        found = self.runs[same & (self.runs["state"] == "finished")]
        if "learning_rate" in self.cells:
            found = found[found["learning_rate"] == self.cell(freeze_through, optimizer)["learning_rate"]]
        return found.drop_duplicates("seed")

    def table(self, column: str = "test") -> pd.DataFrame:
        """Frozen blocks x optimizer, the layout of the freezing study's Table 9."""
        order = list(dict.fromkeys(self.cells["optimizer"]))
        return self.cells.pivot(index="freeze_through", columns="optimizer", values=column)[order]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Test score of every cell with its interval, by depth and optimizer."""
        return charts.sweep_cells(self.cells, metric=self.metric, ax=ax)

    def plot_histories(self, ax: "Axes | None" = None) -> "Axes":
        """The validation metric of all runs over the epochs, in one picture (Figure 20 of the freezing study)."""
        curves = {name: self.history(name) for name in self.runs.loc[self.runs["state"] == "finished", "name"]}
        return charts.all_curves(curves, self.runs, metric=self.metric, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a run."""
        return self.runs

    def _repr_html_(self) -> str:
        return self.table().round(3).to_html()


def load_sweep(path: str | Path) -> SweepTable:
    """A sweep from its folder, with every run that is finished. Raises RunError where there is none."""
    folder = Path(path)
    if folder_kind(folder) != "sweep":
        raise RunError(f"{folder} holds no sweep.")
    identity = read_json(folder / CONFIG)["identity"]
    runs = [load_run(p.parent) for p in sorted(folder.glob(f"*/{RESULT}"))]
    finished = [r for r in runs if r.state == "finished"]
    if not finished and runs:
        raise RunError(f"All {len(runs)} runs in {folder} diverged. Sweep again with a lower --learning-rate.")
    if not finished:
        raise RunError(f"{folder} has no finished run yet. Give 'xaitune sweep-freeze' again to go on.")
    metric, order = finished[0].config.metric, [*OPTIMIZERS]
    runs.sort(key=lambda r: (r.config.freeze_through, order.index(r.config.optimizer), r.config.rate, r.config.seed))
    table = pd.DataFrame([_row(r) for r in runs])
    failures = read_json(folder / "sweep.json")["failures"] if (folder / "sweep.json").is_file() else {}
    failed = [{"name": n, "state": f"failed: {e}"} for n, e in failures.items() if n not in set(table["name"])]
    test = _test_arrays(finished)
    return SweepTable(
        path=folder,
        metric=metric,
        runs=pd.concat([table, pd.DataFrame(failed)], ignore_index=True) if failed else table,
        cells=_cells(table, test, metric),
        class_names=finished[0].class_names,
        fingerprint=identity["fingerprint"],
        weights=identity["weights"],
        groups=len(np.unique(test["groups"])),
        images=len(test["true"]),
    )


def _row(run: Any) -> dict[str, Any]:
    return {
        "name": run.name,
        "freeze_through": run.config.freeze_through,
        "optimizer": run.config.optimizer,
        "seed": run.config.seed,
        "state": run.state,
        "validation": run.score("validation"),
        "test": run.score("test"),
        "test_accuracy": run.metrics.get("test", {}).get("accuracy", np.nan),
        "train": run.score("train"),
        "epochs": len(run.history),
        "seconds": float(run.history["seconds"].sum()),
        "learning_rate": run.config.rate,
        "precision": run.metadata["precision"],
    }


def _test_arrays(finished: list[Any]) -> dict[str, Any]:
    """True classes and groups of the test images, and run name -> predicted classes, as numbers."""
    number = {name: i for i, name in enumerate(finished[0].class_names)}
    reference = finished[0].predictions.query("split == 'test'")
    predicted = {}
    for run in finished:
        rows = run.predictions.query("split == 'test'")
        if list(rows["file"]) != list(reference["file"]):
            raise DataError(f"{run.path} was tested on other images than {finished[0].path}: they cannot be compared.")
        predicted[run.name] = rows["predicted"].map(number).to_numpy(np.int64)
    true = reference["true"].map(number).to_numpy(np.int64)
    return {"true": true, "groups": reference["group"].to_numpy(str), "predicted": predicted}


def _cells(table: pd.DataFrame, test: dict[str, Any], metric: str) -> pd.DataFrame:
    """One row per cell, with its interval and its comparison with the cell that is best on validation."""
    rows, predicted = [], {}
    for (depth, optimizer), tried in table.groupby(["freeze_through", "optimizer"], sort=False):
        part = _best_rate(tried[tried["state"] == "finished"])
        if part.empty:
            continue
        name = f"freeze{depth}-{optimizer}"
        predicted[name] = np.stack([test["predicted"][n] for n in part["name"]])
        interval = bootstrap_interval(test["true"], predicted[name], test["groups"], metric)
        rows.append(
            {
                "name": name,
                "freeze_through": int(depth),
                "optimizer": optimizer,
                "learning_rate": part["learning_rate"].iloc[0],
                "rates": tried["learning_rate"].nunique(),
                "seeds": len(part),
                "validation": part["validation"].mean(),
                "test": part["test"].mean(),
                "low": interval.low,
                "high": interval.high,
                "few": interval.few,
                "scores": part["test"].tolist(),
                "train": part["train"].mean(),
                "seconds": part["seconds"].mean(),
            }
        )
    cells = pd.DataFrame(rows)
    best = predicted[best_cell(cells)["name"]]
    gaps = [paired_bootstrap(predicted[name], best, test["true"], test["groups"], metric) for name in cells["name"]]
    return cells.assign(
        difference=[gap.difference for gap in gaps],
        diff_low=[gap.low for gap in gaps],
        diff_high=[gap.high for gap in gaps],
        equals=[gap.high >= 0 for gap in gaps],
    )


def complete_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with all seeds finished. Only these may win: one lucky seed is no match for the mean of several."""
    return cells[cells["seeds"] == cells["seeds"].max()]


def best_cell(cells: pd.DataFrame) -> pd.Series:
    """The complete cell with the best validation score, the mean over its seeds. No test score takes part."""
    complete = complete_cells(cells)
    return complete.loc[complete["validation"].idxmax()]


def _best_rate(part: pd.DataFrame) -> pd.DataFrame:
    """The runs of a cell at one learning rate: of those with the most seeds, the best on validation, seed-mean.

    No test score takes part. Of equal ones the lowest rate counts.
    """
    rates = part.groupby("learning_rate")["validation"].agg(["count", "mean"])
    if rates.empty:
        return part
    return part[part["learning_rate"] == rates[rates["count"] == rates["count"].max()]["mean"].idxmax()]


def find_sweep(runs_dir: str | Path, fingerprint: str | None = None) -> Path | None:
    """The newest sweep with a finished run under `runs_dir`, on that data where a fingerprint is given."""
    newest = []
    for file in Path(runs_dir).glob(f"*/{CONFIG}"):
        folder = file.parent
        if folder_kind(folder) != "sweep" or not list(folder.glob(f"*/{RESULT}")):
            continue
        if fingerprint in (None, read_json(file)["identity"]["fingerprint"]):
            newest.append((file.stat().st_mtime, folder))
    return max(newest)[1] if newest else None


def best_run(sweep: SweepTable) -> Run:
    """The run of the best cell that is best on validation among its seeds."""
    cell = sweep.best
    part = sweep.cell_runs(cell["freeze_through"], cell["optimizer"])
    return load_run(sweep.path / str(part.loc[part["validation"].idxmax(), "name"]))
