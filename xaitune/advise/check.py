"""The check of the advice: whether a sweep confirms the advised depth, with the figures and a sentence that says so."""

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

    `difference` is the advised depth's test score minus the rival's, with its 95 % interval over groups. The rival is
    the other depth that is best on validation; each depth has the optimizer that is best on validation.
    `learning_rates`: depth -> the rate that is best on validation, if several were tried. `mcnemar`: for each seed, the
    number of test images that only the advised depth classifies correctly (`advised_only`), the number that only the
    rival does (`rival_only`), and the exact McNemar p: the chance of a split at least as uneven if both were correct
    equally often.
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
        points = f"{d.difference * 100:+.1f} points [{d.low * 100:+.1f}, {d.high * 100:+.1f}]"
        verdict = {
            "confirmed": "The sweep confirms the advice",
            "contradicted": "The sweep contradicts the advice",
            "cannot tell": "The sweep cannot tell whether the advice is right",
        }[self.verdict]
        text = (
            f"{verdict}: freezing {self._described(self.advised)} instead of {self._described(self.rival)} changes "
            f"{metric} by {points}, on {d.images} test images in {d.groups} groups, with {self.seeds} "
            f"seed{'s' if self.seeds > 1 else ''}."
        )
        if self.verdict == "cannot tell" and self.test_images_needed:
            text += f" About {self.test_images_needed} test images would settle it."
        if d.few:
            text += f" There is too little data to rely on the interval: only {d.few}."
        if not self.advice_made_first:
            text += " Note: the advice was made after the sweep began, so this is not a blind test."
        if self.cheapest["name"] != self.best["name"]:
            text += (
                f" The best cell on validation is {self.best['name']}; the cheapest cell that cannot be told apart from it "
                f"is {self.cheapest['name']}{self._cheapest_difference()}."
            )
        return text

    def _described(self, depth: int) -> str:
        """'Block 1-3 (nag)', or 'Block 1-3 (nag at 0.001)' if several learning rates were tried."""
        rate = self.learning_rates.get(depth)
        rate_text = f" at {rate:g}" if rate is not None else ""
        return f"{_names.frozen_name(depth)} ({self.optimizers[depth]}{rate_text})"

    def _cheapest_difference(self) -> str:
        """' (-0.3 points [-1.0, +0.4])': the cheapest cell's difference from the best one, if known."""
        cell = self.cheapest
        if "difference" not in cell:
            return ""
        difference, low, high = (f"{100 * cell[key]:+.1f}" for key in ("difference", "diff_low", "diff_high"))
        return f" ({difference} points [{low}, {high}])"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the difference with its interval, against zero and the margin."""
        return charts.difference(
            self.difference.difference, *self.interval, margin=self.margin, label=self.verdict, ax=ax
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row: the verdict and the figures behind it."""
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

    Each depth is represented by the optimizer that is best on validation. The difference is the test score of the
    advised depth minus that of the other depth that is best on validation, both averaged over the seeds, with its 95 %
    paired interval over groups. Confirmed: lower bound above -1 point. Contradicted: upper bound below 0. Raises
    DataError if advice and sweep come from different data or weights, ConfigError if the sweep lacks the advised depth
    or any other.

    Examples:
        >>> check_advice(load_advice("runs/advice"), load_sweep("runs/sweep")).verdict  # doctest: +SKIP
        'confirmed'
    """
    if (advice.fingerprint, advice.weights) != (sweep.fingerprint, sweep.weights):
        raise DataError("The advice and the sweep come from different data or weights. Make both from the same.")
    best_of_depth = sweep.complete.loc[sweep.complete.groupby("freeze_through")["validation"].idxmax()]
    best_of_depth = best_of_depth.set_index("freeze_through")
    if not can_check(advice, sweep):
        raise ConfigError(
            f"The sweep must contain the advised depth {advice.freeze_through} and at least one other. It contains: "
            f"{', '.join(map(str, best_of_depth.index))}. Add depths with 'xaitune sweep-freeze --freeze-through 1-5'."
        )
    advised, rival = advice.freeze_through, int(best_of_depth["validation"].drop(advice.freeze_through).idxmax())
    optimizers = {depth: str(best_of_depth.loc[depth, "optimizer"]) for depth in (advised, rival)}
    number = {name: i for i, name in enumerate(sweep.class_names)}
    predicted, seeds, true, groups = {}, {}, None, None
    for depth, optimizer in optimizers.items():
        runs = sweep.cell_runs(depth, optimizer)
        seeds[depth] = runs["seed"].astype(int).tolist()
        tables = [sweep.predictions(name).query("split == 'test'") for name in runs["name"]]
        predicted[depth] = np.stack([table["predicted"].map(number).to_numpy(np.int64) for table in tables])
        true, groups = tables[0]["true"].map(number).to_numpy(np.int64), tables[0]["group"].to_numpy(str)
    gap = comparisons.paired_bootstrap(predicted[advised], predicted[rival], true, groups, sweep.metric)
    correct = {depth: dict(zip(seeds[depth], predicted[depth] == true, strict=True)) for depth in (advised, rival)}
    shared_seeds = sorted(set(seeds[advised]) & set(seeds[rival]))
    verdict = verdict_of(gap.difference, gap.low, gap.high)
    needed = images_needed(gap.difference, gap.half_width, gap.images) if verdict == "cannot tell" else None
    return AdviceCheck(
        verdict=verdict,
        advised=advised,
        rival=rival,
        optimizers=optimizers,
        difference=gap,
        margin=MARGIN,
        metric=sweep.metric,
        mcnemar=tuple(_mcnemar_row(seed, correct[advised][seed], correct[rival][seed]) for seed in shared_seeds),
        learning_rates={
            depth: float(best_of_depth.loc[depth, "learning_rate"])
            for depth in (advised, rival)
            if best_of_depth.loc[depth, "rates"] > 1
        },
        best=sweep.best.to_dict(),
        cheapest=sweep.equals.iloc[0].to_dict(),
        test_images_needed=needed,
        seeds=int(sweep.cells["seeds"].min()),
        advice_made_first=advice.created <= _files.read_json(sweep.path / "config.json")["started"],
    )


def _mcnemar_row(seed: int, advised: np.ndarray, rival: np.ndarray) -> dict[str, Any]:
    """An entry of `AdviceCheck.mcnemar`; `advised` and `rival` are (images,) bool: True where the class is correct."""
    return {
        "seed": seed,
        "advised_only": int((advised & ~rival).sum()),
        "rival_only": int((rival & ~advised).sum()),
        "p": comparisons.mcnemar_exact(advised, rival),
    }


def can_check(advice: FreezeAdvice, sweep: SweepTable) -> bool:
    """Whether the sweep contains the advised depth and at least one other."""
    depths = set(sweep.complete["freeze_through"])
    return advice.freeze_through in depths and len(depths) > 1


def save_check(check: AdviceCheck, folder: Path) -> None:
    """Write check.json into the sweep's folder."""
    values = json.loads(json.dumps(dataclasses.asdict(check), default=_plain))
    _files.write_json(folder / "check.json", {**values, "sentence": check.sentence()})


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python number, anything else as text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def advice_for(folder: Path) -> Path | None:
    """The newest advice on a sweep's data and weights, in the folder that contains the sweep."""
    identity = _files.read_json(folder / "config.json")["identity"]
    return find_advice(folder.parent, identity["fingerprint"], identity["weights"])
