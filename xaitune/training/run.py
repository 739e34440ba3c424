"""The result of one training: its configuration, history, metrics, predictions and model."""

import dataclasses
import functools
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xaitune._files import read_json, write_json
from xaitune._names import metric_name, plural
from xaitune.config.choices import PIXEL_METRICS
from xaitune.config.settings import DataConfig, TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.errors import RunError
from xaitune.plots import charts
from xaitune.stats.intervals import outcome_interval, wilson_interval
from xaitune.stats.outcomes import Outcomes
from xaitune.stats.segmentation import THRESHOLDS, background_metrics, metric_counts, regions
from xaitune.training.checkpoint import Checkpoint
from xaitune.training.folder import CONFIG, RESULT, is_finished

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One finished training.

    `history`: one row per epoch. `metrics`: split -> figures, as `stats.classification_metrics` returns them.
    `predictions`: file, group, split, true, predicted and a probability per class. `state`: 'finished', 'diverged', or 'stopped'
    where a sweep chose another learning rate after a few epochs.
    `model` is loaded from `path` on first use, in float32.
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

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.path.name

    @functools.cached_property
    def model(self) -> Any:
        """The trained keras.Model: raw RGB 0..255 in, logits out. Loaded once."""
        from xaitune.models.model_files import load_model  # loads Keras, which a run's figures do not need

        return load_model(self.path)

    @property
    def image_folder(self) -> Path:
        """The folder to which the files in `predictions` are relative, where it was in training."""
        place = Path(self.data_config.path)
        return place.parent if place.suffix.lower() == ".csv" and not place.is_dir() else place

    def paths(self, split: str) -> list[Path]:
        """The image files of a split, in the place that they had in training; some may be gone."""
        table = self.predictions
        return [self.image_folder / file for file in table.loc[table["split"] == split, "file"]] if len(table) else []

    def score(self, split: str = "test") -> float:
        """The run's own `metric` on a split; NaN for a run that diverged."""
        return float(self.metrics.get(split, {}).get(self.config.metric, np.nan))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per split: loss, accuracy and the averages of F1, precision and recall."""
        scalars = {
            split: {k: v for k, v in m.items() if not isinstance(v, dict | list)} for split, m in self.metrics.items()
        }
        return pd.DataFrame(scalars).T.rename_axis("split")

    @property
    def figures(self) -> list[str]:
        """The columns of `to_dataframe` to show first; it has more."""
        if self.config.segments:
            found = [f"f1_at_iou_{threshold:g}" for threshold in THRESHOLDS]
            return ["iou_mean", *found, "dice_mean", "pixel_accuracy", "loss"]
        return ["accuracy", "f1_macro", "f1_weighted", "precision_macro", "recall_macro", "loss"]

    def per_class(self, split: str = "test") -> pd.DataFrame:
        """One row per class: precision, recall, F1 and support on a split."""
        table = pd.DataFrame(self.metrics[split]["per_class"]).T.rename_axis("class")
        return table.astype({"support": int}) if "support" in table else table

    def sentence(self) -> str:
        """The test score with its 95 % interval over groups, and what there is to compare it with, in plain words."""
        if self.state != "finished":
            return f"The run is {self.state}: it has no score."
        test, metric = self.predictions.query("split == 'test'"), self.config.metric
        groups = test["group"].to_numpy(str)
        score = outcome_interval(outcomes_of([test], self.class_names, metric), groups, metric)
        text = f"Test {metric_name(metric)} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}] over "
        text += plural(score.groups, "group")
        if self.config.segments:
            counts = pixel_counts_of(test, self.class_names)
            text += f"; a model that marks nothing scores {background_metrics(counts, self.class_names)[metric]:.3f}."
        elif metric != "accuracy":
            right = int((test["true"] == test["predicted"]).sum())
            low, high = wilson_interval(right, len(test))
            text += f", accuracy {right / len(test):.3f} [{low:.3f}, {high:.3f}] over {plural(len(test), 'image')}."
        else:
            text += "."
        if score.few:
            text += f" There is too little data to rely on the interval of {metric_name(metric)}: only {score.few}."
        return text

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The learning curves; see `plot_history`."""
        return self.plot_history(ax)

    def plot_history(self, ax: "Axes | None" = None) -> "Axes":
        """Training loss, validation loss and the validation metric over the epochs."""
        return charts.learning_curves({self.name: self.history}, metric=self.config.metric, ax=ax)

    def plot_confusion_matrix(self, ax: "Axes | None" = None, *, split: str = "test") -> "Axes":
        """Counts of images, of a segmentation of pixels, by true and predicted class on a split."""
        kind = "pixels" if self.config.segments else "confusion"
        return charts.confusion_matrix(np.array(self.metrics[split][kind]), self.class_names, ax=ax)

    def _repr_html_(self) -> str:
        lead = f"<p><b>{html.escape(self.name)}</b>: {html.escape(self.sentence())}</p>"
        return lead + self.to_dataframe().reindex(columns=self.figures).round(3).to_html(na_rep="-")


