"""A run's model with the outputs of an exported file, and what the run itself gives for each of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import softmax

from xaitune.errors import ModelError
from xaitune.explain.cam import CamMapper
from xaitune.explain.classifier import Classifier
from xaitune.models.backend import keras
from xaitune.models.blocks import has_blocks_head
from xaitune.models.predict import Predictor


def with_outputs(classifier: Classifier, heatmaps: bool) -> keras.Model:
    """The model with the outputs probabilities, logits and, if wanted, heatmaps; it shares the run's layers.

    `heatmaps` (n, classes, h, w): the class activation map of each class, as `class_activation_map` has them in `raw`.
    Raises ModelError for a model without a GAP head.
    """
    model = classifier.segmenter or classifier.model
    logits = _with_variables(model) if has_blocks_head(model) else model.output
    outputs = {"probabilities": keras.layers.Softmax(name="probabilities")(logits), "logits": logits}
    if heatmaps:
        mapper = cam_of(classifier)
        activations = mapper.taps.output[0]  # (n, h, w, channels)
        weigh = keras.layers.Conv2D(len(classifier.class_names), 1, use_bias=False, dtype="float32", name="cam")
        maps = weigh(activations)
        weigh.set_weights([keras.ops.convert_to_numpy(mapper.dense.kernel)[None, None]])
        outputs["heatmaps"] = keras.layers.Permute((3, 1, 2), name="heatmaps")(maps)
    return keras.Model(model.input, outputs, name=model.name)


def _with_variables(model: keras.Model) -> Any:
    """The logits of a model with the head 'blocks', standardised by a layer that holds mean and variance as variables.

    What a Normalization layer computes with is neither a variable nor a constant: in an ONNX file it would become an input.
    """
    old, dense = model.get_layer("standardise"), model.get_layer("logits")
    mean, variance = (np.asarray(values) for values in old.get_weights()[:2])
    standardise = keras.layers.BatchNormalization(
        epsilon=0.0, center=False, scale=False, name=old.name, dtype="float32"
    )
    features = standardise(model.get_layer("pooled").output)
    standardise.set_weights([mean, np.maximum(variance, keras.config.epsilon() ** 2)])  # as the old layer has it
    copy = keras.layers.Dense(dense.units, name=dense.name, dtype="float32")
    logits = copy(features)
    copy.set_weights(dense.get_weights())
    return logits


def cam_of(classifier: Classifier) -> CamMapper:
    """What computes the class activation maps. Raises ModelError, which says why there are none."""
    if classifier.segmenter is not None:
        raise ModelError(
            f"{classifier.name} segments: its probabilities of pixels are its maps. Leave --with-heatmap out."
        )
    if not has_blocks_head(classifier.model):
        try:
            return CamMapper(classifier.model)
        except ModelError:
            pass
    raise ModelError(
        f"Only the head gap has heatmaps that an exported file can hold, and {classifier.name} has another one. "
        "Leave --with-heatmap out, or train with --head gap."
    )


class RunOutputs:
    """Images (n, h, w, 3) -> name of an output -> values, computed by the run: what an exported file is compared with.

    In float32 by Keras; the heatmaps by `class_activation_map`'s own code, not by the layers that are exported.
    """

    def __init__(self, classifier: Classifier, heatmaps: bool) -> None:
        self.mapper = cam_of(classifier) if heatmaps else None
        self.logits: Callable[[np.ndarray], np.ndarray] = Predictor(classifier.segmenter or classifier.model)
        self.require_finite = classifier.require_finite

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        maps = {}
        if self.mapper:
            parts = [
                self.mapper.every_class(images[i : i + self.mapper.size])
                for i in range(0, len(images), self.mapper.size)
            ]
            maps["heatmaps"], logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        else:
            logits = self.logits(images)
        self.require_finite(logits)
        return {"probabilities": softmax(logits.astype(np.float64), axis=-1), "logits": logits, **maps}
