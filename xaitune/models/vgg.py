"""VGG16 with named blocks: built flat, taking raw RGB 0..255, returning logits; freezing and weights."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xaitune.config.schema import HEADS, parse_image_size
from xaitune.errors import ConfigError, ModelError, WeightsError
from xaitune.models.backend import keras

# Block -> its convolutions (Simonyan and Zisserman 2015, configuration D), in Keras's names.
BLOCKS = {b: tuple(f"block{b}_conv{i}" for i in range(1, count + 1)) for b, count in enumerate((2, 2, 3, 3, 3), 1)}
CHANNELS = (64, 128, 256, 512, 512)
FC_UNITS = 256
# The first step of every model, always in float32. Keras trained VGG16 on BGR; here the first kernel is turned
# round on loading instead of the image, which is the same sum.
PREPROCESSING: dict[str, dict[str, Any]] = {
    "imagenet": {"scale": 1.0, "offset": [-123.68, -116.779, -103.939]},
    "slim": {"scale": 1 / 127.5, "offset": -1.0},
    "random": {"scale": 1 / 255, "offset": 0.0},
}
OTHER_WEIGHTS = "Use --weights PATH (an .h5 in Keras's no-top layout), a run's folder, 'slim' or 'random'"


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A convolution base: `arrays` name -> (kernel, bias) or None for random ones, and its preprocessing."""

    arrays: dict[str, tuple[np.ndarray, np.ndarray]] | None
    preprocessing: dict[str, Any]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of Block 1 to 5."""
        if self.arrays is None:
            return CHANNELS
        return tuple(self.arrays[BLOCKS[b][0]][0].shape[-1] for b in BLOCKS)

    @property
    def digest(self) -> str:
        """12 hex digits that name the weights and their preprocessing."""
        found = hashlib.sha256(json.dumps(self.preprocessing, sort_keys=True).encode())
        for name, pair in (self.arrays or {}).items():
            found.update(name.encode())
            for array in pair:
                found.update(np.ascontiguousarray(array, np.float32).tobytes())
        return found.hexdigest()[:12]


def build_vgg16(
    num_classes: int,
    *,
    image_size: tuple[int, int] = (224, 224),
    head: str = "gap",
    weights: str | Backbone = "imagenet",
    seed: int = 0,
) -> keras.Model:
    """VGG16 as one flat functional graph: raw RGB (n, h, w, 3) in 0..255 -> logits (n, num_classes).

    `head`: 'gap' is global average pooling on block5_conv3 (no block5_pool, as in Zhou et al. 2016) and a Dense;
    'fc' is block5_pool, Flatten, Dense, Dropout, Dense. `weights`: see `load_backbone`. `seed` fixes the head's
    initial values, and the base's where weights are random. Raises ConfigError and WeightsError.
    """
    if head not in HEADS:
        raise ConfigError(f"head must be one of {', '.join(HEADS)}. Received: head={head!r}.")
    if num_classes < 2:
        raise ConfigError(f"num_classes must be at least 2. Received: {num_classes}.")
    height, width = parse_image_size(image_size)
    base = load_backbone(weights) if isinstance(weights, str) else weights
    inputs = keras.Input((height, width, 3), name="image")
    x = keras.layers.Rescaling(**base.preprocessing, dtype="float32", name="preprocess")(inputs)
    for block, names in BLOCKS.items():
        for i, name in enumerate(names):
            start = keras.initializers.HeNormal(seed=seed * 100 + block * 10 + i)
            channels = base.channels[block - 1]
            layer = keras.layers.Conv2D(
                channels, 3, padding="same", activation="relu", kernel_initializer=start, name=name
            )
            x = layer(x)
        if block < 5 or head == "fc":
            x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    model = keras.Model(inputs, _head(x, head, num_classes, seed), name="vgg16")
    for name, pair in (base.arrays or {}).items():
        model.get_layer(name).set_weights(pair)
    return model


def _head(x: keras.KerasTensor, head: str, num_classes: int, seed: int) -> keras.KerasTensor:
    def dense(units: int, name: str, step: int, activation: str | None = None) -> keras.layers.Dense:
        # The last layer starts near zero, as in VGG's own training: a large random one would push its errors into the
        # convolutions as soon as they are unfrozen.
        start: keras.Initializer = keras.initializers.RandomNormal(0.0, 0.01, seed=seed * 100 + step)
        if activation:
            start = keras.initializers.HeNormal(seed=seed * 100 + step)
        return keras.layers.Dense(units, activation=activation, kernel_initializer=start, dtype="float32", name=name)

    if head == "gap":
        x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="gap")(x)
    else:
        x = keras.layers.Flatten(dtype="float32", name="flatten")(x)
        x = dense(FC_UNITS, "fc1", 1, "relu")(x)
        x = keras.layers.Dropout(0.5, seed=seed, dtype="float32", name="dropout")(x)
    return dense(num_classes, "logits", 2)(x)


def freeze_blocks(model: keras.Model, through: int) -> keras.Model:
    """Freeze Block 1..`through` of a VGG16 and unfreeze the rest, in place; compile the model afterwards.

    0 freezes nothing, 5 is feature extraction. Raises ConfigError outside 0..5, ModelError for another model.
    """
    if not isinstance(through, int) or isinstance(through, bool) or not 0 <= through <= 5:
        raise ConfigError(f"freeze_through must be 0..5 (0 freezes nothing, 5 all of VGG16). Received: {through!r}.")
    layers = {block: [model.get_layer(name) for name in names] for block, names in require_blocks(model).items()}
    model.trainable = True
    for block, convolutions in layers.items():
        for layer in convolutions:
            layer.trainable = block > through
    return model


def require_blocks(model: keras.Model) -> dict[int, tuple[str, ...]]:
    """BLOCKS, having checked that the model has them in one flat graph; raises ModelError where it has not."""
    names = {layer.name for layer in model.layers}
    missing = [name for block in BLOCKS.values() for name in block if name not in names]
    if missing:
        nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        hint = (
            f" Its layers are inside {nested[0]!r}: build it flat, from the backbone's output."
            if nested
            else " Use a model that xaitune trained, or one from build_vgg16."
        )
        raise ModelError(f"Not a VGG16 with named blocks: layer {missing[0]!r} is missing.{hint}")
    return BLOCKS


def is_vgg(model: keras.Model) -> bool:
    """Whether a flat model has VGG16's convolutions by name, as VGG19 and those built from either have."""
    return {name for names in BLOCKS.values() for name in names} <= {layer.name for layer in model.layers}


