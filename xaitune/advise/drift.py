"""Drift: whether new images still look to a model like those that it was chosen on, block by block."""

import abc
import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from xaitune import _names, evaluate
from xaitune._progress import Progress
from xaitune.advise.advice import RETRAIN
from xaitune.advise.evidence import localisation_scores, masked_images
from xaitune.advise.exchange import two_samples
from xaitune.data.checks import trainability
from xaitune.data.dataset import ImageData
from xaitune.data.sample import choose_images
from xaitune.data.unlabelled import is_unlabelled
from xaitune.errors import ConfigError, DataError
from xaitune.evaluate.table import unit_maps
from xaitune.explain.classifier import open_classifier
from xaitune.explain.gradcam import BlockMapper
from xaitune.models.backend import keras
from xaitune.models.blocks import BLOCKS, block_channels
from xaitune.models.predict import Predictor
from xaitune.stats.intervals import bootstrap_interval
from xaitune.training.cut import POOLED, cached_output, pooled_columns
from xaitune.training.run import Run

SIGNIFICANT = 0.05
MOST_IMAGES = 400  # of each set
MAPPED_IMAGES = 80  # of each set, whose heatmaps are compared
GREY_SHIFT = 0.1  # a change of the mean grey value, in relation to it, that is worth a sentence
Sets = dict[str, tuple[ImageData, np.ndarray]]  # 'old' and 'new': images, and the rows that are compared
Arrays = dict[str, np.ndarray]  # 'old' and 'new'
FEW_GROUPS = 15  # with fewer, finding no drift says little


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureDrift(abc.ABC):
    """How new images differ from the validation images of the data set that a run was trained on, labels or not.

    `blocks`: one row per block (1..5): `distance` (0 where the features have the same distribution, 1 where they have
    nothing in common), `usual` (its 95 % quantile if there is no drift), `p` (adjusted for five blocks; NaN where nothing
    could be compared), and of the heatmaps `empty_old`, `empty_new` (shares), `maps_old`, `maps_new` (means of `measure`).
    `scores`: old and new: the numbers of images and groups that were compared, and of how many images (`of`). `known`: the number
    of images left out since the run's own data set has them. `run`: its name. `grey`: the mean grey values (0..255) of old and
    new images.
    """

    blocks: pd.DataFrame
    scores: pd.DataFrame
    measure: str
    known: int
    run: str
    grey: tuple[float, float] = (0.0, 0.0)
    path: Path | None = dataclasses.field(kw_only=True, default=None)
    chosen: ClassVar[str]  # which images were compared, where not all

    @property
    def p(self) -> float:
        """The chance of a difference as clear as that of the clearest block, if there is no drift."""
        return float(self.blocks["p"].min())

    @property
    def tells(self) -> bool:
        """Whether finding no drift says something: features could be compared, and of enough groups."""
        return bool(self.scores["groups"].min() >= FEW_GROUPS) and math.isfinite(self.p)

    @property
    def text(self) -> str:
        """A few plain sentences."""
        return " ".join([*self.said_of_features(), *self.said_of_answers(), *self.said_of_images()])

    @abc.abstractmethod
    def said_of_answers(self) -> list[str]:
        """Sentences on what the model answers."""

    def said_of_features(self) -> list[str]:
        """Sentences on whether the features differ, and where."""
        old, new = self.scores.loc["old"], self.scores.loc["new"]
        sets = (
            f"{_share_text(old, 'validation image')} of {self.run} ({_names.plural(int(old['groups']), 'group')}) and "
            f"{_share_text(new, 'new image')} ({_names.plural(int(new['groups']), 'group')})"
        )
        if self.p <= SIGNIFICANT:
            worst = int(self.blocks["distance"].sub(self.blocks["usual"]).idxmax())
            blocks = [f"Block {b}" for b in self.blocks.index[self.blocks["p"] <= SIGNIFICANT]]
            lines = [
                f"The features of {sets} differ in {_names.listed(blocks)} (smallest p = {self.p:.3f}), most in Block {worst}."
            ]
        elif math.isfinite(self.p):
            lines = [f"The features of {sets} do not differ more than by chance (p = {self.p:.2f})."]
            lines += [] if self.tells else ["With so few groups that says little."]
        else:
            lines = [f"The features of {sets} cannot be compared: no class has a group in both."]
        return lines + ([self.chosen] if (self.scores["images"] < self.scores["of"]).any() else [])

    def said_of_images(self) -> list[str]:
        """Sentences on the lighting, and on the images that were left out."""
        lines, (old, new) = [], self.grey
        if abs(new - old) > GREY_SHIFT * max(old, 1):
            lines.append(f"Their mean grey value is {new:.0f}, and was {old:.0f}: look at the lighting first.")
        if self.known:
            lines.append(f"Left out, since the model's own data set has them: {_names.plural(self.known, 'image')}.")
        return lines


