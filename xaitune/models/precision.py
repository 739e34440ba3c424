"""float32 or bfloat16: what a processor has units for, and a copy of a model that computes in it."""

import contextlib
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from xaitune._machine import usable_cores
from xaitune.config.choices import PRECISIONS
from xaitune.errors import ConfigError
from xaitune.models.backend import BACKEND, THREADS, gpus, keras

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
    if gpus():
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


def describe(precision: str) -> dict[str, Any]:
    """Versions and machine, for a run's metadata."""
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
        "threads": int(os.environ.get(THREADS, usable_cores())),
        "gpus": gpus(),
        "backend": BACKEND,
        "precision": precision,
    }


def processor_name() -> str:
    """The processor as the system names it."""
    with contextlib.suppress(OSError):
        for row in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()
