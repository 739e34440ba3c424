"""What in an image speaks for one class rather than another, by a linear head on frozen features."""

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from xaitune.data.resize import map_to_image
from xaitune.explain.cam import BlocksCamMapper
from xaitune.training.head import set_head
from xaitune.training.linear import LinearHead

SMOOTHING = 0.04  # of the drawn evidence, a Gaussian's sigma as a share of the width


class Contrast:
    """An image (1, h, w, 3) and two classes -> (h, w) evidence, positive where it is for `label`, negative for `other`.

    The evidence is exact before it is smoothed: the class activation maps of all blocks (`BlocksCamMapper`), those of `label`
    minus those of `other`, which add up to the difference of the logits but for a constant. `model`: the frozen network with
    the head 'blocks', which receives the weights of each `head`.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.mapper = model, BlocksCamMapper(model)

    def __call__(self, head: LinearHead, image: np.ndarray, label: int, other: int) -> np.ndarray:
        set_head(self.model, {"weights": head.layers})
        size = image.shape[1:3]
        maps, _, _ = self.mapper(np.concatenate([image, image]), np.array([label, other]))
        evidence = np.zeros(size, np.float32)
        for own, others in maps.values():
            evidence += own.size * map_to_image(own - others, size, size)  # the blocks' maps differ in their resolution
        return gaussian_filter(evidence, SMOOTHING * size[1])  # maxima are single pixels
