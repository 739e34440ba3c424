"""What a sweep would cost, before it starts: time from multiply-adds at this machine's measured rate, and disk."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune.comparison.sweep import base_config, grid, run_cost, sweep_identity, unfinished
from xaitune.config.schema import Config
from xaitune.data.dataset import ImageData
from xaitune.models import backend as device
from xaitune.models import vgg
from xaitune.training import folder as runs

SIZES = (64, 96, 128, 224)
# Multiply-adds a second of VGG16's training over those of a float32 matrix product, in rough figures: for a plan, not
# a promise.
SPEED = {"float32": 0.8, "bfloat16": 1.2, "amx": 5.0}
START_SECONDS, RUN_SECONDS = 6.0, 1.5  # of a worker, and of a run beside its arithmetic: building, tracing, writing


def matrix_rate(seconds: float = 0.3) -> float:
    """Multiply-adds a second of float32 matrix products on this machine now."""
    a = np.random.default_rng(0).random((1024, 1024), np.float32)
    a @ a
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        a @ a
        count += 1
    return count * 1024**3 / (time.perf_counter() - start)


def training_rate(precision: str) -> float:
    """About how many multiply-adds a second training does here."""
    resolved, why = device.resolve_precision(precision)
    return matrix_rate() * SPEED["amx" if "amx" in why else resolved]


def plan(config: Config, data: ImageData, runs_dir: str | Path, name: str | None = None) -> dict[str, Any]:
    """The runs of a sweep, those still to do, and about what these cost: seconds, and bytes on disk."""
    backbone = vgg.load_backbone(config.train.weights)
    base = base_config(config.train, config.sweep)
    identity = sweep_identity(data, base, backbone.digest)
    folder, _ = runs.choose_folder(Path(runs_dir), "sweep", name, identity, overwrite=False)
    missing = unfinished(folder, config.sweep, base)
    work, rate = _work(missing, data, data.image_size, backbone.channels), training_rate(config.train.precision)
    return {
        "folder": str(folder),
        "weights": backbone.digest,
        "runs": len(grid(config.sweep, base)),
        "missing": len(missing),
        "seconds": work / rate + START_SECONDS + RUN_SECONDS * len(missing) if missing else 0.0,
        "disk_bytes": _disk(missing, config, data, backbone.channels) if missing else 0,
    }


def sweep_costs(config: Config, data: ImageData) -> pd.DataFrame:
    """About what the sweep would take at several image sizes, one row a size; the configured size among them."""
    channels = vgg.load_backbone(config.train.weights).channels
    rate = training_rate(config.train.precision)
    cells = grid(config.sweep, config.train)
    sizes: list[tuple[int, int]] = sorted({(s, s) for s in SIZES} | {data.image_size})
    rows = []
    for size in sizes:
        at_size = dataclasses.replace(config.data, image_size=size)
        rows.append(
            {
                "image size": f"{size[0]}x{size[1]}" + (" (chosen)" if size == data.image_size else ""),
                "minutes, at most": (_work(cells, data, size, channels) / rate + RUN_SECONDS * len(cells)) / 60,
                "disk, GB": _disk(cells, dataclasses.replace(config, data=at_size), data, channels) / 1e9,
            }
        )
    return pd.DataFrame(rows).set_index("image size", drop=False)[["minutes, at most", "disk, GB"]]


def _work(cells: list[Any], data: ImageData, size: tuple[int, int], channels: tuple[int, ...]) -> float:
    share = (channels[0] / vgg.CHANNELS[0]) ** 2  # a narrower base costs less by the square
    return share * sum(run_cost(c, len(data.indices("train")), size) for c in cells)


def _disk(cells: list[Any], config: Config, data: ImageData, channels: tuple[int, ...]) -> int:
    height, width = config.data.image_size
    depths = {c.freeze_through for c in cells} & {1, 2, 3, 4}
    itemsize = 2 if device.resolve_precision(config.train.precision)[0] == "bfloat16" else 4
    copies = config.train.augmented_views * len({c.seed for c in cells})  # of each training image: drawn from the seed
    kept = len(data) + copies * len(data.indices("train"))
    features = sum((height >> k) * (width >> k) * channels[k - 1] * itemsize * kept for k in depths)
    models = len(cells) * sum(9 * i * o for i, o in vgg.convolution_shapes(channels)) * 4
    return int(features + models)
