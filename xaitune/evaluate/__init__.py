"""Quality of a heatmap: localisation against a mask, faithfulness to the model, concentration, agreement, stability.

The functions below take arrays and callables, never a model; `table` applies them to explanations, `store` writes the
scores to the explanations' folder, `sanity` tests whether an explanation depends on the model at all, `reliability` checks
which maps can be relied on, and `detection` scores the boxes of `explain.boxes` against those of `true_boxes`.

Maps are (..., height, width) at image resolution with any leading axes, such as (images, blocks, height, width). Masks
broadcast against them: (images, 1, height, width) applies to all blocks. A score has the leading axes, and is a plain
number for a single map. Maps may hold negative values (CAM, LIME):

- scores that depend on order alone (best_iou, pointing_game, average_precision, the ranks of map_agreement,
  map_stability, deletion_insertion, road_scores) use the values as they are, so negative ones rank last;
- scores that measure shares (iou_at, mass_inside, map_concentration) count negative values as 0. They treat a map
  without any positive value as constant: it does not point anywhere, and scores what chance would.

An empty mask scores NaN; leave it out of means and report how many there are. Maps with NaN or infinity raise
InputError.
"""

from xaitune.evaluate.agreement import map_agreement
from xaitune.evaluate.concentration import map_concentration
from xaitune.evaluate.faithfulness import average_drop_increase, deletion_insertion
from xaitune.evaluate.localisation import (
    average_precision,
    best_iou,
    f1_at_iou,
    iou_at,
    localise,
    mass_inside,
    pointing_game,
)
from xaitune.evaluate.maps import random_like
from xaitune.evaluate.road import road_scores
from xaitune.evaluate.stability import input_stability, map_stability

__all__ = [
    "average_drop_increase",
    "average_precision",
    "best_iou",
    "deletion_insertion",
    "f1_at_iou",
    "input_stability",
    "iou_at",
    "localise",
    "map_agreement",
    "map_concentration",
    "map_stability",
    "mass_inside",
    "pointing_game",
    "random_like",
    "road_scores",
]