# Read as text, since a class may be named '007' or 'NA'.
TEXT_COLUMNS = {"file": str, "group": str, "true": str, "predicted": str, "split": str}


def prediction_table(data: ImageData, probabilities: np.ndarray) -> pd.DataFrame:
    """predictions.csv: file, group, split, true class, predicted class, and a probability per class ('p(name)')."""
    names = np.array(data.class_names)
    frame = pd.DataFrame(
        {
            "file": data.files,
            "group": data.groups,
            "split": data.split,
            "true": names[data.labels],
            "predicted": names[probabilities.argmax(axis=1)],
        }
    )
    return pd.concat([frame, pd.DataFrame(probabilities, columns=[f"p({n})" for n in data.class_names])], axis=1)


def pixel_table(data: ImageData, counts: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """predictions.csv of a segmentation, from pixel counts (n, C, C).

    file, group, split; the class of the image's region in truth and prediction ('background' for none) and their IoU (see
    `segmentation.regions`); and a column 'pixels(true>predicted)' for each pair of classes.
    """
    found, names = regions(counts), np.array(class_names)
    frame = pd.DataFrame(
        {
            "file": data.files,
            "group": data.groups,
            "split": data.split,
            "true": names[found.true],
            "predicted": names[found.predicted],
            "iou": found.iou,
        }
    )
    columns = _pixel_columns(class_names)
    return pd.concat([frame, pd.DataFrame(counts.reshape(len(counts), -1), columns=columns)], axis=1)


def _pixel_columns(class_names: Sequence[str]) -> list[str]:
    return [f"pixels({a}>{b})" for a in class_names for b in class_names]


def pixel_counts_of(table: pd.DataFrame, class_names: Sequence[str]) -> np.ndarray:
    """(n, C, C) the pixel counts in the rows of a segmentation's predictions."""
    return table[_pixel_columns(class_names)].to_numpy(np.int64).reshape(-1, len(class_names), len(class_names))


def outcomes_of(tables: Sequence[pd.DataFrame], class_names: Sequence[str], metric: str) -> Outcomes:
    """What the rows of predictions of several seeds, on the same images, count for a score; of a segmentation its pixels."""
    if metric in PIXEL_METRICS:
        return Outcomes.of_counts([metric_counts(pixel_counts_of(table, class_names), metric) for table in tables])
    number = {name: i for i, name in enumerate(class_names)}
    true = tables[0]["true"].map(number).to_numpy(np.int64)
    return Outcomes.of_classes(true, np.stack([t["predicted"].map(number).to_numpy(np.int64) for t in tables]))


def read_predictions(path: Path) -> pd.DataFrame:
    """The predictions.csv of a finished run's folder. Raises RunError if it is missing or damaged."""
    file = path / "predictions.csv"
    try:
        return pd.read_csv(file, dtype=TEXT_COLUMNS, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is missing or damaged ({error}).") from None


def read_history(path: Path) -> pd.DataFrame:
    """The history.csv of a run folder: one row per epoch."""
    return pd.read_csv(path / "history.csv")


def stop_run(path: Path) -> None:
    """End a paused run, whose learning rate a sweep did not choose: it has a history and no model."""
    seconds = float(read_history(path)["seconds"].sum())
    write_json(path / RESULT, {"state": "stopped", "metrics": {}, "seconds": seconds})
    Checkpoint(path).remove()


def load_run(path: str | Path) -> Run:
    """Load a finished run from its folder. Raises RunError if the run is missing, unfinished or damaged.

    Examples:
        >>> load_run("runs/freeze3-nag-seed0").state  # doctest: +SKIP
        'finished'
    """
    path = Path(path)
    if not is_finished(path):
        unfinished = "is not finished: run the same command again to resume it"
        raise RunError(f"{path} {unfinished if (path / CONFIG).is_file() else 'holds no run'}.")
    config, result = read_json(path / CONFIG), read_json(path / RESULT)
    try:
        return Run(
            path=path,
            config=TrainConfig(**config["train"]),
            data_config=DataConfig(**config["data"]),
            fingerprint=config["identity"]["fingerprint"],
            class_names=tuple(config["class_names"]),
            state=result["state"],
            history=read_history(path),
            metrics=result["metrics"],
            predictions=read_predictions(path) if result["state"] == "finished" else pd.DataFrame(),
            metadata=read_json(path / "metadata.json"),
        )
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}). Remove it and train again.") from None
