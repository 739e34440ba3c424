"""The grid of a sweep: its runs in order."""

from typing import Any

from xaitune._names import plural
from xaitune._progress import Notes
from xaitune.config.choices import HEAD_BLOCKS, OPTIMIZERS
from xaitune.config.settings import SweepConfig, TrainConfig, replace_fields
from xaitune.errors import ConfigError
from xaitune.training.folder import is_linear

GRID_FIELDS = ("freeze_through", "optimizer", "seed")
UNUSED_BY_HEADS = (
    *("optimizer", "learning_rate", "seed", "augmentation", "augment_classes", "augmented_views"),
    *("balance_by_augmentation", "block_rates", "trained_blocks", "final_epochs"),
)
QUICK_OPTIONS = "--optimizers {} --seeds 1"  # of `quick_sweep` on the command line
RATE_FACTORS = (1, 3)  # multiples of the optimizer's own learning rate that each cell tries by default


def base_config(base: TrainConfig, config: SweepConfig, notes: Notes | None = None) -> TrainConfig:
    """The training that all cells share, without the options that conflict with the sweep; `notes` receives each one."""
    ignored: dict[str, Any] = {}
    if base.final_epochs and len(config.freeze_through) > 1:
        ignored["final_epochs"] = 0, "it would unfreeze the blocks that the sweep compares"
    if base.learning_rate is not None and config.learning_rates:
        ignored["learning_rate"] = None, "each combination tries the learning_rates of the sweep"
    if base.trained_blocks and config.freeze_through != (base.freeze_through,):
        ignored["trained_blocks"] = None, "the sweep compares freezing points"
    for field, (_, reason) in ignored.items():
        if notes:
            notes(f"{field} is ignored: {reason}.")
    return replace_fields(base, {field: value for field, (value, _) in ignored.items()})


def grid_runs(config: SweepConfig, base: TrainConfig) -> list[TrainConfig]:
    """The runs that a sweep may need, seed by seed and the cheapest depth first, so that first results come early.

    Each seed is listed with each learning rate; `rates.runs_to_do` says which of them are trained. Raises ConfigError if
    nothing is left to train.

    Examples:
        >>> runs = grid_runs(SweepConfig(freeze_through="3-4", optimizers="nag", seeds=1), TrainConfig())
        >>> [(run.freeze_through, run.optimizer, run.rate, run.seed) for run in runs]
        [(4, 'nag', 0.001, 0), (4, 'nag', 0.003, 0), (3, 'nag', 0.001, 0), (3, 'nag', 0.003, 0)]
    """
    if base.from_scratch and tuple(config.freeze_through) != (0,):
        raise ConfigError(
            f"The architecture {base.architecture} has no blocks to freeze, so depths cannot be compared."
        )
    runs = [
        replace_fields(base, {"freeze_through": depth, "optimizer": optimizer, "learning_rate": rate, "seed": seed})
        for seed in range(config.seeds)
        for depth in sorted(config.freeze_through, reverse=True)
        if not is_linear(replace_fields(base, {"freeze_through": depth}))  # one of `frozen_runs`
        for optimizer in config.optimizers
        for rate in cell_rates(config, base, optimizer)
    ]
    if not runs:
        raise ConfigError("freeze_through must have a depth below 5 with head blocks: at 5 nothing is left to train.")
    return runs


def grid_text(config: SweepConfig, base: TrainConfig, depths_note: str = "") -> str:
    """The runs of a sweep in words, with a note on its depths.

    Examples:
        >>> grid_text(SweepConfig(freeze_through="0-5", optimizers="nag", seeds=1), TrainConfig())
        '6 depths x 1 optimizer x 1 seed, each with the better of 2 learning rates, and 2 linear heads'
    """
    depths = {run.freeze_through for run in grid_runs(config, base)}
    factors = [plural(len(depths), "depth") + depths_note, plural(len(config.optimizers), "optimizer")]
    text = " x ".join([*factors, plural(config.seeds, "seed")])
    rates, heads = len(cell_rates(config, base, config.optimizers[0])), len(frozen_runs(base))
    parts = [f"each with the {'better' if rates == 2 else 'best'} of {rates} learning rates"] if rates > 1 else []
    parts += [f"and {plural(heads, 'linear head')}"] if heads else []
    text = ", ".join([text, *parts])
    return f"{text}; all that in {config.folds} folds" if config.folds else text


def quick_sweep(config: SweepConfig, base: TrainConfig) -> SweepConfig:
    """The same sweep with the training's own optimizer alone and one seed: the cheapest that compares the depths."""
    return replace_fields(config, {"optimizers": (base.optimizer,), "seeds": 1})


def cell_rates(config: SweepConfig, base: TrainConfig, optimizer: str) -> tuple[float | str | None, ...]:
    """The learning rates that a cell with this optimizer tries; None stands for the optimizer's own."""
    if config.learning_rates == "own":
        return (None,)
    if isinstance(config.learning_rates, tuple):
        return config.learning_rates
    if base.learning_rate is not None:
        return (base.learning_rate,)
    return tuple(float(f"{OPTIMIZERS[optimizer][2] * factor:.3g}") for factor in RATE_FACTORS)


def frozen_runs(base: TrainConfig) -> list[TrainConfig]:
    """The linear heads on frozen features that stand beside the grid: on those of all blocks, and of the best one alone."""
    if base.from_scratch or base.segments:
        return []
    defaults = {name: getattr(TrainConfig(), name) for name in UNUSED_BY_HEADS}
    head = {"head": "blocks", "freeze_through": 5}
    return [replace_fields(base, {**defaults, **head, "head_blocks": blocks}) for blocks in HEAD_BLOCKS]
