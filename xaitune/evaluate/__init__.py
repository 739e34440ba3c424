"""How good is a heatmap? Localisation against a mask, faithfulness to the model, concentration, agreement, stability.

The functions below take arrays and callables, never a model; `table` applies them to explanations, `store` keeps the
result beside them, `sanity` asks whether an explanation depends on the model at all.

Maps are (..., height, width) at image resolution with any axes in front, such as (images, blocks, height, width); masks
broadcast against them ((images, 1, height, width) serves all blocks); a score has the axes in front, and is a plain
number for one map. Maps may hold negative values (CAM, LIME):

- what depends on order alone (best_iou, pointing_game, average_precision, the ranks of map_agreement, map_stability,
  deletion_insertion, road_scores) uses the values as they are, negative ones ranking last;
- what measures shares (iou_at, mass_inside, map_concentration) counts negative values as 0. A map without any positive
  value is taken as constant there: it does not point anywhere, and scores what chance would.

An empty mask scores NaN, to be left out of means and counted. Maps that are not finite raise InputError.
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
