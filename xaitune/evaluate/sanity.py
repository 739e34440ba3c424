"""Does an explanation depend on the model at all? The sanity check of Adebayo et al. 2018 by randomised weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xaitune import evaluate
from xaitune.evaluate.table import unit_maps
from xaitune.explain.classifier import Images, open_classifier
from xaitune.explain.gradcam import BlockMapper
from xaitune.explain.probabilities import Probabilities
from xaitune.models.backend import keras
from xaitune.models.flatten import find_stages
from xaitune.models.precision import with_precision

# Mean Spearman against the trained model's maps when all weights are random. Ours: the paper judges by eye.
KEPT, CHANGED = 0.9, 0.5
Explain = Callable[[keras.Model, np.ndarray, np.ndarray], dict[int, np.ndarray]]


class RandomisationCheck(NamedTuple):
    """`table`: one row a block and stage; `verdicts`: block -> one plain sentence."""

    table: pd.DataFrame
    verdicts: dict[int, str]


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
    """How like the trained model's maps those of a model are whose weights become random from the top down.

    Cascading randomisation: first the head's weights are drawn anew, then Block 5's too, and so on to Block 1; at each
    stage the maps of the same images and classes are compared with the trained model's. A good explanation changes,
    at the latest when all is random; one that does not shows edges, not what was learned.

    `explain`: (keras.Model, images (n, h, w, 3), classes (n,)) -> block -> maps (n, h, w), by default Grad-CAM at
    `blocks` by `rule`. Other arguments as in `gradcam_blocks`. Random weights (`seed`) are normal with the spread of the
    trained ones, biases 0 (the paper draws the initial weights anew), on a copy: the caller's model is not changed.

    `table`: block, randomised ('head', 'head to Block 5', ...), spearman and ssim (means over `images` of
    `evaluate.map_agreement` between [0, 1] views at input size; a map that vanished counts 0, images whose trained map is
    constant are left out). `verdicts` read the last stage: from KEPT on a block's maps ignore the model, from CHANGED
    on they follow it in part. Raises ModelError, ImageError, ConfigError.
    """
    classifier = open_classifier(model)
    array, _ = classifier.read(images)
    index = classifier.class_index(class_name)
    top = Probabilities(classifier, "float32")(array).argmax(axis=1)
    classes = (top if index < 0 else np.full(len(array), index)).astype(np.int32)
    copy = with_precision(classifier.model, "float32")
    make = explain or _grad_cam(copy, blocks, rule)

    first = make(copy, array, classes)
    trained, size, rng = unit_maps(first, classifier.image_size), classifier.image_size, np.random.default_rng(seed)
    rows = []
    for stage, layers in _cascade(copy):
        for layer in layers:
            _randomise(layer, rng)
        maps = unit_maps(make(copy, array, classes), size)
        rows.append(_likeness(trained, maps, sorted(first)).assign(randomised=stage))
    table = pd.concat(rows).sort_values("block", kind="stable", ignore_index=True)
    table = table[["block", "randomised", "spearman", "ssim", "images"]]
    return RandomisationCheck(table, {b: _verdict(table[table["block"] == b]) for b in sorted(first)})


def _grad_cam(model: keras.Model, blocks: Any, rule: str) -> Explain:
    mapper = BlockMapper(model, blocks, rule)  # compiled once; it follows the model's weights
    return lambda _, images, classes: mapper(images, classes)[0]


def _cascade(model: keras.Model) -> list[tuple[str, list[Any]]]:
    """(what is random by then, the layers that become so), from the head down."""
    place = {layer.name: i for i, layer in enumerate(model.layers)}
    ends = [0, *(place[name] + 1 for _, name in sorted(find_stages(model).items()))]
    names = {0: "head"} | {b: f"head to Block {b}" for b in range(1, len(ends))}
    stages = [(names[0], model.layers[ends[-1] :])]
    return stages + [(names[b], model.layers[ends[b - 1] : ends[b]]) for b in range(len(ends) - 1, 0, -1)]


def _randomise(layer: Any, rng: np.random.Generator) -> None:
    """Kernels drawn from a normal of their own spread, biases 0; a normalisation keeps what it has."""
    for weight in layer.weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.ndim > 1:
            weight.assign(rng.normal(0, values.std(), values.shape).astype(np.float32))
        elif weight.name == "bias":
            weight.assign(np.zeros_like(values))


def _likeness(trained: np.ndarray, maps: np.ndarray, blocks: list[int]) -> pd.DataFrame:
    """One row a block: means over the images whose trained map has a shape to keep."""
    found = evaluate.map_agreement(trained, maps)  # (n, blocks)
    shaped = trained.max((-2, -1)) > trained.min((-2, -1))
    frame = {"block": blocks}
    for name in ("spearman", "ssim"):
        kept = np.where(shaped, np.nan_to_num(getattr(found, name)), 0).sum(0)
        frame[name] = np.divide(kept, shaped.sum(0), out=np.full(len(blocks), np.nan), where=shaped.any(0))
    return pd.DataFrame(frame | {"images": shaped.sum(0)})


def _verdict(stages: pd.DataFrame) -> str:
    likeness = stages["spearman"].to_numpy()
    if np.isnan(likeness).any():
        return "cannot tell: the trained model's maps are all constant"
    if likeness[-1] >= KEPT:
        return f"ignores the model: Spearman {likeness[-1]:.2f} with all weights random"
    if likeness[-1] >= CHANGED:
        return f"follows the model in part: Spearman {likeness[-1]:.2f} with all weights random"
    since = np.flatnonzero(likeness >= CHANGED)
    changed = stages["randomised"].iloc[since[-1] + 1 if len(since) else 0]
    return f"follows the model: Spearman below {CHANGED} from random weights of the {changed} on"
