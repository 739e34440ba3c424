"""The checks that say when a heatmap should not be relied on; their result is `explain.map_checks.MapChecks`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from xaitune._progress import Progress, shown_progress
from xaitune.errors import InputError
from xaitune.evaluate.sanity import Explain, randomisation_check
from xaitune.evaluate.stability import input_stability
from xaitune.evaluate.table import unit_maps
from xaitune.explain.api import mapper_of
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.map_checks import MOVES, MapChecks
from xaitune.explain.probabilities import Probabilities
from xaitune.models.predict import Predictor

HIDDEN = 0.2  # share of an image that is hidden at most: the map's highest values
RANDOMISED = 8  # images on which the weights are randomised
STAGES = 7  # of the randomisation: the trained model, then one more part each time
MAP_COST = 3  # a forward and a backward pass, in forward passes


def check_maps(
    maps: BlockHeatmaps,
    model: Any,
    *,
    images: int = RANDOMISED,
    explain: Explain | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MapChecks:
    """What speaks against relying on heatmaps: empty, ignoring the model, no better than elsewhere, unstable.

    - *empty*: no positive value.
    - *ignores the model*: the maps of a block hardly change when all weights are random (`randomisation_check`, Adebayo et
      al. 2018), for `images` of the images, evenly spread; holds for all maps of the block.
    - *no better than elsewhere*: the HIDDEN share of the pixels with the highest values, as far as they are above 0, get the
      image's mean colour, which lowers the log-odds of the explained class; so do the same pixels moved by thirds of the
      image's sides across its edges, to MOVES other places. A map that marks what counts lowers them more than nearly all of
      those. Of a segmentation it is the mean log-odds over the pixels that are predicted as the class while nothing is hidden.
    - *unstable*: the map changes with a noise of 5 grey values or a shift of 2 pixels (`input_stability`, `seed`).

    `maps`: by Grad-CAM or CAM, of the model's input size. `model`: the one that they explain, as in `gradcam_blocks`; it is
    not changed. `explain`: how the maps are made where xaitune did not make them, as in `randomisation_check`. Costs
    `check_calls` forward passes. The thresholds are in `xaitune.explain.map_checks`. Raises InputError, ModelError.

    Examples:
        >>> maps = gradcam_blocks("runs/first", "images/crack")  # doctest: +SKIP
        >>> check_maps(maps, "runs/first").summary()  # doctest: +SKIP
    """
    classifier = open_classifier(model)
    if images < 1:
        raise InputError(f"images must be at least 1. Received: images={images}.")
    if classifier.image_size != maps.images.shape[1:3]:
        raise InputError(
            f"The maps must be of the model's input size {classifier.image_size}. Received: {maps.images.shape[1:3]}."
        )
    progress = shown_progress(progress, "checking maps")
    sample, explained = maps.images[spread(len(maps), images)], np.unique(maps.classes)
    class_name = maps.class_names[int(explained[0])] if len(explained) == 1 else None
    randomised = randomised_maps(classifier, maps, sample, class_name, explain=explain, seed=seed)
    checker = MapChecker(classifier, maps, randomised, len(sample), explain=explain, seed=seed)
    return checker(maps, progress)


def spread(total: int, count: int) -> np.ndarray:
    """`count` of `total` positions, or all, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def check_calls(images: int, blocks: int, randomised: int = RANDOMISED) -> int:
    """The forward passes that the checks of `images` images at `blocks` blocks cost; a backward pass counts as two."""
    return images * (blocks * (MOVES + 1) + 2 * MAP_COST) + STAGES * min(randomised, images) * MAP_COST


def randomised_maps(
    classifier: Classifier,
    like: BlockHeatmaps,
    images: np.ndarray,
    class_name: str | None = None,
    *,
    explain: Explain | None = None,
    seed: int = 0,
) -> np.ndarray:
    """(blocks,) mean Spearman correlation of the maps of `images` with those of random weights; NaN where all are constant.

    The maps are made like those of `like`, of the class `class_name`, by default of each image's top class.
    """
    made = explain or MapsLike(like)
    table = randomisation_check(classifier, images, class_name=class_name, explain=made, seed=seed).table
    last = table.groupby("block", sort=True).tail(1).set_index("block")["spearman"]
    return last.reindex(like.blocks).to_numpy(float)


