"""Learning rates per step (schedule and warm-up) and per block."""

import math
from collections.abc import Sequence

import numpy as np

from xaitune.config.parse import parse_block_rates
from xaitune.config.settings import TrainConfig
from xaitune.models.backend import keras

PLATEAU_EPOCHS = 2  # the rate is cut after this many epochs without a better validation score
PLATEAU_FACTOR = 0.3  # each cut multiplies the rate by this


def epoch_rates(config: TrainConfig, rate: float, epoch: int, steps: int, cuts: int = 0) -> np.ndarray:
    """The learning rate of each step (steps,) of an epoch; epochs count from 0, and `config.epochs` are planned.

    Warm-up: rate * s / w at step s = 1..w of the first `warmup_epochs` epochs. Then cosine: rate / 2 * (1 + cos(pi t / n))
    at step t = 0..n-1 of the rest; plateau: rate * PLATEAU_FACTOR ** `cuts`; constant: rate. The rates depend on these
    arguments alone, so a resumed run has the same ones.

    Examples:
        >>> epoch_rates(TrainConfig(epochs=4, warmup_epochs=2), rate=0.1, epoch=0, steps=2).tolist()
        [0.025, 0.05]
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
    """Whether the plateau schedule cuts the rate after `epoch`, the `wait`-th in a row without a better score."""
    return config.schedule == "plateau" and epoch >= config.warmup_epochs and wait > 0 and wait % PLATEAU_EPOCHS == 0


def variable_parts(model: keras.Model) -> tuple[int | str, ...]:
    """The part of the model, a block's number or 'head', that each trainable variable belongs to, in their order."""
    parts: dict[int, int | str] = {}
    for layer in model.layers:
        part: int | str = int(layer.name[5]) if layer.name.startswith("block") else "head"
        parts |= {id(variable): part for variable in layer.trainable_variables}
    return tuple(parts[id(variable)] for variable in model.trainable_variables)


def block_factors(parts: Sequence[int | str], block_rates: str | None) -> tuple[float, ...]:
    """The learning-rate multiplier of each of these parts of the model, 1 unless `block_rates` names it."""
    factors = parse_block_rates(block_rates)
    return tuple(factors.get(part, 1.0) for part in parts)
