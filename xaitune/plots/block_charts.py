"""Charts over the blocks of a network, drawn on matplotlib Axes as `charts` draws its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from xaitune._names import frozen_name
from xaitune.errors import InputError
from xaitune.plots.figures import finish, own_axes, tidy, wrap
from xaitune.plots.marks import BLUE, GREY, MARKERS, PALETTE, VERMILION, axes_below, interval_bars, legend


def block_evidence(
    table: pd.DataFrame,
    advised: Any,
    votes: Mapping[Any, float],
    labels: Sequence[str] = (),
    *,
    measure: str = "score",
    share: str = "chosen",
    otherwise: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """The score of each candidate with its 95 % interval and its share of the votes; the advised one is marked.

    `table`: one row per candidate, columns score, low, high. `votes`: candidate -> share 0..1 of the resamples or draws
    in which it is chosen; `share` is the word for it. `labels`: the candidates' names, if they are not depths. `otherwise`:
    a second candidate to mark, the one advised if blocks are trained.
    """
    if ax is None:
        ax = own_axes(max(6.6, 1.15 * len(table)), 3.6)
    names = list(table.index)
    blocks = list(range(len(names)))
    missing = pd.Series(np.nan, index=table.index)
    low, high = table.get("low", missing), table.get("high", missing)
    bars = interval_bars(table["score"], low, high)
    chosen = [name == advised for name in names]
    depths = [i for i, name in enumerate(names) if str(name).isdigit()]  # the linear heads are no further depths
    ax.plot(depths, table["score"].iloc[depths], color="#b9c6cf", linewidth=1, zorder=1)
    for i, is_chosen in enumerate(chosen):
        ax.errorbar(
            i,
            table["score"].iloc[i],
            yerr=bars[:, i : i + 1],
            color=VERMILION if is_chosen else BLUE,
            fmt=MARKERS[is_chosen],
            capsize=4,
            markersize=9 if is_chosen else 7,
            linewidth=1.8,
        )
    for marked, text in ((advised, "advised"), (otherwise, "if blocks\nare trained")):
        if marked in names:
            row = names.index(marked)
            top = (row, float(table["score"].iloc[row] + bars[1, row]))
            style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "color": VERMILION}
            ax.annotate(text, top, (0, 5), textcoords="offset points", **style)
    shown = [wrap(label, 0.8, 9) for label in labels] or [frozen_name(name) for name in names]
    ax.set_xticks(blocks, [f"{label}\n{share} {votes.get(n, 0):.0%}" for n, label in zip(names, shown, strict=True)])
    ax.set_xlim(min(blocks) - 0.5, max(blocks) + 0.5)
    ax.margins(y=0.18)
    ax.set_ylabel(wrap(measure, 2.6, 10))
    ax.set_xlabel(
        "frozen (share of resamples that choose it)" if share == "chosen" else "frozen (chance of being the best)"
    )
    tidy(ax, "Evidence for each freezing point, 95 % intervals")
    return finish(ax)


_SCORE_PANELS = {  # the panels of `block_scores`: title -> {score: label}
    "against the masks": {
        "average_precision": "average precision",
        "mass_inside": "mass inside",
        "pointing_game": "pointing game",
        "best_iou": "best IoU",
    },
    "against the model": {
        "insertion": "insertion",
        "road": "ROAD",
        "stability": "stability",
        "deletion": "deletion (lower is better)",
        "average_drop": "average drop (lower is better)",
    },
}


def block_scores(summary: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Mean scores of each block's heatmaps with 95 % intervals: against the masks (top) and the model (bottom).

    `summary`: columns block, score, mean, low, high. Missing scores are not drawn; 'mask_area' is drawn as a dashed line
    for chance. With scores of both kinds, a second Axes takes the lower half of `ax`. Raises InputError if there is
    nothing to draw.
    """
    table = summary.dropna(subset=["mean"])
    drawn = {title: [n for n in names if (table["score"] == n).any()] for title, names in _SCORE_PANELS.items()}
    drawn = {title: names for title, names in drawn.items() if names}
    if not drawn:
        raise InputError(f"No scores to draw. Received: {', '.join(table['score'].unique()) or 'none'}.")
    own = ax is None
    ax = ax or own_axes(7.2, 0.9 + 2.3 * len(drawn))
    axes = [ax, axes_below(ax)] if len(drawn) > 1 else [ax]
    blocks = sorted(table["block"].unique())
    for panel, (title, names) in zip(axes, drawn.items(), strict=True):
        handles = [
            _block_line(panel, table, blocks, title, name, i - (len(names) - 1) / 2) for i, name in enumerate(names)
        ]
        if title == "against the masks" and (table["score"] == "mask_area").any():
            style: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1}
            panel.axhline(table.loc[table["score"] == "mask_area", "mean"].mean(), **style)
            handles.append(Line2D([], [], label="chance (mask area)", **style))
        legend(panel, handles, own)
        panel.set_ylabel(title)
        tidy(panel)
        panel.tick_params(labelbottom=panel is axes[-1])
    ax.set_title("Scores of the heatmaps, mean and 95 % interval", loc="left", fontsize=11)
    axes[-1].set_xticks(range(len(blocks)), [f"Block {b}" for b in blocks])
    return finish(*axes)


