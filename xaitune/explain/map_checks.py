"""What speaks against relying on a heatmap: the checks of each map, in numbers and in words."""

import dataclasses
import html
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xaitune._names import plural
from xaitune._notebook import table_html

# Why these values: docs/method.md, 'Checks of a map'.
UNCHANGED = 0.9  # mean Spearman of a block's maps with those of random weights, from which on they ignore the model
MOVES = 8  # the places to which a map is moved
BEATEN = 7 / 8  # share of the moved maps that a map must beat by what hiding it costs
STEADY = 0.5  # Spearman of a map with that of a slightly changed image, below which it is unstable

EMPTY, IGNORES = "no positive evidence", "ignores the model"
ELSEWHERE, UNSTABLE = "no better than elsewhere", "unstable"
# What is found -> how a sentence says it of several maps.
DOUBTS = {EMPTY: "without positive evidence", IGNORES: "ignoring the model", ELSEWHERE: ELSEWHERE, UNSTABLE: UNSTABLE}


@dataclasses.dataclass(frozen=True, eq=False)
class MapChecks:
    """The checks of the maps of n images at some blocks; NaN where one was not made.

    `empty`: (n, blocks) bool, no positive value. `elsewhere`: (n, blocks) 0..1, of the MOVES places to which a map was moved,
    the share at which hiding what it marks lowers the explained class less than at its own place. `stability`: (n, blocks)
    -1..1, Spearman with the maps of slightly changed images (`evaluate.input_stability`). `randomised`: (blocks,) -1..1, mean
    Spearman of `images_randomised` images' maps with those of a model whose weights are all random
    (`evaluate.sanity.randomisation_check`). `calls`: the forward passes that it took.
    """

    files: tuple[str, ...]
    blocks: tuple[int, ...]
    empty: np.ndarray
    elsewhere: np.ndarray
    stability: np.ndarray
    randomised: np.ndarray
    images_randomised: int = 0
    calls: int = 0
    layers: dict[int, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def found(self) -> dict[str, np.ndarray]:
        """Each of DOUBTS -> (n, blocks) bool: the maps of which it holds. An empty map has no other doubt."""
        shows = ~self.empty
        return {
            EMPTY: self.empty,
            IGNORES: shows & (self.randomised >= UNCHANGED),
            ELSEWHERE: shows & (self.elsewhere < BEATEN),
            UNSTABLE: shows & (self.stability < STEADY),
        }

    @property
    def doubtful(self) -> np.ndarray:
        """(n, blocks) bool: the maps that should not be relied on."""
        return np.any(list(self.found.values()), axis=0)

    def of_map(self, image: int, block: int) -> tuple[str, ...]:
        """What speaks against the map of an image at a block, of DOUBTS; () where nothing was found."""
        column = self.blocks.index(block)
        return tuple(doubt for doubt, where in self.found.items() if where[image, column])

    def columns(self, block: int) -> dict[str, Any]:
        """The columns of a block in tables of maps: check_elsewhere, check_stability, check_randomised, doubts (text)."""
        j = self.blocks.index(block)
        return {
            "check_elsewhere": self.elsewhere[:, j],
            "check_stability": self.stability[:, j],
            "check_randomised": self.randomised[j],
            "doubts": ["; ".join(self.of_map(i, block)) for i in range(len(self))],
        }

    def summary(self) -> str:
        """One sentence: how many maps should not be relied on, and why."""
        doubts = [self.of_map(i, b) for b in self.blocks for i in range(len(self))]
        return summarise_doubts(doubts, checked=bool(np.isfinite(self.elsewhere).any()))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per image and block, block by block: file, block, empty, and the columns of `columns`."""
        frames = []
        for j, block in enumerate(self.blocks):
            named = {"layer": self.layers[block]} if self.layers else {}
            frame = {"file": self.files, "block": block, **named, "empty": self.empty[:, j], **self.columns(block)}
            frames.append(pd.DataFrame(frame))
        return pd.concat(frames, ignore_index=True)

    def _repr_html_(self) -> str:
        table = self.to_dataframe()
        shown = table.assign(doubtful=table["doubts"] != "").sort_values("doubtful", ascending=False, kind="stable")
        rows = table_html(shown.drop(columns="doubtful"), digits=2)
        return f"<p>{html.escape(self.summary())}</p>{rows}"


def checks_of_rows(
    rows: Sequence[dict[str, Any]],
    files: tuple[str, ...],
    blocks: tuple[int, ...],
    empty: np.ndarray,
    images_randomised: int,
    layers: dict[int, str],
) -> MapChecks:
    """The checks in the rows of an explain.json, which has the columns of `MapChecks.columns` for each image and block."""
    table = pd.DataFrame(rows)
    elsewhere, stability, randomised = (
        np.stack([table.loc[table["block"] == block, name].to_numpy(float) for block in blocks], axis=1)  # (n, blocks)
        for name in ("check_elsewhere", "check_stability", "check_randomised")
    )
    return MapChecks(files, blocks, empty, elsewhere, stability, randomised[0], images_randomised, layers=layers)


def summarise_doubts(doubts: Sequence[Sequence[str]], *, checked: bool) -> str:
    """One sentence on the doubts of each map; `checked`: whether more than emptiness was looked at.

    Examples:
        >>> summarise_doubts([[], [EMPTY], [ELSEWHERE, UNSTABLE]], checked=True)
        '2 of 3 maps should not be relied on: 1 without positive evidence, 1 no better than elsewhere, 1 unstable.'
        >>> summarise_doubts([[], []], checked=True)
        'None of the 2 maps failed a check.'
    """
    counts = Counter(doubt for each in doubts for doubt in each)
    failed = sum(bool(each) for each in doubts)
    if not failed:
        return f"None of the {plural(len(doubts), 'map')} {'failed a check' if checked else 'is empty'}."
    named = ", ".join(f"{counts[doubt]:,} {words}" for doubt, words in DOUBTS.items() if counts[doubt])
    return f"{failed:,} of {plural(len(doubts), 'map')} should not be relied on: {named}."
