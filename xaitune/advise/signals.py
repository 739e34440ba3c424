"""What frozen features tell about every candidate before any training: linear heads, second opinions, and tangents."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xaitune._progress import Progress, part_of
from xaitune.advise.candidates import CANDIDATES, DEPTHS, HEADS
from xaitune.advise.opinions import OPINIONS
from xaitune.advise.tangent import MOST_IMAGES, tangent_scores
from xaitune.config.settings import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.models.blocks import BLOCKS
from xaitune.models.weights import Backbone
from xaitune.training.cut import pooled_columns
from xaitune.training.linear import fit_linear_head
from xaitune.training.network import build_for

HEADS_SHARE = 0.15  # of the progress, for the linear heads


def tangent_images(data: ImageData) -> int:
    """How many images the linearised fine-tuning looks at."""
    return min(len(data.indices("train")) + len(data.indices("validation")), MOST_IMAGES)


def feature_signals(
    features: np.ndarray,
    data: ImageData,
    config: TrainConfig,
    backbone: Backbone,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """One row per candidate, from training and validation images: `linear`, and as second opinions `probe` and OPINIONS.

    `features`: the pooled features of all blocks (`block5_features`), of all images. `linear`: the macro F1 (or the chosen
    metric) of the linear model that the candidate is near its pretrained weights, on the held-out images of a
    cross-validation over groups: linearised fine-tuning for a depth (`tangent_scores`), the head itself for a linear head
    (`fit_linear_head`). `probe`: that of a linear head on the frozen features of one block. To freezing Block 1-k belong
    those of Block k + 1, the first that is trained (Block 5 where all are frozen), and to the linear heads their own. The
    OPINIONS are on the same block's means over space.
    """
    blocks = block_scores(features, data, backbone.channels, config.metric, part_of(progress, 0, HEADS_SHARE))
    plain = replace_fields(config, {"head": "gap", "head_blocks": "all"})
    others = part_of(progress, HEADS_SHARE, 1)
    network = build_for(data, plain, backbone)
    tangent = tangent_scores(network, data, config.metric, precision=config.precision, progress=others)
    rows = {str(depth): blocks.loc[str(min(depth + 1, 5))] for depth in DEPTHS}
    rows |= {HEADS[0]: blocks.loc["all"], HEADS[1]: blocks.loc[blocks.index != "all"].max()}
    table = pd.DataFrame.from_dict(rows, orient="index").loc[list(CANDIDATES)].rename_axis("candidate")
    table["linear"] = [table.loc[name, "probe"] if name in HEADS else tangent[int(name)] for name in CANDIDATES]
    return table


def block_scores(
    features: np.ndarray,
    data: ImageData,
    channels: Sequence[int],
    metric: str,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The probe and the OPINIONS on each block's frozen features: one row per block ('1' to '5'), and 'all'.

    `features`: the pooled features of all blocks (`block5_features`), of all images in order.
    """
    rows = np.concatenate([data.indices("train"), data.indices("validation")])
    labels, groups = data.labels[rows], np.asarray(data.groups)[rows]

    def probe(part: np.ndarray, number: int) -> float:
        if progress:
            progress(number, 6, f"linear heads on frozen features, {number + 1} of 6")
        return fit_linear_head(part, labels, groups, len(data.class_names), metric=metric).score

    scores = {}
    for block in BLOCKS:
        part = features[rows][:, pooled_columns(channels, block)]
        means = part[:, : channels[block - 1]]
        scores[str(block)] = {"probe": probe(part, block - 1)} | {
            name: score(means, labels) for name, score in OPINIONS.items()
        }
    scores["all"] = {"probe": probe(features[rows], 5)}
    return pd.DataFrame.from_dict(scores, orient="index").rename_axis("block")
