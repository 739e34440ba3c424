"""The advice: how many blocks to freeze, its reasons, and its folder on disk."""

import dataclasses
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xaitune import _files, _names
from xaitune.advise.candidates import candidate_name
from xaitune.errors import RunError
from xaitune.plots import block_charts

if TYPE_CHECKING:
    from matplotlib.axes import Axes


RETRAIN = {  # what drift says of the model, by `Drift.retrain`
    "yes": "Train the model again.",
    "drifted": "The images have drifted, but the model is not shown to be worse on them.",
    "no": "Keep the model: no drift was found.",
    "unknown": "Too few images to tell drift.",
}

MEASURES = {  # a column of the evidence -> what it is
    "regret": "how many points below the best candidate, linear heads included, it is expected to score",
    "near": "chance of being within 1 point of the best candidate",
    "linear": "held-out score of a linear approximation of the training",
    "short": "validation score after a few epochs of training",
    "cost": "the computing that training takes, as a share of that of training all blocks",
}
SHOWN_AS = {"regret": lambda share: f"{100 * share:.1f}", "near": "{:.0%}".format, "cost": "{:.0%}".format}


@dataclasses.dataclass(frozen=True, eq=False)
class FreezeAdvice:
    """The recommended `freeze_through` with its reasons; no test image takes part, but in a race over `folds`.

    `evidence`: one row per candidate (a depth '0' to '5', or a linear head on frozen features) with its signals, its
    expected `score` relative to the mean of all and the interval of that, and its expected `regret`. `confidence`: the
    chance that the advised depth is within a point of the best one. `votes`: candidate -> chance of being the best.
    `frozen`: the linear head that is expected to do as well as any training, '' without one. `drift`: how the images
    differ from those of a model that is to be trained again, in words, '' without such a model; `retrain`: whether it should
    be (see `Drift.retrain`). `task`: of config.choices.TASKS. `folds`: those of the race, in which every image validates a fold,
    also one that is a test image of the split; None where train and validation images of one split were looked at.

    With method 'heatmap' there is one row per block (1..5), with the mean of each measure and the score that decides;
    `confidence` is the share of resamples, over groups and head seeds, that choose the same block, and `votes` that share
    for every block.
    """

    freeze_through: int
    confidence: float
    evidence: pd.DataFrame
    votes: dict[Any, float]
    reasons: str
    method: str
    measure: str
    fingerprint: str
    weights: str
    image_size: tuple[int, int]
    images: int
    groups: int
    model_calls: int
    created: str
    frozen: str = ""
    drift: str = ""
    retrain: str = ""
    task: str = "classify"
    folds: int | None = None
    path: Path | None = None

    @property
    def ranking(self) -> tuple[Any, ...]:
        """The candidates ordered by how often they were chosen, then by score."""
        score = self.evidence["score"]
        return tuple(sorted(self.votes, key=lambda b: (-self.votes[b], -float(score.get(b, -np.inf)))))

    @property
    def headline(self) -> str:
        """What is advised, in a sentence."""
        depth, sure = _names.frozen_name(self.freeze_through), f"(confidence {self.confidence:.0%})."
        if self.drift:
            trained = f"with {depth} frozen" if self.freeze_through else "with all blocks trained"
            if self.frozen:
                trained = f"by a {candidate_name(self.frozen)}; if blocks are trained, {trained}"
            said = RETRAIN[self.retrain]
            start = said.rstrip(".") if self.retrain == "yes" else f"{said} If you train the model again, do it"
            return f"{start} {trained} {sure}"
        if self.frozen:
            trained = f"freeze {depth}" if self.freeze_through else "train all of them"
            near = f" (confidence {self.evidence.loc[self.frozen, 'near']:.0%})" if "near" in self.evidence else ""
            head = candidate_name(self.frozen)
            return f"Train no block: a {head} is enough{near}. If you do train blocks, {trained} {sure}"
        return f"Freeze {depth} {sure}" if self.freeze_through else f"Freeze nothing, train all blocks {sure}"

    @property
    def text(self) -> str:
        """The drift, where there is a model to be trained again, and the reasons."""
        return f"{self.drift} {self.reasons}".strip()

    @property
    def figures(self) -> list[str]:
        """The columns of the evidence to show beside the score; evidence.csv has all of them."""
        if self.method == "heatmap":
            return [name for name in self.evidence if name not in ("score", "low", "high")]
        return [name for name in ("regret", "near", "linear", "short", "cost") if name in self.evidence]

    @property
    def meanings(self) -> str:
        """What the `figures` are, in words."""
        return "; ".join(f"{name}: {MEASURES[name]}" for name in self.figures if name in MEASURES)

    @property
    def score_meaning(self) -> str:
        """What the score in `table` is."""
        return self.measure if self.method == "heatmap" else f"{self.measure}, in points"

    def table(self) -> pd.DataFrame:
        """The evidence as text: one row per candidate, its score with the interval, and its `figures`.

        As in the reasons, differences of scores are in points, and shares in percent.
        """
        rows = self.evidence
        unit, form = (1, ".3f") if self.method == "heatmap" else (100, "+.1f")

        def score(row: pd.Series) -> str:
            value, low, high = (f"{unit * row[name]:{form}}" for name in ("score", "low", "high"))
            return value if np.isnan(row["low"]) else f"{value} [{low}, {high}]"

        shown = {"score [95 % interval]": rows.apply(score, axis=1)}
        for name in self.figures:
            shown[name] = rows[name].map(SHOWN_AS.get(name, "{:.3f}".format), na_action="ignore").fillna("")
        return pd.DataFrame(shown).rename(index=candidate_name).rename_axis(index=None)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the score of each candidate with its interval; the advised one is marked."""
        if self.method == "heatmap":
            return block_charts.block_evidence(
                self.evidence, self.freeze_through, self.votes, measure=self.measure, ax=ax
            )
        labels = [candidate_name(candidate) for candidate in self.evidence.index]
        depth = str(self.freeze_through)
        return block_charts.block_evidence(
            self.evidence,
            self.frozen or depth,
            self.votes,
            labels,
            measure=self.measure,
            share="best",
            otherwise=depth if self.frozen else None,
            ax=ax,
        )

    def to_dataframe(self) -> pd.DataFrame:
        """The evidence: one row per candidate."""
        return self.evidence

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self.headline)}</b><p>{html.escape(self.text)}</p>" + self.table().to_html()


def load_advice(path: str | Path) -> FreezeAdvice:
    """Load advice from its folder. Raises RunError if it is missing or damaged.

    Examples:
        >>> load_advice("runs/advice").freeze_through  # doctest: +SKIP
        3
    """
    folder = Path(path)
    values = _files.read_json(folder / "advice.json")
    try:
        values["image_size"] = tuple(values["image_size"])
        if values["method"] == "heatmap":
            values["votes"] = {int(k): v for k, v in values["votes"].items()}
            evidence = pd.read_csv(folder / "evidence.csv", index_col="block")
        else:
            evidence = pd.read_csv(folder / "evidence.csv", dtype={"candidate": str}).set_index("candidate")
        return FreezeAdvice(**values, evidence=evidence, path=folder)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RunError(
            f"{folder} is damaged ({error}). Make the advice again with 'xaitune advise --overwrite'."
        ) from None


def find_advice(
    runs_dir: str | Path,
    fingerprint: str | None = None,
    weights: str | None = None,
    task: str = "classify",
    folds: int | None = None,
) -> Path | None:
    """The newest advice under `runs_dir` on a task; with a fingerprint or a digest of weights, the newest on those.

    `folds`: those of the sweep. Advice made with folds has seen the test images of every other split, so it is for a sweep
    over the same folds alone.
    """
    matches = []
    for file in Path(runs_dir).glob("*/advice.json"):
        values = _files.read_json(file)
        same = fingerprint in (None, values["fingerprint"]) and weights in (None, values["weights"])
        if same and values.get("task", "classify") == task and values.get("folds") in (None, folds):
            matches.append((values["created"], file.parent))
    return max(matches)[1] if matches else None
