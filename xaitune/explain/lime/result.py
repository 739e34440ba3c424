"""LIME explanations: superpixels, their weights with intervals, and their pictures."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xaitune._names import plural
from xaitune._notebook import table_html
from xaitune.data.resize import map_to_image
from xaitune.errors import unknown_class
from xaitune.explain.heatmaps import answer_text, own_picture, read_only
from xaitune.plots import charts, overlays
from xaitune.plots.pictures import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What the colours of all pictures of superpixels mean.
COLOURS = "Green speaks for the class, orange against it; the stronger the colour, the larger the weight."


@dataclasses.dataclass(frozen=True, eq=False)
class Superpixels:
    """LIME explanations of n images.

    `segments`: n label images (h, w) with ids 0..m-1. `classes`: the class index explained for each image; `of_class`
    explains another from the same samples. For every class: `class_weights`: n arrays (classes, m), the linear model's
    weight of each superpixel; `class_interval`: n arrays (classes, m, 2), 95 % intervals over resampled masks;
    `class_score`: (n, classes) weighted R^2; `class_stability`: (n, classes, 2) the Spearman correlation of the weights
    and the Jaccard index of the five most positive superpixels that two independent runs are expected to reach. With
    more than 20 classes the unlikely ones have NaN intervals and stability. `class_learnt`: (n, classes) the leave-one-out
    R^2 of the emulator on which weights and stability rest (see `lime.fit`); below LEARNT they rest on the regression
    alone; NaN without an emulator. `samples`: (n,) masked images predicted. `precision`: that of the model's computation.
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
    bit_depth: int | None = None
    precision: str = "float32"
    class_learnt: np.ndarray | None = None

    def __post_init__(self) -> None:
        arrays = (self.images, self.classes, self.probabilities, self.class_score, self.class_stability, self.samples)
        for array in (*arrays, *self.segments, *self.class_weights, *self.class_interval):
            read_only(array)

    def __len__(self) -> int:
        return len(self.files)

    def of_class(self, class_name: str) -> "Superpixels":
        """The explanation of another class by the same samples. Raises ModelError for an unknown class."""
        if class_name not in self.class_names:
            raise unknown_class(class_name, self.class_names)
        index = self.class_names.index(class_name)
        return dataclasses.replace(self, classes=np.full(len(self), index))

    @property
    def interval(self) -> tuple[np.ndarray, ...]:
        """For each image, the 95 % intervals (m, 2) of the weights for the explained class."""
        return tuple(w[int(c)] for w, c in zip(self.class_interval, self.classes, strict=True))

    @property
    def score(self) -> np.ndarray:
        """(n,) the weighted R^2 of the linear model for the explained class."""
        return self.class_score[np.arange(len(self)), self.classes]

    @property
    def stability(self) -> np.ndarray:
        """(n, 2) the expected Spearman and top-5 Jaccard of two independent runs, for the explained class."""
        return self.class_stability[np.arange(len(self)), self.classes]

    @property
    def learnt(self) -> np.ndarray:
        """(n,) the leave-one-out R^2 of the emulator for the explained class; NaN without one."""
        if self.class_learnt is None:
            return np.full(len(self), np.nan)
        return self.class_learnt[np.arange(len(self)), self.classes]

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """For each image, the weights (m,) for the explained class."""
        return tuple(w[int(c)] for w, c in zip(self.class_weights, self.classes, strict=True))

    def share(self, image: int = 0) -> pd.Series:
        """Each class's share of all positive superpixel weight in an image (Figure 17 of the freezing study)."""
        positive = np.maximum(self.class_weights[image], 0).sum(axis=1)
        return pd.Series(positive / max(positive.sum(), 1e-12), index=list(self.class_names), name="positive share")

    def explained(self, image: int) -> str:
        """The name of the class explained for an image."""
        return self.class_names[int(self.classes[image])]

    def answer(self, image: int) -> str:
        """The class explained and the predicted one, and the true one where it is known, as a picture's caption says them."""
        return answer_text(self.files[image], int(self.classes[image]), self.probabilities[image], self.class_names)

    def signed_map(self, image: int = 0) -> np.ndarray:
        """(h, w) float: at each pixel the weight of its superpixel."""
        return self.weights[image][self.segments[image]]

    def top_mask(self, image: int, positive: bool, count: int = 5) -> np.ndarray:
        """(h, w) bool: the `count` superpixels with the largest weights of one sign."""
        weights = self.weights[image] * (1 if positive else -1)
        top = np.argsort(-weights, kind="stable")[:count]
        return np.isin(self.segments[image], top[weights[top] > 0])

    def panels(self, image: int = 0) -> list[tuple[str, np.ndarray]]:
        """(title, picture) of all superpixels, the five most positive, the five most negative and all weights.

        All in the file's own geometry.
        """
        picture = own_picture(self.files[image], self.images[image], self.bit_depth)

        def in_file(map_: np.ndarray) -> np.ndarray:
            return map_to_image(map_, picture.shape, self.images.shape[1:3], self.resize, nearest=True)

        return [
            ("superpixels", overlays.boundaries(picture, in_file(self.segments[image]))),
            ("positive", overlays.tint(picture, in_file(self.top_mask(image, True)), overlays.POSITIVE)),
            ("negative", overlays.tint(picture, in_file(self.top_mask(image, False)), overlays.NEGATIVE)),
            ("all weights", overlays.signed_overlay(picture, in_file(self.signed_map(image)))),
        ]

    def plot(self, ax: "Axes | None" = None, *, image: int = 0) -> "Axes":
        """The pictures of `panels` in one row, with the classes' shares of the positive weight in the caption."""
        titles, pictures = zip(*self.panels(image), strict=True)
        share = self.share(image).sort_values(ascending=False).head(4)
        shares = ", ".join(f"{name} {value:.0%}" for name, value in share.items() if value >= 0.005) or "none"
        caption = (
            f"lime: {self.answer(image)}\nR² = {self.score[image]:.2f}, {len(self.weights[image])} superpixels, "
            f"{self.samples[image]} samples, stability {self.stability[image, 0]:.2f}{self._learnt_text(image)}\n"
            f"positive share: {shares}\n{COLOURS}"
        )
        return panels(pictures, titles, caption=caption, ax=ax)

    def _learnt_text(self, image: int) -> str:
        """How well the emulator predicts the answers, for the caption; '' without one."""
        learnt = self.learnt[image]
        return "" if np.isnan(learnt) else f", emulator R² = {learnt:.2f}"

    def plot_shares(self, ax: "Axes | None" = None, *, image: int = 0) -> "Axes":
        """Each class's share of the positive superpixel weight, as bars."""
        return charts.shares(self.share(image), explained=self.explained(image), ax=ax)

    def plot_weights(self, ax: "Axes | None" = None, *, image: int = 0, count: int = 20) -> "Axes":
        """The `count` largest weights of an image, of either sign, with their 95 % intervals.

        The numbers are those in the column `superpixel` of `to_dataframe`. Filled: the interval excludes 0.
        """
        table = self.to_dataframe()
        part = table[table["file"] == self.files[image]].set_index("superpixel")
        largest = part.loc[part["weight"].abs().nlargest(count).index].sort_values("weight", ascending=False)
        title = f"Weights for {self.explained(image)}: the {len(largest)} largest of {len(part)}"
        return charts.weight_intervals(largest, title=title, ax=ax)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per superpixel: file, class, its id, weight, interval and share of the pixels.

        Also the R^2 of the linear model and of the emulator, the samples, and the stability.
        """
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
                "emulator_r2": self.learnt[i],
            }
            rows.append(pd.DataFrame(frame))
        return pd.concat(rows, ignore_index=True)

    def _repr_html_(self) -> str:
        return f"<p><b>lime</b>: {plural(len(self), 'image')}.</p>{table_html(self.to_dataframe())}"