def load_backbone(weights: str | Path) -> Backbone:
    """The convolution base named by `weights`.

    'imagenet' (Keras's own download and cache), 'slim' (the small one in this package), 'random', the path of an
    .h5 in Keras's no-top layout, a run's folder or a .keras file of ours (its base and preprocessing are reused).
    Raises WeightsError, naming the other ways; there is no silent fallback.
    """
    text = str(weights)
    if text == "random":
        return Backbone(None, PREPROCESSING["random"])
    if text == "slim":
        with resources.as_file(resources.files("xaitune.models") / "slim.h5") as path:
            return _from_h5(path)
    if text == "imagenet":
        return _from_keras_applications()
    path = Path(text).expanduser()
    if path.is_dir() and (path / "model.keras").is_file():
        path = path / "model.keras"
    if not path.exists():
        raise WeightsError(f"No weights at {text!r}. {OTHER_WEIGHTS}, or 'imagenet'.")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder without model.keras: not a finished run. {OTHER_WEIGHTS}.")
    return _from_model_file(path) if path.suffix == ".keras" else _from_h5(path)


def _from_keras_applications() -> Backbone:
    try:
        source = keras.applications.VGG16(weights="imagenet", include_top=False)
    except Exception as error:  # Keras raises a plain Exception for a failed download
        reason = _reason(error)
        raise WeightsError(f"ImageNet's VGG16 could not be downloaded ({reason}).\n{OTHER_WEIGHTS}.") from None
    pairs = {name: tuple(source.get_layer(name).get_weights()) for names in BLOCKS.values() for name in names}
    return Backbone(_rgb_first(pairs), PREPROCESSING["imagenet"])


def _reason(error: Exception) -> str:
    """Why a download failed: Keras's message without the long address."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rpartition(" -- ")[2][:160]


def _rgb_first(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    kernel, bias = pairs["block1_conv1"]
    return {**pairs, "block1_conv1": (np.ascontiguousarray(kernel[:, :, ::-1]), bias)}


def _from_h5(path: Path) -> Backbone:
    """Kernels and biases by layer name; the attribute `preprocessing` is ours, VGG's own where it is missing."""
    try:
        with h5py.File(path, "r") as file:
            pairs = {name: _pair(file, name, path) for names in BLOCKS.values() for name in names}
            kind = file.attrs.get("preprocessing", "imagenet")
    except OSError as error:
        raise WeightsError(f"{path} is not a readable .h5 file of weights ({error}). {OTHER_WEIGHTS}.") from None
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if kind not in PREPROCESSING:
        raise WeightsError(f"{path} names an unknown preprocessing {kind!r}. Known: {', '.join(PREPROCESSING)}.")
    previous = 3
    for name, (kernel, bias) in pairs.items():
        if kernel.shape != (3, 3, previous, len(bias)):
            raise WeightsError(
                f"{path}: {name} should be a 3x3 kernel over {previous} channels. Received: {kernel.shape}."
            )
        previous = len(bias)
    return Backbone(_rgb_first(pairs) if kind == "imagenet" else pairs, PREPROCESSING[kind])


