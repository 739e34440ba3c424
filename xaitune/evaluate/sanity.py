"""Whether an explanation depends on the model at all: the sanity check of Adebayo et al. 2018 with randomised weights."""

import html
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xaitune import evaluate
from xaitune.evaluate.table import unit_maps
from xaitune.explain.classifier import Images, open_classifier
from xaitune.explain.gradcam import BlockMapper
from xaitune.explain.map_checks import UNCHANGED
from xaitune.explain.probabilities import Probabilities
from xaitune.models.backend import keras
from xaitune.models.precision import with_precision
from xaitune.models.stages import find_stages

# Thresholds of the mean Spearman with the trained model's maps when all weights are random. They are ours: the paper
# judges by eye.
# From UNCHANGED on (`explain.map_checks`) they ignore the model, from CHANGED on they follow it in part.
CHANGED = 0.5
Explain = Callable[[keras.Model, np.ndarray, np.ndarray], dict[int, np.ndarray]]


class RandomisationCheck(NamedTuple):
    """`table`: one row per block and stage; `verdicts`: block -> one plain sentence."""

    table: pd.DataFrame
    verdicts: dict[int, str]

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>Block {block}: {html.escape(verdict)}</li>" for block, verdict in self.verdicts.items())
        stages = self.table["randomised"].unique()
        spearman = self.table.pivot(index="randomised", columns="block", values="spearman").loc[stages]
        spearman = spearman.rename(columns="Block {}".format).rename_axis(index=None, columns="random weights")
        lead = "<p>Spearman of the maps with those of the trained model:</p>"
        return f"<ul>{lines}</ul>{lead}{spearman.round(2).to_html(na_rep='-')}"


def randomisation_check(
    model: Any,
    images: Images,
    *,
    blocks: Any = "all",
    class_name: str | None = None,
    rule: str = "gradcam",
    explain: Explain | None = None,
    seed: int = 0,
) -> RandomisationCheck:
    """How similar a model's maps remain to the trained model's as its weights are randomised from the top down.

    Cascading randomisation: first the head's weights are replaced by random ones, then those of Block 5 too, and so on
    to Block 1; at each stage the maps of the same images and classes are compared with the trained model's. A good
    explanation has changed by the time all weights are random; one that has not shows edges, not what was learned.

    `explain`: (keras.Model, images (n, h, w, 3), classes (n,)) -> block -> maps (n, h, w), by default Grad-CAM at
    `blocks` by `rule`. Other arguments as in `gradcam_blocks`. Random weights (`seed`) are normal with the standard
    deviation of the trained ones, biases 0 (the paper draws new initial weights); they are set in a copy, so the
    caller's model is not changed.

    `table`: block, randomised ('head', 'head to Block 5', ...), spearman and ssim (means over `images` of
    `evaluate.map_agreement` between [0, 1] views at input size; a map that has become constant counts as 0, images
    whose trained map is constant are left out). `verdicts` depend on the last stage: at a Spearman of UNCHANGED or more
    a block's maps ignore the model, at CHANGED or more they follow it in part. Raises ModelError, ImageError,
    ConfigError.

    Examples:
        >>> check = randomisation_check("runs/first", "images/crack", blocks=5)  # doctest: +SKIP
        >>> check.verdicts[5]  # doctest: +SKIP
    """
    classifier = open_classifier(model)
    array, _ = classifier.read(images)
    index = classifier.class_index(class_name)
    top = Probabilities(classifier, "float32")(array).argmax(axis=1)
    classes = (top if index < 0 else np.full(len(array), index)).astype(np.int32)
    copy = with_precision(classifier.model, "float32")
    explain = explain or _GradCam(copy, blocks, rule)

    raw, size, rng = explain(copy, array, classes), classifier.image_size, np.random.default_rng(seed)
    trained, block_numbers = unit_maps(raw, size), sorted(raw)
    rows = []
    for stage, layers in _cascade(copy):
        for layer in layers:
            _randomise(layer, rng)
        maps = unit_maps(explain(copy, array, classes), size)
        rows.append(_similarity(trained, maps, block_numbers).assign(randomised=stage))
    table = pd.concat(rows).sort_values("block", kind="stable", ignore_index=True)
    table = table[["block", "randomised", "spearman", "ssim", "images"]]
    return RandomisationCheck(table, {b: _verdict(table[table["block"] == b]) for b in block_numbers})


class _GradCam:
    """Grad-CAM of one model as an `Explain`; compiled once, it follows the model's weights."""

    def __init__(self, model: keras.Model, blocks: Any, rule: str) -> None:
        self.mapper = BlockMapper(model, blocks, rule)

    def __call__(self, model: keras.Model, images: np.ndarray, classes: np.ndarray) -> dict[int, np.ndarray]:
        return self.mapper(images, classes)[0]


def _cascade(model: keras.Model) -> list[tuple[str, list[Any]]]:
    """(what is random at this stage, the layers randomised in it), from the head down."""
    position = {layer.name: i for i, layer in enumerate(model.layers)}
    ends = [0, *(position[name] + 1 for _, name in sorted(find_stages(model).items()))]
    names = {0: "head"} | {b: f"head to Block {b}" for b in range(1, len(ends))}
    stages = [(names[0], model.layers[ends[-1] :])]
    return stages + [(names[b], model.layers[ends[b - 1] : ends[b]]) for b in range(len(ends) - 1, 0, -1)]


def _randomise(layer: Any, rng: np.random.Generator) -> None:
    """Replace kernels by normal values of the same standard deviation and biases by 0; normalisations stay as they are."""
    for weight in layer.weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.ndim > 1:
            weight.assign(rng.normal(0, values.std(), values.shape).astype(np.float32))
        elif weight.name == "bias":
            weight.assign(np.zeros_like(values))


def _similarity(trained: np.ndarray, maps: np.ndarray, blocks: list[int]) -> pd.DataFrame:
    """One row per block: means over the images whose trained map is not constant."""
    agreement = evaluate.map_agreement(trained, maps)  # (n, blocks)
    varies = trained.max((-2, -1)) > trained.min((-2, -1))
    frame = {"block": blocks}
    for name in ("spearman", "ssim"):
        total = np.where(varies, np.nan_to_num(getattr(agreement, name)), 0).sum(0)
        frame[name] = np.divide(total, varies.sum(0), out=np.full(len(blocks), np.nan), where=varies.any(0))
    return pd.DataFrame(frame | {"images": varies.sum(0)})


def _verdict(stages: pd.DataFrame) -> str:
    spearman = stages["spearman"].to_numpy()
    if np.isnan(spearman).any():
        return "cannot tell: the trained model's maps are all constant"
    if spearman[-1] >= UNCHANGED:
        return f"ignores the model: Spearman {spearman[-1]:.2f} with all weights random"
    if spearman[-1] >= CHANGED:
        return f"follows the model in part: Spearman {spearman[-1]:.2f} with all weights random"
    similar = np.flatnonzero(spearman >= CHANGED)
    changed = stages["randomised"].iloc[similar[-1] + 1 if len(similar) else 0]
    return f"follows the model: Spearman below {CHANGED} once the weights of the {changed} are random"
