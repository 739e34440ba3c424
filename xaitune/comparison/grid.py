"""The grid of a sweep: its runs in order, and what makes a sweep this one."""

from typing import Any

from xaitune._progress import Notes
from xaitune.config.schema import SweepConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.training.folder import run_identity

GRID_FIELDS = ("freeze_through", "optimizer", "seed")


def base_config(base: TrainConfig, config: SweepConfig, notes: Notes | None = None) -> TrainConfig:
    """The training of all cells: without what the sweep compares or tries itself, which `notes` is told."""
    left_out: dict[str, Any] = {}
    if base.final_epochs:
        left_out["final_epochs"] = 0, "it would unfreeze what the sweep compares"
    if base.learning_rate is not None and config.learning_rates:
        left_out["learning_rate"] = None, "each cell tries learning_rates"
    for field, (_, why) in left_out.items():
        if notes:
            notes(f"{field} is left out: {why}.")
    return replace_fields(base, {field: value for field, (value, _) in left_out.items()})


def grid_runs(config: SweepConfig, base: TrainConfig) -> list[TrainConfig]:
    """The runs of a sweep, the cheapest depth first, so that a first picture comes early."""
    return [
        replace_fields(base, {"freeze_through": depth, "optimizer": optimizer, "learning_rate": rate, "seed": seed})
        for seed in range(config.seeds)
        for depth in sorted(config.freeze_through, reverse=True)
        for optimizer in config.optimizers
        for rate in config.learning_rates or (base.learning_rate,)
    ]


def sweep_identity(data: ImageData, base: TrainConfig, digest: str) -> dict[str, Any]:
    """What makes a sweep this one: its data and base configuration; the grid may grow."""
    identity = run_identity(base, data.config, data.fingerprint, digest)
    identity["learning_rate"] = base.learning_rate
    return {k: v for k, v in identity.items() if k not in GRID_FIELDS}
