"""The table of a sweep, read from its folder: its runs, its cells, and the linear heads beside them."""

import dataclasses
import html
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xaitune._files import read_json
from xaitune._names import combination_name, duration, frozen_name, gap_text, metric_name
from xaitune.comparison.atlas import atlas_rows
from xaitune.comparison.cells import Tests, best_cell, cell_table, complete_cells, head_name
from xaitune.comparison.folds import pool_folds, test_rows
from xaitune.comparison.so_far import failed_runs
from xaitune.comparison.verdict import MARGIN
from xaitune.config.choices import OPTIMIZERS, PIXEL_METRICS
from xaitune.errors import DataError, ModelError, RunError
from xaitune.plots import charts
from xaitune.stats.comparisons import PairedScores
from xaitune.stats.segmentation import background_metrics
from xaitune.training.folder import CONFIG, RESULT, folder_kind, is_linear
from xaitune.training.run import Run, load_run, outcomes_of, pixel_counts_of, read_history, read_predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, eq=False)
class SweepTable:
    """A grid of runs, freeze depth x optimizer x seed.

    `runs`: one row per run (name, freeze_through, optimizer, seed, state, validation, test, seconds, ...).
    `cells`: one row per cell: means over the seeds, the interval of the test score over groups (`low`, `high`), its
    `difference` from the best cell with that interval (`diff_low`, `diff_high`, what is too scarce for it: `diff_few`),
    whether it `equals` the best (cannot be told apart from it), and the `lowest` of its simultaneous lower bounds
    against every other complete cell. If a cell tried several learning rates (`rates` is their number), its row
    describes the one that is best on validation (`learning_rate`). `heads`: one row per linear head on frozen features,
    which trains no block: its scores, its difference from the best cell, and the `verdict` on whether that loses anything
    (one of VERDICTS; see `frozen_sentence`). In a sweep over folds a row of `runs` stands for one run in each fold,
    `parts`: its test score is that of all their test images together, and its validation score their mean.
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
    heads: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    parts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def best_head(self) -> pd.Series | None:
        """The linear head on frozen features that is best on validation; None in a sweep without them."""
        return self.heads.loc[self.heads["validation"].idxmax()] if len(self.heads) else None

    def frozen_sentence(self) -> str:
        """Whether any block needs training, in a sentence; '' in a sweep without linear heads on frozen features.

        None does if the head is within MARGIN of every complete cell; training pays if it is worse than the best cell.
        """
        head = self.best_head
        if head is None:
            return ""
        answer = {
            "confirmed": "No block needs training",
            "contradicted": "Training blocks pays",
            "cannot tell": "It is not known whether any block needs training",
        }[head["verdict"]]
        other = f"the best combination, {combination_name(self.best['freeze_through'], self.best['optimizer'])}"
        gap = SimpleNamespace(difference=head["difference"], low=head["diff_low"], high=head["diff_high"])
        text = (
            f"{answer}: a linear head on the frozen features of {head_name(head)}, fitted in "
            f"{duration(max(head['seconds'], 1))}, scored {gap_text(gap, self.metric, other)}."
        )
        return text + (f" Do not rely on it: only {head['diff_few']}." if head["diff_few"] else "")

    def predictions(self, name: str) -> pd.DataFrame:
        """The predictions of the run `name`: file, group, split, true, predicted and a probability per class.

        In a sweep over folds those of the test images alone, each from the fold that tests it.
        """
        if name not in self.parts:
            return read_predictions(self.path / name)
        return pd.concat([test_rows(read_predictions(self.path / part)) for part in self.parts[name]])

    def folder(self, name: str) -> Path:
        """The folder of the run `name`; in a sweep over folds that of the first fold."""
        return self.path / self.parts.get(name, (name,))[0]

    def history(self, name: str) -> pd.DataFrame:
        """The history of the run `name`, in a sweep over folds that of the first fold: one row per epoch."""
        return read_history(self.folder(name))

    @property
    def complete(self) -> pd.DataFrame:
        """The cells whose seeds are all finished; see `complete_cells`."""
        return complete_cells(self.cells)

    @property
    def best(self) -> pd.Series:
        """The cell with the best validation score; see `best_cell`."""
        return best_cell(self.cells)

    @property
    def equals(self) -> pd.DataFrame:
        """The cells that cannot be told apart from the best on the test images, the cheapest to train first.

        That is a lack of evidence, never a recommendation: with few images even bad cells are among them. See `enough`.
        """
        return self.cells[self.cells["equals"]].sort_values("seconds")

    @property
    def baseline(self) -> float | None:
        """The test score of a segmentation that marks nothing; None of classifications."""
        if self.metric not in PIXEL_METRICS:
            return None
        test = test_rows(self.predictions(self.runs.loc[self.runs["state"] == "finished", "name"].iloc[0]))
        return float(background_metrics(pixel_counts_of(test, self.class_names), self.class_names)[self.metric])

    @property
    def enough(self) -> pd.Series | None:
        """The cheapest complete cell that is shown to be within MARGIN of every other one; None where there is none."""
        shown = self.complete[(self.complete["lowest"] > -MARGIN) & (self.complete["diff_few"] == "")]
        return shown.loc[shown["seconds"].idxmin()] if len(shown) else None

    def paired(self, cells: pd.DataFrame) -> PairedScores:
        """The test scores of some cells on the same resamples, by the cells' names."""
        scores = None
        for cell in cells.to_dict("records"):
            names = self.cell_runs(cell["freeze_through"], cell["optimizer"])["name"]
            tables = [self.predictions(name).query("split == 'test'") for name in names]
            if scores is None:
                scores = PairedScores(groups=tables[0]["group"].to_numpy(str), metric=self.metric)
            scores.add(cell["name"], outcomes_of(tables, self.class_names, self.metric))
        if scores is None:
            raise ModelError("No combination was given to compare.")
        return scores

    def cell(self, freeze_through: int, optimizer: str) -> pd.Series:
        """One cell. Raises ModelError if the sweep lacks it."""
        match = self.cells[(self.cells["freeze_through"] == freeze_through) & (self.cells["optimizer"] == optimizer)]
        if match.empty:
            raise ModelError(
                f"The sweep has no finished combination freeze_through={freeze_through}, optimizer={optimizer!r}."
            )
        return match.iloc[0]

    def cell_runs(self, freeze_through: int, optimizer: str) -> pd.DataFrame:
        """The finished runs of a cell, one per seed, at the cell's best learning rate."""
        same = (self.runs["freeze_through"] == freeze_through) & (self.runs["optimizer"] == optimizer)
        finished = self.runs[same & (self.runs["state"] == "finished")]
        if "learning_rate" in self.cells:
            rate = self.cell(freeze_through, optimizer)["learning_rate"]
            finished = finished[finished["learning_rate"] == rate]
        return finished.drop_duplicates("seed")

    def table(self, column: str = "test") -> pd.DataFrame:
        """Frozen blocks x optimizer, laid out as Table 9 of the freezing study."""
        order = list(dict.fromkeys(self.cells["optimizer"]))
        return self.cells.pivot(index="freeze_through", columns="optimizer", values=column)[order]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the test score of every cell with its interval, by depth and optimizer."""
        return charts.sweep_cells(self.cells, metric=self.metric, ax=ax)

    def plot_histories(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the validation metric of all runs over the epochs, as in Figure 20 of the freezing study."""
        curves = {name: self.history(name) for name in self.runs.loc[self.runs["state"] == "finished", "name"]}
        return charts.all_curves(curves, self.runs, metric=self.metric, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per run, and one per linear head on frozen features."""
        return pd.concat([self.runs, self.heads.reindex(columns=self.runs.columns)]) if len(self.heads) else self.runs

    def atlas_rows(self, data: str, task: str | None = None) -> pd.DataFrame:
        """The sweep as rows of the freeze atlas, one per run, which `to_csv` saves; `data` names the set of images.

        See docs/atlas.md, and `atlas.COLUMNS` for what the columns hold.

        Examples:
            >>> load_sweep("runs/sweep").atlas_rows("castings").to_csv("castings.csv", index=False)  # doctest: +SKIP
        """
        return atlas_rows(self, data, task)

    def _repr_html_(self) -> str:
        best = f"{metric_name(self.metric)} on the test images; best combination on validation: {html.escape(self.best['name'])}."
        table = self.table().rename(index=frozen_name).rename_axis(index="frozen")
        frozen = f"<p>{html.escape(self.frozen_sentence())}</p>" if len(self.heads) else ""
        return f"<p>{best}</p>{table.round(3).to_html(na_rep='-')}{frozen}"


def load_sweep(path: str | Path) -> SweepTable:
    """Load a sweep from its folder, with all runs that have ended. Raises RunError if it has no finished run.

    Examples:
        >>> load_sweep("runs/sweep").best["name"]  # doctest: +SKIP
        'freeze3-nag'
    """
    folder = Path(path)
    if folder_kind(folder) != "sweep":
        raise RunError(f"{folder} is not a sweep's folder.")
    identity = read_json(folder / CONFIG)["identity"]
    if identity.get("folds"):
        return _load_folds(folder, identity)
    every = [load_run(p.parent) for p in sorted(folder.glob(f"*/{RESULT}"))]
    runs = [run for run in every if not is_linear(run.config)]
    linear = [run for run in every if is_linear(run.config) and run.state == "finished"]
    finished = [r for r in runs if r.state == "finished"]
    if not finished and runs and all(run.state == "diverged" for run in runs):
        raise RunError(f"All {len(runs)} runs in {folder} diverged. Sweep again with a lower --learning-rate.")
    if not finished:
        raise RunError(f"{folder} has no finished run yet. Run 'xaitune sweep-freeze' again to continue.")
    metric, order = finished[0].config.metric, [*OPTIMIZERS]
    runs.sort(key=lambda r: (r.config.freeze_through, order.index(r.config.optimizer), r.config.rate, r.config.seed))
    table = pd.DataFrame([_row(r) for r in runs])
    failed = [run for run in failed_runs(folder) if run["name"] not in set(table["name"])]
    test = _tests([*finished, *linear])
    cells, heads = cell_table(table, [_head_row(run) for run in linear], test)
    return SweepTable(
        path=folder,
        metric=metric,
        runs=pd.concat([table, pd.DataFrame(failed)], ignore_index=True) if failed else table,
        cells=cells,
        class_names=finished[0].class_names,
        fingerprint=identity["fingerprint"],
        weights=identity["weights"],
        groups=len(np.unique(test.groups)),
        images=len(test.groups),
        heads=heads,
    )


def _load_folds(folder: Path, identity: dict[str, Any]) -> SweepTable:
    """`load_sweep` for a sweep over folds. Raises RunError unless every fold has a finished run."""
    places = [folder / f"fold{number}" for number in range(1, identity["folds"] + 1)]
    if lacking := [place.name for place in places if not list(place.glob(f"*/{RESULT}"))]:
        raise RunError(f"{folder} lacks {', '.join(lacking)}. Run 'xaitune sweep-freeze' again to continue.")
    folds = [load_sweep(place) for place in places]
    pooled, metric = pool_folds(folds), folds[0].metric
    if not pooled.runs:
        raise RunError(f"{folder} has no combination that is finished in every fold. Run 'xaitune sweep-freeze' again.")
    table = pd.DataFrame(pooled.runs)
    cells, heads = cell_table(table, pooled.heads, pooled.test)
    return SweepTable(
        path=folder,
        metric=metric,
        runs=pd.concat([table, *(_not_finished(fold) for fold in folds)], ignore_index=True),
        cells=cells,
        class_names=folds[0].class_names,
        fingerprint=identity["fingerprint"],
        weights=identity["weights"],
        groups=len(np.unique(pooled.test.groups)),
        images=len(pooled.test.groups),
        heads=heads,
        parts=pooled.parts,
    )


def _not_finished(fold: SweepTable) -> pd.DataFrame:
    """The runs of a fold that failed or diverged, with the fold in their names."""
    runs = fold.runs[~fold.runs["state"].isin(["finished", "stopped"])]
    return runs.assign(name=[f"{fold.path.name}/{name}" for name in runs["name"]])


def _row(run: Any) -> dict[str, Any]:
    """A run's row of `SweepTable.runs`."""
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
        "clipping": run.metadata.get("clipping", "all variables together"),
    }


