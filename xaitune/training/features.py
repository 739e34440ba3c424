"""A disk cache of frozen features: the outputs of Block k, which do not change while Block 1..k are frozen.

An entry is a folder `<key>` with `<name>.bin` (raw values) and `<name>.json` (shape and dtype; written last, so that
interrupted features are never used), whose names are those of `cut.cached_names`. The key stands for weights, images,
image size, resizing and precision.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import ml_dtypes
import numpy as np
from filelock import FileLock, Timeout

from xaitune import _files
from xaitune._progress import Progress
from xaitune.data.dataset import ImageData
from xaitune.models.backend import keras
from xaitune.models.blocks import base_layers
from xaitune.models.precision import with_precision
from xaitune.training.cut import POOLED, cached_names, cached_output, suffix_inputs

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
BATCH = 64


def prefix_digest(model: keras.Model) -> str:
    """12 hex digits that identify the weights and preprocessing of the whole convolutional base."""
    digest = hashlib.sha256(json.dumps(model.get_layer("preprocess").get_config(), sort_keys=True).encode())
    for layer in base_layers(model):
        for array in layer.get_weights():
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def cache_key(model: keras.Model, data: ImageData, precision: str, digest: str | None = None) -> str:
    """The name of a cache entry, made of everything that its values depend on; `digest`: that of the model's prefix."""
    size = "x".join(str(side) for side in data.image_size)
    pixels = hashlib.sha256("".join(data.digests).encode()).hexdigest()[:12]  # not of the split: all splits share them
    return f"{digest or prefix_digest(model)}-{pixels}-{size}-{data.config.resize}-{precision}"


class FeatureCache:
    """Frozen features in `folder`, in one subfolder per key, with at most `limit_gb` on disk.

    Features that do not fit are not cached: `get` then gives None, and the caller computes the prefix in every step.
    """

    def __init__(self, folder: Path, limit_gb: float = 20.0) -> None:
        self.folder = Path(folder)
        self.limit = limit_gb * 1e9
        self.digests: WeakKeyDictionary[keras.Model, str] = WeakKeyDictionary()  # 59 MB to read, so each once
        self.in_use: set[Path] = set()  # entries requested here: none is removed to make room for another

    def get(
        self,
        model: keras.Model,
        data: ImageData,
        depths: Sequence[int],
        precision: str,
        progress: Progress | None = None,
    ) -> dict[int, Any]:
        """Depth (1..5) -> read-only inputs (n, ...) of the model's suffix, of all images in order.

        What is missing is computed in one pass. `model` is the float32 model. A depth whose features do not fit the limit
        or the disk is None. Raises RunError if the folder cannot be written.
        """
        entry = self.entry(model, data, precision)
        self.in_use.add(entry)
        names = {k: cached_names(model, k) for k in sorted(set(depths) - {0})}
        try:
            entry.mkdir(parents=True, exist_ok=True)
            with FileLock(entry / ".lock"):
                every = dict.fromkeys(name for k in names for name in names[k])
                missing = [name for name in every if _open(entry / name) is None]
                os.utime(entry)
                if missing:
                    self._fill(entry, model, data, missing, precision, progress)
        except OSError as error:
            raise _files.disk_error(error, entry) from None
        features = {}
        for k in names:
            arrays = [array for array in map(_open, (entry / name for name in names[k])) if array is not None]
            features[k] = suffix_inputs(model, k, arrays) if len(arrays) == len(names[k]) else None
        return features

    def entry(self, model: keras.Model, data: ImageData, precision: str) -> Path:
        """The folder of a model's features. Its base must not have changed since the first call with this model."""
        if model not in self.digests:
            self.digests[model] = prefix_digest(model)
        return self.folder / cache_key(model, data, precision, self.digests[model])

    def fits(self, model: keras.Model, through: int, images: int, precision: str) -> bool:
        """Whether features after Block `through` of this many more images fit the limit, next to the entries in use."""
        names = cached_names(model, through)
        shapes = {name: (images, *cached_output(model, name).shape[1:]) for name in names}
        size = sum(_bytes(shapes[name], _dtype(name, precision)) for name in names)
        return self._used(self.in_use) + size <= self.limit

    def _make_room(self, size: int) -> None:
        """Remove entries that are not in use, the least recently used first, until `size` bytes fit the limit."""
        if self._used(self.in_use) + size > self.limit:
            return  # it would not fit even if all of them were removed
        unused = sorted(
            (p for p in self.folder.iterdir() if p.is_dir() and p not in self.in_use), key=lambda p: p.stat().st_mtime
        )
        for old in unused:
            if self._used() + size <= self.limit:
                return
            with contextlib.suppress(Timeout, OSError), FileLock(old / ".lock", timeout=0):
                for file in [*old.glob("*.json"), *old.glob("*.bin")]:
                    file.unlink()

    def _used(self, entries: Iterable[Path] | None = None) -> int:
        """The size of all entries in bytes, or of the given ones."""
        files = self.folder.rglob("*.bin") if entries is None else (f for e in entries for f in e.glob("*.bin"))
        total = 0
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # removed by another process
                total += file.stat().st_size
        return total

    def _fill(
        self,
        entry: Path,
        model: keras.Model,
        data: ImageData,
        names: list[str],
        precision: str,
        progress: Progress | None,
    ) -> None:
        """Compute the features of these names that fit, in one pass, and write them into the entry."""
        shapes = {name: (len(data.files), *cached_output(model, name).shape[1:]) for name in names}
        features = [_Features(entry / name, shapes[name], _dtype(name, precision)) for name in names]
        self._make_room(sum(_bytes(f.shape, DTYPES["float32"]) for f in features))
        room = min(self.limit - self._used(), shutil.disk_usage(entry).free * 0.9)
        fitting = []
        for candidate in sorted(features, key=lambda f: f.size):  # deep features are the smallest and save the most
            if candidate.size <= room:
                fitting.append(candidate)
                room -= candidate.size
        if not fitting:
            return
        for f in fitting:
            _reserve(f.stem.with_suffix(".bin"), f.size)
        files = [np.memmap(f.stem.with_suffix(".bin"), np.uint8, mode="r+", shape=(f.size,)) for f in fitting]
        arrays = [file.view(f.dtype).reshape(f.shape) for f, file in zip(fitting, files, strict=True)]
        pass_through(model, data, [f.stem.name for f in fitting], precision, arrays, progress)
        for f, file in zip(fitting, files, strict=True):
            file.flush()
            _files.write_json(f.stem.with_suffix(".json"), {"shape": list(f.shape), "dtype": f.dtype.name})


