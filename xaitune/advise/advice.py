"""The advice: how many blocks to freeze, its reasons, and its folder on disk."""

import dataclasses
import html
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xaitune import _files, _names
from xaitune.errors import RunError
from xaitune.plots import charts

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, eq=False)
class FreezeAdvice:
    """The recommended `freeze_through` with its reasons, based on validation images only.

    `evidence`: one row per block, with the mean of each measure and the score that decides. `confidence`: the share of
    resamples, over groups and head seeds, that choose the same block. `votes`: that share for every block (1..5).
    """

    freeze_through: int
    confidence: float
    evidence: pd.DataFrame
    votes: dict[int, float]
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
    path: Path | None = None

    @property
    def ranking(self) -> tuple[int, ...]:
        """The blocks ordered by how often they were chosen, then by score."""
        score = self.evidence["score"]
        return tuple(sorted(self.votes, key=lambda b: (-self.votes[b], -float(score.get(b, -np.inf)))))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the score of each block with its interval; the advised block is marked."""
        return charts.block_evidence(self.evidence, self.freeze_through, self.votes, measure=self.measure, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """The evidence: one row per block."""
        return self.evidence

    def _repr_html_(self) -> str:
        return (
            f"<b>Freeze {_names.frozen_name(self.freeze_through)}</b> (confidence {self.confidence:.0%})"
            f"<p>{html.escape(self.reasons)}</p>" + self.evidence.round(3).to_html()
        )


def load_advice(path: str | Path) -> FreezeAdvice:
    """Load advice from its folder. Raises RunError if it is missing or damaged.

    Examples:
        >>> load_advice("runs/advice").freeze_through  # doctest: +SKIP
        3
    """
    folder = Path(path)
    values = _files.read_json(folder / "advice.json")
    try:
        values["votes"] = {int(k): v for k, v in values["votes"].items()}
        values["image_size"] = tuple(values["image_size"])
        evidence = pd.read_csv(folder / "evidence.csv", index_col="block")
        return FreezeAdvice(**values, evidence=evidence, path=folder)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RunError(
            f"{folder} is damaged ({error}). Make the advice again with 'xaitune advise --overwrite'."
        ) from None


def find_advice(runs_dir: str | Path, fingerprint: str | None = None, weights: str | None = None) -> Path | None:
    """The newest advice under `runs_dir`; with a fingerprint or a digest of weights, the newest on those."""
    matches = []
    for file in Path(runs_dir).glob("*/advice.json"):
        values = _files.read_json(file)
        if fingerprint in (None, values["fingerprint"]) and weights in (None, values["weights"]):
            matches.append((values["created"], file.parent))
    return max(matches)[1] if matches else None
