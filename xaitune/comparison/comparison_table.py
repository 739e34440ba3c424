"""The table of a comparison, read from its folder: one row for each combination of values."""

import dataclasses
import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xaitune._files import read_json
from xaitune._names import gap_text, metric_name, plural
from xaitune.comparison.cells import best_cell, complete_cells, lacking
from xaitune.comparison.factors import value_name
from xaitune.comparison.folds import test_rows
from xaitune.comparison.table import SweepTable, load_sweep
from xaitune.comparison.verdict import images_needed
from xaitune.config.choices import PIXEL_METRICS
from xaitune.errors import RunError
from xaitune.plots import charts
from xaitune.stats.comparisons import Difference, PairedScores
from xaitune.stats.segmentation import THRESHOLDS, background_metrics
from xaitune.training.folder import RESULT, folder_kind
from xaitune.training.run import outcomes_of, pixel_counts_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = "comparison.json"  # the factors, and the values of each part
JUDGED_EPOCHS = 3
CONVERGED = 0.95  # a run has converged if its training loss falls below this share of the loss it starts with


@dataclasses.dataclass(frozen=True, eq=False)
class ComparisonTable:
    """Trainings that differ in the values of some `factors`, with the same seeds on the same test images.

    `cells`: one row per combination of values: a column for each factor, `name`, `rate` (the learning rate), `seeds`, the means
    of `validation`, `test` and `seconds` over the seeds, the interval of the test score over groups (`low`, `high`), the
    `scores` of the seeds, the `difference` from the cell that is best on validation with its interval (`diff_low`,
    `diff_high`), whether it `equals` that one (cannot be told apart), and the share of the seeds that `converged`.
    `diverged`: the runs, or parts without a finished run, that are in no cell.
    """

    path: Path
    factors: tuple[str, ...]
    metric: str
    cells: pd.DataFrame
    class_names: tuple[str, ...]
    groups: int
    images: int
    parts: dict[str, SweepTable]
    paired: PairedScores
    diverged: tuple[str, ...] = ()

    @property
    def best(self) -> pd.Series:
        """The cell that is best on validation; see `best_cell`."""
        return best_cell(self.cells)

    def difference(self, a: str, b: str) -> Difference:
        """The test score of cell `a` minus that of cell `b`, by their names, with its interval."""
        return self.paired.difference(a, b)

    def pairs(self) -> pd.DataFrame:
        """One row for each pair of cells: the difference with its interval, and a verdict.

        'better' or 'worse' where the interval excludes 0 and there is enough data, else 'cannot tell', with the order of
        the number of test images that would tell 1 point (`images_needed`). Each pair is judged by itself.
        """
        rows = []
        for a, b in itertools.combinations(self.cells["name"], 2):
            gap = self.difference(a, b)
            verdict = "cannot tell"
            if gap.reliable and (gap.low > 0 or gap.high < 0):
                verdict = "better" if gap.low > 0 else "worse"
            needed = images_needed(gap.group_error, gap.seed_error, gap.images) if verdict == "cannot tell" else None
            rows.append([a, b, gap.difference, gap.low, gap.high, verdict, needed or math.nan])
        columns = ["cell", "other", "difference", "low", "high", "verdict", "images_needed"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def segments(self) -> bool:
        """Whether segmentations are compared."""
        return self.metric in PIXEL_METRICS

    def scores(self) -> pd.DataFrame:
        """One row per cell, as the freezing study's tables 5 to 8: means over the seeds at the epoch that was kept.

        `loss` (validation, in nats), the accuracy on `train`, `validation` and `test`, and the test `f1_weighted`; of a
        segmentation as an animal X-ray study's tables: the test IoU of each class, `iou_mean`, and F1@IoU.
        """
        picked = {"loss": ("validation", "loss")}
        picked |= {split: (split, "accuracy") for split in ("train", "validation", "test")}
        picked |= {"f1_weighted": ("test", "f1_weighted")}
        if self.segments:
            picked = {name: ("test", name) for name in ("iou_mean", *(f"f1_at_iou_{t:g}" for t in THRESHOLDS))}
        rows = {}
        for cell in self.cells.to_dict("records"):
            folder = self.parts[cell["part"]].path
            found = [read_json(folder / run / RESULT)["metrics"] for run in cell["runs"]]
            row = {}
            for name in self.class_names if self.segments else ():
                known = [iou for m in found if (iou := m["test"]["per_class"][name]["iou"]) is not None]
                row[f"IoU {name}"] = float(np.mean(known)) if known else math.nan
            row |= {
                column: float(np.mean([metrics[split][score] for metrics in found]))
                for column, (split, score) in picked.items()
            }
            rows[cell["name"]] = row
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("cell")
        if self.segments:
            table.loc["all background"] = self._background_everywhere()
        return table

    def _background_everywhere(self) -> dict[str, float]:
        """The scores of a model that answers background for every pixel of the test images."""
        sweep = next(iter(self.parts.values()))
        test = test_rows(sweep.predictions(_runs_of(sweep, sweep.cells.iloc[0])[0]))
        metrics = background_metrics(pixel_counts_of(test, self.class_names), self.class_names)
        iou = {name: metrics["per_class"][name]["iou"] for name in self.class_names}
        row = {f"IoU {name}": math.nan if value is None else value for name, value in iou.items()}
        return row | {name: metrics[name] for name in ("iou_mean", *(f"f1_at_iou_{t:g}" for t in THRESHOLDS))}

    def losses(self, split: str = "test") -> pd.DataFrame:
        """The mean loss (-log p of the true class) per class: one row per cell and class, a column per seed, and the mean."""
        rows = []
        for cell in self.cells.to_dict("records"):
            seeds: dict[str, pd.Series] = {}
            for run in cell["runs"]:
                table = self.parts[cell["part"]].predictions(run).query("split == @split")
                p = table[[f"p({name})" for name in self.class_names]].to_numpy()
                true = table["true"].map({name: i for i, name in enumerate(self.class_names)}).to_numpy(np.int64)
                loss = -np.log(np.maximum(p[np.arange(len(p)), true], 1e-12))
                seeds[f"seed {len(seeds)}"] = pd.Series(loss).groupby(table["true"].to_numpy()).mean()
            frame = pd.DataFrame(seeds).reindex(self.class_names)
            frame["mean"] = frame.mean(axis=1)
            rows.append(pd.concat({cell["name"]: frame}, names=["cell", "class"]))
        return pd.concat(rows)

    def sentence(self) -> str:
        """What the comparison tells, in plain words."""
        return " ".join(self.lines())

    def lines(self) -> list[str]:
        """`sentence`, sentence by sentence."""
        best, others = self.best, self.cells[self.cells["name"] != self.best["name"]]
        shown = f"{metric_name(self.metric)} {best['test']:.3f} [{best['low']:.3f}, {best['high']:.3f}]"
        lines = [f"Best on validation: {best['name']} (test {shown}, {plural(int(best['seeds']), 'seed')})."]
        if self.diverged:
            lines.append(f"Diverged, and left out: {', '.join(self.diverged)}.")
        worse = [row for row in others.to_dict("records") if not row["equals"]]
        if not len(others):
            return lines
        if not worse:
            lines.append(
                "No difference beyond the noise of test images and seeds: none of the others is told apart from it."
            )
        else:
            lines += [f"{row['name']} scores {self._gap(row)}." for row in worse[:3]]
        if len(worse) > 3:
            lines.append(f"So do {len(worse) - 3} more.")
        if lacks := lacking(self.cells):
            lines.append(f"There is too little data to rely on the intervals: only {lacks}.")
        stuck = self.cells.loc[self.cells["converged"] < 1, "name"].tolist()
        if stuck:
            lines.append(f"Did not converge, in at least one seed: {'; '.join(stuck)}.")
        return lines

    def _gap(self, row: dict[str, Any]) -> str:
        return gap_text(self.difference(row["name"], self.best["name"]), self.metric, "it")

    def table(self) -> pd.DataFrame:
        """The factors' values with the scores, as they are printed."""
        best = self.best["name"]

        def gap(cell: Any) -> str:
            if cell.name == best:
                return "best on validation"
            return f"{cell.difference:+.3f} [{cell.diff_low:+.3f}, {cell.diff_high:+.3f}]"

        cells = list(self.cells.itertuples(index=False))
        return pd.DataFrame(
            {
                **{name: [value_name(name, cell) for cell in self.cells[name]] for name in self.factors},
                "test": [f"{cell.test:.3f} [{cell.low:.3f}, {cell.high:.3f}]" for cell in cells],
                "minus the best": [gap(cell) for cell in cells],
                "validation": self.cells["validation"].round(3),
                "rate": [f"{rate:g}" for rate in self.cells["rate"]],
                "seeds": self.cells["seeds"],
                "seconds": self.cells["seconds"].round(1),
            }
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The test score of every cell with its interval."""
        return charts.comparison_cells(self.cells, metric=self.metric, ax=ax)

    def plot_histories(self, ax: "Axes | None" = None) -> "Axes":
        """The learning curves of the first seed of every cell, as in Figure 20 of the freezing study."""
        curves = {c["name"]: self.parts[c["part"]].history(c["runs"][0]) for c in self.cells.to_dict("records")}
        return charts.learning_curves(curves, metric=self.metric, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """The cells: one row each."""
        return self.cells

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.sentence())}</p>{self.table().to_html(index=False)}"


def load_comparison(path: str | Path) -> ComparisonTable:
    """Load a comparison from its folder, with all runs that have ended. Raises RunError if it has no finished run.

    Examples:
        >>> load_comparison("runs/comparison").best["name"]  # doctest: +SKIP
        'focal'
    """
    folder = Path(path)
    if folder_kind(folder) != "comparison":
        raise RunError(f"{folder} is not a comparison's folder.")
    about = read_json(folder / PARTS)
    factors = tuple(about["factors"])
    parts, diverged = _load_parts(folder, about["parts"])
    if not parts:
        raise RunError(f"{folder} has no finished run yet. Run 'xaitune compare' again to continue.")
    first = next(iter(parts.values()))
    rows, paired = _read_cells(parts, about["parts"], factors)
    cells = pd.DataFrame(rows)
    for factor in factors:  # pandas would turn None into NaN
        cells[factor] = pd.Series([row[factor] for row in rows], dtype=object)
    best = best_cell(cells)["name"]
    gaps = [paired.difference(name, best) for name in cells["name"]]
    complete = set(complete_cells(cells)["name"])
    cells = cells.assign(
        difference=[gap.difference for gap in gaps],
        diff_low=[gap.low for gap in gaps],
        diff_high=[gap.high for gap in gaps],
        equals=[gap.high >= 0 or name not in complete for gap, name in zip(gaps, cells["name"], strict=True)],
    )
    return ComparisonTable(
        path=folder,
        factors=factors,
        metric=first.metric,
        cells=cells,
        class_names=first.class_names,
        groups=first.groups,
        images=first.images,
        parts=parts,
        paired=paired,
        diverged=tuple(diverged),
    )


def _load_parts(folder: Path, names: Iterable[str]) -> tuple[dict[str, SweepTable], list[str]]:
    """The sweeps of a comparison that have a finished run, by name, and the runs and parts that diverged."""
    parts, diverged = {}, []
    for name in names:
        if list((folder / name).glob(f"*/{RESULT}")):
            try:
                parts[name] = load_sweep(folder / name)
            except RunError:  # none of its runs has a model
                diverged.append(name)
                continue
            lost = parts[name].runs.query("state == 'diverged'")["name"]
            diverged += [f"{name}/{run}" for run in lost]
    return parts, diverged


def _read_cells(
    parts: Mapping[str, SweepTable], values_of: Mapping[str, Mapping[str, Any]], factors: Sequence[str]
) -> tuple[list[dict[str, Any]], PairedScores]:
    """The rows of `ComparisonTable.cells` that each sweep tells by itself, and the predictions of all cells."""
    first = next(iter(parts.values()))
    tests = test_rows(first.predictions(_runs_of(first, first.cells.iloc[0])[0]))
    rows, paired = [], PairedScores(groups=tests["group"].to_numpy(str), metric=first.metric)
    kept = ("seeds", "validation", "test", "low", "high", "few", "scores", "seconds")
    for name, sweep in parts.items():
        for cell in sweep.cells.to_dict("records"):
            runs = _runs_of(sweep, cell)
            values = {f: values_of[name].get(f, cell.get(f)) for f in factors}
            label = ", ".join(value_name(f, value) for f, value in values.items()) or "repeats"
            predictions = [test_rows(sweep.predictions(run)) for run in runs]
            paired.add(label, outcomes_of(predictions, first.class_names, first.metric))
            row = {**values, "name": label, "part": name, "runs": runs, "rate": cell["learning_rate"]}
            row |= {column: cell[column] for column in kept}
            rows.append(row | {"converged": float(np.mean([has_converged(sweep.history(run)) for run in runs]))})
    return rows, paired


def _runs_of(sweep: SweepTable, cell: Any) -> list[str]:
    return sweep.cell_runs(cell["freeze_through"], cell["optimizer"])["name"].tolist()


def has_converged(history: pd.DataFrame) -> bool:
    """Whether fine-tuning brought the training loss below CONVERGED of the loss that it started with.

    That is the last loss of the head's own training, or of the first epoch where there was none. True too of a run with fewer
    than JUDGED_EPOCHS epochs of fine-tuning, which are too few to say.
    """
    tuned = history[history["stage"] == "fine-tune"]["train_loss"]
    before = history[history["stage"] == "head"]["train_loss"]
    if len(tuned) < JUDGED_EPOCHS:
        return True
    start = before.iloc[-1] if len(before) else tuned.iloc[0]
    return bool(tuned.min() < CONVERGED * start)