@dataclasses.dataclass(frozen=True, eq=False)
class Drift(FeatureDrift):
    """The same for images with labels: features are compared within each class.

    `scores` also has the balanced accuracy on the classes that both sets have, with its interval, and what is `few`.
    `new_classes`: class -> number of images of a class that the run does not know. `missing`: its classes that the new images
    lack.
    """

    new_classes: dict[str, int] = dataclasses.field(kw_only=True, default_factory=dict)
    missing: tuple[str, ...] = dataclasses.field(kw_only=True, default=())
    chosen = f"At most {MOST_IMAGES} images of each were compared, in whole groups drawn at random."

    @property
    def score_gap(self) -> tuple[float, float, float]:
        """The new score minus the old one, with its 95 % interval, from those of the two (Zou and Donner 2008)."""
        old, new = self.scores.loc["old"], self.scores.loc["new"]
        gap = new["score"] - old["score"]
        low = gap - math.hypot(new["score"] - new["low"], old["high"] - old["score"])
        high = gap + math.hypot(new["high"] - new["score"], old["score"] - old["low"])
        return float(gap), float(low), float(high)

    @property
    def retrain(self) -> str:
        """Whether the run should be trained again.

        'yes' if its score has fallen or there are new classes, 'drifted' if only the features differ, 'no' if neither does,
        and 'unknown' with too few groups to tell.
        """
        if self.new_classes or (self.score_gap[2] < 0 and not self.scores["few"].any()):
            return "yes"
        if self.p <= SIGNIFICANT:
            return "drifted"
        return "no" if self.tells else "unknown"

    @property
    def headline(self) -> str:
        """What was found, in a sentence."""
        return RETRAIN[self.retrain]

    def said_of_answers(self) -> list[str]:
        """Sentences on the accuracy, and on classes that only one of the two has."""
        old, new = self.scores.loc["old"], self.scores.loc["new"]
        gap, low, high = self.score_gap
        change = "lower" if high < 0 else "higher" if low > 0 else "not shown to have changed"
        lines = [
            f"The balanced accuracy is {change}: {old['score']:.3f} then, {new['score']:.3f} now "
            f"({gap * 100:+.1f} points [{low * 100:+.1f}, {high * 100:+.1f}])."
        ]
        for which, few in self.scores["few"].items():
            if few:
                lines.append(f"Do not rely on this interval: of the {which} images there are only {few}.")
        if self.new_classes:
            known = [f"{name} ({_names.plural(count, 'image')})" for name, count in self.new_classes.items()]
            lines.append(f"The model does not know the class{'es' if len(known) > 1 else ''} {_names.listed(known)}.")
        if self.missing:
            lines.append(
                f"These images lack {_names.listed(list(self.missing))}, so the accuracy is that of the other classes."
                + (" A class that was only renamed needs its old name." if self.new_classes else "")
            )
        return lines


def _share_text(row: pd.Series, what: str) -> str:
    """How many images were compared, and of how many."""
    images, of = int(row["images"]), int(row["of"])
    return _names.plural(of, what) if images == of else f"{images:,} of the {_names.plural(of, what)}"


