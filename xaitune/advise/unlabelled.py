"""Drift without labels: new images against a run's own, the classes that it predicts, and which images to label first."""

import dataclasses
import html
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from xaitune import _files, _machine
from xaitune._progress import Notes, Progress, shown_progress
from xaitune.advise.advice import RETRAIN
from xaitune.advise.drift import (
    MAPPED_IMAGES,
    MOST_IMAGES,
    SIGNIFICANT,
    Drift,
    FeatureDrift,
    comparable_data,
    compare_maps,
    mean_grey,
    measure_drift,
    seen_by,
    unseen_images,
)
from xaitune.advise.exchange import two_samples
from xaitune.config.settings import DataConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.data.unlabelled import is_unlabelled, unlabelled_images
from xaitune.errors import ConfigError
from xaitune.plots import figures
from xaitune.plots.block_charts import block_drift
from xaitune.training.folder import choose_folder, locked, start_folder
from xaitune.training.run import Run, load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANDOM = 100  # images to label that are drawn at random
TO_LABEL = "to_label.csv"
SAID = RETRAIN | {  # by `UnlabelledDrift.retrain`
    "drifted": "The images have drifted. That alone does not say that the model is worse on them.",
    "classes": "No drift was found, but the model predicts other classes than on its own images.",
}
NOT_TOLD = "The model predicts other classes than on its own images; whether these have drifted is not known."