def _pair(file: h5py.File, name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(file.get(name), h5py.Group):
        has = ", ".join(list(file)[:4]) or "nothing"
        raise WeightsError(
            f"{path} is not VGG16 in Keras's no-top layout: no layer {name!r} (it has {has}). {OTHER_WEIGHTS}."
        )
    arrays: list[np.ndarray] = []
    file[name].visititems(lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    arrays.sort(key=lambda a: -a.ndim)  # the kernel, then the bias
    if [a.ndim for a in arrays] != [4, 1]:
        raise WeightsError(f"{path}: layer {name!r} should hold a kernel and a bias. Received: {len(arrays)} arrays.")
    return arrays[0].astype(np.float32), arrays[1].astype(np.float32)


def load_model(path: str | Path) -> keras.Model:
    """A .keras file or a run's folder -> its float32 model, uncompiled. Raises ModelError naming the file."""
    path = Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"No model at {file}. Give a finished run's folder or a .keras file.")
    if not zipfile.is_zipfile(file):
        raise ModelError(
            f"{file} is not a .keras file (no zip archive). Give a finished run's folder or a .keras file."
        )
    try:
        return keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # a damaged or foreign file fails in many ways
        raise ModelError(f"{file} cannot be loaded as a Keras model: {str(error).splitlines()[0][:200]}") from None


def _from_model_file(path: Path) -> Backbone:
    try:
        model = load_model(path)
    except ModelError as error:
        raise WeightsError(f"{error}\n{OTHER_WEIGHTS}.") from None
    try:
        require_blocks(model)
        preprocess = model.get_layer("preprocess").get_config()
    except (ModelError, ValueError):
        raise WeightsError(f"{path} is not a model of xaitune's (no VGG16 blocks with their preprocessing).") from None
    pairs = {name: tuple(model.get_layer(name).get_weights()) for names in BLOCKS.values() for name in names}
    return Backbone(pairs, {key: preprocess[key] for key in ("scale", "offset")})


def imagenet_classifier() -> tuple[keras.Model, list[str]]:
    """VGG16 with ImageNet's 1,000 classes (raw RGB in, logits out) and their names, from Keras's download."""
    inputs = keras.Input((224, 224, 3), name="image")
    x = keras.layers.Rescaling(**PREPROCESSING["imagenet"], dtype="float32", name="preprocess")(inputs)
    try:
        model = keras.applications.VGG16(weights="imagenet", input_tensor=x, classifier_activation=None)
        decoded = keras.applications.vgg16.decode_predictions(np.arange(1000.0)[::-1][None], top=1000)[0]
    except Exception as error:
        reason = _reason(error)
        raise WeightsError(
            f"ImageNet's VGG16 with its classes could not be downloaded ({reason}).\n"
            "Train a model first ('xaitune train DATA') or name one with --model."
        ) from None
    first = model.get_layer("block1_conv1")
    kernel, bias = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], bias])
    return model, [name for _, name, _ in decoded]


def convolution_shapes(channels: Sequence[int] = CHANNELS) -> list[tuple[int, int]]:
    """(channels in, channels out) of the 13 convolutions."""
    wide = [channels[block - 1] for block, names in BLOCKS.items() for _ in names]
    return list(zip([3, *wide], wide, strict=False))


def multiply_adds(image_size: Sequence[int], channels: Sequence[int] = CHANNELS) -> dict[int, float]:
    """Multiply-adds of one forward pass for each block, by the formula h * w * 9 * c_in * c_out."""
    shapes = iter(convolution_shapes(channels))
    found = {}
    for block, names in BLOCKS.items():
        pixels = (image_size[0] >> (block - 1)) * (image_size[1] >> (block - 1))
        found[block] = sum(9.0 * pixels * i * o for i, o in (next(shapes) for _ in names))
    return found
