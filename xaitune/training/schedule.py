"""Learning rates: of each step (schedule and warm-up), and of each block."""

import math

import numpy as np

from xaitune.config.parse import parse_block_rates
from xaitune.config.schema import TrainConfig
from xaitune.models.backend import keras

PLATEAU_EPOCHS = 2  # so many without a better validation score cut the rate
PLATEAU_FACTOR = 0.3  # to that share of it


def epoch_rates(config: TrainConfig, rate: float, epoch: int, steps: int, cuts: int = 0) -> np.ndarray:
    """The learning rates (steps,) of the steps of an epoch, counted from 0, of `config.epochs` planned.

    Warm-up: rate * s / w at the step s = 1..w of `warmup_epochs` epochs. Then cosine: rate / 2 * (1 + cos(pi t / n)) at
    the step t = 0..n-1 of the rest; plateau: rate * PLATEAU_FACTOR ** `cuts`; constant: rate. They follow from these
    arguments alone, so a resumed run has the same.
    """
    if config.schedule == "plateau":
        rate *= PLATEAU_FACTOR**cuts
    warm, total = config.warmup_epochs * steps, config.epochs * steps
    step = np.arange(epoch * steps, (epoch + 1) * steps)
    rates = np.full(steps, rate)
    if config.schedule == "cosine":
        rates = rate / 2 * (1 + np.cos(math.pi * (step - warm) / (total - warm)))
    return np.where(step < warm, rate * (step + 1) / max(warm, 1), rates)


def cuts_rate(config: TrainConfig, epoch: int, wait: int) -> bool:
    """Whether the plateau schedule cuts the rate after `epoch`, which was the `wait`-th without a better score."""
    return config.schedule == "plateau" and epoch >= config.warmup_epochs and wait > 0 and wait % PLATEAU_EPOCHS == 0


def block_factors(model: keras.Model, block_rates: str | None) -> tuple[float, ...]:
    """The multiplier of the learning rate of each trainable variable of a model, in their order."""
    factors = parse_block_rates(block_rates)
    found: dict[int, float] = {}
    for layer in model.layers:
        block: int | str = int(layer.name[5]) if layer.name.startswith("block") else "head"
        found |= {id(variable): factors.get(block, 1.0) for variable in layer.trainable_variables}
    return tuple(found[id(variable)] for variable in model.trainable_variables)
