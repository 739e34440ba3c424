"""Loading of pretrained weights (Keras's download, an `.h5`, a run, the package's own or none) and of whole models."""

import dataclasses
import functools
import hashlib
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xaitune.config.choices import SCRATCH
from xaitune.errors import ModelError, WeightsError
from xaitune.models.backend import keras
from xaitune.models.blocks import CHANNELS, architecture_of, base_layers, convolutions
from xaitune.models.model_files import load_model

# Arguments of the Rescaling layer that every model begins with, always in float32. Keras's VGG16 takes BGR images; here
# the first kernel's input channels are reversed on loading instead of each image's, which gives the same sum.
PREPROCESSING: dict[str, dict[str, Any]] = {
    "imagenet": {"scale": 1.0, "offset": [-123.68, -116.779, -103.939]},
    "slim": {"scale": 1 / 127.5, "offset": -1.0},
    "random": {"scale": 1 / 255, "offset": 0.0},
}

OTHER_WEIGHTS = "Use --weights PATH (an .h5 in Keras's no-top layout), a run's folder, 'slim' or 'random'"


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A convolutional base: `arrays`, layer name -> its weights or None for random ones, and its preprocessing.

    A convolution has (kernel, bias), a batch normalisation (gamma, beta, moving mean, moving variance).
    """

    arrays: dict[str, tuple[np.ndarray, ...]] | None
    preprocessing: dict[str, Any]
    architecture: str = "vgg16"

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of Block 1 to 5."""
        if self.arrays is None:
            return CHANNELS
        return tuple(self.arrays[names[0]][0].shape[-1] for names in convolutions(self.architecture).values())

    @functools.cached_property
    def digest(self) -> str:
        """12 hex digits that identify the weights and their preprocessing."""
        digest = hashlib.sha256(json.dumps(self.preprocessing, sort_keys=True).encode())
        for name, arrays in (self.arrays or {}).items():
            digest.update(name.encode())
            for array in arrays:
                digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()[:12]


def load_backbone(weights: str | Path, architecture: str = "vgg16") -> Backbone:
    """The convolutional base that `weights` names, of one of config.choices.BACKBONES.

    'imagenet' (Keras's own download and cache, for VGG16 and VGG19), 'slim' (the small VGG16 in this package), 'random', the
    path of an .h5 in Keras's no-top layout, or a run's folder or .keras file (whose base and preprocessing are reused). In
    an .h5 of VGG16 with batch normalisation the group block1_bn1 holds gamma, beta, moving_mean and moving_variance.
    Raises WeightsError, which names the other choices; there is no silent fallback.
    """
    text = str(weights)
    path = Path(text).expanduser()
    if path.is_dir() and (path / "model.keras").is_file():
        path = path / "model.keras"
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    return _load(text, path, architecture, stamp)


@functools.lru_cache(maxsize=2)  # each run of a sweep loads the same weights; a file that changes gets another stamp
def _load(text: str, path: Path, architecture: str, stamp: tuple[int, int] | None) -> Backbone:
    if text == "random" or architecture in SCRATCH:
        return Backbone(None, PREPROCESSING["random"], architecture)
    if text == "slim":
        if architecture != "vgg16":
            raise WeightsError(
                f"The weights slim are a VGG16's. Received: architecture {architecture}. {OTHER_WEIGHTS}."
            )
        with resources.as_file(resources.files("xaitune.models") / "slim.h5") as file:
            return _from_h5(file, architecture)
    if text == "imagenet":
        return _from_keras_applications(architecture)
    if not path.exists():
        raise WeightsError(f"No weights at {text!r}. {OTHER_WEIGHTS}, or 'imagenet'.")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder without model.keras: not a finished run. {OTHER_WEIGHTS}.")
    return _from_model_file(path, architecture) if path.suffix == ".keras" else _from_h5(path, architecture)


def downloaded_file(architecture: str) -> Path:
    """Where Keras keeps ImageNet's weights for a VGG16 or VGG19, and where they can be copied to."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
    return folder / f"{architecture}_weights_tf_dim_ordering_tf_kernels_notop.h5"


def _from_keras_applications(architecture: str) -> Backbone:
    if architecture == "vgg16-bn":
        raise WeightsError(f"Keras has no ImageNet weights for a VGG16 with batch normalisation. {OTHER_WEIGHTS}.")
    name = architecture.upper()
    try:
        source = getattr(keras.applications, name)(weights="imagenet", include_top=False)
    except Exception as error:  # Keras raises a plain Exception for a failed download
        reason = download_reason(error)
        file = downloaded_file(architecture)
        raise WeightsError(
            f"ImageNet's {name} could not be downloaded ({reason}).\n"
            f"Without network access, copy {file.name} to {file.parent}. {OTHER_WEIGHTS}."
        ) from None
    arrays = {layer.name: tuple(layer.get_weights()) for layer in base_layers(source)}
    return Backbone(_rgb_first(arrays), PREPROCESSING["imagenet"], architecture)


def download_reason(error: Exception) -> str:
    """Why a download failed: Keras's message without the long address."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rpartition(" -- ")[2][:160]


