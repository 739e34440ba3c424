"""A float32 forward pass with Winograd's convolutions (Lavin and Gray 2016), by ncnn where that is installed.

A 3x3 convolution in this form takes 2.25 to 5 times fewer multiplications than TensorFlow's on a processor, and agrees
with it to rounding. It serves what asks a model about many images, such as LIME; training and its frozen features stay
with Keras, where features kept on disk change no digit.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._machine import usable_cores
from xaitune.errors import ConfigError, ModelError, XaituneError
from xaitune.models import backend as device
from xaitune.models.backend import keras
from xaitune.models.keras_private import inputs_of

SWITCH = "XAITUNE_FAST"  # the environment variable that switches all of this off
MINIMUM = (1, 0, 20261020)  # earlier bindings hold Python's lock during a pass, so that one core works and others wait
SMALLEST = 96 * 96  # pixels; below, reading the weights anew for each image costs more than the convolutions save
AGREEMENT = 1e-3  # of the largest logit; what was measured is some 1e-6
Step = tuple[str, str, Sequence[np.ndarray]]  # ncnn's name of a layer, its arguments, its weights
layers = keras.layers


class _Untranslated(Exception):
    """The model has something that this module has no words for."""


def forward(model: keras.Model) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function (n, h, w, c) -> (n, classes) that gives the float32 model's outputs, or None where Keras must.

    The weights are copied here: the model is not changed, nor followed. Each image is computed on one core, on as many
    cores at a time as the process may use, and comes out the same alone or among others.

    None where `library` is None; for images of less than 96x96 pixels, where it would be slower; for a model other than
    one chain of Rescaling, Conv2D (stride 1), MaxPooling2D (unpadded), GlobalAveragePooling2D, Flatten, Dense (both
    linear or ReLU) and Dropout, with float32 in all; and where an image of noise gets another answer than the model's.
    Raises ConfigError for XAITUNE_FAST; the function raises ModelError for images of another size, and XaituneError
    where ncnn fails.
    """
    if library() is None:
        return None
    try:
        net, last = _loaded(_translated(model))
    except (_Untranslated, OSError):  # OSError: no room for a temporary file, which Keras does not need
        return None
    call = _function(net, last, model.input_shape[1:], model.output_shape[1])
    return call if _agrees(call, model) else None


def library() -> str | None:
    """'ncnn ' and its version where it is to be used; None where a GPU is visible and where it is missing, old or off.

    Raises ConfigError where XAITUNE_FAST is neither 0 nor 1.
    """
    wish = os.environ.get(SWITCH, "1")
    if wish not in ("0", "1"):
        raise ConfigError(f"{SWITCH} must be 0 (Keras computes) or 1 (ncnn where it is installed). Received: {wish!r}.")
    if wish == "0" or device.gpus():
        return None
    try:
        import ncnn
    except ImportError:
        return None
    number = ncnn.__version__.split(".")
    new = all(part.isdigit() for part in number) and tuple(map(int, number)) >= MINIMUM
    return f"ncnn {ncnn.__version__}" if new else None


# ---- the model in ncnn's words


def _rescaling(layer: Any) -> list[Step]:
    channels = layer.output.shape[-1]
    both = [np.broadcast_to(np.asarray(v, np.float32), channels) for v in (layer.scale, layer.offset)]
    return [("Scale", f"0={channels} 1=1", both)]


