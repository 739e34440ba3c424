"""What to collect next: the classes that more images would help, and the pairs of classes that are confused."""

import dataclasses
import html
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune import _files, _machine, _names
from xaitune._progress import Notes, Progress, part_of, shown_progress
from xaitune.advise.contrast import Contrast
from xaitune.advise.held_out import HeldOut
from xaitune.advise.pooled import pooled_features
from xaitune.config.settings import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.data.sample import choose_images
from xaitune.errors import DataError, RunError
from xaitune.models.weights import load_backbone
from xaitune.plots import charts, figures, overlays, pictures
from xaitune.plots.figures import wrap
from xaitune.stats.comparisons import PairedScores
from xaitune.stats.metrics import confusion, scores_from_confusion
from xaitune.stats.per_class import per_class_intervals
from xaitune.training.features import FeatureCache
from xaitune.training.folder import choose_folder, locked, start_folder

SHARES = (0.125, 0.25, 0.5)  # of the training images, beside all of them
MOST_IMAGES = 1500
REPEATS = 5  # draws of the part that is left
FEWEST = 4  # groups of a class whose half is looked at
SHOWN_PAIRS, SHOWN_IMAGES = 5, 3
TEXT_COLUMNS = dict.fromkeys(("class", "predicted", "file", "group"), str)
RESULT = "collection.json"  # written last