def comparable_data(run: Run, data: ImageData) -> ImageData:
    """The images that the run was trained on, with which `data` can be compared.

    Raises DataError where they have changed or are gone, where the run knows no class of labelled `data` or all its images, and
    ConfigError where `data` has another image size, or the run has no model of all five blocks.
    """
    unlabelled = is_unlabelled(data)
    advice = "Drift is measured against them"
    advice += "." if unlabelled else "; --method heatmap looks at the model alone."
    if run.state != "finished":
        raise ConfigError(f"{run.path} {run.state}: it has no model to train again. Give a finished run.")
    if run.config.segments or run.config.from_scratch:
        raise ConfigError(f"{run.path} is no classification by the blocks of a VGG, and drift is measured on those.")
    if run.config.head_blocks != "all":
        raise ConfigError(f"{run.path} ends with the block of its linear head. Give a run of all five blocks.")
    try:
        old = ImageData.from_config(run.data_config)
    except DataError as error:
        raise DataError(f"The images that {run.path} was trained on are gone ({error}). {advice}") from None
    if old.fingerprint != run.fingerprint:
        raise DataError(f"The images in {run.data_config.path} are not those that {run.path} was trained on. {advice}")
    if _size_of(data) != _size_of(old):
        raise ConfigError(
            f"Images must be {_size_of(old)}, as for {run.path}, to be compared with its own. Received: {_size_of(data)}."
        )
    if not unlabelled and not set(data.class_names) & set(run.class_names):
        raise DataError(
            f"{run.path} knows none of these classes ({', '.join(data.class_names)}): it has {', '.join(run.class_names)}. "
            "If they are no classes, put all images into one folder: they are then compared without labels."
        )
    if not len(unseen_images(old, data)):
        raise DataError(
            f"All images of {data.config.path} are among the training, validation and test images of {run.path}. Give new ones."
        )
    return old


def unseen_images(old: ImageData, data: ImageData) -> np.ndarray:
    """The images to compare whose content the old data set lacks (see `_compared`)."""
    seen, rows = set(old.digests), _compared(data)
    return np.array([row for row in rows if data.digests[row] not in seen], rows.dtype)


def _compared(data: ImageData) -> np.ndarray:
    """The training and validation images; all, where nothing can be trained: without labels, or with too few to be split."""
    if is_unlabelled(data) or trainability(data):
        return np.arange(len(data))
    return np.concatenate([data.indices("train"), data.indices("validation")])


def measure_drift(run: Run, old: ImageData, data: ImageData, progress: Progress | None = None) -> Drift:
    """Compare the training and validation images of `data` with the validation images of `old`, the run's own data set.

    Where `data` has too few images to be split, all are compared.

    Both are seen as the run's model sees them. Features are compared within each class that both sets have, and the balanced
    accuracy is that of these classes, so that other shares of the classes are no drift. At most MOST_IMAGES of each set are
    used, whole groups drawn at random; images that `old` has too are left out. `old`: the result of `comparable_data`.
    """
    unseen = unseen_images(old, data)
    sets = {"old": (old, _some_groups(old, old.indices("validation"))), "new": (data, _some_groups(data, unseen))}
    names = {which: np.array(of.class_names)[of.labels[rows]] for which, (of, rows) in sets.items()}
    groups = {which: np.asarray(of.groups)[rows] for which, (of, rows) in sets.items()}
    features, logits = seen_by(run, sets, progress)
    blocks = two_samples(features, names, groups)
    shared = sorted(set(names["old"]) & set(names["new"]) & set(run.class_names))
    maps, measure = compare_maps(run, sets)
    counts = pd.Series(np.array(data.class_names)[data.labels[unseen]]).value_counts()
    scores = {
        which: _score(run, shared, names[which], groups[which], logits[which]) | {"of": count}
        for which, count in (("old", len(old.indices("validation"))), ("new", len(unseen)))
    }
    return Drift(
        blocks=blocks.join(maps),
        scores=pd.DataFrame.from_dict(scores, orient="index"),
        new_classes={
            name: int(counts[name]) for name in data.class_names if name not in run.class_names and name in counts
        },
        measure=measure,
        known=len(_compared(data)) - len(unseen),
        run=str(run.path),
        missing=tuple(name for name in run.class_names if name not in data.class_names),
        grey=(mean_grey(*sets["old"]), mean_grey(*sets["new"])),
    )