@dataclasses.dataclass(frozen=True, eq=False)
class UnlabelledDrift(FeatureDrift):
    """How images without labels differ from the validation images of a run: one image of each group of both.

    Features are compared within each class that the model predicts. `predicted`: class -> its share of the predictions, `old`
    and `new`. `p_predicted`: the chance of shares as different as these, if they are the same; it and `p` are adjusted for
    being two tests. `to_label`: the new images in the order in which to label them: file, `why` ('random' or 'uncertain'),
    predicted class, its probability, group.
    """

    predicted: pd.DataFrame = dataclasses.field(kw_only=True)
    p_predicted: float = dataclasses.field(kw_only=True)
    to_label: pd.DataFrame = dataclasses.field(kw_only=True)
    chosen = f"One image of each group was compared, at most {MOST_IMAGES} of each set."

    @property
    def retrain(self) -> str:
        """What is known without labels.

        'drifted' if the features differ, 'classes' if only the predicted classes do, 'no' if neither does, and 'unknown' with
        too few groups to tell.
        """
        if self.p <= SIGNIFICANT:
            return "drifted"
        if self.p_predicted <= SIGNIFICANT:
            return "classes"
        return "no" if self.tells else "unknown"

    @property
    def headline(self) -> str:
        """What was found, and what it means, in a sentence or two."""
        return NOT_TOLD if self.retrain == "classes" and not self.tells else SAID[self.retrain]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot how far the features of each block differ, beside what is usual without drift."""
        return block_drift(self.blocks, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """The blocks: one row each."""
        return self.blocks

    def _repr_html_(self) -> str:
        tables = self.blocks.round(3).to_html() + self.predicted.round(2).to_html()
        return f"<b>{html.escape(self.headline)}</b><p>{html.escape(self.text)}</p>{tables}"

    def said_of_answers(self) -> list[str]:
        """Sentences on the predicted classes, and on what to label."""
        count = int((self.to_label["why"] == "random").sum())
        rest = len(self.to_label) - count
        advice = (
            "Only labels tell whether the accuracy has fallen, and how deep to train the model again. Label "
            f"{f'the first {count}' if rest else f'all {count}'} images of {TO_LABEL}, drawn at random, and give these alone, in "
            "class folders, to "
            "'xaitune advise': it compares the balanced accuracy, with its interval, which is wide where a class has few images."
        )
        if rest:
            advice += (
                f" The other {rest} follow, the least certain prediction first: a training learns most from those."
            )
        return [self._said_of_classes(), advice]

    def _said_of_classes(self) -> str:
        """A sentence on the shares of the predicted classes."""
        change = (self.predicted["new"] - self.predicted["old"]).abs()
        old, new = self.predicted.loc[change.idxmax()]
        if not math.isfinite(self.p_predicted):
            return f"Then as now all are predicted to be {self.predicted['new'].idxmax()}."
        more = "more than" if self.p_predicted <= SIGNIFICANT else "no more than"
        return (
            f"The shares of the predicted classes differ {more} by chance (p = {self.p_predicted:.3f}), most for "
            f"{change.idxmax()}: {old:.0%} then, {new:.0%} now."
        )


def drift_without_labels(
    run: Run | str | Path,
    images: ImageData | str | Path,
    *,
    groups: str | Path | None = None,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    progress: Progress | None = None,
    notes: Notes | None = None,
) -> UnlabelledDrift:
    """Compare the images in a folder without classes with the validation images of a run, and say which to label first.

    One image of each group of both is compared; without `groups` (a CSV or a regular expression, as in
    `ImageData.from_folder`) every new image is a group of its own. The images are read at the run's size. The folder
    `runs_dir`/drift receives drift.json, drift.csv, drift.png, predicted.csv and to_label.csv. Raises InputError and RunError.

    Examples:
        >>> drift_without_labels("runs/freeze3-nag-seed0", "new-images").headline  # doctest: +SKIP
        'Keep the model: no drift was found.'
    """
    run = run if isinstance(run, Run) else load_run(run)
    data = images if isinstance(images, ImageData) else unlabelled_images(config_for(run, images, groups))
    if not is_unlabelled(data):
        raise ConfigError(
            f"The images of {data.config.path} have labels ({', '.join(data.class_names)}), and here those without are compared: "
            "give a folder with images directly in it, or use advise_freeze(data, model=run)."
        )
    found = measured_in_folder(run, data, name, runs_dir, overwrite=overwrite, progress=progress, notes=notes)
    assert isinstance(found, UnlabelledDrift)
    return found


def measured_in_folder(
    run: Run,
    data: ImageData,
    name: str | None,
    runs_dir: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    notes: Notes | None = None,
) -> Drift | UnlabelledDrift:
    """The drift of images with labels or without, also written to the folder `runs_dir`/drift."""
    progress = shown_progress(progress, "drift")
    old = comparable_data(run, data)
    identity = {"fingerprint": data.fingerprint, "old": run.fingerprint, "run": str(run.path.resolve())}
    folder, note = choose_folder(Path(runs_dir), "drift", name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    measure = measure_unlabelled if is_unlabelled(data) else measure_drift
    drift = dataclasses.replace(measure(run, old, data, progress), path=folder)
    with locked(folder):
        start_folder(folder, "drift", {"identity": identity}, overwrite=overwrite)
        _write(drift, folder)
    return drift


def config_for(
    run: Run, folder: str | Path, groups: str | Path | None, given: dict[str, Any] | None = None
) -> DataConfig:
    """The settings with which a folder is read as a run's images were, but for those `given`."""
    read = {key: getattr(run.data_config, key) for key in ("image_size", "resize", "bit_depth")}
    return replace_fields(DataConfig(str(folder), groups=None if groups is None else str(groups)), read | (given or {}))


