"""From the runs of a sweep to its cells and its linear heads: means over seeds, intervals, differences from the best cell."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xaitune.comparison.verdict import verdict_of
from xaitune.stats.comparisons import PairedScores
from xaitune.stats.intervals import outcome_interval
from xaitune.stats.outcomes import Outcomes
from xaitune.training.run import outcomes_of


class Tests(NamedTuple):
    """The test images of some runs: their groups (n,), and the predictions of each run by its name."""

    class_names: tuple[str, ...]
    metric: str
    groups: np.ndarray
    tables: dict[str, pd.DataFrame]

    def outcomes(self, names: Sequence[str]) -> Outcomes:
        """The answers of these runs, which differ in their seed."""
        return outcomes_of([self.tables[name] for name in names], self.class_names, self.metric)


def cell_table(table: pd.DataFrame, heads: Sequence[dict[str, Any]], test: Tests) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(`SweepTable.cells` of the runs in `table`, `SweepTable.heads` of what is known of each head)."""
    rows, answers, metric = [], {}, test.metric
    for (depth, optimizer), tried in table.groupby(["freeze_through", "optimizer"], sort=False):
        part = best_rate(tried[tried["state"] == "finished"])
        if part.empty:
            continue
        name = f"freeze{depth}-{optimizer}"
        answers[name] = test.outcomes(part["name"].tolist())
        interval = outcome_interval(answers[name], test.groups, metric)
        rows.append(
            {
                "name": name,
                "freeze_through": int(depth),
                "optimizer": optimizer,
                "learning_rate": part["learning_rate"].iloc[0],
                "rates": int(tried["rates"].max()) if "rates" in tried else tried["learning_rate"].nunique(),
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
    best, complete = best_cell(cells)["name"], complete_cells(cells)["name"].tolist()
    scores = PairedScores(groups=test.groups, metric=metric)
    for name in complete:
        scores.add(name, answers[name])
    lowest = {name: min(scores.lower_bounds(name).values(), default=np.nan) for name in complete}
    compared = pd.DataFrame([_compared(head, best, scores, test) for head in heads])
    for name in set(cells["name"]) - set(complete):
        scores.add(name, answers[name])
    gaps = [scores.difference(name, best) for name in cells["name"]]
    cells = cells.assign(
        difference=[gap.difference for gap in gaps],
        diff_low=[gap.low for gap in gaps],
        diff_high=[gap.high for gap in gaps],
        diff_few=[gap.few for gap in gaps],
        equals=[gap.high >= 0 for gap in gaps],
        lowest=[lowest.get(name, np.nan) for name in cells["name"]],
    )
    return cells, compared


def _compared(head: dict[str, Any], best: str, scores: PairedScores, test: Tests) -> dict[str, Any]:
    """A row of `SweepTable.heads`: a linear head against the complete cells that `scores` has."""
    interval = outcome_interval(test.outcomes([head["name"]]), test.groups, scores.metric)
    seeds = len(scores.models[best].seeds)
    scores.add(head["name"], test.outcomes([head["name"]] * seeds))  # no seed changes it
    gap, bounds = scores.difference(head["name"], best), scores.lower_bounds(head["name"])
    scores.remove(head["name"])
    return head | {
        "low": interval.low,
        "high": interval.high,
        "few": interval.few,
        "difference": gap.difference,
        "diff_low": gap.low,
        "diff_high": gap.high,
        "diff_few": gap.few,
        "verdict": verdict_of(min(bounds.values()), gap.high, reliable=gap.reliable),
    }


def head_name(head: pd.Series) -> str:
    """The blocks whose features a linear head takes: 'all five blocks', 'Block 3 alone', or 'one block' for several folds."""
    if not head["blocks"]:
        return "one block"
    return "all five blocks" if len(head["blocks"]) == 5 else f"Block {head['blocks'][0]} alone"


def complete_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells whose seeds are all finished. Only these can be best: one lucky seed must not beat the mean of several."""
    return cells[cells["seeds"] == cells["seeds"].max()]


def over_seeds(cells: pd.DataFrame) -> str:
    """What the scores of the cells are: 'mean over 3 seeds', or 'one seed'.

    Examples:
        >>> over_seeds(pd.DataFrame({"seeds": [3, 2]})), over_seeds(pd.DataFrame({"seeds": [1]}))
        ('mean over 3 seeds', 'one seed')
    """
    seeds = int(cells["seeds"].max())
    return "one seed" if seeds == 1 else f"mean over {seeds} seeds"


def lacking(cells: pd.DataFrame) -> str:
    """What there is too little of to rely on the cells' intervals, each thing once; '' if nothing.

    Examples:
        >>> lacking(pd.DataFrame({"few": ["14 groups, 5 groups with a mistake", "", "14 groups, 1 group with a mistake"]}))
        '14 groups, 1 to 5 groups with a mistake'
    """
    counts: dict[str, dict[int, str]] = {}  # what is counted -> count -> the reason with that count
    for reason in (reason for few in cells["few"] if few for reason in few.split(", ")):
        number, what = reason.split(" ", 1)
        counts.setdefault(re.sub("^groups?", "group", what), {})[int(number)] = reason
    texts = []
    for found in counts.values():
        low, high = min(found), max(found)
        texts.append(found[low] if low == high else f"{low} to {found[high]}")
    return ", ".join(texts)


def alike_sentence(cells: pd.DataFrame) -> str:
    """Why cells have the same scores to every digit; '' where none have.

    Examples:
        >>> alike_sentence(pd.DataFrame({"validation": [0.75, 0.75], "test": [0.7, 0.71]}))
        ''
        >>> alike_sentence(pd.DataFrame({"validation": [0.75, 0.75], "test": [0.7, 0.7]}))[:34]
        'Combinations with the same scores '
    """
    if not cells.dropna(subset=["validation", "test"]).duplicated(["validation", "test"]).any():
        return ""
    return (
        "Combinations with the same scores to every digit have the same weights: no epoch of their fine-tuning was better on "
        "validation images than the head that was trained before it, so that head was kept."
    )


def best_cell(cells: pd.DataFrame) -> pd.Series:
    """The complete cell with the best validation score (mean over its seeds). Test scores are not used.

    Examples:
        >>> cells = {"name": ["freeze3-nag", "freeze4-nag"], "seeds": [3, 1], "validation": [0.8, 0.9]}
        >>> best_cell(pd.DataFrame(cells))["name"]
        'freeze3-nag'
    """
    complete = complete_cells(cells)
    return complete.loc[complete["validation"].idxmax()]


def best_rate(part: pd.DataFrame) -> pd.DataFrame:
    """The runs of a cell at its best learning rate: among the rates with the most seeds, the best mean validation score.

    Test scores are not used. Of equally good rates the lowest is taken.
    """
    rates = part.groupby("learning_rate")["validation"].agg(["count", "mean"])
    if rates.empty:
        return part
    return part[part["learning_rate"] == rates[rates["count"] == rates["count"].max()]["mean"].idxmax()]
