"""The check of the advice: whether a sweep confirms the advised depth, with the figures and a sentence that says so."""

import dataclasses
import html
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xaitune import _files, _names
from xaitune.advise.advice import FreezeAdvice, find_advice, load_advice
from xaitune.comparison.so_far import so_far_text
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

    `difference` is the advised depth's test score minus the rival's, with its 95 % interval over groups and seeds. The
    rival is the other depth that is best on validation; each depth has the optimizer that is best on validation.
    `lower_bounds`: other depth -> lower bound of the advised depth's score minus its, all of which hold together in
    97.5 %. `learning_rates`: depth -> the rate that is best on validation, if several were tried. `mcnemar`: for each
    seed, the number of test images that only the advised depth classifies correctly (`advised_only`), the number that
    only the rival does (`rival_only`), and the exact McNemar p: the chance of a split at least as uneven if both were
    correct equally often. `enough`: the cheapest cell that is shown to be within the margin of every other one, None
    without one. `frozen`: whether any block needs training, in a sentence. `so_far`: how many runs have ended, if some have not.
    """

    verdict: str
    advised: int
    rival: int
    optimizers: dict[int, str]
    difference: Difference
    lower_bounds: dict[int, float]
    margin: float
    metric: str
    best: dict[str, Any]
    enough: dict[str, Any] | None
    test_images_needed: int | None
    advice_made_first: bool = True
    learning_rates: dict[int, float] = dataclasses.field(default_factory=dict)
    mcnemar: tuple[dict[str, Any], ...] = ()
    frozen: str = ""
    so_far: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        return self.difference.low, self.difference.high

    @property
    def seeds(self) -> int:
        """How many seeds each depth was trained with."""
        return self.difference.seeds

    @property
    def lowest(self) -> tuple[int, float]:
        """(other depth, lower bound) of the lowest of the `lower_bounds`."""
        depth = min(self.lower_bounds, key=lambda d: self.lower_bounds[d])
        return depth, self.lower_bounds[depth]

    def sentence(self) -> str:
        """The verdict, what it rests on, and what is good enough, in a few plain sentences."""
        return " ".join(text for _, text in self.paragraphs)

    @property
    def paragraphs(self) -> tuple[tuple[str, str], ...]:
        """(heading, text) of the answer and of what there is to know about it; the answer has no heading."""
        parts = [
            ("", self._answer()),
            ("How sure that is", self._basis()),
            ("Where training time matters", self._enough_sentence()),
            ("Without training", self.frozen),
        ]
        return tuple((heading, text) for heading, text in parts if text)

    def _answer(self) -> str:
        """The verdict and the difference that it rests on."""
        margin = f"{self.margin * 100:g} point"
        advised = f"{_names.frozen_name(self.advised)}{self._trained(self.advised)}"
        other = f"{_as_choice(self.rival)}{self._trained(self.rival)}, the best of the others on validation"
        score = f"It scored {_names.gap_text(self.difference, self.metric, other)}."
        depth, bound = self.lowest
        possible = f"by these figures {_as_choice(depth)} could be {_names.points(max(-bound, 0))} better"
        if not math.isfinite(bound):
            possible = "there are too few groups to say how much better one could be"
        if self.verdict == "confirmed":
            return (
                f"The sweep confirms the advice to freeze {advised}: no other depth is more than {margin} of "
                f"{_names.metric_name(self.metric)} better ({possible}). {score}"
            )
        if self.verdict == "contradicted":
            return f"The sweep contradicts the advice to freeze {advised}. {score}"
        return (
            f"The sweep cannot tell whether the advice to freeze {advised} is right. {score} It would be confirmed if no other "
            f"depth could be more than {margin} better; {possible}."
        )

    def _basis(self) -> str:
        """How many images, groups and seeds there are, and what they can say."""
        d = self.difference
        text = (
            f"Measured on {_names.plural(d.images, 'test image')} in {_names.plural(d.groups, 'group')}, with "
            f"{_names.plural(d.seeds, 'seed')}"
        )
        parts = [text + (": this is about these trained models, not about other trainings." if d.seeds == 1 else ".")]
        if self.so_far:
            parts.insert(0, f"The sweep is not finished: {self.so_far}, and the others may change the verdict.")
        if d.few:
            parts.append(f"Do not rely on the interval: there is too little data, only {d.few}.")
        if self.verdict == "cannot tell" and self.test_images_needed:
            parts.append(
                f"If both depths are equally good, about {self.test_images_needed:,} test images would be needed to show it "
                f"to within {self.margin * 100:g} point."
            )
        if not self.advice_made_first:
            parts.append("Note: the advice was made after the sweep began, so this is not a blind test.")
        return " ".join(parts)

    def _enough_sentence(self) -> str:
        """Which combination to take where training time matters."""
        margin = f"{self.margin * 100:g} point"
        if self.enough is None:
            return (
                f"No combination of a depth and an optimizer is shown to be within {margin} of all the others, so no cheaper "
                "one can be recommended."
            )
        name = _names.combination_name(self.enough["freeze_through"], self.enough["optimizer"])
        return f"The cheapest combination that is shown to be within {margin} of all the others is {name}."

    def _trained(self, depth: int) -> str:
        """How a depth was trained, after its name: ' (nag)', or ' (nag at 0.001)' if several learning rates were tried."""
        rate = self.learning_rates.get(depth)
        rate_text = f" at {rate:g}" if rate is not None else ""
        return f" ({self.optimizers[depth]}{rate_text})"

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
        paragraphs = (f"<p>{f'<b>{h}.</b> ' if h else ''}{html.escape(text)}</p>" for h, text in self.paragraphs)
        return f"<b>{html.escape(self.verdict)}</b>{''.join(paragraphs)}"


def _as_choice(depth: int) -> str:
    """A depth as the subject of a sentence, in which 'nothing' would be misread."""
    return _names.frozen_name(depth) if depth else "freezing nothing"


def check_advice(advice: FreezeAdvice, sweep: SweepTable) -> AdviceCheck:
    """Whether the sweep confirms the advice, contradicts it, or cannot tell.

    Each depth is represented by the optimizer and rate that are best on validation; scores are means over the seeds.
    Confirmed: every lower bound of the advised depth's score minus another's lies above -1 point, all of them together
    in 97.5 %. Contradicted: the upper bound of its difference from the other depth that is best on validation lies
    below 0. Otherwise, and wherever too little data makes the interval unreliable, it cannot tell. Raises DataError if
    advice and sweep come from different data or weights, ConfigError if the sweep lacks the advised depth or any other.

    Examples:
        >>> check_advice(load_advice("runs/advice"), load_sweep("runs/sweep")).verdict  # doctest: +SKIP
        'confirmed'
    """
    if (advice.fingerprint, advice.weights) != (sweep.fingerprint, sweep.weights):
        raise DataError("The advice and the sweep come from different data or weights. Make both from the same.")
    best_of_depth = sweep.complete.loc[sweep.complete.groupby("freeze_through")["validation"].idxmax()]
    best_of_depth = best_of_depth.set_index("freeze_through")
    if not can_check(advice, sweep):
        unfinished = so_far_text(sweep.path)
        add = f"Add it with 'xaitune sweep-freeze --freeze-through {advice.freeze_through}' and the sweep's other options."
        raise ConfigError(
            f"The sweep must contain the advised depth {advice.freeze_through} and at least one other. It contains: "
            f"{', '.join(map(str, best_of_depth.index))}. "
            + (f"It is not finished: {unfinished}. Run the same sweep-freeze again." if unfinished else add)
        )
    advised, rival = advice.freeze_through, int(best_of_depth["validation"].drop(advice.freeze_through).idxmax())
    scores = sweep.paired(best_of_depth.reset_index())
    names = best_of_depth["name"].to_dict()  # depth -> cell
    gap, bounds = scores.difference(names[advised], names[rival]), scores.lower_bounds(names[advised])
    lower_bounds = {int(depth): bounds[name] for depth, name in names.items() if depth != advised}
    verdict = verdict_of(min(lower_bounds.values()), gap.high, reliable=gap.reliable)
    tried = best_of_depth["learning_rate"][best_of_depth["rates"] > 1]
    enough = sweep.enough
    return AdviceCheck(
        verdict=verdict,
        advised=advised,
        rival=rival,
        optimizers={int(depth): str(name) for depth, name in best_of_depth["optimizer"].items()},
        difference=gap,
        lower_bounds=lower_bounds,
        margin=MARGIN,
        metric=sweep.metric,
        mcnemar=_mcnemar_rows(sweep, best_of_depth, advised, rival),
        learning_rates={int(depth): float(rate) for depth, rate in tried.items()},
        best=sweep.best.to_dict(),
        enough=None if enough is None else enough.to_dict(),
        frozen=sweep.frozen_sentence(),
        so_far=so_far_text(sweep.path),
        test_images_needed=images_needed(gap.group_error, gap.seed_error, gap.images)
        if verdict == "cannot tell"
        else None,
        advice_made_first=advice.created <= _files.read_json(sweep.path / "config.json").get("started", ""),
    )


def _mcnemar_rows(sweep: SweepTable, cells: pd.DataFrame, advised: int, rival: int) -> tuple[dict[str, Any], ...]:
    """`AdviceCheck.mcnemar`: one entry for each seed that both depths have."""
    correct = {}
    for depth in (advised, rival):
        runs = sweep.cell_runs(depth, cells.loc[depth, "optimizer"])
        tables = {int(seed): sweep.predictions(name) for seed, name in zip(runs["seed"], runs["name"], strict=True)}
        tests = {seed: table.query("split == 'test'") for seed, table in tables.items()}
        correct[depth] = {seed: (test["true"] == test["predicted"]).to_numpy() for seed, test in tests.items()}
    seeds = sorted(set(correct[advised]) & set(correct[rival]))
    return tuple(_mcnemar_row(seed, correct[advised][seed], correct[rival][seed]) for seed in seeds)


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
    task, folds = identity.get("task", "classify"), identity.get("folds")
    return find_advice(folder.parent, identity["fingerprint"], identity["weights"], task, folds)


def own_check(sweep: SweepTable) -> AdviceCheck | None:
    """The check of the newest advice on a sweep's data; None where there is none that the sweep can check."""
    place = advice_for(sweep.path)
    advice = load_advice(place) if place else None
    return check_advice(advice, sweep) if advice is not None and can_check(advice, sweep) else None
