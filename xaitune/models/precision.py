"""The precision of a computation, float32 or bfloat16: which to use, and copies of a model that compute in it."""

import contextlib
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from xaitune._machine import half_units, processor_name, usable_cores, usable_threads
from xaitune.config.choices import PRECISIONS
from xaitune.errors import ConfigError
from xaitune.models.backend import BACKEND, gpu_names, gpus, keras

HALF_LAYERS = (keras.layers.Conv2D, keras.layers.MaxPooling2D)  # the rest of a model stays in float32


def resolve_precision(precision: str = "auto") -> tuple[str, str]:
    """The precision to compute in, 'float32' or 'bfloat16', and why, for 'auto', 'float32' or 'bfloat16'.

    'auto' is bfloat16 if a GPU is visible or the processor has AMX-BF16 or AVX512-BF16 units. Raises ConfigError.

    Examples:
        >>> resolve_precision("float32")
        ('float32', 'as asked')
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    if precision != "auto":
        return precision, "as asked"
    if gpus():
        return "bfloat16", "a GPU is visible"
    units = half_units()
    if units:
        return "bfloat16", f"the processor has {units[0]} units"
    return "float32", "the processor has no bfloat16 units"


def with_precision(model: keras.Model, precision: str, keep: Iterable[str] = ()) -> keras.Model:
    """A copy of a float32 model that computes in `precision`, with float32 weights of its own and the same layer names.

    `keep`: names of layers that stay in float32, as the last one, `logits`, always does.
    """
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision must be float32 or bfloat16 here. Received: {precision!r}.")
    float32_names = {"logits", *keep}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        half = precision == "bfloat16" and isinstance(layer, HALF_LAYERS) and layer.name not in float32_names
        return copy_of(layer, **({"dtype": "mixed_bfloat16"} if half else {}))

    # clone_model compiles its copy of a compiled model: give it a new, uncompiled model of the same graph instead.
    graph = keras.Model(model.input, model.output, name=model.name)
    copy = keras.models.clone_model(graph, clone_function=clone)
    copy_layers(model.layers, copy.layers)
    return copy


def copy_of(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """A new layer with the configuration of another one, but for `changes`, without its weights.

    The class of a custom layer may take none of the arguments that all of Keras's layers have; then its copy has another
    name.
    """
    config = layer.get_config() | changes
    try:
        return type(layer).from_config(config)
    except (TypeError, ValueError):
        own = {key: value for key, value in config.items() if key not in ("name", "trainable", "dtype")}
        return type(layer).from_config(own)


def copy_layers(old: Iterable[keras.layers.Layer], new: Iterable[keras.layers.Layer]) -> None:
    """Copy weights and `trainable` from the `old` layers to the `new` layers of the same name.

    A copied layer whose class forgets its name takes those of the first old layer of its class and shapes that is left.
    """
    old, new = list(old), list(new)
    by_name = {layer.name: layer for layer in old}
    sources = {id(layer): by_name[layer.name] for layer in new if layer.name in by_name}
    matched = {id(source) for source in sources.values()}
    spare = [layer for layer in old if id(layer) not in matched and layer.weights]
    for layer in (layer for layer in new if id(layer) not in sources and layer.weights):
        shapes = [w.shape for w in layer.weights]
        like = [s for s in spare if type(s) is type(layer) and [w.shape for w in s.weights] == shapes]
        if like:
            sources[id(layer)] = like[0]
            spare = [s for s in spare if s is not like[0]]
    for layer in new:
        source = sources.get(id(layer))
        if source is None or source is layer:  # an input, whose name is new, or a layer that both models share
            continue
        layer.set_weights(source.get_weights())
        layer.trainable = source.trainable
        if hasattr(layer, "finalize_state"):  # Normalization computes with values derived from its weights
            layer.finalize_state()


def describe(precision: str) -> dict[str, Any]:
    """Package versions and hardware, for a run's metadata."""
    packages = ("xaitune", "keras", "tensorflow", "tensorflow-cpu", "torch", "numpy", "scikit-learn", "scikit-image")
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
        "threads": usable_threads(),
        "gpus": gpu_names(),
        "backend": BACKEND,
        "precision": precision,
    }
