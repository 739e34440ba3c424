"""Does a sweep confirm the advice? The comparison of the advised depth, and the sentence that says so."""

import dataclasses
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xaitune import _files, _names
from xaitune.advise.advice import FreezeAdvice, find_advice
from xaitune.comparison.table import SweepTable
from xaitune.comparison.verdict import MARGIN, images_needed, verdict_of
from xaitune.errors import ConfigError, DataError
from xaitune.plots import charts
from xaitune.stats import comparisons
from xaitune.stats.comparisons import Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, eq=False)
class AdviceCheck:
    """Whether a sweep confirms the advice, contradicts it, or cannot tell.

    `difference` is the advised depth's test score minus the rival's (the other depth that is best on validation),
    each with the optimizer that is best on validation, with its 95 % interval over groups. `learning_rates`: depth ->
    the rate that is best on validation, where several were tried. `mcnemar`: for each seed, by accuracy, the test images
    that the advised depth alone has right (`advised_only`), those of the rival alone (`rival_only`), and the exact
    McNemar p: the chance of a split at least as uneven if both were equally often right.
    """

    verdict: str
    advised: int
    rival: int
    optimizers: dict[int, str]
    difference: Difference
    margin: float
    metric: str
    best: dict[str, Any]
    cheapest: dict[str, Any]
    test_images_needed: int | None
    seeds: int
    advice_made_first: bool = True
    learning_rates: dict[int, float] = dataclasses.field(default_factory=dict)
    mcnemar: tuple[dict[str, Any], ...] = ()

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        return self.difference.low, self.difference.high

    def sentence(self) -> str:
        """The verdict in two or three plain sentences."""
        d = self.difference
        metric = _names.metric_name(self.metric)
        points = f"{d.difference * 100:+.1f} points of {metric} [{d.low * 100:+.1f}, {d.high * 100:+.1f}]"
        what = {
            "confirmed": "The sweep confirms the advice",
            "contradicted": "The sweep contradicts the advice",
            "cannot tell": "The sweep cannot tell",
        }[self.verdict]
        text = (
            f"{what}: freezing {_names.frozen_name(self.advised)} ({self._how(self.advised)}) against "
            f"{_names.frozen_name(self.rival)} ({self._how(self.rival)}) is {points} on {d.images} test images "
            f"in {d.groups} groups, {self.seeds} seed{'s' if self.seeds > 1 else ''}."
        )
        if self.verdict == "cannot tell" and self.test_images_needed:
            text += f" About {self.test_images_needed} test images would settle it."
        if d.few:
            text += f" Too few to rely on the interval: {d.few}."
        if not self.advice_made_first:
            text += " Note: the advice was made after the sweep began, so it is no blind test of it."
        if self.cheapest["name"] != self.best["name"]:
            text += (
                f" The best cell on validation is {self.best['name']}; the cheapest whose interval against it reaches 0 is "
                f"{self.cheapest['name']}{self._gap()}."
            )
        return text

    def _how(self, depth: int) -> str:
        rate = self.learning_rates.get(depth)
        return self.optimizers[depth] + (f" at {rate:g}" if rate is not None else "")

    def _gap(self) -> str:
        cell = self.cheapest
        if "difference" not in cell:
            return ""
        points = [f"{100 * cell[key]:+.1f}" for key in ("difference", "diff_low", "diff_high")]
        return f" ({points[0]} points [{points[1]}, {points[2]}])"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The difference with its interval, against zero and the margin."""
        return charts.difference(
            self.difference.difference, *self.interval, margin=self.margin, label=self.verdict, ax=ax
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row: the verdict and what it rests on."""
        row = dataclasses.asdict(self.difference) | {
            "verdict": self.verdict,
            "advised": self.advised,
            "rival": self.rival,
            "test_images_needed": self.test_images_needed,
        }
        return pd.DataFrame([row])

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self.verdict)}</b><p>{html.escape(self.sentence())}</p>"