def _convolution(layer: Any) -> list[Step]:
    even = [size for size in layer.kernel_size if size % 2 == 0]  # these pad one side more than the other
    plain = layer.groups == 1 and layer.strides == (1, 1) and layer.dilation_rate == (1, 1)
    if not plain or layer.padding not in ("valid", "same") or (layer.padding == "same" and even):
        raise _Untranslated
    kernel, bias = _weights(layer)  # (h, w, channels in, channels out)
    h, w, _, out = kernel.shape
    top, left = (h // 2, w // 2) if layer.padding == "same" else (0, 0)
    arguments = f"0={out} 1={w} 11={h} 4={left} 14={top} 5=1 6={kernel.size} 9={_relu(layer)}"
    return [("Convolution", arguments, [FLOAT32, kernel.transpose(3, 2, 0, 1), bias])]


def _max_pooling(layer: Any) -> list[Step]:
    if layer.padding != "valid":
        raise _Untranslated
    (h, w), (down, right) = layer.pool_size, layer.strides
    return [("Pooling", f"0=0 1={w} 11={h} 2={right} 12={down} 5=1", ())]  # 5=1: what is left over is left out


def _average_pooling(layer: Any) -> list[Step]:
    if layer.keepdims:
        raise _Untranslated
    return [("Pooling", "0=1 4=1", ())]


def _flatten(layer: Any) -> list[Step]:
    if len(layer.input.shape) == 2:
        return []
    return [("Permute", "0=3", ()), ("Flatten", "", ())]  # from ncnn's (c, h, w) to Keras's (h, w, c) first


def _dense(layer: Any) -> list[Step]:
    if len(layer.input.shape) != 2:
        raise _Untranslated
    kernel, bias = _weights(layer)  # (units in, units out)
    arguments = f"0={kernel.shape[1]} 1=1 2={kernel.size} 9={_relu(layer)}"
    return [("InnerProduct", arguments, [FLOAT32, kernel.T, bias])]


def _weights(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    arrays = layer.get_weights()
    if len(arrays) != 1 + layer.use_bias:  # quantised, or with an adapter
        raise _Untranslated
    return arrays[0], arrays[1] if layer.use_bias else np.zeros(arrays[0].shape[-1], np.float32)


def _relu(layer: Any) -> int:
    if layer.activation not in (keras.activations.linear, keras.activations.relu):
        raise _Untranslated
    return int(layer.activation is keras.activations.relu)


FLOAT32 = np.zeros(1, np.float32)  # what marks the weights that follow it as float32
STEPS: dict[type, Callable[[Any], list[Step]]] = {
    layers.Rescaling: _rescaling,
    layers.Conv2D: _convolution,
    layers.MaxPooling2D: _max_pooling,
    layers.GlobalAveragePooling2D: _average_pooling,
    layers.Flatten: _flatten,
    layers.Dense: _dense,
    layers.Dropout: lambda layer: [],
}


def _translated(model: keras.Model) -> list[Step]:
    """The model's layers as ncnn's. Raises _Untranslated."""
    steps: list[Step] = []
    for layer in _chain(model):
        known = type(layer) in STEPS and layer.compute_dtype == "float32"
        if not known or getattr(layer, "data_format", "channels_last") != "channels_last":
            raise _Untranslated
        steps += STEPS[type(layer)](layer)
    return steps


def _chain(model: keras.Model) -> list[Any]:
    """The model's operations after its one input, each called once and fed by the one before. Raises _Untranslated."""
    found = list(getattr(model, "operations", ()))  # of a functional model alone
    if not found or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _Untranslated
    shape = model.inputs[0].shape[1:]
    if len(shape) != 3 or None in shape or len(model.outputs[0].shape) != 2 or shape[0] * shape[1] < SMALLEST:
        raise _Untranslated
    for before, after in itertools.pairwise(found):
        if inputs_of(after) != [before]:
            raise _Untranslated
    return found[1:]


# ---- computing


def _loaded(steps: Sequence[Step]) -> tuple[Any, str]:
    """(ncnn's network, the name of what its last step gives). Raises OSError, _Untranslated."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1  # an image: cores that share one wait for each other at every layer
    for option in dir(net.opt):
        if option.startswith(("use_fp16", "use_bf16", "use_int8", "use_vulkan")):
            setattr(net.opt, option, False)
    rows = [f"{kind} s{i} 1 1 s{i - 1} s{i} {arguments}" for i, (kind, arguments, _) in enumerate(steps, 1)]
    text = "\n".join(["7767517", f"{len(rows) + 1} {len(rows) + 1}", "Input s0 0 1 s0", *rows, ""])
    with tempfile.TemporaryDirectory() as folder:  # from memory, ncnn would go on using the caller's bytes
        graph, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
        graph.write_text(text, encoding="ascii")
        with weights.open("wb") as file:
            for array in itertools.chain.from_iterable(arrays for _, _, arrays in steps):
                file.write(np.ascontiguousarray(array, "<f4").data)
        if net.load_param(str(graph)) or net.load_model(str(weights)):
            raise _Untranslated
    return net, f"s{len(rows)}"


def _function(net: Any, last: str, shape: tuple[int, ...], classes: int) -> Callable[[np.ndarray], np.ndarray]:
    threads = int(os.environ.get(device.THREADS, usable_cores()))

    def call(images: np.ndarray) -> np.ndarray:
        if images.shape[1:] != shape:  # ncnn would compute something
            raise ModelError(f"The model takes images of shape {shape}. Received: {images.shape[1:]}.")
        with ThreadPoolExecutor(threads) as pool:  # no thread is left when the call ends
            rows = list(pool.map(lambda image: _logits(net, last, image), images))  # raises what a thread raised
        return np.stack(rows) if rows else np.zeros((0, classes), np.float32)

    return call


def _logits(net: Any, last: str, image: np.ndarray) -> np.ndarray:
    """(classes,) of one image (h, w, c)."""
    import ncnn

    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)  # (c, h, w); named, since Mat only borrows it
    run = net.create_extractor()
    run.input("s0", ncnn.Mat(planes).clone())
    status, logits = run.extract(last)
    if status:
        raise XaituneError(f"ncnn could not compute an image (status {status}). {SWITCH}=0 does without it.")
    return np.array(logits)


def _agrees(call: Callable[[np.ndarray], np.ndarray], model: keras.Model) -> bool:
    """Whether one image of noise gets Keras's answer. Weights that are no numbers give another: its ReLU hides them."""
    noise = np.random.default_rng(0).uniform(0, 255, (1, *model.input_shape[1:])).astype(np.float32)
    wanted = keras.ops.convert_to_numpy(model(noise, training=False))
    return bool(np.abs(call(noise) - wanted).max() <= AGREEMENT * np.abs(wanted).max())