@dataclasses.dataclass(frozen=True, eq=False)
class CollectionAdvice:
    """Which images to collect next; no test image takes part.

    All figures are of a linear head on the frozen features of all blocks, on images held out from it. `classes`: one row per
    class: images, groups, `f1` with its interval, and `gain` with its interval (95 % for all classes together): what the last
    doubling of the class's groups has brought in the `metric`, which the next one will hardly exceed; NaN below FEWEST
    groups. `pairs`: class, the class that it is taken for, images, groups and `share` of the class's images, the largest
    share first. `curve`: `images` for training on average, and the mean `score`. `wrong`: the wrong predictions: file,
    class, predicted, group.
    """

    classes: pd.DataFrame
    pairs: pd.DataFrame
    curve: pd.DataFrame
    wrong: pd.DataFrame
    metric: str
    fingerprint: str
    weights: str
    created: str
    path: Path | None = None

    @property
    def expected_gain(self) -> float:
        """What twice as many images of all classes bring, if the errors go on falling as a power of their number.

        NaN where the curve has fewer than three numbers of images.
        """
        images, errors = self.curve["images"].to_numpy(float), 1 - self.curve["score"].to_numpy(float)
        if len(np.unique(images)) < 3:
            return math.nan
        if errors.min() <= 0:
            return 0.0
        slope = min(0.0, float(np.polyfit(np.log(images), np.log(errors), 1)[0]))
        return float(errors[-1] * (1 - 2**slope))

    @property
    def headline(self) -> str:
        """What to collect, in a sentence."""
        shown = self.classes[self.classes["gain_low"] > 0].sort_values("gain", ascending=False)
        if len(shown):
            return f"Collect more images of {_names.listed(list(shown.index[:3]))}."
        return "No single class is shown to gain from more images."

    @property
    def reasons(self) -> str:
        """A few plain sentences."""
        name, lines = _names.metric_name(self.metric), []
        ordered = self.classes.dropna(subset=["gain"]).sort_values("gain", ascending=False)
        for label, row in ordered[ordered["gain_low"] > 0].head(3).iterrows():
            lines.append(
                f"{label}: with half of its {_names.plural(int(row['groups']), 'group')} {name} is "
                f"{_names.points(row['gain'])} lower [{row['gain_low'] * 100:+.1f} to {row['gain_high'] * 100:+.1f}, 95 % for "
                "all classes together]; twice as many are expected to bring at most that."
            )
        if not lines and len(ordered):
            row = ordered.iloc[0]
            lines.append(
                f"Most may come from {ordered.index[0]}: {row['gain'] * 100:+.1f} points of {name} by the last doubling "
                f"[{row['gain_low'] * 100:+.1f}, {row['gain_high'] * 100:+.1f}], which is not told from none."
            )
        few = list(self.classes.index[self.classes["gain"].isna()])
        if few:
            lines.append(f"Too few groups to tell what more bring: {_names.listed(few)}.")
        for pair in self.pairs.head(2).to_dict("records"):
            lines.append(
                f"Collect images of {pair['class']} that look like {pair['predicted']}: "
                f"{_names.plural(int(pair['images']), 'image')} of {_names.plural(int(pair['groups']), 'group')} "
                f"({pair['share']:.0%} of the class) are taken for it."
            )
        if math.isfinite(self.expected_gain):
            lines.append(
                f"Twice as many images of all classes bring roughly {_names.points(self.expected_gain)} of {name}, if the "
                "errors go on falling as they have."
            )
        return " ".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """The score by the number of training images."""
        return charts.score_by_images(self.curve, metric=self.metric, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """The classes: one row each."""
        return self.classes

    def _repr_html_(self) -> str:
        tables = self.classes.round(3).to_html() + self.pairs.round(3).to_html(index=False)
        return f"<b>{html.escape(self.headline)}</b><p>{html.escape(self.reasons)}</p>{tables}"


def advise_collection(
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Notes | None = None,
    **options: Any,
) -> CollectionAdvice:
    """Say which images to collect next, from training and validation images alone.

    One pass through the frozen network, then linear heads on its features (see `HeldOut`) fitted on all images, on parts of
    them, and with half of the groups of one class, REPEATS times each; of more than MOST_IMAGES a part is taken. The folder
    `runs_dir`/collection receives collection.json, classes.csv, pairs.csv, curve.csv, wrong.csv and pictures: the learning
    curve, and wrong predictions with the evidence for the wrong class and the most similar image of that class. `options`
    are fields of TrainConfig. Raises InputError and RunError.

    Examples:
        >>> data = ImageData.from_folder("images", image_size=(96, 96))  # doctest: +SKIP
        >>> advise_collection(data, weights="imagenet").headline  # doctest: +SKIP
        'Collect more images of crack.'
    """
    progress = shown_progress(progress, "collection")
    config = replace_fields(config or TrainConfig(), options)
    data.require_trainable()
    rows = np.concatenate([data.indices("train"), data.indices("validation")])
    rows = choose_images(data, rows, MOST_IMAGES)
    _require_groups(data, rows)
    backbone = load_backbone(config.weights, config.architecture)
    identity: dict[str, Any] = {"fingerprint": data.fingerprint, "weights": backbone.digest, "metric": config.metric}
    if backbone.arrays is None:
        identity["seed"] = config.seed
    folder, note = choose_folder(Path(runs_dir), "collection", name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    if (folder / RESULT).is_file() and not overwrite:
        if notes:
            notes(f"{folder} already exists, so the advice is not made again.")
        return load_collection(folder)
    with locked(folder):
        start_folder(folder, "collection", {"identity": identity}, overwrite=overwrite)
        cache = FeatureCache(Path(cache_dir or Path(runs_dir) / "cache"), cache_gb)
        network, features = pooled_features(data, config, backbone, cache, part_of(progress, 0, 0.6))
        features = features[rows]
        groups = np.asarray(data.groups)[rows]
        held_out = HeldOut(features, data.labels[rows], groups, len(data.class_names), config.metric)
        predicted = held_out.predict()
        advice = CollectionAdvice(
            classes=_classes(held_out, predicted, data.class_names, config.metric, part_of(progress, 0.6, 1)),
            pairs=_pairs(held_out, predicted, data.class_names),
            curve=_curve(held_out, predicted, config.metric),
            wrong=_wrong(data, rows, predicted),
            metric=config.metric,
            fingerprint=data.fingerprint,
            weights=backbone.digest,
            created=_machine.now(),
        )
        if len(advice.pairs):
            _draw_pairs(folder, data, rows, held_out, predicted, advice.pairs, network.model)
        _write(advice, folder)
    return load_collection(folder)


def _require_groups(data: ImageData, rows: np.ndarray) -> None:
    for number, name in enumerate(data.class_names):
        groups = {data.groups[row] for row in rows if data.labels[row] == number}
        if len(groups) < 2:
            raise DataError(
                f"Class {name} has {_names.plural(len(groups), 'group')} for training and validation. "
                "To tell what more images would bring, at least 2 are needed."
            )


def _classes(
    held_out: HeldOut, predicted: np.ndarray, names: tuple[str, ...], metric: str, progress: Progress | None
) -> pd.DataFrame:
    """One row per class: its F1, and what the last doubling of its groups has brought."""
    labels, groups = held_out.labels, held_out.groups
    own = per_class_intervals(labels, predicted, groups, len(names))
    scores = PairedScores(labels, groups, metric)
    scores.add("all", np.repeat(predicted[None], REPEATS, axis=0))
    level = 1 - 0.05 / len(names)
    rows = []
    for number, name in enumerate(names):
        inside = labels == number
        count = len(set(groups[inside].tolist()))
        gain = (math.nan,) * 3
        if count >= FEWEST:
            scores.add(number, np.stack([held_out.predict(_half_of(held_out, number, r)) for r in range(REPEATS)]))
            gap = scores.difference("all", number, level)
            scores.remove(number)
            gain = gap.difference, gap.low, gap.high
        rows.append(
            {
                "images": int(inside.sum()),
                "groups": count,
                "f1": own.f1.value[number],
                "low": own.f1.low[number],
                "high": own.f1.high[number],
                **dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True)),
            }
        )
        if progress:
            progress(number + 1, len(names), f"what half of the images of {name} bring")
    return pd.DataFrame(rows, index=pd.Index(names, name="class"))