def seen_by(run: Run, sets: Sets, progress: Progress | None) -> tuple[list[tuple[np.ndarray, np.ndarray]], Arrays]:
    """The old and new features of each block, as `two_samples` takes them, and the logits of both sets."""
    model = run.model
    channels = block_channels(model)
    both = keras.Model(model.input, keras.ops.concatenate([cached_output(model, POOLED), model.output], axis=1))
    outputs = _passed(Predictor(both), sets, progress)
    columns = [pooled_columns(channels, block) for block in BLOCKS]
    features = [(outputs["old"][:, c], outputs["new"][:, c]) for c in columns]
    return features, {which: rows[:, 2 * sum(channels) :] for which, rows in outputs.items()}


def mean_grey(data: ImageData, rows: np.ndarray) -> float:
    """The mean value of at most MAPPED_IMAGES of the images."""
    return float(data.load(rows[:MAPPED_IMAGES]).mean())


def _some_groups(data: ImageData, rows: np.ndarray) -> np.ndarray:
    """The rows of groups drawn at random, until there are MOST_IMAGES; at least one group."""
    groups = np.asarray(data.groups)[rows]
    order = np.random.default_rng(0).permutation(np.unique(groups))
    sizes = pd.Series(groups).value_counts()[order].to_numpy()
    chosen = order[: max(1, int((np.cumsum(sizes) <= MOST_IMAGES).sum()))]
    return rows[np.isin(groups, chosen)]


def _passed(predictor: Predictor, sets: Sets, progress: Progress | None) -> Arrays:
    """The outputs for the images of both sets, batch by batch."""
    total, done, outputs = sum(len(rows) for _, rows in sets.values()), 0, {}
    for which, (of, rows) in sets.items():
        parts = []
        for start in range(0, len(rows), predictor.batch_size):
            parts.append(predictor(of.load(rows[start : start + predictor.batch_size])))
            done += len(parts[-1])
            if progress:
                progress(done, total, "comparing with the model's own images")
        outputs[which] = np.concatenate(parts)
    return outputs


def _size_of(data: ImageData) -> str:
    height, width = data.image_size
    bits = f", {data.config.bit_depth} bits" if data.config.bit_depth else ""
    return f"{height}x{width} ({data.config.resize}{bits})"


def _score(run: Run, shared: list[str], names: np.ndarray, groups: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """The mean recall of the `shared` classes, with its interval over groups."""
    inside = np.isin(names, shared)
    about = {"images": len(names), "groups": len(set(groups.tolist()))}
    if not inside.any():
        return {
            "score": math.nan,
            "low": math.nan,
            "high": math.nan,
            "few": "no image of a class that both have",
            **about,
        }
    number = {name: i for i, name in enumerate(run.class_names)}
    true = np.array([number[name] for name in names[inside]])
    found = bootstrap_interval(true, logits[inside].argmax(axis=1), groups[inside], "balanced_accuracy")
    return {"score": found.value, "low": found.low, "high": found.high, "few": found.few, **about}


def compare_maps(run: Run, sets: Sets) -> tuple[pd.DataFrame, str]:
    """The heatmaps of the predicted class at each block: shares of empty ones, and their quality, old and new.

    The quality is the localisation (see `localisation_scores`) where both sets have masks, and otherwise the Gini
    coefficient, which tells how concentrated a map is.
    """
    mapper = BlockMapper(open_classifier(run).model, BLOCKS)
    masked = {which: masked_images(data, rows) for which, (data, rows) in sets.items()}
    by_masks = all(len(rows) for rows in masked.values())
    columns: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for which, (data, rows) in sets.items():
        chosen = choose_images(data, masked[which] if by_masks else rows, MAPPED_IMAGES)
        images = data.load(chosen).astype(np.float32)
        raw, _ = mapper(images, np.full(len(images), -1))
        maps = unit_maps(raw, data.image_size)
        columns[f"empty_{which}"] = (maps.max(axis=(2, 3)) <= 0).mean(axis=0)
        if by_masks:
            quality = localisation_scores(raw, data, chosen, rng)["localisation"]
        else:
            quality = evaluate.map_concentration(maps).gini
        columns[f"maps_{which}"] = np.nanmean(quality, axis=0)
    return pd.DataFrame(columns, index=pd.Index(list(BLOCKS), name="block")), "localisation" if by_masks else "gini"
