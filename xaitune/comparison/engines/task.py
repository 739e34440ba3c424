"""The messages between a sweep and its workers: a task, the steps of its work, and its end.

All three cross process boundaries as plain JSON values.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from xaitune.config.settings import DataConfig, TrackingConfig, TrainConfig


@dataclass(frozen=True)
class Task:
    """One run to train, named after its folder; or, with `depths`, the frozen features of a data set to compute.

    `fingerprint`: that of the images when the sweep began. `runs_dir`: the sweep's folder. `pause`: the number of epochs
    of fine-tuning after which the run pauses, to be continued by another task; None trains it to its end.
    `tracking`: where the run is logged besides its folder.
    """

    name: str
    data: DataConfig
    fingerprint: str
    train: TrainConfig
    runs_dir: str
    cache_dir: str
    cache_gb: float
    depths: tuple[int, ...] = ()
    pause: int | None = None
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def is_run(self) -> bool:
        """Whether the task trains a run."""
        return not self.depths

    def to_json(self) -> dict[str, Any]:
        """The task as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Task":
        """The task from the values of `to_json`."""
        configs = {"data": DataConfig(**values["data"]), "train": TrainConfig(**values["train"])}
        configs |= {"tracking": TrackingConfig(**values["tracking"])}
        return cls(**{**values, **configs, "depths": tuple(values["depths"])})


@dataclass(frozen=True)
class Step:
    """A step of a task's work: `done` of `total` epochs (or images), and `what` was done."""

    done: int
    total: int
    what: str


@dataclass(frozen=True)
class End:
    """How a task ended: `state` is 'finished', 'diverged', 'paused', or 'failed' with its `error`.

    `memory`: bytes that the worker holds afterwards.
    """

    state: str
    error: str = ""
    memory: int = 0


Event = Step | End
OnStep = Callable[[Task, Step], None]
OnEnd = Callable[[Task, End], Iterable[Task]]  # returns the tasks that can be done now


def in_order(tasks: Iterable[Task]) -> list[Task]:
    """The tasks seed by seed, otherwise in their order, so that the first results of all cells come early."""
    return sorted(tasks, key=lambda task: task.train.seed)


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as plain values."""
    return dataclasses.asdict(event)


def event_from_json(values: dict[str, Any]) -> Event:
    """The event from the values of `event_to_json`."""
    return End(**values) if "state" in values else Step(**values)
