"""The leak premium: how much higher a score looks where photographs of one thing are in training and test."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._files import read_json, write_json
from xaitune._names import gap_text, metric_name, plural
from xaitune._progress import Progress
from xaitune.advise.held_out import HeldOut
from xaitune.errors import RunError
from xaitune.stats.comparisons import Difference, PairedScores

FILE = "leak.json"
SEEN, UNSEEN = "groups divided", "groups kept together"


@dataclasses.dataclass(frozen=True)
class LeakPremium:
    """The score of a linear head on frozen features where folds divide groups (`divided`), minus that where they do not (`kept`).

    Both heads are fitted by the same rule and answer on all images, each image by a head that has not seen it. `premium` has
    the interval of the difference over groups. `metric`: of the scores. `fingerprint`: of the data.
    """

    divided: float
    kept: float
    premium: Difference
    metric: str
    fingerprint: str

    @property
    def sentence(self) -> str:
        """The premium and what it rests on, in words."""
        scores = f"{metric_name(self.metric)} {self.divided:.3f} instead of {self.kept:.3f}"
        text = (
            f"With folds that divide groups, a linear head on frozen features scores {scores}, "
            f"{gap_text(self.premium, self.metric, 'what it is worth on things that it has not seen')}, measured on "
            f"{plural(self.premium.images, 'image')} in {plural(self.premium.groups, 'group')}."
        )
        return text + (f" Do not rely on the interval: only {self.premium.few}." if self.premium.few else "")


def leak_premium(
    held_out: HeldOut, probabilities: np.ndarray, fingerprint: str, progress: Progress | None = None
) -> LeakPremium | None:
    """What a split that ignores groups would seem to gain; None where every image is a group of its own.

    `held_out`: the heads whose folds keep groups together, and `probabilities` (n, classes) what they give. The same heads are
    fitted again with folds, and folds within these, of single images.
    """
    labels, groups = held_out.labels, held_out.groups
    if len(np.unique(groups)) == len(labels):
        return None
    single = HeldOut(held_out.features, labels, np.arange(len(labels)), held_out.num_classes, held_out.metric)
    scores = PairedScores(labels, groups, held_out.metric)
    scores.add(UNSEEN, probabilities.argmax(axis=1))
    scores.add(SEEN, single.probabilities(progress).argmax(axis=1))
    divided, kept = (float(scores.models[name].seeds.mean()) for name in (SEEN, UNSEEN))
    return LeakPremium(divided, kept, scores.difference(SEEN, UNSEEN), held_out.metric, fingerprint)


def save_leak(leak: LeakPremium, folder: Path) -> Path:
    """Write leak.json; returns its path."""
    write_json(folder / FILE, dataclasses.asdict(leak) | {"sentence": leak.sentence})
    return folder / FILE


def load_leak(folder: Path, fingerprint: str) -> LeakPremium | None:
    """The premium in a folder, of the data with that fingerprint; None where there is none."""
    try:
        values: dict[str, Any] = read_json(folder / FILE)
        values.pop("sentence")
        leak = LeakPremium(**values | {"premium": Difference(**values["premium"])})
    except (RunError, KeyError, TypeError):
        return None
    return leak if leak.fingerprint == fingerprint else None