def measure_unlabelled(run: Run, old: ImageData, data: ImageData, progress: Progress | None = None) -> UnlabelledDrift:
    """Compare images without labels with the validation images of `old`, the run's own data set (see `comparable_data`)."""
    unseen = unseen_images(old, data)
    rows = {"old": one_of_each_group(old, old.indices("validation")), "new": one_of_each_group(data, unseen)}
    sets = {"old": (old, rows["old"]), "new": (data, rows["new"])}
    groups = {which: np.asarray(of.groups)[chosen] for which, (of, chosen) in sets.items()}
    features, logits = seen_by(run, sets, progress)
    predicted = {which: np.array(run.class_names)[rows.argmax(axis=1)] for which, rows in logits.items()}
    blocks = two_samples(features, predicted, groups)
    maps, measure = compare_maps(run, {which: (of, chosen[:MAPPED_IMAGES]) for which, (of, chosen) in sets.items()})
    counts = pd.DataFrame({which: pd.Series(names).value_counts() for which, names in predicted.items()})
    counts = counts.reindex(run.class_names).fillna(0)
    table = pd.DataFrame(
        {
            "file": [data.files[row] for row in rows["new"]],
            "predicted": predicted["new"],
            "probability": softmax(logits["new"].astype(float), axis=1).max(axis=1),
            "group": groups["new"],
        }
    )
    return UnlabelledDrift(
        blocks=blocks.assign(p=for_two_tests(blocks["p"])).join(maps),
        scores=pd.DataFrame(
            {
                **{key: [len(rows[which]) for which in rows] for key in ("images", "groups")},
                "of": [len(old.indices("validation")), len(unseen)],
            },
            index=list(rows),
        ),
        measure=measure,
        known=len(data) - len(unseen),
        run=str(run.path),
        grey=(mean_grey(*sets["old"]), mean_grey(*sets["new"])),
        predicted=(counts / counts.sum()).rename_axis("class"),
        p_predicted=float(for_two_tests(same_shares(predicted, groups))),
        to_label=images_to_label(table),
    )


def images_to_label(table: pd.DataFrame) -> pd.DataFrame:
    """Images in random order with the `probability` of their predicted class, in the order in which to label them.

    The first RANDOM stay as they are, since only images drawn at random tell the accuracy; of the others the least certain
    come first.
    """
    first, others = table[:RANDOM], table[RANDOM:].sort_values("probability", kind="stable")
    ordered = pd.concat([first.assign(why="random"), others.assign(why="uncertain")], ignore_index=True)
    return ordered[["file", "why", "predicted", "probability", "group"]]


def same_shares(predicted: dict[str, np.ndarray], groups: dict[str, np.ndarray]) -> float:
    """The p-value of the shares of the predicted classes, old against new; NaN where all are of one class."""
    found = sorted(set(predicted["old"]) | set(predicted["new"]))
    old, new = ((predicted[which][:, None] == found).astype(float) for which in ("old", "new"))
    alike = {which: np.repeat("", len(names)) for which, names in predicted.items()}
    return float(two_samples([(old, new)], alike, groups)["p"].item())


def for_two_tests(p: Any) -> Any:
    """p-values twice as large: features and predicted classes are both tested, and one finding in 20 may be by chance."""
    return np.minimum(2 * p, 1)


def one_of_each_group(data: ImageData, rows: np.ndarray) -> np.ndarray:
    """An image of each group, at most MOST_IMAGES, in random order: large groups are as likely to come first as small ones."""
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(rows)
    _, first = np.unique(np.asarray(data.groups)[shuffled], return_index=True)
    return rng.permutation(shuffled[first])[:MOST_IMAGES]


def _write(drift: Drift | UnlabelledDrift, folder: Path) -> None:
    """Write the tables and the picture, and last drift.json."""
    _files.write_csv(folder / "drift.csv", drift.blocks.reset_index())
    figures.save(block_drift(drift.blocks), folder / "drift.png")
    values: dict[str, Any] = {name: getattr(drift, name) for name in ("headline", "text", "retrain", "run", "measure")}
    chances = {"p": drift.p}
    if isinstance(drift, UnlabelledDrift):
        _files.write_csv(folder / "predicted.csv", drift.predicted.reset_index())
        _files.write_csv(folder / TO_LABEL, drift.to_label)
        chances["p_predicted"] = drift.p_predicted
    values |= {name: p if math.isfinite(p) else None for name, p in chances.items()}
    _files.write_json(
        folder / "drift.json", values | {"images": drift.scores["images"].to_dict(), "created": _machine.now()}
    )
