"""The grid of a sweep: its runs in order, and its identity."""

from typing import Any

from xaitune._progress import Notes
from xaitune.config.settings import SweepConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.training.folder import run_identity

GRID_FIELDS = ("freeze_through", "optimizer", "seed")


def base_config(base: TrainConfig, config: SweepConfig, notes: Notes | None = None) -> TrainConfig:
    """The training that all cells share, without the options that conflict with the sweep; `notes` receives each one."""
    ignored: dict[str, Any] = {}
    if base.final_epochs:
        ignored["final_epochs"] = 0, "it would unfreeze the blocks that the sweep compares"
    if base.learning_rate is not None and config.learning_rates:
        ignored["learning_rate"] = None, "each cell tries the learning_rates of the sweep"
    for field, (_, reason) in ignored.items():
        if notes:
            notes(f"{field} is ignored: {reason}.")
    return replace_fields(base, {field: value for field, (value, _) in ignored.items()})


def grid_runs(config: SweepConfig, base: TrainConfig) -> list[TrainConfig]:
    """The runs of a sweep, seed by seed and the cheapest depth first, so that first results come early.

    Examples:
        >>> runs = grid_runs(SweepConfig(freeze_through="3-4", optimizers="nag", seeds=1), TrainConfig())
        >>> [(run.freeze_through, run.optimizer, run.seed) for run in runs]
        [(4, 'nag', 0), (3, 'nag', 0)]
    """
    return [
        replace_fields(base, {"freeze_through": depth, "optimizer": optimizer, "learning_rate": rate, "seed": seed})
        for seed in range(config.seeds)
        for depth in sorted(config.freeze_through, reverse=True)
        for optimizer in config.optimizers
        for rate in config.learning_rates or (base.learning_rate,)
    ]


def sweep_identity(data: ImageData, base: TrainConfig, digest: str) -> dict[str, Any]:
    """What distinguishes one sweep from another: its data and base configuration. The grid is left out, so it may grow."""
    identity = run_identity(base, data.config, data.fingerprint, digest)
    identity["learning_rate"] = base.learning_rate
    return {k: v for k, v in identity.items() if k not in GRID_FIELDS}
