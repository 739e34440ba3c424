"""Images whose label is doubtful: held-out predictions contradict it (confident learning, Northcutt et al. 2021)."""

import dataclasses
import html
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import write_csv
from xaitune._names import plural
from xaitune._notebook import table_html
from xaitune._progress import Progress, part_of, shown_progress
from xaitune.advise.contrast import Contrast
from xaitune.advise.held_out import HeldOut
from xaitune.advise.leak import FILE as LEAK
from xaitune.advise.leak import LeakPremium, leak_premium, save_leak
from xaitune.advise.pooled import pooled_features
from xaitune.config.settings import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, InputError
from xaitune.models.weights import load_backbone
from xaitune.plots import figures, overlays, pictures
from xaitune.training.features import FeatureCache

COUNT = 20  # of the images that are drawn
RANKING = "confidence_weighted_entropy"  # of cleanlab; docs/labels.md compares it with its others
SHOWN = [
    "rank",
    "file",
    "split",
    "class",
    "suggested",
    "probability",
    "suggested_probability",
    "issue",
]  # in a notebook
FEATURES_SHARE, LABELS_SHARE = 0.6, 0.2  # of the time
CAPTION = (
    "One image of each group. Evidence: green for the suggested class, orange for the given one, by the head that has not "
    "seen the image's group. The most similar images are of other groups."
)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelCheck:
    """Images whose label is doubtful, the most doubtful first. Made by `doubtful_labels`.

    `table`: one row per doubtful image: `rank` from 1, file, group, split, class, `suggested` (the most probable other class),
    `probability` and `suggested_probability` of these two, `quality` of the label (0..1, low is doubtful), `issue` (whether
    cleanlab's filter counts it as one), and `like_class` and `like_suggested`, the most similar image of either class that is
    of another group. `images`: how many were checked. `rows`: pictures (h, w, 3) of the most doubtful image of each group: the
    image, the evidence, and the two most similar images. `weights`: the digest of the frozen network's. `leak`: what a split
    that ignores groups would seem to gain, None where every image is a group of its own.
    """

    table: pd.DataFrame
    images: int
    fingerprint: str
    weights: str
    rows: tuple[np.ndarray, ...] = dataclasses.field(repr=False)
    leak: LeakPremium | None = None

    @property
    def headline(self) -> str:
        """How many labels are doubtful, in a sentence."""
        if not len(self.table):
            return f"None of {plural(self.images, 'label')} is doubtful."
        return (
            f"{len(self.table):,} of {plural(self.images, 'label')} are doubtful, {self.table['issue'].sum():,} of them by "
            "cleanlab's filter too: look before you change one."
        )

    def plot(self, ax: Any = None) -> Any:
        """A contact sheet of the most doubtful images. Raises InputError where no label is doubtful."""
        if not self.rows:
            raise InputError(f"{self.headline} There is nothing to draw.")
        labels = []
        for row in _one_of_each_group(self.table).head(len(self.rows)).to_dict("records"):
            given, other = (
                f"{row['class']} {row['probability']:.0%}",
                f"{row['suggested']} {row['suggested_probability']:.0%}",
            )
            labels.append(f"{row['rank']}. {Path(row['file']).stem}\ngiven: {given}\nsuggested: {other}")
        titles = ["image", "evidence", "most like it\nof given class", "most like it\nof suggested"]
        caption = figures.wrap(CAPTION, 4.0, 9)
        return pictures.contact_sheet(self.rows, labels, titles=titles, caption=caption, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """The doubtful images, one row each."""
        return self.table

    def write(self, folder: str | Path) -> list[Path]:
        """Write labels.csv, labels.png where a label is doubtful, and leak.json where images have groups; returns their paths.

        In labels.csv, `action` is empty, for keep, relabel or drop, and `new_class` is the suggested class: filled in, the file
        is what `label_fixes` takes. It begins with a byte order mark, so that spreadsheets show names of any script.
        """
        folder = Path(folder)
        write_csv(folder / "labels.csv", self.table.assign(action="", new_class=self.table["suggested"]), "utf-8-sig")
        sheet = folder / "labels.png"
        sheet.unlink(missing_ok=True)  # one of other data
        (folder / LEAK).unlink(missing_ok=True)
        drawn = [figures.save(self.plot(), sheet)] if self.rows else []
        return [folder / "labels.csv", *drawn, *([save_leak(self.leak, folder)] if self.leak else [])]

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self.headline)}</b>{table_html(self.table[SHOWN])}"


