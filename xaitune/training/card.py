"""The model card of a run: what it was trained on, how well it does, and where not to rely on it (Mitchell et al. 2019)."""

import math
from typing import Any

import numpy as np
import pandas as pd

from xaitune._names import frozen_name, metric_name, plural
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.data.splits import SPLITS
from xaitune.stats.intervals import outcome_interval
from xaitune.stats.per_class import PerClass, per_class_intervals, per_pixel_class_intervals
from xaitune.training.run import outcomes_of, pixel_counts_of

CARD = "model-card.md"
LOW_SCORE = 0.5  # classes below are named among the limits


def card_text(
    data: ImageData,
    config: TrainConfig,
    class_names: tuple[str, ...],
    predictions: pd.DataFrame,
    metadata: dict[str, Any],
) -> str:
    """The card of a finished run, in Markdown; `predictions` as in `Run`, `metadata` as in metadata.json."""
    test = predictions[predictions["split"] == "test"]
    groups = test["group"].to_numpy(str)
    score = outcome_interval(outcomes_of([test], class_names, config.metric), groups, config.metric)
    scores = _class_scores(test, groups, class_names, config.segments)
    blocks = "trained from random weights" if config.from_scratch else f"{frozen_name(config.freeze_through)} frozen"
    does = "gives the class of every pixel" if config.segments else "classifies whole images"
    lines = [
        "# Model card",
        "",
        f"`model.keras` {does}: {', '.join(class_names)}. Input: RGB 0..255, {data.image_size[0]} x {data.image_size[1]}, "
        f"resized by '{data.config.resize}'; preprocessing is inside. Output: logits.",
        "",
        "## Training",
        "",
        f"{config.architecture}, weights {config.weights}, {blocks}, {config.optimizer} at {config.rate:g}, loss {config.loss}, "
        f"seed {config.seed}, {metadata['precision']}. Made {metadata['ended']} with "
        f"{', '.join(f'{name} {version}' for name, version in metadata['versions'].items() if name in ('xaitune', 'keras'))}.",
        "",
        "## Data",
        "",
        f"{plural(len(data), 'image')} in {plural(len(np.unique(data.groups)), 'group')} of things photographed, which no split "
        f"divides. Fingerprint {data.fingerprint}.",
        "",
        *_split_table(data),
        "",
        "## Test scores",
        "",
        f"{metric_name(config.metric)}: {score.value:.3f} [{score.low:.3f}, {score.high:.3f}], 95 % over "
        f"{plural(score.groups, 'group')}, {plural(score.images, 'image')}. Chosen on the validation images.",
        "",
        *_class_table(scores, class_names, config.segments),
        "",
        "## Limits",
        "",
        *_limits(scores, class_names, score.few, config),
        "",
        "## What it looks at",
        "",
        "`xaitune explain --model RUN IMAGES --score` draws what each block sees, and measures how far the maps can be trusted.",
        "",
    ]
    return "\n".join(lines)


def _class_scores(test: pd.DataFrame, groups: np.ndarray, names: tuple[str, ...], segments: bool) -> PerClass:
    if segments:
        return per_pixel_class_intervals(pixel_counts_of(test, names), groups)
    true, predicted = (pd.Categorical(test[c], list(names)).codes.astype(int) for c in ("true", "predicted"))
    return per_class_intervals(true, predicted, groups, len(names))


def _split_table(data: ImageData) -> list[str]:
    counts = data.counts()
    rows = [[str(name), *(str(row[split]) for split in SPLITS), str(row["groups"])] for name, row in counts.iterrows()]
    return _table(["class of the image", *SPLITS, "groups"], rows)


def _class_table(scores: PerClass, names: tuple[str, ...], segments: bool) -> list[str]:
    last = scores.iou if segments and scores.iou is not None else scores.f1
    columns = [scores.precision, scores.recall, last]
    rows = []
    for number, name in enumerate(names):
        values = [(s.value[number], s.low[number], s.high[number]) for s in columns]
        shown = ["-" if math.isnan(v) else f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in values]
        rows.append([str(name), *shown, str(scores.images[number]), str(scores.groups[number])])
    return _table(["class", "precision", "recall", "IoU" if segments else "F1", "test images", "groups"], rows)


def _limits(scores: PerClass, names: tuple[str, ...], few: str, config: TrainConfig) -> list[str]:
    """What is known to be weak or unknown, one line each."""
    values = scores.iou.value if config.segments and scores.iou is not None else scores.f1.value
    weak = [str(name) for name, value in zip(names, values, strict=True) if not value >= LOW_SCORE]
    lines = [f"- There is too little data to rely on the interval above: only {few}."] if few else []
    if weak:
        kind = "IoU" if config.segments else "F1"
        lines.append(f"- Classes with a test {kind} below {LOW_SCORE:g}: {', '.join(weak)}.")
    lines.append("- The scores hold for images like these: other cameras, lights or products were not tested.")
    if not config.segments:
        lines.append("- Every image gets one of the classes above, also one that shows none of them.")
    return lines


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[text.replace("|", "\\|") for text in row] for row in (header, ["---"] * len(header), *rows)]
    return [f"| {' | '.join(row)} |" for row in cells]
