"""How concentrated a heatmap's positive relevance is."""

from typing import Any, NamedTuple

import numpy as np

from xaitune.evaluate.maps import as_maps, by_chunk, positive_part


class Concentration(NamedTuple):
    """`gini`: 0 for a uniform map, 1 for a single pixel. `entropy`: 1 for a uniform map, 0 for a single pixel."""

    gini: Any
    entropy: Any


def map_concentration(maps: Any) -> Concentration:
    """How concentrated a map's positive relevance is, as Gini coefficient and entropy, each scaled to 0..1.

    `gini`: the mean absolute difference of two pixels over twice the mean, times p / (p - 1) for p pixels: 1 for a
    single relevant pixel, 0 for a uniform map. `entropy`: the entropy of the relevance shares over log p: 1 for a
    uniform map, 0 for a single relevant pixel. A map without positive values counts as uniform. NaN for maps of one
    pixel.

    Examples:
        >>> map_concentration([[0.0, 0.0, 5.0, 0.0]]).gini.item()
        1.0
    """
    maps = as_maps(maps)
    if maps.shape[-1] * maps.shape[-2] == 1:
        undefined = np.full(maps.shape[:-2], np.nan)[()]
        return Concentration(undefined, undefined)

    def score(maps: np.ndarray) -> np.ndarray:
        shares = np.sort(positive_part(maps), -1)
        shares /= shares.sum(-1, keepdims=True)
        pixels = shares.shape[-1]
        ranks = 2 * np.arange(1, pixels + 1) - pixels - 1  # Gini = sum rank_i x_i / (p sum x), x ascending
        gini = shares @ ranks / (pixels - 1)
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        return np.stack([gini, -(shares * logs).sum(-1) / np.log(pixels)], -1)

    scores = np.clip(by_chunk(score, maps), 0, 1)  # rounding can give -1e-17
    return Concentration(scores[..., 0], scores[..., 1])
