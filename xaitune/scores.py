"""Scores of heatmaps as one table: `mapscores` applied to a BlockHeatmaps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xaitune import mapscores
from xaitune.errors import InputError
from xaitune.results import BlockHeatmaps
from xaitune.subjects import open_subject
from xaitune.superpixels import probability_function


def score_maps(
    maps: BlockHeatmaps, *, masks: Sequence[np.ndarray | None] | None = None, model: Any = None, steps: int = 10
) -> pd.DataFrame:
    """One row an image and block: concentration, with `masks` localisation, with `model` deletion and insertion.

    `masks`: one bool array a map, (h, w) at the maps' input size, or None where there is none (its scores are NaN).
    `model`: as in `gradcam_blocks`; deletion and insertion then take 2 * (steps - 1) calls a map. Raises InputError.
    """
    table = maps.to_dataframe()
    stacked = np.stack([maps.upsampled(b) for b in maps.blocks], axis=1)  # (n, blocks, h, w)
    found = mapscores.concentration(stacked)
    columns: dict[str, np.ndarray] = {"gini": found.gini, "entropy": found.entropy}
    if masks is not None:
        if len(masks) != len(maps):
            raise InputError(f"masks must hold one mask a map ({len(maps)}). Received: {len(masks)}.")
        blank = np.zeros(stacked.shape[2:], bool)
        full = np.stack([blank if m is None else np.asarray(m, bool) for m in masks])
        spread = np.broadcast_to(full[:, None], stacked.shape)
        for name in ("mass_inside", "pointing_game", "average_precision", "best_iou"):
            columns[name] = getattr(mapscores, name)(stacked, spread)
        columns["iou_at_0.5"] = mapscores.iou_at(stacked, spread, 0.5)
    if model is not None:
        predict = probability_function(open_subject(model))
        images = np.asarray(maps.images, np.float32)
        made = mapscores.deletion_insertion(predict, images, stacked, maps.classes, steps=steps)
        columns |= {"deletion": made.deletion, "insertion": made.insertion}
    for name, values in columns.items():
        table[name] = np.asarray(values).T.reshape(-1)  # to_dataframe goes block by block
    return table
