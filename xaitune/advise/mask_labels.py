"""Images whose mask is doubtful: a segmentation that was not trained on them disagrees with it."""

import dataclasses
import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import read_json, write_csv
from xaitune._names import plural
from xaitune._notebook import table_html
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.errors import ConfigError, InputError
from xaitune.explain.pixels import Segmentation, segment_images
from xaitune.plots import figures
from xaitune.stats.metrics import ratio
from xaitune.training.folder import CONFIG, find_runs
from xaitune.training.run import Run, load_run, pixel_counts_of

COUNT = 20  # of the images that are drawn


@dataclasses.dataclass(frozen=True, eq=False)
class MaskCheck:
    """Images whose mask and prediction disagree, the worst first. Made by `doubtful_masks`.

    `table`: one row per image that the run was not trained on and whose pixels are not all predicted as the mask says: `rank`
    from 1, file, group, split, the class of its largest region in the mask (`class`) and in the prediction (`suggested`), the
    `disagreement` (1 - the mean IoU over the classes in either, 0..1), and the shares of the pixels that are `missed`, a
    `false_alarm`, or of `another_class`. `images`: how many were compared. `drawn` and `truth`: those that are drawn.
    """

    table: pd.DataFrame
    images: int
    fingerprint: str
    run: str
    drawn: Segmentation | None = dataclasses.field(repr=False)
    truth: tuple[np.ndarray, ...] = dataclasses.field(repr=False)

    @property
    def headline(self) -> str:
        """How many masks disagree, in a sentence."""
        of = f"{plural(self.images, 'image')} that {self.run} was not trained on"
        if not len(self.table):
            return f"Mask and prediction agree on all {of}."
        worst = int((self.table["disagreement"] >= 0.5).sum())
        return f"Mask and prediction disagree by half or more on {worst:,} of {of}: look at the first of them."

    def plot(self, ax: Any = None) -> Any:
        """The worst images with mask, prediction and error. Raises InputError where there are none."""
        if self.drawn is None:
            raise InputError(f"{self.headline} There is nothing to draw.")
        return self.drawn.plot(ax, truth=self.truth, images=len(self.drawn))

    def to_dataframe(self) -> pd.DataFrame:
        """The images, one row each."""
        return self.table

    def write(self, folder: str | Path) -> list[Path]:
        """Write labels.csv, with an empty column `action` (keep or drop) that `label_fixes` takes, and labels.png."""
        folder = Path(folder)
        write_csv(folder / "labels.csv", self.table.assign(action=""), "utf-8-sig")
        sheet = folder / "labels.png"
        sheet.unlink(missing_ok=True)
        return [folder / "labels.csv", *([figures.save(self.plot(), sheet)] if self.drawn is not None else [])]

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self.headline)}</b>{table_html(self.table)}"


def doubtful_masks(run: Run | str | Path, data: ImageData, *, count: int = COUNT) -> MaskCheck:
    """Rank the images of `data` that a segmentation was not trained on by how far its prediction is from their mask.

    It needs no network: the run's predictions hold the pixels of each image. A mask may be wrong where a good segmentation
    disagrees; so may the segmentation. `count`: how many are drawn, at least 1. Raises ConfigError for another kind of run or
    one of other images.
    """
    run = run if isinstance(run, Run) else load_run(run)
    if not run.config.segments:
        raise ConfigError(f"{run.path} classifies images. Masks are compared with a run with --task segment.")
    if run.fingerprint != data.fingerprint:
        raise ConfigError(f"{run.path} was trained on other images, or with another split, than {data.config.path}.")
    if run_pixels(run) != labels_of_pixels(data).digest:
        raise ConfigError(f"{run.path} was trained with other masks, or other pixel classes. Train it again.")
    if count < 1:
        raise ConfigError(f"count must be at least 1. Received: count={count}.")
    table, images = _ranked(run)
    worst, drawn = table.head(count), None
    truth: tuple[np.ndarray, ...] = ()
    if len(worst):
        position = {file: i for i, file in enumerate(data.files)}
        rows = [position[file] for file in worst["file"]]
        drawn = segment_images(run, data.paths(rows))
        truth = tuple(labels_of_pixels(data).read(row) for row in rows)
    return MaskCheck(table, images, run.fingerprint, run.name, drawn, truth)


def segmentation_of(data: ImageData, runs_dir: str | Path) -> Run:
    """The newest segmentation under `runs_dir` that was trained on these images. Raises ConfigError if there is none."""
    digest = labels_of_pixels(data).digest
    runs = (load_run(path) for path in find_runs(runs_dir, data.fingerprint))
    run = next((run for run in runs if run.config.segments and run_pixels(run) == digest), None)
    if run is None:
        raise ConfigError(
            f"Masks are compared with a segmentation, and none in {runs_dir} was trained on these images and masks. Train one: "
            "xaitune train --task segment."
        )
    return run


def run_pixels(run: Run) -> str:
    """What stands for the masks that a segmentation was trained with."""
    return str(read_json(run.path / CONFIG)["identity"].get("pixels", ""))


def _ranked(run: Run) -> tuple[pd.DataFrame, int]:
    """The table of a MaskCheck, and the number of images compared."""
    rows = run.predictions.query("split != 'train'").reset_index(drop=True)
    counts = pixel_counts_of(rows, run.class_names)
    hits, true, predicted = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    occurs = true + predicted > 0
    iou = ratio(hits, true + predicted - hits)
    total = np.maximum(true.sum(1), 1)
    wrong = counts.sum((1, 2)) - hits.sum(1)
    missed, alarm = true[:, 1:].sum(1) - counts[:, 1:, 1:].sum((1, 2)), counts[:, 0, 1:].sum(1)
    table = rows[["file", "group", "split"]].assign(
        **{"class": rows["true"]},
        suggested=rows["predicted"],
        disagreement=1 - (iou * occurs).sum(1) / np.maximum(occurs.sum(1), 1),
        missed=missed / total,
        false_alarm=alarm / total,
        another_class=(wrong - missed - alarm) / total,
    )
    table = table[wrong > 0].sort_values("disagreement", ascending=False, kind="stable", ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table, len(rows)
