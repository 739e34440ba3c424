"""Preprocessing of images for a model that was trained without it inside, and whether a model scales its input itself."""

from typing import Any

import numpy as np

from xaitune.config.choices import PREPROCESSINGS
from xaitune.models.backend import keras

# Arguments of a Rescaling layer, for images 0..255. `imagenet` is preprocess_input of Keras's VGG and ResNet, which then
# reverses the channels to BGR; `torch` is torchvision's.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALINGS: dict[str, dict[str, Any]] = {
    "rescale": {"scale": 1 / 255},
    "symmetric": {"scale": 1 / 127.5, "offset": -1.0},
    "imagenet": {"scale": 1.0, "offset": [-123.68, -116.779, -103.939]},
    "torch": {
        "scale": [1 / (255 * deviation) for deviation in _DEVIATION],
        "offset": [-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)],
    },
}
GREY = "grey"  # the layer that makes one channel of three
SCALES = ("Rescaling", "Normalization", "BatchNormalization", "Lambda")  # layers that may scale
ARITHMETIC = ("Multiply", "Divide", "TrueDivide", "Subtract", "Add", "Matmul")  # operations that may
assert tuple(SCALINGS) == PREPROCESSINGS[2:]


def with_preprocessing(model: keras.Model, preprocess: str) -> keras.Model:
    """A model of raw RGB 0..255 around one with other inputs: scaled as `preprocess` says, in grey for one channel.

    `preprocess`: one of config.choices.PREPROCESSINGS. The model itself if nothing is to be done. Grey is the luminance
    0.299 R + 0.587 G + 0.114 B, as Pillow has it.
    """
    channels = model.input_shape[-1]
    if preprocess not in SCALINGS and channels == 3:
        return model
    images = keras.Input((*model.input_shape[1:3], 3), name="image")
    x = images
    if channels == 1:
        grey = keras.layers.Dense(1, use_bias=False, name=GREY, dtype="float32")
        x = grey(x)
        grey.set_weights([np.array([[0.299], [0.587], [0.114]])])
    if preprocess in SCALINGS:
        x = keras.layers.Rescaling(**scaling_of(preprocess, channels), dtype="float32", name="preprocess")(x)
        if preprocess == "imagenet" and channels == 3:
            x = keras.ops.flip(x, axis=-1)
    return keras.Model(images, model(x), name=model.name)


def scaling_of(preprocess: str, channels: int) -> dict[str, Any]:
    """The `scale` and `offset` of a scaling; for one channel the means of those of the three."""
    arguments = {"scale": 1.0, "offset": 0.0} | SCALINGS.get(preprocess, {})
    if channels == 1:
        arguments = {key: float(np.mean(value)) for key, value in arguments.items()}
    return arguments


def scales_its_input(model: keras.Model) -> bool:
    """Whether a flat model changes the scale of its images before its first layer with a kernel."""
    for operation in model.operations:
        kind = type(operation).__name__
        if operation.name == GREY:  # put in front by `with_preprocessing`
            continue
        if kind in SCALES or kind in ARITHMETIC:
            return True
        if isinstance(operation, keras.layers.Layer) and ("Conv" in kind or "Dense" in kind):
            return False
    return True  # there is no such layer: nothing is known
