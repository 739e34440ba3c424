"""The settings of a sweep: its grid, and what runs it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from xaitune.config.choices import ENGINES, OPTIMIZERS
from xaitune.config.fields import check_fields, setting, settings_of
from xaitune.config.parse import parse_rates
from xaitune.config.rules import Choice, Depths, Number, Parsed, SeveralOf, Text, Whole, require


@dataclass(frozen=True)
class SweepConfig:
    """The grid of a sweep: freeze depths x optimizers x seeds (0..seeds-1), and what runs it.

    `learning_rates`: the first seed of every cell tries them all for a few epochs, and the cell keeps the one that is
    best on validation. None tries the optimizer's own and three times that, or takes the training's `learning_rate` if
    it has one; 'own' takes the optimizer's own alone. `workers` processes share the processor's threads; None takes one
    for every two cores.

    With engine "ray" the runs are Ray tasks on the cluster at `ray_address` (None: RAY_ADDRESS, or this machine), each
    with `run_cpus` (None: 2, as the local engine's workers have) and `run_gpus` (None: 0); `workers` then limits the
    runs at one time, None by what the cluster holds.

    >>> SweepConfig(freeze_through="1-3", optimizers="nag").freeze_through
    (1, 2, 3)
    """

    freeze_through: tuple[int, ...] = setting(
        (1, 2, 3, 4, 5), Depths(), "Freeze depths to compare, such as 1-5 or 0,3.", panel="Comparison"
    )
    optimizers: tuple[str, ...] = setting(
        ("sgd", "momentum", "nag"),
        SeveralOf(tuple(OPTIMIZERS), "at least one optimizer"),
        f"Optimizers to compare: any of {', '.join(OPTIMIZERS)}.",
        panel="Comparison",
    )
    seeds: int = setting(3, Whole(1), "Random seeds per combination, numbered from 0.", panel="Comparison")
    engine: str = setting(
        "local",
        Choice(ENGINES),
        "What runs the trainings: this machine (local), or a Ray cluster whose machines share a file system (ray).",
        panel="Engine",
    )
    workers: int | None = setting(
        None,
        Whole(1, optional=True),
        "Worker processes, which share the processor's threads.",
        panel="Engine",
        otherwise="one for every two cores",
    )
    learning_rates: tuple[float, ...] | str | None = setting(
        None,
        Parsed(parse_rates, "X,X|own"),
        "Learning rates that each combination tries for a few epochs, such as 1e-2,1e-3; own: the optimizer's own alone.",
        panel="Comparison",
        otherwise="the optimizer's own and 3 times it; or --learning-rate alone",
    )
    ray_address: str | None = setting(
        None,
        Text(optional=True, metavar="HOST:PORT"),
        "Address of the Ray cluster.",
        panel="Engine",
        otherwise="RAY_ADDRESS, else this machine",
        engine="ray",
    )
    run_cpus: int | None = setting(
        None, Whole(1, optional=True), "CPUs per run, with --engine ray.", panel="Engine", otherwise="2", engine="ray"
    )
    run_gpus: float | None = setting(
        None,
        Number("at least 0, such as 0.5", lambda gpus: gpus >= 0, optional=True),
        "GPUs per run, with --engine ray; a fraction shares a GPU.",
        panel="Engine",
        otherwise="0",
        engine="ray",
    )

    folds: int | None = setting(
        None,
        Whole(3, optional=True),
        "Folds of a cross-validation over groups, in which every image is tested once: for data with few groups.",
        panel="Comparison",
        otherwise="one test split",
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def with_depth(self, depth: int) -> "SweepConfig":
        """The same sweep with that freeze depth in its grid.

        >>> SweepConfig(freeze_through="4-5").with_depth(0).freeze_through
        (0, 4, 5)
        """
        return replace(self, freeze_through=tuple(sorted({*self.freeze_through, depth})))

    def require_engine(self, given: Iterable[str]) -> None:
        """Raise ConfigError where the settings `given` by name belong to another engine; a file's are ignored."""
        for name in given:
            own = settings_of(self)[name].engine in ("", self.engine) if name in settings_of(self) else True
            require(own, name, "left out unless engine is ray", getattr(self, name, None))
