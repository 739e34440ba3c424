"""Linearised fine-tuning by depth, from one Grad-CAM pass: how well a linear model in the trained weights would do.

Near its pretrained weights a network is linear in them: f(W + dW) = f(W) + <df/dW, dW>. Ridge regression on df/dW is then
fine-tuning without a learning rate (Mu et al. 2020; Deshpande et al. 2021; Wei et al. 2022). A block's gradient is taken
with respect to a 1x1 convolution after its last one, the identity before training: sum over positions of activation times
gradient, exactly what Grad-CAM's pass holds.
"""

import numpy as np

from xaitune._progress import Progress, part_of
from xaitune.data.dataset import ImageData
from xaitune.data.sample import choose_images
from xaitune.explain.gradcam import model_for_maps
from xaitune.models.backend import keras
from xaitune.models.batches import images_at_once
from xaitune.models.blocks import BLOCKS, block_ends
from xaitune.models.gradients import ActivationGradients
from xaitune.training.linear import fit_linear_head

SIZE = 32  # a block's gradient (channels, channels) is projected at random to (SIZE, SIZE)
MOST_IMAGES = 400
FITS_SHARE = 0.15  # of the progress, for the fits on the gradients
DIRECTIONS = 2  # at least 2, of the features, whose gradients are taken; each costs a forward and a backward pass


class Sketch:
    """A layer's activations and gradients (n, h, w, c) -> the sketch and the mean activation, (n, size^2) and (n, c).

    The sketch is P^T (sum over positions of activation x gradient) Q. P and Q (c, size) are random with variance
    1 / size, so that inner products of the sketches estimate those of the whole gradients; they depend on `seed` and c
    alone. With `size` 0 nothing is projected.
    """

    def __init__(self, size: int = SIZE, seed: int = 0) -> None:
        self.size, self.seed = size, seed

    def __call__(
        self, activation: keras.KerasTensor, gradient: keras.KerasTensor
    ) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        a, g = (keras.ops.cast(t, "float32") for t in (activation, gradient))
        channels, mean = a.shape[-1], keras.ops.mean(a, axis=(1, 2))
        if self.size:
            rng = np.random.default_rng([self.seed, channels])
            p, q = rng.normal(0, self.size**-0.5, (2, channels, self.size)).astype(np.float32)
            a, g = keras.ops.matmul(a, p), keras.ops.matmul(g, q)
        return keras.ops.reshape(keras.ops.einsum("nhwr,nhws->nrs", a, g), (-1, (self.size or channels) ** 2)), mean


def tangent_scores(
    model: keras.Model,
    data: ImageData,
    metric: str,
    seed: int = 0,
    precision: str = "auto",
    progress: Progress | None = None,
) -> dict[int, float]:
    """Depth 0..5 -> the score of linearised fine-tuning of Block k+1..5 and the head, in cross-validation over groups.

    `model`: VGG16 with the head 'gap'. Its logits are replaced by DIRECTIONS random directions of the features: gradients
    through a trained head would hold the labels that it was trained on. At most MOST_IMAGES training and validation images are
    used, of all classes and groups in turn. `precision`: see `model_for_maps`. NaN where a class has a single group.
    """
    rng = np.random.default_rng(seed)
    rows = choose_images(data, np.concatenate([data.indices("train"), data.indices("validation")]), MOST_IMAGES)
    model, _ = model_for_maps(model, precision)
    gap = model.get_layer("gap").output
    directions = keras.layers.Dense(DIRECTIONS, use_bias=False, dtype="float32", name="directions")
    outputs = keras.Model(model.input, directions(gap))
    directions.set_weights([rng.normal(0, 1, (gap.shape[-1], DIRECTIONS)).astype(np.float32)])
    gradients = ActivationGradients(outputs, list(block_ends(model).values()), Sketch(seed=seed))
    passed, fitted = part_of(progress, 0, 1 - FITS_SHARE), part_of(progress, 1 - FITS_SHARE, 1)
    step, sketches, means = images_at_once(*data.image_size), [], []
    for start in range(0, len(rows), step):
        images = data.load(rows[start : start + step]).astype(np.float32)
        passes = [gradients(images, np.full(len(images), d, np.int32))[0] for d in range(DIRECTIONS)]
        sketches.append([np.concatenate([layers[i][0] for layers in passes], axis=1) for i in range(len(BLOCKS))])
        means.append(passes[0][-1][1])
        if passed:
            passed(start + len(images), len(rows), "gradients of each block")
    blocks = [_scaled(np.concatenate([batch[i] for batch in sketches])) for i in range(len(BLOCKS))]
    head = _scaled(np.concatenate(means))
    labels, groups = data.labels[rows], np.asarray(data.groups)[rows]
    scores = {}
    for depth in range(6):
        if fitted:
            fitted(depth, 6, f"linear approximation of the training, {depth + 1} of 6 depths")
        features = np.concatenate([head, *blocks[depth:]], axis=1)
        scores[depth] = fit_linear_head(features, labels, groups, len(data.class_names), metric=metric).score
    if fitted:
        fitted(6, 6, "linear approximation of the training")
    return scores


def _scaled(features: np.ndarray) -> np.ndarray:
    """Features with a mean variance of 1: gradients of different blocks differ in size by orders of magnitude."""
    return features / max(float(np.sqrt(features.var(axis=0, dtype=np.float64).mean())), 1e-30)