def _block_line(ax: Axes, table: pd.DataFrame, blocks: list[Any], title: str, name: str, shift: float) -> Line2D:
    """Draw one score over the blocks, moved right by `shift` tenths of their distance; returns its legend entry."""
    rows = table[table["score"] == name].set_index("block").reindex(blocks)
    number = list(_SCORE_PANELS[title]).index(name)
    style: dict[str, Any] = {"color": PALETTE[number], "marker": MARKERS[number], "markersize": 5, "linewidth": 1}
    bars = interval_bars(rows["mean"], rows["low"], rows["high"])
    ax.errorbar(np.arange(len(blocks)) + 0.1 * shift, rows["mean"], yerr=bars, capsize=2, **style)
    return Line2D([], [], label=_SCORE_PANELS[title][name], **style)


def block_drift(blocks: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How far new images are from old ones in the features of each block, beside what is usual without drift.

    `blocks`: one row per block, columns distance, usual (the 95 % quantile without drift) and p.
    """
    ax = ax if ax is not None else own_axes(6.4, 3.4)
    rows = range(len(blocks))
    ax.bar(rows, blocks["usual"], width=0.7, color=GREY, alpha=0.35, label="usual without drift (95 %)")
    ax.plot(rows, blocks["distance"], "o", color=VERMILION, markersize=8, label="these images")
    ax.set_xticks(rows, [f"Block {block}\np = {p:.3f}" for block, p in zip(blocks.index, blocks["p"], strict=True)])
    ax.set_ylim(0, 1.25 * float(np.nanmax(blocks[["distance", "usual"]].to_numpy())) or 1)
    ax.set_ylabel("distance of the features\n(0: the same, 1: nothing in common)")
    ax.legend(fontsize=8, framealpha=0.6)
    tidy(ax, "Drift, block by block")
    return finish(ax)


def block_finds(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How much of the masks the maps of each block find, with intervals.

    `table`: one row per block, columns own, gradcam and their _low and _high.
    """
    ax = ax if ax is not None else own_axes(6.8, 3.6)
    names = {"own": "linear head on this block alone", "gradcam": "Grad-CAM through the blocks above"}
    for i, (name, label) in enumerate(names.items()):
        x = np.arange(len(table)) + 0.12 * (2 * i - 1)
        bars = interval_bars(table[name], table[f"{name}_low"], table[f"{name}_high"])
        style: dict[str, Any] = {"color": PALETTE[i], "fmt": MARKERS[i], "capsize": 3, "markersize": 6}
        ax.errorbar(x, table[name], yerr=bars, label=label, **style)
    ax.axhline(0, color=GREY, linestyle="--", linewidth=1)
    ax.set_xticks(range(len(table)), [f"Block {block}" for block in table.index])
    ax.set_ylabel("found of the masks\n(0: as other images' maps,\n1: as the mask at this resolution)")
    ax.legend(fontsize=8, framealpha=0.6)
    tidy(ax, "What heatmaps find, 95 % intervals")
    return finish(ax)
