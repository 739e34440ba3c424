"""Drift: whether new images still look to a model like those that it was chosen on, block by block."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from xaitune import _names, evaluate
from xaitune.advise.evidence import localisation_scores, masked_images
from xaitune.data.dataset import ImageData
from xaitune.data.sample import choose_images
from xaitune.errors import ConfigError, DataError
from xaitune.evaluate.table import unit_maps
from xaitune.explain.classifier import open_classifier
from xaitune.explain.gradcam import BlockMapper
from xaitune.models.backend import keras
from xaitune.models.blocks import BLOCKS
from xaitune.models.predict import Predictor
from xaitune.stats.intervals import bootstrap_interval, mean_intervals
from xaitune.training.cut import cached_output, pooled_columns
from xaitune.training.run import Run

SIGNIFICANT = 0.05
PERMUTATIONS = 999
MOST_IMAGES = 400  # of each set
MAPPED_IMAGES = 80  # of each set, whose heatmaps are compared
FEW_GROUPS = 15  # with fewer, finding no drift says little


@dataclasses.dataclass(frozen=True, eq=False)
class Drift:
    """How new images differ from the validation images of the data set that a run was trained on.

    `blocks`: one row per block (1..5): `distance` (0 where the features have the same distribution, 1 where they have
    nothing in common), `usual` (its 95 % quantile if there is no drift), `p` (adjusted for five blocks), and of the
    heatmaps `empty_old`, `empty_new` (shares), `maps_old`, `maps_new` (means of `measure`). `scores`: old and new: the
    run's metric on the classes that it knows, with its interval, and the numbers of images and groups. `new_classes`:
    class -> number of images of a class that the run does not know. `metric`, `run`: their names.
    """

    blocks: pd.DataFrame
    scores: pd.DataFrame
    new_classes: dict[str, int]
    measure: str
    metric: str
    run: str

    @property
    def p(self) -> float:
        """The chance of a difference as clear as that of the clearest block, if there is no drift."""
        return float(self.blocks["p"].min())

    @property
    def score_gap(self) -> tuple[float, float, float]:
        """The new score minus the old one, with its 95 % interval, from those of the two (Zou and Donner 2008)."""
        old, new = self.scores.loc["old"], self.scores.loc["new"]
        gap = new["score"] - old["score"]
        low = gap - math.hypot(new["score"] - new["low"], old["high"] - old["score"])
        high = gap + math.hypot(new["high"] - new["score"], old["score"] - old["low"])
        return float(gap), float(low), float(high)

    @property
    def found(self) -> bool:
        """Whether the features differ, the score has fallen, or there are new classes."""
        return self.p <= SIGNIFICANT or self.score_gap[2] < 0 or bool(self.new_classes)

    @property
    def text(self) -> str:
        """A few plain sentences."""
        old, new = self.scores.loc["old"], self.scores.loc["new"]
        sets = (
            f"the {_names.plural(int(old['images']), 'validation image')} of {self.run} "
            f"({_names.plural(int(old['groups']), 'group')}) and these {_names.plural(int(new['images']), 'image')} "
            f"({_names.plural(int(new['groups']), 'group')})"
        )
        worst = int(self.blocks["distance"].sub(self.blocks["usual"]).idxmax())
        if self.p <= SIGNIFICANT:
            blocks = [f"Block {b}" for b in self.blocks.index[self.blocks["p"] <= SIGNIFICANT]]
            lines = [
                f"The features of {sets} differ in {_names.listed(blocks)} (p = {self.p:.3f}), most in Block {worst}."
            ]
        else:
            lines = [f"The features of {sets} do not differ more than by chance (p = {self.p:.2f})."]
            if min(old["groups"], new["groups"]) < FEW_GROUPS:
                lines.append("With so few groups that says little.")
        gap, low, high = self.score_gap
        name = _names.metric_name(self.metric)
        change = "lower" if high < 0 else "higher" if low > 0 else "not shown to have changed"
        lines.append(
            f"Its {name} is {change}: {old['score']:.3f} then, {new['score']:.3f} now "
            f"({gap * 100:+.1f} points [{low * 100:+.1f}, {high * 100:+.1f}])."
        )
        if self.new_classes:
            known = [f"{name} ({_names.plural(count, 'image')})" for name, count in self.new_classes.items()]
            lines.append(f"It does not know the class{'es' if len(known) > 1 else ''} {_names.listed(known)}.")
        empty = self.blocks["empty_new"] - self.blocks["empty_old"]
        if empty.max() > 0.1:
            block = int(empty.idxmax())
            lines.append(
                f"At Block {block} {self.blocks.loc[block, 'empty_new']:.0%} of the heatmaps are empty now, "
                f"{self.blocks.loc[block, 'empty_old']:.0%} were."
            )
        return " ".join(lines)


def comparable_data(run: Run, data: ImageData) -> ImageData:
    """The images that the run was trained on, with which `data` can be compared.

    Raises DataError where they have changed or are gone, or the run knows no class of `data`, and ConfigError where `data`
    has another image size.
    """
    advice = "Drift is measured against them; --method heatmap looks at the model alone."
    try:
        old = ImageData.from_config(run.data_config)
    except DataError as error:
        raise DataError(f"The images that {run.path} was trained on are gone ({error}). {advice}") from None
    if old.fingerprint != run.fingerprint:
        raise DataError(f"The images in {run.data_config.path} are not those that {run.path} was trained on. {advice}")
    if (data.image_size, data.config.resize) != (old.image_size, old.config.resize):
        raise ConfigError(
            f"Images must be {_size_of(old)}, as for {run.path}, to be compared with its own. Received: {_size_of(data)}."
        )
    if not set(data.class_names) & set(run.class_names):
        raise DataError(
            f"{run.path} knows none of these classes ({', '.join(data.class_names)}): it has {', '.join(run.class_names)}."
        )
    return old


def measure_drift(run: Run, old: ImageData, data: ImageData, report: Callable[[int, int], None] | None = None) -> Drift:
    """Compare the training and validation images of `data` with the validation images of `old`, the run's own data set.

    Both are seen as the run's model sees them. Features are compared within each class that both sets have, so that other
    shares of the classes are no drift; see `two_samples`. At most MOST_IMAGES of each set are used. `old`: the result of
    `comparable_data`.
    """
    sets = {"old": (old, old.indices("validation"))}
    sets["new"] = (data, np.concatenate([data.indices("train"), data.indices("validation")]))
    sets = {which: (of, choose_images(of, rows, MOST_IMAGES)) for which, (of, rows) in sets.items()}
    unknown = [name for name in data.class_names if name not in run.class_names]
    model = run.model
    layers = [model.get_layer(names[-1]).output.shape[-1] for names in BLOCKS.values()]
    both = keras.Model(model.input, keras.ops.concatenate([cached_output(model, "pooled"), model.output], axis=1))
    predictor = Predictor(both)
    total, done, features, scores = sum(len(rows) for _, rows in sets.values()), 0, {}, {}
    for which, (of, rows) in sets.items():
        parts = []
        for start in range(0, len(rows), predictor.batch_size):
            parts.append(predictor(of.load(rows[start : start + predictor.batch_size])))
            done += len(parts[-1])
            if report:
                report(done, total)
        outputs = np.concatenate(parts)
        features[which] = outputs[:, : 2 * sum(layers)]
        scores[which] = _score(run, of, rows, outputs[:, 2 * sum(layers) :])
    names = {which: np.array(of.class_names)[of.labels[rows]] for which, (of, rows) in sets.items()}
    groups = {which: np.asarray(of.groups)[rows] for which, (of, rows) in sets.items()}
    columns = [pooled_columns(layers, block) for block in BLOCKS]
    blocks = two_samples([(features["old"][:, c], features["new"][:, c]) for c in columns], names, groups)
    maps, measure = _compare_maps(run, sets)
    new = pd.Series(names["new"]).value_counts()
    return Drift(
        blocks=blocks.join(maps),
        scores=pd.DataFrame.from_dict(scores, orient="index"),
        new_classes={name: int(new.get(name, 0)) for name in unknown},
        measure=measure,
        metric=run.config.metric,
        run=str(run.path),
    )


def _size_of(data: ImageData) -> str:
    height, width = data.image_size
    return f"{height}x{width} ({data.config.resize})"


def _score(run: Run, data: ImageData, rows: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """The run's metric on the images of classes that it knows, with its interval over groups."""
    number = np.array([run.class_names.index(name) if name in run.class_names else -1 for name in data.class_names])
    true = number[data.labels[rows]]
    known = true >= 0
    found = bootstrap_interval(
        true[known], logits[known].argmax(axis=1), np.asarray(data.groups)[rows][known], run.config.metric
    )
    groups = len(set(np.asarray(data.groups)[rows].tolist()))
    return {"score": found.value, "low": found.low, "high": found.high, "images": len(rows), "groups": groups}