@dataclasses.dataclass(frozen=True)
class _Features:
    """Features to be written into a cache entry; `stem`: the path of their files without a suffix, named after them."""

    stem: Path
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """The size in bytes."""
        return _bytes(self.shape, self.dtype)


def pass_through(
    model: keras.Model,
    data: ImageData,
    names: Sequence[str],
    precision: str,
    into: list[np.ndarray] | None = None,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """The features of these `cached_names` of all images, in one pass; written `into` arrays if they are given."""
    computing = with_precision(model, precision)
    taps = keras.Model(computing.input, [cached_output(computing, name) for name in names])
    parts: list[list[np.ndarray]] = [[] for _ in names]
    for start in range(0, len(data), BATCH):
        rows = np.arange(start, min(start + BATCH, len(data)))
        outputs = taps.predict_on_batch(data.load(rows).astype(np.float32))
        for i, output in enumerate(outputs if isinstance(outputs, list | tuple) else [outputs]):
            if into is None:
                parts[i].append(output)
            else:
                into[i][rows] = output.astype(into[i].dtype)
        if progress:
            progress(int(rows[-1]) + 1, len(data), "frozen features")
    return into if into is not None else [np.concatenate(part) for part in parts]


def _reserve(path: Path, size: int) -> None:
    """Create a file of `size` bytes and allocate its disk space: a mapped file that fills the disk kills the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _dtype(name: str, precision: str) -> np.dtype:
    """The dtype of cached features: that of `precision`, but float32 for pooled ones, which are always computed in it."""
    return DTYPES["float32" if name == POOLED else precision]


def _bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return int(np.prod(shape)) * dtype.itemsize


def _open(stem: Path) -> np.ndarray | None:
    """The cached values, or None if they are missing or incomplete."""
    file = stem.with_suffix(".bin")
    try:
        header = json.loads(stem.with_suffix(".json").read_text())
        dtype, shape = DTYPES[header["dtype"]], tuple(header["shape"])
        if file.stat().st_size != _bytes(shape, dtype):
            return None
        return np.memmap(file, dtype=np.uint8, mode="r", shape=(_bytes(shape, dtype),)).view(dtype).reshape(shape)
    except (FileNotFoundError, ValueError, KeyError):
        return None
