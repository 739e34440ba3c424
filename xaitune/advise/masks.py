"""What heatmaps find of the masks at each block, on a scale on which no block has an advantage."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from xaitune import evaluate
from xaitune.advise.evidence import MIN_MASK_GROUPS, masked_images
from xaitune.config.settings import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.data.resize import map_to_image
from xaitune.data.sample import choose_images
from xaitune.explain.cam import BlocksCamMapper
from xaitune.explain.gradcam import BlockMapper
from xaitune.explain.heatmaps import unit_view
from xaitune.models.backend import keras
from xaitune.models.blocks import BLOCKS
from xaitune.models.weights import Backbone
from xaitune.stats.intervals import mean_intervals
from xaitune.training.cut import pooled_columns
from xaitune.training.head import set_head
from xaitune.training.linear import LinearHead, fit_linear_head
from xaitune.training.network import build_for

MOST_IMAGES = 100  # validation images with a mask
NULLS = 5  # other images whose map takes the place of an image's own


def mask_evidence(
    features: np.ndarray, model: keras.Model, data: ImageData, config: TrainConfig, backbone: Backbone
) -> pd.DataFrame | None:
    """One row per block (1..5): how well heatmaps find the masks of validation images; None with too few masks.

    `features`: the pooled features of all blocks (`block5_features`) of all images, with which linear heads are fitted on
    the training images; `model`: that with the head on all of them. `own`: the exact class activation map of a linear head on
    this block's features alone. `gradcam`: Grad-CAM at this block of a linear head on Block 5's means, through the blocks
    above. Both are for the image's class, on the scale of `found`, with intervals (`own_low`, ...) over groups. `share`: of
    what the head on all blocks decides, the part that comes from this block, averaged over the images.

    Where `own` is high and `gradcam` is not, the head on Block 5 does not use what this block holds, or Grad-CAM's average
    over space does not show it.
    """
    masked = masked_images(data, data.indices("validation"))
    rows = choose_images(data, masked, MOST_IMAGES)
    masks = data.load_masks(rows)
    rows = rows[np.array([mask is not None and bool(mask.any()) for mask in masks], bool)]
    groups = np.asarray(data.groups)[rows]
    if len(set(groups.tolist())) < MIN_MASK_GROUPS:
        return None
    masks_array = np.stack([mask for mask in masks if mask is not None and mask.any()])
    images, classes = data.load(rows).astype(np.float32), data.labels[rows]
    columns = [pooled_columns(backbone.channels, block) for block in BLOCKS]
    train = data.indices("train")

    def head(part: slice) -> LinearHead:
        labels, number = data.labels[train], len(data.class_names)
        return fit_linear_head(
            features[train, part], labels, np.asarray(data.groups)[train], number, metric=config.metric
        )

    _set_heads(model, [head(part) for part in columns])  # side by side: each block's map is that of its own head
    own = BlocksCamMapper(model)(images, classes)[0]
    _set_heads(model, [head(slice(None))])
    share = BlocksCamMapper(model)(images, classes)[2].share
    last = columns[-1]
    gap_head = head(slice(last.start, last.start + backbone.channels[-1]))
    plain = build_for(data, replace_fields(config, {"head": "gap", "head_blocks": "all"}), backbone)
    scale = 1 / np.sqrt(gap_head.variance)
    kernel = gap_head.kernel * scale[:, None]
    plain.get_layer("logits").set_weights([kernel, gap_head.bias - gap_head.mean @ kernel])
    gradcam = BlockMapper(plain, BLOCKS)(images, classes)[0]
    table: dict[str, Any] = {"images": len(rows), "groups": len(set(groups.tolist()))}
    for name, raw in (("own", own), ("gradcam", gradcam)):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = found(raw, masks_array, groups)
    return pd.DataFrame(table | {"share": share.mean(axis=0)}, index=pd.Index(list(BLOCKS), name="block"))


def _set_heads(model: keras.Model, heads: list[LinearHead]) -> None:
    """Give the model with the head on all blocks a linear head, or five, each on its own block's features."""
    mean, variance, kernel = (np.concatenate([getattr(h, n) for h in heads]) for n in ("mean", "variance", "kernel"))
    bias = np.stack([h.bias for h in heads]).sum(axis=0)
    joined = dataclasses.replace(heads[0], mean=mean, variance=variance, kernel=kernel, bias=bias)
    set_head(model, {"weights": joined.layers})