def check_advice(advice: FreezeAdvice, sweep: SweepTable) -> AdviceCheck:
    """Whether the sweep confirms the advice, contradicts it, or cannot tell.

    For each depth the optimizer that is best on validation; d = test score of the advised depth minus that of the
    other depth best on validation, seed-mean, with its 95 % paired interval over groups. Confirmed: lower bound above
    -1 point. Contradicted: upper bound below 0. Raises DataError where advice and sweep are of different data or
    weights, ConfigError where the sweep lacks the advised depth or any other.
    """
    if (advice.fingerprint, advice.weights) != (sweep.fingerprint, sweep.weights):
        raise DataError("The advice and the sweep are of different data or weights: make both from the same.")
    chosen = sweep.complete.loc[sweep.complete.groupby("freeze_through")["validation"].idxmax()].set_index(
        "freeze_through"
    )
    if not can_check(advice, sweep):
        raise ConfigError(
            f"The sweep must hold the advised depth {advice.freeze_through} and another. "
            f"It has: {', '.join(map(str, chosen.index))}. Add depths with 'xaitune sweep-freeze --freeze-through 1-5'."
        )
    rival = int(chosen["validation"].drop(advice.freeze_through).idxmax())
    depths = (advice.freeze_through, rival)
    optimizers = {d: str(chosen.loc[d, "optimizer"]) for d in depths}
    predicted, seeds, true, groups = {}, {}, None, None
    for depth in depths:
        part = sweep.cell_runs(depth, optimizers[depth])
        seeds[depth] = part["seed"].astype(int).tolist()
        tables = [sweep.predictions(n).query("split == 'test'") for n in part["name"]]
        number = {name: i for i, name in enumerate(sweep.class_names)}
        predicted[depth] = np.stack([t["predicted"].map(number).to_numpy(np.int64) for t in tables])
        true, groups = tables[0]["true"].map(number).to_numpy(np.int64), tables[0]["group"].to_numpy(str)
    gap = comparisons.paired_bootstrap(predicted[depths[0]], predicted[depths[1]], true, groups, sweep.metric)
    right = {depth: dict(zip(seeds[depth], predicted[depth] == true, strict=True)) for depth in depths}
    verdict = verdict_of(gap.difference, gap.low, gap.high)
    needed = images_needed(gap.difference, gap.half_width, gap.images) if verdict == "cannot tell" else None
    return AdviceCheck(
        verdict=verdict,
        advised=advice.freeze_through,
        rival=rival,
        optimizers=optimizers,
        difference=gap,
        margin=MARGIN,
        metric=sweep.metric,
        mcnemar=tuple(
            {
                "seed": seed,
                "advised_only": int((right[depths[0]][seed] & ~right[rival][seed]).sum()),
                "rival_only": int((right[rival][seed] & ~right[depths[0]][seed]).sum()),
                "p": comparisons.mcnemar_exact(right[depths[0]][seed], right[rival][seed]),
            }
            for seed in sorted(set(seeds[depths[0]]) & set(seeds[rival]))
        ),
        learning_rates={d: float(chosen.loc[d, "learning_rate"]) for d in depths if chosen.loc[d, "rates"] > 1},
        best=sweep.best.to_dict(),
        cheapest=sweep.equals.iloc[0].to_dict(),
        test_images_needed=needed,
        seeds=int(sweep.cells["seeds"].min()),
        advice_made_first=advice.created <= _files.read_json(sweep.path / "config.json")["started"],
    )


def can_check(advice: FreezeAdvice, sweep: SweepTable) -> bool:
    """Whether the sweep holds the advised depth and another."""
    depths = set(sweep.complete["freeze_through"])
    return advice.freeze_through in depths and len(depths) > 1


def save_check(check: AdviceCheck, folder: Path) -> None:
    """Write check.json into the sweep's folder."""
    keep = dataclasses.asdict(check)
    _files.write_json(
        folder / "check.json", {**json.loads(json.dumps(keep, default=_plain)), "sentence": check.sentence()}
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def advice_for(folder: Path) -> Path | None:
    """The newest advice on a sweep's data and weights, beside the sweep."""
    identity = _files.read_json(folder / "config.json")["identity"]
    return find_advice(folder.parent, identity["fingerprint"], identity["weights"])