def _tests(finished: list[Run]) -> Tests:
    """The test images of the runs. Raises DataError unless all have the same."""
    tables = {run.name: test_rows(run.predictions) for run in finished}
    reference = tables[finished[0].name]
    for run in finished:
        if list(tables[run.name]["file"]) != list(reference["file"]):
            raise DataError(
                f"{run.path} and {finished[0].path} were tested on different images, so they cannot be compared."
            )
    return Tests(finished[0].class_names, finished[0].config.metric, reference["group"].to_numpy(str), tables)


def _head_row(run: Run) -> dict[str, Any]:
    """What is known of one linear head, before it is compared."""
    row = {key: value for key, value in _row(run).items() if key not in ("optimizer", "seed", "learning_rate")}
    return row | {key: run.metadata["linear_head"][key] for key in ("blocks", "penalty")}


def find_sweep(runs_dir: str | Path, fingerprint: str | None = None) -> Path | None:
    """The newest sweep of `find_sweeps`, or None."""
    return next(iter(find_sweeps(runs_dir, fingerprint)), None)


def find_sweeps(runs_dir: str | Path, fingerprint: str | None = None) -> list[Path]:
    """The sweeps under `runs_dir` with at least one ended run, the newest first; with a fingerprint, those on that data."""
    sweeps = []
    for file in Path(runs_dir).glob(f"*/{CONFIG}"):
        folder = file.parent
        config = read_json(file) if folder_kind(folder) == "sweep" else {}
        ended = (*folder.glob(f"*/{RESULT}"), *folder.glob(f"*/*/{RESULT}"))
        if "started" not in config or not ended:  # without a start it holds nothing but the trials of advice
            continue
        if fingerprint in (None, config["identity"]["fingerprint"]):
            sweeps.append((file.stat().st_mtime, folder))
    return [folder for _, folder in sorted(sweeps, reverse=True)]


def best_or_none(sweep: SweepTable) -> pd.Series | None:
    """The sweep's best cell; None where no cell has a validation score."""
    return sweep.best if sweep.cells["validation"].notna().any() else None
