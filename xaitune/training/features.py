"""Frozen-prefix features: with Block 1..k frozen, what Block k gives is a constant. Compute it once, keep it on disk.

An entry is `<key>/block<k>.bin` (raw values) beside `block<k>.json` (shape and dtype; written last, so that an
interrupted entry is never believed). The key names weights, data, image size and precision.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from filelock import FileLock, Timeout

from xaitune import _files
from xaitune._progress import Progress
from xaitune.data.dataset import ImageData
from xaitune.models.backend import keras
from xaitune.models.blocks import BLOCKS
from xaitune.models.precision import with_precision

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
BATCH = 64


def cut_layer(model: keras.Model, through: int) -> str:
    """The layer whose output is all that the rest needs with Block 1..`through` frozen (1..5)."""
    if through < 5:
        return f"block{through}_pool"
    names = {layer.name for layer in model.layers}
    return "gap" if "gap" in names else "block5_pool"


def suffix_model(model: keras.Model, through: int) -> keras.Model:
    """The part of the model after the frozen prefix. It shares the model's layers: training it trains the model."""
    if through == 0:
        return model
    return keras.Model(model.get_layer(cut_layer(model, through)).output, model.output)


def prefix_digest(model: keras.Model) -> str:
    """12 hex digits over the weights and preprocessing of the whole convolution base."""
    found = hashlib.sha256(json.dumps(model.get_layer("preprocess").get_config(), sort_keys=True).encode())
    for names in BLOCKS.values():
        for name in names:
            for array in model.get_layer(name).get_weights():
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:12]


def cache_key(model: keras.Model, data: ImageData, precision: str) -> str:
    """The name of a cache entry: all that its values depend on."""
    size = "x".join(str(side) for side in data.image_size)
    pixels = hashlib.sha256("".join(data.digests).encode()).hexdigest()[:12]  # the images alone: any split shares them
    return f"{prefix_digest(model)}-{pixels}-{size}-{data.config.resize}-{precision}"


