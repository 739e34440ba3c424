"""A finding of the checks of a data set, and what of the data they look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from xaitune.config.settings import DataConfig
from xaitune.data.images import ImageHeader

LEVELS = ("error", "warning", "note")
SHOWN = 3  # file names listed in a message


class LabelledImages(Protocol):
    """The part of ImageData that the checks use; a protocol, since dataset.py imports this module."""

    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> np.ndarray: ...
    @property
    def split(self) -> np.ndarray: ...
    @property
    def masks(self) -> tuple[Path | None, ...] | None: ...
    @property
    def skipped(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def digests(self) -> tuple[str, ...]: ...
    @property
    def headers(self) -> tuple[ImageHeader, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def passed_over(self) -> Mapping[str, str]: ...
    @property
    def values_used(self) -> tuple[int, int] | None: ...
    @property
    def config(self) -> DataConfig: ...
    def counts(self) -> pd.DataFrame: ...
    def paths(self) -> list[Path]: ...


@dataclass(frozen=True)
class Problem:
    """One finding, of level 'error' (training would be meaningless), 'warning' (scores would mislead) or 'note'."""

    level: str
    kind: str
    files: tuple[str, ...]
    message: str


def named(names: Sequence[str]) -> str:
    """The first SHOWN of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