def _half_of(held_out: HeldOut, number: int, repeat: int) -> np.ndarray:
    """All images but those of a class in half of its groups, at least one of which remains."""
    inside = held_out.labels == number
    groups = np.unique(held_out.groups[inside])
    rng = np.random.default_rng([repeat, number])
    dropped = rng.permutation(groups)[: len(groups) // 2]
    return ~(inside & np.isin(held_out.groups, dropped))


def _share_of(held_out: HeldOut, share: float, repeat: int) -> np.ndarray:
    """The images of a share of the groups of every class, at least two of which remain."""
    keep = np.zeros(len(held_out.labels), bool)
    for number in range(held_out.num_classes):
        inside = held_out.labels == number
        groups = np.unique(held_out.groups[inside])
        kept = np.random.default_rng([repeat, number]).permutation(groups)[: max(2, math.ceil(share * len(groups)))]
        keep |= inside & np.isin(held_out.groups, kept)
    return keep


def _curve(held_out: HeldOut, predicted: np.ndarray, metric: str) -> pd.DataFrame:
    """The number of training images and the score, for SHARES of the images and for all."""

    def score(answers: np.ndarray) -> float:
        return float(scores_from_confusion(confusion(held_out.labels, answers, held_out.num_classes), metric))

    outside = 1 - 1 / len(held_out.folds)
    rows = []
    for share in SHARES:
        parts = [_share_of(held_out, share, repeat) for repeat in range(REPEATS)]
        rows.append(
            {
                "images": float(np.mean([part.sum() for part in parts])) * outside,
                "score": float(np.mean([score(held_out.predict(part)) for part in parts])),
            }
        )
    rows.append({"images": len(predicted) * outside, "score": score(predicted)})
    return pd.DataFrame(rows)


def _pairs(held_out: HeldOut, predicted: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """The confused pairs of classes, of which at least two groups have a wrong image."""
    table = pd.DataFrame({"true": held_out.labels, "predicted": predicted, "group": held_out.groups})
    wrong = table[table["true"] != table["predicted"]]
    counted = wrong.groupby(["true", "predicted"])["group"].agg(images="size", groups="nunique").reset_index()
    counted = counted[counted["groups"] > 1]
    counted["share"] = counted["images"] / np.bincount(held_out.labels, minlength=len(names))[counted["true"]]
    counted = counted.sort_values(["share", "images"], ascending=False, kind="stable").reset_index(drop=True)
    for column in ("true", "predicted"):
        counted[column] = [names[i] for i in counted[column]]
    return counted.rename(columns={"true": "class"})


def _wrong(data: ImageData, rows: np.ndarray, predicted: np.ndarray) -> pd.DataFrame:
    names = np.array(data.class_names)
    wrong = np.flatnonzero(data.labels[rows] != predicted)
    return pd.DataFrame(
        {
            "file": [data.files[i] for i in rows[wrong]],
            "class": names[data.labels[rows[wrong]]],
            "predicted": names[predicted[wrong]],
            "group": np.asarray(data.groups)[rows[wrong]],
        }
    )


def _draw_pairs(
    folder: Path,
    data: ImageData,
    rows: np.ndarray,
    held_out: HeldOut,
    predicted: np.ndarray,
    pairs: pd.DataFrame,
    model: Any,
) -> None:
    """Write pairs.png: wrong images, what in them speaks for the wrong class, and the most similar image of that class."""
    strips, labels = [], []
    contrast = Contrast(model)
    for pair in pairs.head(SHOWN_PAIRS).to_dict("records"):
        true, other = (data.class_names.index(pair[c]) for c in ("class", "predicted"))
        chosen = np.flatnonzero((held_out.labels == true) & (predicted == other))
        _, first = np.unique(held_out.groups[chosen], return_index=True)  # an image of each group
        for i in chosen[np.sort(first)][:SHOWN_IMAGES]:
            image = data.load([rows[i]]).astype(np.float32)
            evidence = contrast(held_out.fitted(held_out.fold_of[i]), image, true, other)
            nearest = data.load([rows[held_out.nearest(i, other)]])[0]
            shown = [image[0], overlays.signed_overlay(image[0], evidence), nearest]
            strips.append(overlays.strip(shown, height=160))
            labels.append(f"{Path(data.files[rows[i]]).stem}: {pair['class']}, taken for {pair['predicted']}")
    caption = "Evidence: green for its own class, orange for the wrong one. Nearest: the most similar image of the wrong class."
    titles = ["image", "evidence", "nearest"]
    sheet = pictures.contact_sheet(strips, labels, titles=titles, caption=wrap(caption, 3.0, 9))
    figures.save(sheet, folder / "pairs.png")


def _write(advice: CollectionAdvice, folder: Path) -> None:
    """Write the tables, the curve, and last collection.json."""
    _files.write_csv(folder / "classes.csv", advice.classes.reset_index())
    for name in ("pairs", "curve", "wrong"):
        _files.write_csv(folder / f"{name}.csv", getattr(advice, name))
    figures.save(advice.plot(), folder / "curve.png")
    values = {name: getattr(advice, name) for name in ("metric", "fingerprint", "weights", "created")}
    _files.write_json(folder / RESULT, values)


def load_collection(path: str | Path) -> CollectionAdvice:
    """Load the advice on what to collect from its folder. Raises RunError if it is missing or damaged."""
    folder = Path(path)
    values = _files.read_json(folder / RESULT)
    try:
        tables = {name: _read(folder / f"{name}.csv") for name in ("pairs", "wrong", "curve")}
        classes = _read(folder / "classes.csv").set_index("class")
        return CollectionAdvice(classes=classes, **tables, **values, path=folder)
    except (TypeError, ValueError, OSError) as error:
        raise RunError(f"{folder} is damaged ({error}). Make it again with 'xaitune collect --overwrite'.") from None


def _read(file: Path) -> pd.DataFrame:
    """A table in which a class may have any name, such as 007 or None; an empty figure is missing."""
    empty = dict.fromkeys(("gain", "gain_low", "gain_high"), "")
    return pd.read_csv(file, dtype=TEXT_COLUMNS, keep_default_na=False, na_values=empty)
