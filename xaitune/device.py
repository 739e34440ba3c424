"""The processor: precision, threads, and the one place that differentiates.

`import tensorflow` stands here alone. Every other module takes `keras` from here, so that what TensorFlow prints on
its start stays off the screen.
"""

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from xaitune.config import PRECISIONS, usable_cores
from xaitune.errors import ConfigError, ModelError


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """TensorFlow's start writes to the file descriptor itself, before its own log level is read."""
    try:
        saved = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


THREADS = "XAITUNE_THREADS"  # the environment variable that bounds this process's threads
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
with _quiet_stderr():
    import keras
    import tensorflow as tf

    if THREADS in os.environ:  # before the first operation: later TensorFlow refuses
        tf.config.threading.set_intra_op_parallelism_threads(int(os.environ[THREADS]))
        tf.config.threading.set_inter_op_parallelism_threads(1)
    for gpu in tf.config.list_physical_devices("GPU"):  # several processes share a card
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.constant(0.0)  # the first operation prints too

if keras.backend.backend() != "tensorflow":
    raise ConfigError(
        f"xaitune runs on Keras's TensorFlow backend. Received: KERAS_BACKEND={keras.backend.backend()}. Unset it."
    )

HALF_LAYERS = (keras.layers.Conv2D, keras.layers.MaxPooling2D)  # the rest of a model stays in float32


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    line = next((row for row in text.splitlines() if row.startswith("flags")), "")
    return set(line.partition(":")[2].split())


def resolve_precision(precision: str = "auto") -> tuple[str, str]:
    """('float32' | 'bfloat16', why) for 'auto', 'float32' or 'bfloat16'.

    'auto' takes bfloat16 where a GPU is visible or the processor has AMX-BF16 or AVX512-BF16 units. Raises ConfigError.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    if precision != "auto":
        return precision, "as asked"
    if tf.config.list_physical_devices("GPU"):
        return "bfloat16", "a GPU is visible"
    units = sorted(_processor_flags() & {"amx_bf16", "avx512_bf16"})
    if units:
        return "bfloat16", f"the processor has {units[0]} units"
    return "float32", "the processor has no bfloat16 units"


def with_precision(model: keras.Model, precision: str, keep: Iterable[str] = ()) -> keras.Model:
    """A copy of a float32 model that computes in `precision`, with its own float32 weights and the same names.

    `keep`: layers that stay in float32 all the same.
    """
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision must be float32 or bfloat16 here. Received: {precision!r}.")

    kept = set(keep)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if precision == "bfloat16" and isinstance(layer, HALF_LAYERS) and layer.name not in kept:
            config["dtype"] = "mixed_bfloat16"
        return layer.__class__.from_config(config)

    # Through a graph of its own, since clone_model would also compile the copy of a compiled model.
    graph = keras.Model(model.input, model.output, name=model.name)
    copy = keras.models.clone_model(graph, clone_function=clone)
    copy_layers(model.layers, copy.layers)
    return copy


def copy_layers(old: Iterable[keras.layers.Layer], new: Iterable[keras.layers.Layer]) -> None:
    """Give layers the weights and the `trainable` of those of the same name."""
    named = {layer.name: layer for layer in old}
    for layer in new:
        source = named.get(layer.name)
        if source is None or source is layer:  # an input, which is named anew; a layer that both have
            continue
        layer.set_weights(source.get_weights())
        layer.trainable = source.trainable
        if hasattr(layer, "finalize_state"):  # Normalization keeps what it computes with beside its weights
            layer.finalize_state()


def activation_gradients(
    model: keras.Model, layers: Sequence[str], reduce: Callable[[Any, Any], Any] | None = None
) -> Callable[[np.ndarray, np.ndarray], tuple[list[Any], np.ndarray]]:
    """A function of images (n, h, w, 3) and class indices (n,) that gives what `reduce` makes a layer, and logits.

    A class index of -1 stands for the image's top class. `reduce` takes a layer's activations and their gradients,
    tensors (n, h_b, w_b, c_b) of d logit[class] / d activation, and gives tensors in any structure; by default it is
    both themselves. It is compiled with the pass, so that only what it makes is copied out, as float32 arrays. All
    layers come from one forward and one backward pass over activations alone: no weight gradient is computed and
    nothing of the model is changed. Raises ModelError for layers that it lacks or that do not lead to its logits.
    """
    try:
        taps = keras.Model(model.input, [model.get_layer(name).output for name in layers] + [model.output])
    except ValueError as error:
        raise ModelError(f"The model lacks a layer that is needed: {error}") from None
    images_of_any_number = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)  # so that it is traced once

    @tf.function(input_signature=[images_of_any_number, tf.TensorSpec((None,), tf.int32)], jit_compile=False)
    def run(images: Any, classes: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)  # so that the tape records; nothing is differentiated down to the image
            *activations, logits = taps(images, training=False)
            top = tf.argmax(logits, axis=1, output_type=tf.int32)
            chosen = tf.where(classes < 0, top, classes)
            score = tf.reduce_sum(tf.gather(logits, chosen, axis=1, batch_dims=1))
        gradients = tape.gradient(score, activations)
        dead = [name for name, gradient in zip(layers, gradients, strict=True) if gradient is None]
        if dead:
            raise ModelError(f"The logits do not follow from layer {dead[0]!r} in a way that has a gradient.")
        pairs = zip(activations, gradients, strict=True)
        made = [reduce(a, g) if reduce else (a, g) for a, g in pairs]
        return tf.nest.map_structure(lambda t: tf.cast(t, tf.float32), (made, logits))

    def call(images: np.ndarray, classes: np.ndarray) -> tuple[list[Any], np.ndarray]:
        made = run(tf.constant(images, tf.float32), tf.constant(classes, tf.int32))
        return tf.nest.map_structure(lambda t: t.numpy(), made)

    return call


def images_at_once(height: int, width: int) -> int:
    """Images in a batch: 8 of 224 x 224 pixels, more of smaller ones, at most 64.

    VGG16 takes 90 MB for each such image forward and backward, 35 MB forward, and is no faster in larger batches.
    """
    return int(np.clip(8 * 224 * 224 // (height * width), 1, 64))


def predict_logits(model: keras.Model, batch_size: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """A function of images (n, h, w, 3) -> (n, classes) float32, by `images_at_once` where no batch size is given."""
    batch_size = batch_size or images_at_once(*model.input_shape[1:3])

    images_of_any_number = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)

    @tf.function(input_signature=[images_of_any_number], jit_compile=False)
    def run(batch: Any) -> Any:
        return tf.cast(model(batch, training=False), tf.float32)

    def call(inputs: np.ndarray) -> np.ndarray:
        rows = []
        for start in range(0, len(inputs), batch_size):
            rows.append(run(tf.constant(inputs[start : start + batch_size], tf.float32)).numpy())
        return np.concatenate(rows) if rows else np.zeros((0, *model.output_shape[1:]), np.float32)

    return call


def describe(precision: str) -> dict[str, Any]:
    """Versions and machine, for a run's metadata."""
    packages = ("xaitune", "keras", "tensorflow", "tensorflow-cpu", "numpy", "scikit-learn", "scikit-image")
    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "python": sys.version.split()[0],
        "versions": versions,
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "threads": int(os.environ.get(THREADS, usable_cores())),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "precision": precision,
    }


def processor_name() -> str:
    """The processor as the system names it."""
    with contextlib.suppress(OSError):
        for row in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()