def _rgb_first(arrays: dict[str, tuple[np.ndarray, ...]]) -> dict[str, tuple[np.ndarray, ...]]:
    """The weights with a first kernel over RGB instead of BGR."""
    kernel, bias = arrays["block1_conv1"]
    return {**arrays, "block1_conv1": (np.ascontiguousarray(kernel[:, :, ::-1]), bias)}


def _from_h5(path: Path, architecture: str) -> Backbone:
    """Arrays by layer name. Files made by xaitune have an attribute `preprocessing`; others use VGG's own."""
    names = [name for block in convolutions(architecture).values() for name in block]
    arrays: dict[str, tuple[np.ndarray, ...]] = {}
    try:
        with h5py.File(path, "r") as file:
            if architecture != "vgg19" and "block5_conv4" in _base_group(file):
                raise WeightsError(f"{path} holds VGG19, not {architecture}: add --architecture vgg19.")
            place = _base_group(file)
            if architecture != "vgg16-bn" and "block1_bn1" in place:
                raise WeightsError(f"{path} holds VGG16 with batch normalisation: add --architecture vgg16-bn.")
            for name in names:
                arrays[name] = _pair(place, name, path, architecture)
                if architecture == "vgg16-bn":
                    arrays[name.replace("conv", "bn")] = _normalisation(place, name.replace("conv", "bn"), path)
            preprocessing = file.attrs.get("preprocessing", "imagenet")
    except OSError as error:
        raise WeightsError(f"{path} is not a readable .h5 file of weights ({error}). {OTHER_WEIGHTS}.") from None
    preprocessing = preprocessing.decode() if isinstance(preprocessing, bytes) else str(preprocessing)
    if preprocessing not in PREPROCESSING:
        raise WeightsError(
            f"{path} names an unknown preprocessing {preprocessing!r}. Known: {', '.join(PREPROCESSING)}."
        )
    previous = 3
    for name in names:
        kernel, bias = arrays[name]
        if kernel.shape != (3, 3, previous, len(bias)):
            raise WeightsError(
                f"{path}: {name} should be a 3x3 kernel over {previous} channels. Received: {kernel.shape}."
            )
        previous = len(bias)
    own = _rgb_first(arrays) if preprocessing == "imagenet" else arrays
    return Backbone(own, PREPROCESSING[preprocessing], architecture)


def _base_group(file: h5py.File) -> h5py.Group:
    """The group with the base's layers: the file itself, or in a file of a whole model one below it."""
    found: list[h5py.Group] = [file] if "block1_conv1" in file else []
    file.visititems(
        lambda _, item: found.append(item) if isinstance(item, h5py.Group) and "block1_conv1" in item else None
    )
    # Keras writes <layer>/<layer>/kernel: a group of the layer itself holds its name again.
    return next((group for group in found if not group.name.endswith("block1_conv1")), file)


def _normalisation(file: h5py.File, name: str, path: Path) -> tuple[np.ndarray, ...]:
    found: dict[str, np.ndarray] = {}
    if isinstance(file.get(name), h5py.Group):
        file[name].visititems(
            lambda key, item: (
                found.update({key.rpartition("/")[2].partition(":")[0]: item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    wanted = ("gamma", "beta", "moving_mean", "moving_variance")
    missing = [key for key in wanted if key not in found]
    if missing:
        raise WeightsError(
            f"{path} is not a VGG16 with batch normalisation: {name!r} has no {missing[0]}. {OTHER_WEIGHTS}."
        )
    return tuple(found[key].astype(np.float32) for key in wanted)


def _pair(file: h5py.Group, name: str, path: Path, architecture: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(file.get(name), h5py.Group):
        names = ", ".join(list(file)[:4]) or "nothing"
        raise WeightsError(
            f"{path} is not {architecture.upper()} in Keras's no-top layout: no layer {name!r} (it has {names}). {OTHER_WEIGHTS}."
        )
    arrays: list[np.ndarray] = []
    file[name].visititems(lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    arrays.sort(key=lambda a: -a.ndim)  # the kernel, then the bias
    if [a.ndim for a in arrays] != [4, 1]:
        raise WeightsError(f"{path}: layer {name!r} should hold a kernel and a bias. Received: {len(arrays)} arrays.")
    return arrays[0].astype(np.float32), arrays[1].astype(np.float32)


def _from_model_file(path: Path, architecture: str) -> Backbone:
    try:
        model = load_model(path)
    except ModelError as error:
        raise WeightsError(f"{error}\n{OTHER_WEIGHTS}.") from None
    try:
        found = architecture_of(model)
        preprocess = model.get_layer("preprocess").get_config()
    except (ModelError, ValueError):
        raise WeightsError(f"{path} is not a model of xaitune's (no VGG16 blocks with their preprocessing).") from None
    if found != architecture:
        raise WeightsError(f"{path} holds {found}, not {architecture}: add --architecture {found}.")
    arrays = {layer.name: tuple(layer.get_weights()) for layer in base_layers(model)}
    return Backbone(arrays, {key: preprocess[key] for key in ("scale", "offset")}, found)
