"""What each stage hands on: small frozen dataclasses with `.plot`, `.to_dataframe` and a notebook view. No Keras."""

import dataclasses
import functools
import html
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd

from xaitune.config.schema import DataConfig, TrainConfig
from xaitune.data.images import map_to_image, read_image, resize_image
from xaitune.errors import ImageError, ModelError, nearest
from xaitune.plots import charts as plots
from xaitune.plots import figures, overlays
from xaitune.stats.intervals import Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def read_only(array: np.ndarray) -> np.ndarray:
    """The array, made read-only."""
    array.flags.writeable = False
    return array


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One finished training.

    `history`: one row an epoch. `metrics`: split -> figures as `stats.classification_metrics` gives them.
    `predictions`: file, group, split, true, predicted and a probability a class. `state`: 'finished' or 'diverged'.
    `model` is loaded from `path` when first asked for, in float32.
    """

    path: Path
    config: TrainConfig
    data_config: DataConfig
    fingerprint: str
    class_names: tuple[str, ...]
    state: str
    history: pd.DataFrame
    metrics: dict[str, dict[str, Any]]
    predictions: pd.DataFrame
    metadata: dict[str, Any]
    loader: Callable[[Path], Any]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.path.name

    @functools.cached_property
    def model(self) -> Any:
        """The trained keras.Model: raw RGB 0..255 in, logits out. Loaded once."""
        return self.loader(self.path)

    def score(self, split: str = "test") -> float:
        """The run's own `metric` on a split; NaN for a run that diverged."""
        return float(self.metrics.get(split, {}).get(self.config.metric, np.nan))

    def to_dataframe(self) -> pd.DataFrame:
        """One row a split: loss, accuracy and the F1, precision and recall averages."""
        keep = {
            split: {k: v for k, v in m.items() if not isinstance(v, dict | list)} for split, m in self.metrics.items()
        }
        return pd.DataFrame(keep).T.rename_axis("split")

    def per_class(self, split: str = "test") -> pd.DataFrame:
        """One row a class: precision, recall, F1 and support on a split."""
        return pd.DataFrame(self.metrics[split]["per_class"]).T.rename_axis("class")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The learning curves; see `plot_history`."""
        return self.plot_history(ax)

    def plot_history(self, ax: "Axes | None" = None) -> "Axes":
        """Training and validation loss and the validation metric over the epochs."""
        return plots.learning_curves({self.name: self.history}, metric=self.config.metric, ax=ax)

    def plot_confusion_matrix(self, ax: "Axes | None" = None, *, split: str = "test") -> "Axes":
        """Counts of true against predicted class on a split."""
        return plots.confusion_matrix(np.array(self.metrics[split]["confusion"]), self.class_names, ax=ax)

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self.name)}</b> ({self.state})" + self.to_dataframe().round(3).to_html()


@dataclasses.dataclass(frozen=True, eq=False)
class BlockHeatmaps:
    """Heatmaps of n images at one or more blocks.

    `raw`: block -> (n, h_b, w_b) float32, unnormalised, at the block's own resolution; compare blocks by these.
    `images`: (n, h, w, 3) as the model saw them, 0..255. `classes`: the class index explained for each image;
    `probabilities`: (n, classes) softmax. `resize`: how files were brought to the model's size. `precision`: what the
    maps were computed in.
    """

    method: str
    raw: dict[int, np.ndarray]
    images: np.ndarray
    files: tuple[str, ...]
    classes: np.ndarray
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    rule: str = "gradcam"
    resize: str = "stretch"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for array in (*self.raw.values(), self.images, self.classes, self.probabilities):
            read_only(array)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks drawn, ascending."""
        return tuple(sorted(self.raw))

    @property
    def view(self) -> dict[int, np.ndarray]:
        """block -> maps in [0, 1]: negative values cut off, each map divided by its own maximum."""
        return {block: unit_view(raw) for block, raw in self.raw.items()}

    @property
    def is_zero(self) -> np.ndarray:
        """(n, blocks): True where a map has no positive value and shows nothing."""
        return np.stack([self.raw[b].reshape(len(self), -1).max(axis=1) <= 0 for b in self.blocks], axis=1)

    def block(self, number: int) -> "BlockHeatmaps":
        """The same heatmaps at one block only. Raises ModelError for a block that was not drawn."""
        if number not in self.raw:
            raise ModelError(f"Block {number} was not drawn. Drawn: {', '.join(map(str, self.blocks))}.")
        return dataclasses.replace(self, raw={number: self.raw[number]})

    def upsampled(self, block: int, *, view: bool = True) -> np.ndarray:
        """(n, h, w) maps of a block at the model's input size, bilinear; of the [0, 1] view or the raw values."""
        maps = (self.view if view else self.raw)[block]
        height, width = self.images.shape[1:3]
        return np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in maps])

    def explained(self, image: int) -> str:
        """The name of the class that is explained for an image."""
        return self.class_names[int(self.classes[image])]

    def panels(self, image: int = 0) -> list[tuple[str, np.ndarray]]:
        """(title, picture) of one image and its overlays at all drawn blocks, in the file's own geometry."""
        picture = own_picture(self.files[image], self.images[image])
        panels = [("image", picture)]
        for block, zero in zip(self.blocks, self.is_zero[image], strict=True):
            view = unit_view(self.raw[block][image : image + 1])[0]
            heat = map_to_image(view, picture.shape, self.images.shape[1:3], self.resize)
            panels.append(
                (f"Block {block}" + (" (no positive evidence)" if zero else ""), overlays.overlay(picture, heat))
            )
        return panels

    def plot(self, ax: "Axes | None" = None, *, image: int = 0) -> "Axes":
        """One image beside its heatmaps over all drawn blocks."""
        titles, pictures = zip(*self.panels(image), strict=True)
        index = int(self.classes[image])
        caption = f"{self.method}: {self.class_names[index]} (p = {self.probabilities[image, index]:.2f})"
        return plots.panels(pictures, titles, caption=caption, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """One row an image and block: class explained, probability, raw maximum and mean, all-zero or not."""
        rows = []
        for j, block in enumerate(self.blocks):
            flat = self.raw[block].reshape(len(self), -1)
            frame = {
                "file": self.files,
                "block": block,
                "class": [self.explained(i) for i in range(len(self))],
                "probability": self.probabilities[np.arange(len(self)), self.classes],
                "raw_max": flat.max(axis=1),
                "raw_mean": flat.mean(axis=1),
                "is_zero": self.is_zero[:, j],
            }
            rows.append(pd.DataFrame(frame))
        return pd.concat(rows, ignore_index=True)

    def _repr_html_(self) -> str:
        table = self.to_dataframe().head(20).round(3).to_html(index=False)
        return f"<b>{html.escape(self.method)}</b>: {len(self)} images{table}"


def own_picture(file: str, shown: np.ndarray, longest: int = 640) -> np.ndarray:
    """The file's own image, at most `longest` pixels a side; what the model saw where there is no such file."""
    try:
        picture = read_image(file)
    except ImageError:
        return shown
    height, width = picture.shape[:2]
    scale = min(1.0, longest / max(height, width))
    return resize_image(picture, (max(round(height * scale), 1), max(round(width * scale), 1)))


def unit_view(raw: np.ndarray) -> np.ndarray:
    """(n, h, w) raw maps -> their [0, 1] view: negatives to 0, divided by each map's maximum; all-zero stays zero."""
    positive = np.maximum(raw, 0)
    peak = positive.max(axis=(1, 2), keepdims=True)
    return positive / np.where(peak > 0, peak, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Superpixels:
    """LIME explanations of n images.

    `segments`: n label images (h, w) with ids 0..m-1. `classes`: the class index explained for each image;
    `of_class` explains another from the same samples. For every class: `class_weights`: n arrays (classes, m), the
    linear model's weight of each superpixel; `class_interval`: n arrays (classes, m, 2), 95 %, over resampled masks;
    `class_score`: (n, classes) weighted R^2; `class_stability`: (n, classes, 2) the Spearman correlation of the weights
    and the Jaccard index of the five most positive superpixels that two independent runs are expected to reach. With
    more than 20 classes the unlikely ones have NaN intervals and stability. `samples`: (n,) masked images predicted.
    `precision`: what the model computed in.
    """

    images: np.ndarray
    files: tuple[str, ...]
    classes: np.ndarray
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    segments: tuple[np.ndarray, ...]
    class_weights: tuple[np.ndarray, ...]
    class_interval: tuple[np.ndarray, ...]
    class_score: np.ndarray
    class_stability: np.ndarray
    samples: np.ndarray
    method: str = "lime"
    resize: str = "stretch"
    precision: str = "float32"

    def __post_init__(self) -> None:
        arrays = (self.images, self.classes, self.probabilities, self.class_score, self.class_stability, self.samples)
        for array in (*arrays, *self.segments, *self.class_weights, *self.class_interval):
            read_only(array)

    def __len__(self) -> int:
        return len(self.files)

    def of_class(self, class_name: str) -> "Superpixels":
        """The same samples' explanation of another class. Raises ModelError for an unknown one."""
        if class_name not in self.class_names:
            raise ModelError(f"Unknown class {class_name!r}.{nearest(class_name, self.class_names)}")
        index = self.class_names.index(class_name)
        return dataclasses.replace(self, classes=np.full(len(self), index))

    @property
    def interval(self) -> tuple[np.ndarray, ...]:
        """For each image, the 95 % intervals (m, 2) of the explained class's weights."""
        return tuple(w[int(c)] for w, c in zip(self.class_interval, self.classes, strict=True))

    @property
    def score(self) -> np.ndarray:
        """(n,) the weighted R^2 of the explained class's linear model."""
        return self.class_score[np.arange(len(self)), self.classes]

    @property
    def stability(self) -> np.ndarray:
        """(n, 2) the expected Spearman and top-5 Jaccard of two independent runs, for the explained class."""
        return self.class_stability[np.arange(len(self)), self.classes]

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """For each image, the weights (m,) of the explained class."""
        return tuple(w[int(c)] for w, c in zip(self.class_weights, self.classes, strict=True))

    def share(self, image: int = 0) -> pd.Series:
        """Each class's share of all positive superpixel weight in an image (Figure 17 of the freezing study)."""
        positive = np.maximum(self.class_weights[image], 0).sum(axis=1)
        return pd.Series(positive / max(positive.sum(), 1e-12), index=list(self.class_names), name="positive share")

    def explained(self, image: int) -> str:
        """The name of the class that is explained for an image."""
        return self.class_names[int(self.classes[image])]

    def signed_map(self, image: int = 0) -> np.ndarray:
        """(h, w) float: at each pixel its superpixel's weight."""
        return self.weights[image][self.segments[image]]

    def top_mask(self, image: int, positive: bool, count: int = 5) -> np.ndarray:
        """(h, w) bool: the `count` superpixels with the largest weights of one sign."""
        weights = self.weights[image] * (1 if positive else -1)
        top = np.argsort(-weights, kind="stable")[:count]
        return np.isin(self.segments[image], top[weights[top] > 0])

    def panels(self, image: int = 0) -> list[tuple[str, np.ndarray]]:
        """(title, picture) of superpixels, the five most positive, the most negative, all; in the file's geometry."""
        picture = own_picture(self.files[image], self.images[image])

        def placed(map_: np.ndarray) -> np.ndarray:
            return map_to_image(map_, picture.shape, self.images.shape[1:3], self.resize, nearest=True)

        return [
            ("superpixels", overlays.boundaries(picture, placed(self.segments[image]))),
            ("positive", overlays.tint(picture, placed(self.top_mask(image, True)), plots.POSITIVE)),
            ("negative", overlays.tint(picture, placed(self.top_mask(image, False)), plots.NEGATIVE)),
            ("all weights", overlays.signed_overlay(picture, placed(self.signed_map(image)))),
        ]

    def plot(self, ax: "Axes | None" = None, *, image: int = 0) -> "Axes":
        """The superpixels, the positive and negative ones, all weights, and the other classes' shares."""
        titles, pictures = zip(*self.panels(image), strict=True)
        index = int(self.classes[image])
        share = self.share(image).sort_values(ascending=False).head(4)
        shares = ", ".join(f"{name} {value:.0%}" for name, value in share.items())
        caption = (
            f"lime: {self.class_names[index]} (p = {self.probabilities[image, index]:.2f}, R² = {self.score[image]:.2f}, "
            f"{len(self.weights[image])} superpixels, {self.samples[image]} samples, "
            f"stability {self.stability[image, 0]:.2f})\npositive share: {shares}"
        )
        return plots.panels(pictures, titles, caption=caption, ax=ax)

    def plot_shares(self, ax: "Axes | None" = None, *, image: int = 0) -> "Axes":
        """Each class's share of the positive superpixel weight, as bars."""
        return plots.shares(self.share(image), explained=self.explained(image), ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a superpixel: file, class, its id, weight, interval and share of the pixels; R^2, samples, stability."""
        rows = []
        for i, file in enumerate(self.files):
            weights = self.weights[i]
            frame = {
                "file": file,
                "class": self.explained(i),
                "superpixel": np.arange(len(weights)),
                "weight": weights,
                "low": self.interval[i][:, 0],
                "high": self.interval[i][:, 1],
                "area": np.bincount(self.segments[i].ravel(), minlength=len(weights)) / self.segments[i].size,
                "r2": self.score[i],
                "samples": self.samples[i],
                "spearman": self.stability[i, 0],
                "top5_jaccard": self.stability[i, 1],
            }
            rows.append(pd.DataFrame(frame))
        return pd.concat(rows, ignore_index=True)

    def _repr_html_(self) -> str:
        return f"<b>lime</b>: {len(self)} images" + self.to_dataframe().head(20).round(4).to_html(index=False)


@dataclasses.dataclass(frozen=True, eq=False)
class FreezeAdvice:
    """The recommended `freeze_through` with its reasons, made from validation images only.

    `evidence`: one row a block with each measure's mean and the score that decides. `confidence`: the share of
    resampled groups and head seeds that choose the same block. `votes`: that share for every block (1..5).
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
        """The blocks from most to least often chosen, then by score."""
        score = self.evidence["score"]
        return tuple(sorted(self.votes, key=lambda b: (-self.votes[b], -float(score.get(b, -np.inf)))))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The score of each block with its interval, the advised one marked."""
        return plots.evidence(self.evidence, self.freeze_through, self.votes, measure=self.measure, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """The evidence: one row a block."""
        return self.evidence

    def _repr_html_(self) -> str:
        return (
            f"<b>Freeze {figures.frozen_name(self.freeze_through)}</b> (confidence {self.confidence:.0%})"
            f"<p>{html.escape(self.reasons)}</p>" + self.evidence.round(3).to_html()
        )


@dataclasses.dataclass(frozen=True, eq=False)
class SweepTable:
    """A grid of runs, freeze depth x optimizer x seed.

    `runs`: one row a run (name, freeze_through, optimizer, seed, state, validation, test, seconds, ...).
    `cells`: one row a cell: means over the seeds, the interval of the test score over groups, `difference`,
    `low` and `high` against the best, and whether it `equals` the best. Where a cell tried several learning rates
    (`rates`), all of it is of the one that is best on validation (`learning_rate`).
    """

    path: Path
    metric: str
    runs: pd.DataFrame
    cells: pd.DataFrame
    class_names: tuple[str, ...]
    fingerprint: str
    weights: str
    groups: int
    images: int
    predictions: Callable[[str], pd.DataFrame]
    histories: Callable[[str], pd.DataFrame]

    @property
    def complete(self) -> pd.DataFrame:
        """The cells with all seeds finished. Only these may win: one lucky seed is no match for the mean of several."""
        return self.cells[self.cells["seeds"] == self.cells["seeds"].max()]

    @property
    def best(self) -> pd.Series:
        """The cell with the best validation score (mean over the seeds), among those with all seeds finished."""
        return self.complete.loc[self.complete["validation"].idxmax()]

    @property
    def equals(self) -> pd.DataFrame:
        """The cells that cannot be told from the best on the test images, the cheapest to train first."""
        return self.cells[self.cells["equals"]].sort_values("seconds")

    def cell(self, freeze_through: int, optimizer: str) -> pd.Series:
        """One cell. Raises ModelError where the sweep lacks it."""
        match = self.cells[(self.cells["freeze_through"] == freeze_through) & (self.cells["optimizer"] == optimizer)]
        if match.empty:
            raise ModelError(
                f"The sweep has no finished cell freeze_through={freeze_through}, optimizer={optimizer!r}."
            )
        return match.iloc[0]

    def cell_runs(self, freeze_through: int, optimizer: str) -> pd.DataFrame:
        """The finished runs of a cell, one a seed, at the learning rate that the cell keeps."""
        same = (self.runs["freeze_through"] == freeze_through) & (self.runs["optimizer"] == optimizer)
        found = self.runs[same & (self.runs["state"] == "finished")]
        if "learning_rate" in self.cells:
            found = found[found["learning_rate"] == self.cell(freeze_through, optimizer)["learning_rate"]]
        return found.drop_duplicates("seed")

    def table(self, column: str = "test") -> pd.DataFrame:
        """Frozen blocks x optimizer, the layout of the freezing study's Table 9."""
        order = list(dict.fromkeys(self.cells["optimizer"]))
        return self.cells.pivot(index="freeze_through", columns="optimizer", values=column)[order]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Test score of every cell with its interval, by depth and optimizer."""
        return plots.sweep_cells(self.cells, metric=self.metric, ax=ax)

    def plot_histories(self, ax: "Axes | None" = None) -> "Axes":
        """The validation metric of all runs over the epochs, in one picture (Figure 20 of the freezing study)."""
        curves = {name: self.histories(name) for name in self.runs.loc[self.runs["state"] == "finished", "name"]}
        return plots.all_curves(curves, self.runs, metric=self.metric, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a run."""
        return self.runs

    def _repr_html_(self) -> str:
        return self.table().round(3).to_html()


@dataclasses.dataclass(frozen=True, eq=False)
class AdviceCheck:
    """Whether a sweep confirms the advice, contradicts it, or cannot tell.

    `difference` is the advised depth's test score minus the rival's (the other depth that is best on validation),
    each with the optimizer that is best on validation, with its 95 % interval over groups. `learning_rates`: depth ->
    the rate that is best on validation, where several were tried. `mcnemar`: for each seed, by accuracy, the test images
    that the advised depth alone has right (`advised_only`), those of the rival alone (`rival_only`), and the exact
    McNemar p: the chance of a split at least as uneven if both were equally often right.
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
        metric = figures.metric_name(self.metric)
        points = f"{d.difference * 100:+.1f} points of {metric} [{d.low * 100:+.1f}, {d.high * 100:+.1f}]"
        what = {
            "confirmed": "The sweep confirms the advice",
            "contradicted": "The sweep contradicts the advice",
            "cannot tell": "The sweep cannot tell",
        }[self.verdict]
        text = (
            f"{what}: freezing {figures.frozen_name(self.advised)} ({self._how(self.advised)}) against "
            f"{figures.frozen_name(self.rival)} ({self._how(self.rival)}) is {points} on {d.images} test images "
            f"in {d.groups} groups, {self.seeds} seed{'s' if self.seeds > 1 else ''}."
        )
        if self.verdict == "cannot tell" and self.test_images_needed:
            text += f" About {self.test_images_needed} test images would settle it."
        if d.few:
            text += f" Too few to rely on the interval: {d.few}."
        if not self.advice_made_first:
            text += " Note: the advice was made after the sweep began, so it is no blind test of it."
        if self.cheapest["name"] != self.best["name"]:
            text += (
                f" The best cell on validation is {self.best['name']}; the cheapest whose interval against it reaches 0 is "
                f"{self.cheapest['name']}{self._gap()}."
            )
        return text

    def _how(self, depth: int) -> str:
        rate = self.learning_rates.get(depth)
        return self.optimizers[depth] + (f" at {rate:g}" if rate is not None else "")

    def _gap(self) -> str:
        cell = self.cheapest
        if "difference" not in cell:
            return ""
        points = [f"{100 * cell[key]:+.1f}" for key in ("difference", "diff_low", "diff_high")]
        return f" ({points[0]} points [{points[1]}, {points[2]}])"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The difference with its interval, against zero and the margin."""
        return plots.difference(
            self.difference.difference, *self.interval, margin=self.margin, label=self.verdict, ax=ax
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row: the verdict and what it rests on."""
        row = dataclasses.asdict(self.difference) | {
            "verdict": self.verdict,
            "advised": self.advised,
            "rival": self.rival,
            "test_images_needed": self.test_images_needed,
        }
        return pd.DataFrame([row])

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self.verdict)}</b><p>{html.escape(self.sentence())}</p>"