class MapChecker:
    """Checks batches of heatmaps that are made like `like`; `randomised` as `randomised_maps` gives it, for `images` images."""

    def __init__(
        self,
        classifier: Classifier,
        like: BlockHeatmaps,
        randomised: np.ndarray,
        images: int,
        *,
        explain: Explain | None = None,
        seed: int = 0,
    ) -> None:
        self.classifier, self.randomised, self.images, self.seed = classifier, randomised, images, seed
        pixels = classifier.segmenter
        self.logits: Any = Probabilities(classifier).logits if pixels is None else Predictor(pixels)
        self.explain = explain or MapsLike(like, like.precision)

    def __call__(self, maps: BlockHeatmaps, progress: Progress | None = None) -> MapChecks:
        """The checks of one batch."""
        empty, size = maps.is_zero, maps.images.shape[1:3]
        elsewhere, stability = np.full(empty.shape, np.nan), np.full(empty.shape, np.nan)
        for i, (image, shown) in enumerate(zip(maps.images, ~empty, strict=True)):
            views = unit_maps({b: maps.raw[b][i : i + 1] for b in maps.blocks}, size)  # (1, blocks, h, w)
            if shown.any():
                elsewhere[i, shown] = self._elsewhere(image, views[0][shown], int(maps.classes[i]))
                stability[i] = self._stability(image, views, maps.classes[i : i + 1])
            if progress:
                progress(i + 1, len(maps), "checks of maps")
        return MapChecks(
            files=maps.files,
            blocks=maps.blocks,
            empty=empty,
            elsewhere=elsewhere,
            stability=np.where(empty, np.nan, stability),
            randomised=self.randomised,
            images_randomised=self.images,
            calls=check_calls(len(maps), len(maps.blocks), self.images),
            layers=maps.layers,
        )

    def _elsewhere(self, image: np.ndarray, views: np.ndarray, index: int) -> np.ndarray:
        """(maps,) share of the other places at which hiding a map's marks lowers the class less than at its own."""
        colour = image.mean(axis=(0, 1))
        places = [np.where(mask[..., None], colour, image) for view in views for mask in _places(marked(view))]
        odds = self._log_odds(np.stack(places).astype(np.float32), index)
        if self.classifier.segmenter is not None:
            region = self.logits(image[None])[0].argmax(axis=-1) == index  # that of the image with nothing hidden
            odds = odds[:, region if region.any() else ~region].mean(axis=1)
        odds = odds.reshape(len(views), MOVES + 1)
        return (odds[:, :1] < odds[:, 1:]).mean(axis=1)

    def _log_odds(self, images: np.ndarray, index: int) -> np.ndarray:
        """(n,), or (n, h, w) of pixels: the class against all others, which does not saturate as probabilities do.

        Of a label its logit.
        """
        logits = self.classifier.require_finite(self.logits(images)).astype(np.float64)
        if self.classifier.labels:
            return logits[..., index]
        return logits[..., index] - logsumexp(np.delete(logits, index, axis=-1), axis=-1)

    def _stability(self, image: np.ndarray, views: np.ndarray, classes: np.ndarray) -> np.ndarray:
        def explain_changed(changed: np.ndarray) -> np.ndarray:
            return unit_maps(self.explain(self.classifier.model, changed, classes), views.shape[-2:])

        # The same noise for every image, so that batches and their order change nothing.
        rng = np.random.default_rng(self.seed)
        return input_stability(explain_changed, np.asarray(image[None], np.float32), rng, maps=views)[0]


class MapsLike:
    """Maps of images and classes by the method, rule and blocks of others, as an `Explain`; compiled once for a model."""

    def __init__(self, like: BlockHeatmaps, precision: str = "float32") -> None:
        self.like = dataclasses.replace(like, precision=precision)
        self.model: Any = None

    def __call__(self, model: Any, images: np.ndarray, classes: np.ndarray) -> dict[int, np.ndarray]:
        if self.model is not model:
            self.model, self.mapper = model, mapper_of(model, self.like)
        raw = self.mapper(images, classes)[0]
        if self.like.layers:  # numbered 1, 2, ... by the mapper
            return dict(zip(self.like.blocks, (raw[number] for number in sorted(raw)), strict=True))
        return {block: raw[block] for block in self.like.blocks}


def marked(view: np.ndarray, share: float = HIDDEN) -> np.ndarray:
    """(h, w) bool: the `share` of the pixels with the highest values of a map, as far as they are above 0.

    Examples:
        >>> marked(np.array([[0.0, 0.0, 0.1], [0.0, 1.0, 0.0]]), 0.5).tolist()
        [[False, False, True], [False, True, False]]
    """
    count = max(1, round(share * view.size))
    top = np.argsort(-view, axis=None, kind="stable")[:count]
    mask = np.zeros(view.size, bool)
    mask[top] = True
    return mask.reshape(view.shape) & (view > 0)


def _places(mask: np.ndarray) -> Sequence[np.ndarray]:
    """The mask, and moved across the edges by every combination of thirds of its sides: MOVES + 1 masks."""
    height, width = mask.shape
    thirds = [(round(height * i / 3), round(width * j / 3)) for i in range(3) for j in range(3)]
    return [np.roll(mask, shift, axis=(0, 1)) for shift in thirds]
