"""Estimates of a sweep's cost: time from multiply-adds at this machine's measured rate, and disk space."""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from xaitune._machine import usable_threads
from xaitune.comparison.grid import base_config, frozen_runs, grid_runs, quick_sweep
from xaitune.comparison.plan import SweepPlan
from xaitune.comparison.rates import cells_of, expected_runs
from xaitune.config.settings import Config, SweepConfig, TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.blocks import CHANNELS, multiply_adds, weight_count
from xaitune.models.precision import resolve_precision
from xaitune.models.unet import decoder_multiply_adds
from xaitune.models.weights import load_backbone
from xaitune.training.augment import epoch_rows

SIZES = (64, 96, 128, 224)
# Multiply-adds per second when training VGG16, relative to a float32 matrix product. Rough figures, for planning only.
SPEED = {"float32": 0.8, "bfloat16": 1.2, "amx": 5.0}
START_SECONDS = 6.0  # to start a worker
RUN_SECONDS = 1.5  # per run on top of its arithmetic: building the model, tracing, writing


def matrix_rate(seconds: float = 0.3) -> float:
    """Multiply-adds per second of float32 matrix products on this machine, about as if it were idle.

    Of the fastest product in `seconds` on one core, times the cores: products on several wait for each other where other
    jobs run, which made them up to five times slower.
    """
    a = np.random.default_rng(0).random((1024, 1024), np.float32)
    fastest, end = np.inf, time.perf_counter() + seconds
    with threadpool_limits(1):
        while time.perf_counter() < end:
            start = time.perf_counter()
            a @ a
            fastest = min(fastest, time.perf_counter() - start)
    return usable_threads() * 1024**3 / fastest


def training_rate(precision: str) -> float:
    """About how many multiply-adds per second training reaches on this machine."""
    resolved, reason = resolve_precision(precision)
    return matrix_rate() * SPEED["amx" if "amx" in reason else resolved]


def run_cost(config: TrainConfig, images: int, image_size: tuple[int, int]) -> float:
    """Multiply-adds to train one run with cached frozen features: 3 passes per epoch over what is trained.

    Examples:
        >>> nothing_frozen, four_frozen = (run_cost(TrainConfig(freeze_through=k), 100, (96, 96)) for k in (0, 4))
        >>> round(nothing_frozen / four_frozen)
        11
    """
    macs = multiply_adds(image_size, architecture=config.architecture)
    total = sum(macs.values())
    trained = sum(value for block, value in macs.items() if block > config.freeze_through)
    prefix_passes = 0 if not config.augmentation else config.augmented_views or config.epochs
    head = 0.002 * total
    if config.segments:
        head = 3 * (config.epochs + config.head_epochs) * decoder_multiply_adds(image_size, CHANNELS)
    return (config.epochs * 3 * trained + prefix_passes * (total - trained) + head) * images


def run_seconds(
    run: TrainConfig,
    data: ImageData,
    size: tuple[int, int],
    channels: tuple[int, ...],
    rate: float,
    *,
    ends: bool = True,
) -> float:
    """About how long a run takes at a `training_rate`, with the validation after each epoch.

    If it `ends` also with its predictions for all images. A narrower base costs less by the square of its width.
    """
    macs = multiply_adds(size, architecture=run.architecture)
    trained = sum(value for block, value in macs.items() if block > run.freeze_through)
    judged = (run.epochs * len(data.indices("validation")) + ends * len(data)) * trained
    epoch_images = len(epoch_rows(data, run, np.random.default_rng(0)))
    share = (channels[0] / CHANNELS[0]) ** 2
    return RUN_SECONDS + share * (run_cost(run, epoch_images, size) + judged) / rate


def plan_cost(plan: SweepPlan, data: ImageData) -> tuple[float, int]:
    """The estimated cost of the runs that a plan has yet to train: seconds, and bytes on disk."""
    runs = plan.expected
    if not runs:
        return 0.0, 0
    rate = training_rate(plan.base.precision)
    seconds = sum(run_seconds(run, data, data.image_size, plan.channels, rate) for run in runs)
    return START_SECONDS + seconds, _disk_bytes(runs, data, data.image_size, plan.channels)


def sweep_costs(config: Config, data: ImageData) -> pd.DataFrame:
    """What a sweep costs at most, at several image sizes with the configured one among them: one row per size.

    `seconds` and `disk_bytes` of the whole sweep, `quick_seconds` of the quick one (`grid.quick_sweep`).
    """
    channels = load_backbone(config.train.weights, config.train.architecture).channels
    rate = training_rate(config.train.precision)
    whole, quick = (_new_runs(config.train, s) for s in (config.sweep, quick_sweep(config.sweep, config.train)))
    sizes: list[tuple[int, int]] = sorted({(s, s) for s in SIZES} | {data.image_size})

    def seconds(runs: Sequence[TrainConfig], size: tuple[int, int]) -> float:
        return START_SECONDS + sum(run_seconds(run, data, size, channels, rate) for run in runs)

    table = {
        "image size": [f"{h}x{w}" + (" (chosen)" if (h, w) == data.image_size else "") for h, w in sizes],
        "seconds": [seconds(whole, size) for size in sizes],
        "quick_seconds": [seconds(quick, size) for size in sizes],
        "disk_bytes": [_disk_bytes(whole, data, size, channels) for size in sizes],
    }
    return pd.DataFrame(table).set_index("image size")


def _new_runs(train: TrainConfig, sweep: SweepConfig) -> list[TrainConfig]:
    """The runs of a sweep of which nothing is there yet."""
    base = base_config(train, sweep)
    cells = [run for cell in cells_of(grid_runs(sweep, base)) for run in expected_runs(cell, None)]
    return (cells + frozen_runs(base)) * (sweep.folds or 1)


def _disk_bytes(runs: Sequence[TrainConfig], data: ImageData, size: tuple[int, int], channels: tuple[int, ...]) -> int:
    """Bytes of the cached features and the saved models."""
    depths = {run.freeze_through for run in runs} & {1, 2, 3, 4}
    itemsize = 2 if resolve_precision(runs[0].precision)[0] == "bfloat16" else 4
    copies = sum({run.seed: run.augmented_views for run in runs}.values())  # per training image; each seed has its own
    cached = len(data) + copies * len(data.indices("train"))
    # A decoder takes the outputs of all frozen blocks before they are pooled.
    shift, kept = (1, depths) if not runs[0].segments else (0, {1, 2, 3, 4, 5})
    sides = {k: (size[0] >> (k - 1 + shift), size[1] >> (k - 1 + shift)) for k in kept}
    features = sum(sides[k][0] * sides[k][1] * channels[k - 1] * itemsize * cached for k in kept)
    models = len(runs) * weight_count(size, channels, runs[0].architecture) * 4
    return int(features + models)
