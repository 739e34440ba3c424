"""A faster float32 forward pass on the processor: ncnn with Winograd convolutions, where ncnn is installed.

A 3x3 convolution in this form (Lavin and Gray 2016) takes 2.25 to 5 times fewer multiplications than TensorFlow's on a
processor, and agrees with it to rounding. It is used where a model is run on many images, as in LIME. Training and
frozen features stay with Keras, so that caching features on disk changes no digit.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._machine import usable_threads
from xaitune.errors import ConfigError, ModelError, XaituneError
from xaitune.models import backend
from xaitune.models.backend import keras
from xaitune.models.keras_private import inputs_of

SWITCH = "XAITUNE_FAST"  # the environment variable that switches ncnn off
MINIMUM = (1, 0, 20261020)  # earlier bindings hold Python's global lock during a pass, so that only one core works
SMALLEST = 96 * 96  # pixels; for smaller images, rereading the weights for each one costs more than ncnn saves
AGREEMENT = 1e-3  # largest difference, as a share of the largest logit; about 1e-6 was measured
Step = tuple[str, str, Sequence[np.ndarray]]  # ncnn's name of a layer, the layer's arguments, its weights
layers = keras.layers


class _Unsupported(Exception):
    """The model has something that this module cannot translate into ncnn layers."""


class NcnnForward:
    """(n, h, w, c) -> (n, classes) by an ncnn network. Each thread computes one image at a time on one core."""

    def __init__(self, net: Any, output: str, shape: tuple[int, ...], classes: int) -> None:
        self.net, self.output, self.shape, self.classes = net, output, shape, classes
        self.threads = usable_threads()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if images.shape[1:] != self.shape:  # ncnn would compute something all the same
            raise ModelError(f"The model takes images of shape {self.shape}. Received: {images.shape[1:]}.")
        with ThreadPoolExecutor(self.threads) as pool:  # no thread is left when the call ends
            rows = list(pool.map(self._logits, images))  # raises what a thread raised
        return np.stack(rows) if rows else np.zeros((0, self.classes), np.float32)

    def _logits(self, image: np.ndarray) -> np.ndarray:
        """The logits (classes,) of one image (h, w, c)."""
        import ncnn

        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)  # (c, h, w); named, as Mat only borrows it
        extractor = self.net.create_extractor()
        extractor.input("s0", ncnn.Mat(planes).clone())
        status, logits = extractor.extract(self.output)
        if status:
            raise XaituneError(f"ncnn could not compute an image (status {status}). Set {SWITCH}=0 to do without ncnn.")
        return np.array(logits)


def forward(model: keras.Model) -> NcnnForward | None:
    """A function (n, h, w, c) -> (n, classes) that computes the float32 model's outputs by ncnn; None if Keras must.

    The weights are copied: the model is not changed, and later changes to it have no effect. Each image is computed on
    one core, and as many images at a time as there are cores for this process; the result for an image does not depend
    on the others.

    None where `library` returns None; for images of less than 96x96 pixels, for which ncnn would be slower; for a model
    other than one chain of Rescaling, Conv2D (stride 1), MaxPooling2D (unpadded), GlobalAveragePooling2D, Flatten,
    Dense and Dropout, in float32 throughout and with no activation but ReLU; and where the output for an image of noise
    differs from the model's. Raises ConfigError for a wrong XAITUNE_FAST; the function raises ModelError for images of
    another size, and XaituneError where ncnn fails.
    """
    if library() is None:
        return None
    try:
        net, output = _load(_translate(model))
    except (_Unsupported, OSError):  # OSError: no room for a temporary file, which Keras does not need
        return None
    fast = NcnnForward(net, output, model.input_shape[1:], model.output_shape[1])
    return fast if _agrees(fast, model) else None


def library() -> str | None:
    """'ncnn ' and its version if it is to be used; None if a GPU is visible, or ncnn is missing, too old or switched off.

    Raises ConfigError if XAITUNE_FAST is neither 0 nor 1.
    """
    switch = os.environ.get(SWITCH, "1")
    if switch not in ("0", "1"):
        raise ConfigError(
            f"{SWITCH} must be 0 (Keras computes) or 1 (ncnn computes, if it is installed). Received: {switch!r}."
        )
    if switch == "0" or backend.gpus():
        return None
    try:
        import ncnn
    except ImportError:
        return None
    parts = ncnn.__version__.split(".")
    recent = all(part.isdigit() for part in parts) and tuple(map(int, parts)) >= MINIMUM
    return f"ncnn {ncnn.__version__}" if recent else None


# ---- the model as ncnn layers


def _rescaling(layer: Any) -> list[Step]:
    channels = layer.output.shape[-1]
    scale_and_offset = [np.broadcast_to(np.asarray(v, np.float32), channels) for v in (layer.scale, layer.offset)]
    return [("Scale", f"0={channels} 1=1", scale_and_offset)]


def _convolution(layer: Any) -> list[Step]:
    even_sides = [size for size in layer.kernel_size if size % 2 == 0]  # 'same' pads these more on one side
    plain = layer.groups == 1 and layer.strides == (1, 1) and layer.dilation_rate == (1, 1)
    if not plain or layer.padding not in ("valid", "same") or (layer.padding == "same" and even_sides):
        raise _Unsupported
    kernel, bias = _weights(layer)  # (h, w, channels in, channels out)
    h, w, _, out = kernel.shape
    top, left = (h // 2, w // 2) if layer.padding == "same" else (0, 0)
    arguments = f"0={out} 1={w} 11={h} 4={left} 14={top} 5=1 6={kernel.size} 9={_relu(layer)}"
    return [("Convolution", arguments, [FLOAT32, kernel.transpose(3, 2, 0, 1), bias])]


def _max_pooling(layer: Any) -> list[Step]:
    if layer.padding != "valid":
        raise _Unsupported
    (h, w), (down, right) = layer.pool_size, layer.strides
    return [("Pooling", f"0=0 1={w} 11={h} 2={right} 12={down} 5=1", ())]  # 5=1: incomplete windows are dropped


def _average_pooling(layer: Any) -> list[Step]:
    if layer.keepdims:
        raise _Unsupported
    return [("Pooling", "0=1 4=1", ())]


def _flatten(layer: Any) -> list[Step]:
    if len(layer.input.shape) == 2:
        return []
    return [("Permute", "0=3", ()), ("Flatten", "", ())]  # from ncnn's (c, h, w) to Keras's (h, w, c), then flat


def _dense(layer: Any) -> list[Step]:
    if len(layer.input.shape) != 2:
        raise _Unsupported
    kernel, bias = _weights(layer)  # (units in, units out)
    arguments = f"0={kernel.shape[1]} 1=1 2={kernel.size} 9={_relu(layer)}"
    return [("InnerProduct", arguments, [FLOAT32, kernel.T, bias])]


def _weights(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    arrays = layer.get_weights()
    if len(arrays) != 1 + layer.use_bias:  # quantised, or with an adapter such as LoRA's
        raise _Unsupported
    return arrays[0], arrays[1] if layer.use_bias else np.zeros(arrays[0].shape[-1], np.float32)


def _relu(layer: Any) -> int:
    if layer.activation not in (keras.activations.linear, keras.activations.relu):
        raise _Unsupported
    return int(layer.activation is keras.activations.relu)


FLOAT32 = np.zeros(1, np.float32)  # ncnn's mark that the weights after it are float32
STEPS: dict[type, Callable[[Any], list[Step]]] = {
    layers.Rescaling: _rescaling,
    layers.Conv2D: _convolution,
    layers.MaxPooling2D: _max_pooling,
    layers.GlobalAveragePooling2D: _average_pooling,
    layers.Flatten: _flatten,
    layers.Dense: _dense,
    layers.Dropout: lambda layer: [],
}


def _translate(model: keras.Model) -> list[Step]:
    """The model's layers as ncnn's. Raises _Unsupported."""
    steps: list[Step] = []
    for layer in _chain(model):
        known = type(layer) in STEPS and layer.compute_dtype == "float32"
        if not known or getattr(layer, "data_format", "channels_last") != "channels_last":
            raise _Unsupported
        steps += STEPS[type(layer)](layer)
    return steps


def _chain(model: keras.Model) -> list[Any]:
    """The model's operations after its only input, each called once on the output of the one before.

    Raises _Unsupported for a model that is no such chain.
    """
    operations = list(getattr(model, "operations", ()))  # only a functional model has them
    if not operations or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _Unsupported
    shape = model.inputs[0].shape[1:]
    if len(shape) != 3 or None in shape or len(model.outputs[0].shape) != 2 or shape[0] * shape[1] < SMALLEST:
        raise _Unsupported
    for before, after in itertools.pairwise(operations):
        if inputs_of(after) != [before]:
            raise _Unsupported
    return operations[1:]


# ---- the ncnn network


def _load(steps: Sequence[Step]) -> tuple[Any, str]:
    """ncnn's network and the name of its output. Raises OSError and _Unsupported."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1  # per image: cores that share an image wait for each other at every layer
    for option in dir(net.opt):
        if option.startswith(("use_fp16", "use_bf16", "use_int8", "use_vulkan")):
            setattr(net.opt, option, False)
    lines = [f"{kind} s{i} 1 1 s{i - 1} s{i} {arguments}" for i, (kind, arguments, _) in enumerate(steps, 1)]
    text = "\n".join(["7767517", f"{len(lines) + 1} {len(lines) + 1}", "Input s0 0 1 s0", *lines, ""])
    with tempfile.TemporaryDirectory() as folder:  # loaded from memory, ncnn would keep using the caller's bytes
        graph, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
        graph.write_text(text, encoding="ascii")
        with weights.open("wb") as file:
            for array in itertools.chain.from_iterable(arrays for _, _, arrays in steps):
                file.write(np.ascontiguousarray(array, "<f4").data)
        if net.load_param(str(graph)) or net.load_model(str(weights)):
            raise _Unsupported
    return net, f"s{len(lines)}"


def _agrees(fast: NcnnForward, model: keras.Model) -> bool:
    """Whether both give the same output for an image of noise. With NaN weights they do not: ncnn's ReLU hides NaN."""
    noise = np.random.default_rng(0).uniform(0, 255, (1, *model.input_shape[1:])).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(noise, training=False))
    return bool(np.abs(fast(noise) - expected).max() <= AGREEMENT * np.abs(expected).max())