def doubtful_labels(
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    count: int = COUNT,
    runs_dir: str | Path = "runs",
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    **options: Any,
) -> LabelCheck:
    """Rank the images whose label is doubtful, by a network that has seen neither them nor their group.

    One pass through the frozen network, then the probabilities of linear heads on its pooled features (`HeldOut`), over all
    splits. cleanlab ranks the labels by them and counts issues (confident learning: Northcutt et al. 2021, "Confident
    Learning: Estimating Uncertainty in Dataset Labels", JAIR 70). Doubtful is a label that is an issue, or that is not the most
    probable class. `count`: how many are drawn, at least 1. `options` are fields of TrainConfig, of which weights,
    architecture, precision and metric matter. Needs `pip install 'xaitune[labels]'`. Raises InputError and RunError.

    Examples:
        >>> data = ImageData.from_folder("images", image_size=(96, 96))  # doctest: +SKIP
        >>> doubtful_labels(data, weights="imagenet").headline  # doctest: +SKIP
        "266 of 1,344 labels are doubtful, 186 of them by cleanlab's filter too: look before you change one."
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1. Received: count={count}.")
    require_cleanlab()
    progress = shown_progress(progress, "labels")
    config = replace_fields(config or TrainConfig(), options)
    data.require_trainable()
    backbone = load_backbone(config.weights, config.architecture)
    cache = FeatureCache(Path(cache_dir or Path(runs_dir) / "cache"), cache_gb)
    network, features = pooled_features(data, config, backbone, cache, part_of(progress, 0, FEATURES_SHARE))
    held_out = HeldOut(features, data.labels, np.asarray(data.groups), len(data.class_names), config.metric)
    fitted = FEATURES_SHARE + LABELS_SHARE
    probabilities = held_out.probabilities(part_of(progress, FEATURES_SHARE, fitted))
    table = _doubtful(data, held_out, probabilities)
    leak = leak_premium(held_out, probabilities, data.fingerprint, part_of(progress, fitted, 1))
    rows = _pictures(data, held_out, _one_of_each_group(table).head(count), network.model)
    return LabelCheck(table, len(data), data.fingerprint, backbone.digest, rows, leak)


def require_cleanlab() -> None:
    """Raise ConfigError where cleanlab is missing."""
    try:
        with warnings.catch_warnings():  # tqdm asks for ipywidgets, which xaitune's own bar does without
            warnings.filterwarnings("ignore", "IProgress not found")
            import cleanlab.filter  # noqa: F401
    except ImportError:
        raise ConfigError("Doubtful labels need cleanlab. Install it with: pip install 'xaitune[labels]'.") from None


def judge_labels(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(quality (n,) 0..1, low is doubtful; whether cleanlab's filter counts a label as an issue (n,) bool).

    `labels` (n,) class numbers, `probabilities` (n, classes) of models that have not seen the image.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(labels, probabilities, method=RANKING)
    return quality, find_label_issues(labels, probabilities, n_jobs=1)


def _doubtful(data: ImageData, held_out: HeldOut, probabilities: np.ndarray) -> pd.DataFrame:
    """The table of a LabelCheck."""
    every, labels, names = np.arange(len(data)), data.labels, np.array(data.class_names)
    quality, issue = judge_labels(labels, probabilities)
    others = probabilities.copy()
    others[every, labels] = -1
    suggested = others.argmax(axis=1)
    rows = np.flatnonzero(issue | (probabilities[every, suggested] > probabilities[every, labels]))
    rows = rows[np.argsort(quality[rows], kind="stable")]
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(rows) + 1),
            "file": [data.files[i] for i in rows],
            "group": np.asarray(data.groups)[rows],
            "split": np.asarray(data.split)[rows],
            "class": names[labels[rows]],
            "suggested": names[suggested[rows]],
            "probability": probabilities[rows, labels[rows]],
            "suggested_probability": probabilities[rows, suggested[rows]],
            "quality": quality[rows],
            "issue": issue[rows],
            "like_class": [data.files[held_out.nearest(i, labels[i])] for i in rows.tolist()],
            "like_suggested": [data.files[held_out.nearest(i, suggested[i])] for i in rows.tolist()],
        }
    )


def _one_of_each_group(table: pd.DataFrame) -> pd.DataFrame:
    """The most doubtful image of each group and class: photographs of one thing are doubtful together."""
    return table.drop_duplicates(["group", "class"])


def _pictures(data: ImageData, held_out: HeldOut, table: pd.DataFrame, model: Any) -> tuple[np.ndarray, ...]:
    """For each row of the table: the image, the evidence, and the most similar images of the given and the suggested class."""
    position = {file: i for i, file in enumerate(data.files)}
    contrast, drawn = Contrast(model), []
    for row in table.to_dict("records"):
        shown = data.load([position[row[column]] for column in ("file", "like_class", "like_suggested")])
        given, suggested = (data.class_names.index(row[column]) for column in ("class", "suggested"))
        head = held_out.fitted(int(held_out.fold_of[position[row["file"]]]))
        evidence = contrast(head, shown[:1].astype(np.float32), suggested, given)
        drawn.append(overlays.strip([shown[0], overlays.signed_overlay(shown[0], evidence), *shown[1:]], height=160))
    return tuple(drawn)