class FeatureCache:
    """Features of one data set under `folder`, one folder a key, at most `limit_gb` on disk.

    What does not fit is not kept: `get` then returns None and the caller computes the prefix as it goes.
    """

    def __init__(self, folder: Path, limit_gb: float = 20.0) -> None:
        self.folder = Path(folder)
        self.limit = limit_gb * 1e9
        self.in_use: set[Path] = set()  # entries that this cache was asked for: they make no room for each other

    def get(
        self,
        model: keras.Model,
        data: ImageData,
        depths: Sequence[int],
        precision: str,
        progress: Progress | None = None,
    ) -> dict[int, np.ndarray | None]:
        """Depth (1..5) -> read-only features (n, ...) of every image in order; missing ones in one pass.

        `model` is the float32 model. A depth that does not fit the limit or the disk is None. Raises RunError where
        the folder cannot be written.
        """
        entry = self.folder / cache_key(model, data, precision)
        self.in_use.add(entry)
        wanted = sorted(set(depths) - {0})
        names = {k: f"{cut_layer(model, k)}" for k in wanted}
        try:
            entry.mkdir(parents=True, exist_ok=True)
            with FileLock(entry / ".lock"):
                missing = [k for k in wanted if _open(entry / names[k]) is None]
                os.utime(entry)
                if missing:
                    self._fill(entry, model, data, missing, precision, progress)
        except OSError as error:
            raise _files.disk_error(error, entry) from None
        return {k: _open(entry / names[k]) for k in wanted}

    def fits(self, model: keras.Model, through: int, images: int, precision: str) -> bool:
        """Whether features after Block `through` of so many more images fit beside the entries in use."""
        layer = model.get_layer(cut_layer(model, through))
        size = _bytes((images, *layer.output.shape[1:]), DTYPES["float32" if layer.name == "gap" else precision])
        return self._used(self.in_use) + size <= self.limit

    def _make_room(self, size: int) -> None:
        """Remove entries that are not in use, the longest unused first, until `size` bytes fit the limit."""
        if self._used(self.in_use) + size > self.limit:
            return  # not even without the others
        others = sorted(
            (p for p in self.folder.iterdir() if p.is_dir() and p not in self.in_use), key=lambda p: p.stat().st_mtime
        )
        for old in others:
            if self._used() + size <= self.limit:
                return
            with contextlib.suppress(Timeout, OSError), FileLock(old / ".lock", timeout=0):
                for file in [*old.glob("*.json"), *old.glob("*.bin")]:
                    file.unlink()

    def _used(self, entries: Iterable[Path] | None = None) -> int:
        """Bytes of all entries, or of some."""
        files = self.folder.rglob("*.bin") if entries is None else (f for e in entries for f in e.glob("*.bin"))
        total = 0
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # another process has made room
                total += file.stat().st_size
        return total

    def _fill(
        self,
        entry: Path,
        model: keras.Model,
        data: ImageData,
        depths: list[int],
        precision: str,
        progress: Progress | None,
    ) -> None:
        outputs = {k: model.get_layer(cut_layer(model, k)) for k in depths}
        count = len(data.files)
        wanted = sum(_bytes((count, *layer.output.shape[1:]), np.dtype(np.float32)) for layer in outputs.values())
        self._make_room(wanted)
        room = min(self.limit - self._used(), shutil.disk_usage(entry).free * 0.9)
        kept = {}
        for k in reversed(depths):  # deep features are the smallest and save the most
            dtype = DTYPES["float32" if outputs[k].name in ("gap",) else precision]
            shape = (count, *outputs[k].output.shape[1:])
            size = int(np.prod(shape)) * dtype.itemsize
            if size <= room:
                kept[k], room = (shape, dtype), room - size
        if not kept:
            return
        names = [cut_layer(model, k) for k in kept]
        for name, (shape, dtype) in zip(names, kept.values(), strict=True):
            _reserve(entry / f"{name}.bin", _bytes(shape, dtype))
        files = [
            np.memmap(entry / f"{name}.bin", dtype=np.uint8, mode="r+", shape=(_bytes(shape, dtype),))
            for name, (shape, dtype) in zip(names, kept.values(), strict=True)
        ]
        views = [f.view(dtype).reshape(shape) for f, (shape, dtype) in zip(files, kept.values(), strict=True)]
        pass_through(model, data, list(kept), precision, views, progress)
        for name, file, (shape, dtype) in zip(names, files, kept.values(), strict=True):
            file.flush()
            _files.write_json(entry / f"{name}.json", {"shape": list(shape), "dtype": dtype.name})


def pass_through(
    model: keras.Model,
    data: ImageData,
    depths: list[int],
    precision: str,
    into: list[np.ndarray] | None = None,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """What Block 1..k gives for every image, for each depth, in one pass; written `into` arrays where they are given."""
    computing = with_precision(model, precision)
    taps = keras.Model(computing.input, [computing.get_layer(cut_layer(model, k)).output for k in depths])
    parts: list[list[np.ndarray]] = [[] for _ in depths]
    for start in range(0, len(data), BATCH):
        rows = np.arange(start, min(start + BATCH, len(data)))
        made = taps.predict_on_batch(data.load(rows).astype(np.float32))
        for i, value in enumerate(made if isinstance(made, list | tuple) else [made]):
            if into is None:
                parts[i].append(value)
            else:
                into[i][rows] = value.astype(into[i].dtype)
        if progress:
            progress(int(rows[-1]) + 1, len(data), "frozen features")
    return into if into is not None else [np.concatenate(part) for part in parts]


def _reserve(path: Path, size: int) -> None:
    """A file of that size with its disk space taken: a mapped file that meets a full disk later kills the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return int(np.prod(shape)) * dtype.itemsize


def _open(stem: Path) -> np.ndarray | None:
    """The kept values, or None where they are not there whole."""
    file = stem.with_name(stem.name + ".bin")
    try:
        about = json.loads(stem.with_name(stem.name + ".json").read_text())
        dtype, shape = DTYPES[about["dtype"]], tuple(about["shape"])
        if file.stat().st_size != _bytes(shape, dtype):
            return None
        return np.memmap(file, dtype=np.uint8, mode="r", shape=(_bytes(shape, dtype),)).view(dtype).reshape(shape)
    except (FileNotFoundError, ValueError, KeyError):
        return None