def two_samples(
    features: list[tuple[np.ndarray, np.ndarray]], classes: dict[str, np.ndarray], groups: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Whether old and new features have the same distribution within each class, for several kinds of features at once.

    `features`: for each kind (a block) the old (n, d) and the new ones (m, d); `classes` and `groups`: those of the 'old'
    and 'new' images. The statistic is the energy distance (Szekely and Rizzo 2004) of standardised features, summed over the
    classes that both have; the features of the images of a group are averaged first. Groups are exchanged at random between
    old and new within their class, and p-values adjusted over the kinds by the largest statistic (Westfall and Young
    1993). One row per kind, from 1: `distance` (the energy distance over twice the mean distance of old from new), `usual`
    (its 95 % quantile under exchange) and `p`.
    """
    rng = np.random.default_rng(0)
    which = np.repeat(["old", "new"], [len(classes["old"]), len(classes["new"])])
    label, group = (np.concatenate([names["old"], names["new"]]).astype(str) for names in (classes, groups))
    table = pd.DataFrame({"class": label, "set": which, "group": group})
    units = table.groupby(["class", "set", "group"], sort=True).ngroup().to_numpy()
    about = table.groupby(units).first()
    shared = sorted(set(classes["old"]) & set(classes["new"]))
    pooled = []
    for old, new in features:
        values = np.concatenate([old, new]).astype(np.float64)
        spread = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
        pooled.append(pd.DataFrame(values).groupby(units).mean().to_numpy())
    statistic, scale = np.zeros((2, len(features), 1 + PERMUTATIONS))
    for name in shared:
        inside = np.flatnonzero(about["class"] == name)
        is_new = (about["set"].to_numpy()[inside] == "new").astype(float)
        drawn = np.stack([is_new, *(rng.permutation(is_new) for _ in range(PERMUTATIONS))])
        a, b = (1 - drawn) / (1 - is_new).sum(), drawn / is_new.sum()  # shares of the old and of the new units
        weight = is_new.sum() * (1 - is_new).sum() / len(inside)
        for kind, values in enumerate(pooled):
            distances = cdist(values[inside], values[inside])
            between = 2 * ((a @ distances) * b).sum(axis=1)
            within = ((a @ distances) * a).sum(axis=1) + ((b @ distances) * b).sum(axis=1)
            statistic[kind] += weight * (between - within)
            scale[kind] += weight * between
    relative = np.divide(statistic, scale, out=np.zeros_like(statistic), where=scale > 0)
    centre, spread = statistic[:, 1:].mean(axis=1, keepdims=True), statistic[:, 1:].std(axis=1, keepdims=True)
    standard = np.divide(statistic - centre, spread, out=np.zeros_like(statistic), where=spread > 0)
    largest = standard[:, 1:].max(axis=0)
    rounding = 1e-9
    p = (1 + (largest[None] >= standard[:, :1] - rounding).sum(axis=1)) / (1 + PERMUTATIONS)
    rows = {"distance": relative[:, 0], "usual": np.quantile(relative[:, 1:], 0.95, axis=1), "p": p}
    return pd.DataFrame(rows, index=pd.Index(range(1, len(features) + 1), name="block"))


def _compare_maps(run: Run, sets: dict[str, tuple[ImageData, np.ndarray]]) -> tuple[pd.DataFrame, str]:
    """The heatmaps of the predicted class at each block: shares of empty ones, and their quality, old and new.

    The quality is the localisation (see `localisation_scores`) where both sets have masks, and otherwise the Gini
    coefficient, which tells how concentrated a map is.
    """
    mapper = BlockMapper(open_classifier(run).model, tuple(BLOCKS))
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
        columns[f"maps_{which}"] = mean_intervals(quality, np.asarray(data.groups)[chosen], draws=1)[0]
    return pd.DataFrame(columns, index=pd.Index(list(BLOCKS), name="block")), "localisation" if by_masks else "gini"