def found(raw: dict[int, np.ndarray], masks: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, ...]:
    """How much of the masks (n, h, w) the maps of each block find: mean, low and high, (blocks,) each.

    0: no more than the same block's maps of other images (of other groups), so that a fixed place counts for nothing. 1: as
    much as the mask itself, drawn at this block's resolution, would, so that a coarse block has no disadvantage. Measured
    by average precision at the size of the masks; the intervals are over groups.
    """
    size, rng = masks.shape[1:], np.random.default_rng(0)
    others = _others(groups, rng)
    mean: list[float] = []
    low: list[float] = []
    high: list[float] = []
    for block in sorted(raw):
        view = unit_view(raw[block])
        ideal = np.stack([_at_grid(mask, view.shape[1:]) for mask in masks])
        score, ceiling = (evaluate.average_precision(_enlarged(maps, size), masks) for maps in (view, ideal))
        large = _enlarged(view, size)
        null = np.mean([evaluate.average_precision(large[column], masks) for column in others.T], axis=0)
        room = max(float((ceiling - null).mean()), 1e-9)
        columns = mean_intervals((score - null)[:, None], groups)
        for values, column in zip((mean, low, high), columns, strict=True):
            values.append(float(column[0]) / room)
    return np.array(mean), np.array(low), np.array(high)


def _others(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, NULLS): for each image the numbers of images of other groups, drawn at random."""
    return np.stack([rng.choice(np.flatnonzero(groups != group), NULLS) for group in groups])


def _at_grid(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The share of each cell of a grid (h, w) that a mask covers."""
    rows, columns = (np.linspace(0, full, cells + 1) for full, cells in zip(mask.shape, grid, strict=True))
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    sums[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    at = np.array([np.interp(columns, np.arange(sums.shape[1]), line) for line in sums])
    at = np.array([np.interp(rows, np.arange(sums.shape[0]), line) for line in at.T]).T
    cells = np.diff(np.diff(at, axis=0), axis=1)
    return cells / (np.diff(rows)[:, None] * np.diff(columns)[None])


def _enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([map_to_image(m, size, size) for m in maps])


def said(table: pd.DataFrame) -> str:
    """What the maps tell, in a few plain sentences; no block is said to be better unless the intervals tell so."""
    images, groups = int(table["images"].iloc[0]), int(table["groups"].iloc[0])
    best, through = int(table["own"].idxmax()), int(table["gradcam"].idxmax())

    def figure(name: str, block: int) -> str:
        row = table.loc[block]
        return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"

    lines = [
        f"How well heatmaps find the masks of {images} validation images of {groups} groups (0: no better than other images' "
        f"maps, 1: as good as the mask at the block's resolution): {figure('own', best)} with the linear head of Block {best} "
        f"alone, and with Grad-CAM through all blocks {figure('gradcam', through)} at best (Block {through})."
    ]
    if table.loc[best, "own_low"] > table["gradcam_high"].max():
        lines.append(f"What Block {best} holds of them is not visible in Grad-CAM at any block.")
    if not (table[["own_low", "gradcam_low"]] > 0).any(axis=None):
        lines.append(
            "No map finds the masks for certain: what frozen features tell about the classes may lie outside the marked "
            "defects. Look at the maps before you rely on them."
        )
    dominant = int(table["share"].idxmax())
    lines.append(
        f"{table.loc[dominant, 'share']:.0%} of the decision of the head on all blocks comes from Block {dominant}."
    )
    return " ".join(lines)
