"""Charts of plain arrays and tables, drawn on matplotlib Axes.

Every function takes `ax=None` and returns the Axes; without `ax` it makes its own figure, outside pyplot. No function
calls show() or changes rcParams. Colour-blind readers can tell the colours apart. Charts over blocks: `block_charts`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xaitune._names import frozen_name, metric_name, plural
from xaitune.errors import InputError
from xaitune.plots.figures import finish, is_wide, own_axes, tidy
from xaitune.plots.marks import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LINES,
    MARKERS,
    PALETTE,
    VERMILION,
    axes_below,
    colours,
    interval_bars,
    legend,
)


def class_frequencies(counts: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How many images each class has in training, validation and test; the most frequent class on top.

    `counts`: one row per class, with the columns train, validation and test, or some of them.
    """
    splits = [c for c in ("train", "validation", "test") if c in counts] or list(counts.columns)
    counts = counts[splits].fillna(0)
    totals = counts.sum(axis=1).to_numpy(float)
    order = np.argsort(totals, kind="stable")[::-1]
    counts, totals = counts.iloc[order], totals[order]
    names = [str(name) for name in counts.index]
    own = ax is None
    if ax is None:
        ax = own_axes(8, 0.9 + 0.3 * max(len(names), 2))
    left = np.zeros(len(names))
    for split, colour in zip(splits, PALETTE, strict=False):
        ax.barh(range(len(names)), counts[split], left=left, color=colour, label=split, height=0.72)
        left += counts[split].to_numpy(float)
    images = max(float(totals.sum()), 1.0)
    for i, total in enumerate(totals):
        share = f"{total:,.0f} ({total / images:.1%})"
        ax.annotate(share, (total, i), (4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_xlim(0, max(float(totals.max(initial=0)), 1) * 1.18)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("images")
    tidy(ax, f"Class frequencies ({images:,.0f} images)", grid="x")
    ax.tick_params(axis="y", length=0)
    legend(ax, [Line2D([], [], color=c, linewidth=6, label=s) for s, c in zip(splits, PALETTE, strict=False)], own)
    return finish(ax)


def confusion_matrix(counts: Any, class_names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """How many images of each true class (row) were predicted as each class (column).

    `counts`: (C, C) whole numbers. The colour shows the share of the row; empty cells are 0.
    """
    counts = np.asarray(counts, float)
    number = len(class_names)
    if counts.shape != (number, number):
        raise InputError(f"A confusion matrix of {number} classes must be {number}x{number}. Received: {counts.shape}.")
    support = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, support, out=np.zeros_like(counts), where=support > 0)
    if ax is None:
        side = max(2.6, 0.44 * number)
        label = min(3.0, 0.085 * max((len(n) + sum(map(is_wide, n)) for n in map(str, class_names)), default=0))
        ax = own_axes(side + label + 0.6, side + label + 0.7)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1.1, interpolation="nearest")
    size = 9 if number <= 12 else 7.5 if number <= 25 else 5
    for row, column in np.argwhere((counts > 0) | np.eye(number, dtype=bool)):
        colour = "white" if share[row, column] > 0.6 else BLACK
        ax.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=size)
    names = [str(name) for name in class_names]
    rotation = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    ax.set_xticks(range(number), names, fontsize=8.5, **rotation)  # type: ignore[arg-type]
    ax.set_yticks(range(number), names, fontsize=8.5)
    ax.set_xticks(np.arange(number - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(number - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="#d9d9d9", linewidth=0.6)
    ax.tick_params(which="both", length=0)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.set_title(f"Confusion matrix, {counts.sum():,.0f} images\n(colour: share of the true class)", fontsize=10)
    return finish(ax)


def _mark_stages(axes: Iterable[Axes], history: pd.DataFrame) -> None:
    """Mark where each stage of training begins by a dotted line, with the stage's name on the first Axes."""
    stages = history["stage"].to_numpy() if "stage" in history else np.array([])
    starts = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for j, ax in enumerate(axes):
        for i in starts if len(starts) > 1 else []:
            if i:
                ax.axvline(i + 0.5, color=GREY, linestyle=":", linewidth=1)
            if j == 0:
                transform = ax.get_xaxis_transform()
                ax.text(i + 0.62, 1.0, str(stages[i]), transform=transform, fontsize=8, color=GREY, va="bottom")


def learning_curves(curves: Mapping[str, pd.DataFrame], *, metric: str = "f1_macro", ax: Axes | None = None) -> Axes:
    """The validation metric (top, with the best epoch marked) and the losses (bottom) over the epochs.

    `curves`: run name -> history, one row per epoch, with train_loss, val_loss, val_<metric> and stage. `ax` is split:
    the metric stays in its upper half, and a second Axes for the losses takes the lower half.
    """
    if ax is None:
        ax = own_axes(7.5, 4.6)
    below = axes_below(ax)
    for (name, history), colour in zip(curves.items(), colours(len(curves)), strict=True):
        epochs = np.arange(1, len(history) + 1)
        if (score := history.get(f"val_{metric}")) is not None:
            ax.plot(epochs, score, color=colour, marker=".", label=name)
            if score.notna().any():
                best = int(np.nanargmax(score.to_numpy(float)))
                ax.plot(epochs[best], score.iloc[best], "o", color=colour, markersize=8, markerfacecolor="none")
                ax.annotate(
                    f"{score.iloc[best]:.3f}",
                    (float(epochs[best]), score.iloc[best]),
                    (0, -8),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    fontsize=8,
                )
        for column, line in (("train_loss", LINES[1]), ("val_loss", LINES[0])):
            if column in history:
                below.plot(epochs, history[column], color=colour, linestyle=line, marker="." if line == "-" else "")
    _mark_stages((ax, below), next(iter(curves.values()), pd.DataFrame()))
    ax.set_ylabel(f"{metric_name(metric)}\n(validation)")
    below.set_ylabel("loss")
    below.set_xlabel("epoch")
    ax.set_xlim(0.5, max(map(len, curves.values()), default=1) + 0.5)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelbottom=False)
    lines = [
        Line2D([], [], color=GREY, linestyle=s, label=t) for t, s in (("training", LINES[1]), ("validation", LINES[0]))
    ]
    below.legend(handles=lines, fontsize=8, frameon=False)
    tidy(ax)
    tidy(below)
    ax.set_title(
        "Learning curves" + (f": {next(iter(curves))}" if len(curves) == 1 else ""), loc="left", fontsize=11, pad=16
    )
    if len(curves) > 1:
        ax.legend(fontsize=8, frameon=False)
    return finish(ax, below)


def all_curves(
    curves: Mapping[str, pd.DataFrame], runs: pd.DataFrame, *, metric: str = "f1_macro", ax: Axes | None = None
) -> Axes:
    """The validation metric of all runs of a sweep over the epochs: colour = frozen blocks, line style = optimizer.

    `curves`: run name -> history; `runs`: one row per run with name, freeze_through, optimizer, state. Those of a learning
    rate that was not chosen have been stopped, and are among them.
    """
    own = ax is None
    ax = ax or own_axes(8, 4.2)
    runs = runs.dropna(subset=["freeze_through", "optimizer"])  # a failed run may lack them
    depths, optimizers = sorted(runs["freeze_through"].unique()), list(dict.fromkeys(runs["optimizer"]))
    runs = runs[runs["name"].isin(list(curves))]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(len(depths), 1)))
    colour = dict(zip(depths, shades, strict=True))
    line_style = {name: LINES[i % len(LINES)] for i, name in enumerate(optimizers)}
    for run in runs.itertuples():
        history = curves[str(run.name)]
        if f"val_{metric}" in history:
            epochs = np.arange(1, len(history) + 1)
            style = {"color": colour[run.freeze_through], "linestyle": line_style[run.optimizer]}
            ax.plot(epochs, history[f"val_{metric}"], linewidth=1.3, alpha=0.85, **style)
    handles = [Line2D([], [], color=colour[d], linewidth=3, label=frozen_name(d)) for d in depths]
    handles += [Line2D([], [], color=GREY, linestyle=line_style[o], label=o) for o in optimizers]
    legend(ax, handles, own, title="frozen, optimizer")
    ax.set_xlim(0.5, max(map(len, curves.values()), default=1) + 0.5)
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"{metric_name(metric)} (validation)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    stopped = int((runs["state"] == "stopped").sum())
    tidy(ax, plural(len(runs), "training") + (f", {stopped} of them to try a learning rate" if stopped else ""))
    return finish(ax)


def shares(values: pd.Series, *, explained: str = "", ax: Axes | None = None) -> Axes:
    """Horizontal bars of shares 0..1 by name, the largest on top, the explained class in the colour of positive evidence."""
    values = values.sort_values()
    ax = ax if ax is not None else own_axes(5.0, 0.8 + 0.3 * len(values))
    colours = [GREEN if name == explained else GREY for name in values.index]
    rows = range(len(values))
    bars = ax.barh(rows, values.to_numpy(), color=colours)
    ax.set_yticks(rows, [str(name) for name in values.index])
    ax.bar_label(bars, labels=[f"{value:.0%}" for value in values], padding=3)
    ax.set_xlim(0, 1.2 * max(float(values.max()), 0.1))
    ax.set_xticks([])
    tidy(ax, "Share of the positive superpixel weight", grid="x")
    return finish(ax)


def weight_intervals(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Weights by name (the index) with their intervals, the first row on top; filled where the interval excludes 0.

    `table`: weight, low, high. Positive weights are green, negative ones vermilion, as in the pictures of superpixels.
    """
    ax = ax if ax is not None else own_axes(6.0, 1.2 + 0.26 * len(table))
    for row, (_, part) in enumerate(table.iterrows()):
        colour = GREEN if part["weight"] > 0 else VERMILION
        fill = colour if part["low"] > 0 or part["high"] < 0 else "white"
        bars = interval_bars([part["weight"]], [part["low"]], [part["high"]])
        ax.errorbar(part["weight"], row, xerr=bars, color=colour, fmt="o", markerfacecolor=fill, capsize=3)
    ax.axvline(0, color=BLACK, linewidth=0.8)
    ax.set_yticks(range(len(table)), [str(name) for name in table.index])
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_ylabel("superpixel")
    ax.set_xlabel("weight, 95 % interval; filled: the interval excludes 0")
    tidy(ax, title, grid="x")
    return finish(ax)


def sweep_cells(cells: pd.DataFrame, *, metric: str = "f1_macro", ax: Axes | None = None) -> Axes:
    """The test score of every cell with its 95 % interval, by frozen blocks (x) and optimizer (colour, marker).

    `cells`: freeze_through, optimizer, validation, test, low, high, and optionally equals (filled marker: cannot be
    told apart from the best) and scores (one small dot per seed). The cell that is best on validation has a ring.
    """
    depths, optimizers = sorted(cells["freeze_through"].unique()), list(dict.fromkeys(cells["optimizer"]))
    own = ax is None
    ax = ax or own_axes(max(6.5, 1.3 * len(depths) + 1.5), 4)
    step = 0.7 / max(len(optimizers), 1)
    position = {d: i for i, d in enumerate(depths)}
    shift = {name: (i - (len(optimizers) - 1) / 2) * step for i, name in enumerate(optimizers)}
    style = {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(optimizers)}
    for cell in cells.to_dict("records"):
        x = position[cell["freeze_through"]] + shift[cell["optimizer"]]
        colour, marker = style[cell["optimizer"]]
        fill = colour if cell.get("equals", True) else "white"
        if np.isfinite(cell["test"]):
            bars = interval_bars([cell["test"]], [cell["low"]], [cell["high"]])
            ax.errorbar(x, cell["test"], yerr=bars, color=colour, fmt=marker, markerfacecolor=fill, capsize=3)
        scores = cell.get("scores")
        if isinstance(scores, list | tuple | np.ndarray) and len(scores) > 1:
            ax.plot(np.full(len(scores), x + 0.22 * step), scores, ".", color=colour, alpha=0.55, markersize=5)
    handles = [Line2D([], [], color=style[o][0], marker=style[o][1], label=o) for o in optimizers]
    finite = cells[cells["validation"].notna() & cells["test"].notna()]
    if len(finite):
        best = finite.loc[finite["validation"].idxmax()]
        x = position[best["freeze_through"]] + shift[best["optimizer"]]
        ax.plot(x, best["test"], "o", markersize=15, markerfacecolor="none", markeredgecolor=BLACK, markeredgewidth=1.5)
        handles.append(_marker("best on validation", markersize=12, markerfacecolor="none"))
    if "equals" in cells:
        handles.append(_marker("filled: not told apart from the best", markersize=6, markerfacecolor=GREY))
    if "scores" in cells and "seeds" in cells and cells["seeds"].max() > 1:
        handles.append(_marker("one seed", markersize=3, markerfacecolor=GREY))
    legend(ax, handles, own)
    ax.set_xticks(range(len(depths)), [frozen_name(d) for d in depths])
    ax.set_xlim(-0.5, len(depths) - 0.5)
    ax.set_xlabel("frozen")
    ax.set_ylabel(f"{metric_name(metric)} (test)")
    tidy(ax, "Every combination of the sweep, 95 % intervals over groups")
    return finish(ax)


def _marker(label: str, **style: Any) -> Line2D:
    """A legend entry with a round marker and no line."""
    return Line2D([], [], linestyle="", marker="o", color=BLACK, label=label, **style)


def difference(
    value: float, low: float, high: float, *, margin: float = 0.01, label: str = "", ax: Axes | None = None
) -> Axes:
    """The difference of two scores with its 95 % interval in points, compared with zero and the margin.

    All arguments are in score units (0.01 is one point); `label` is the verdict.
    """
    if ax is None:
        ax = own_axes(6.6, 1.9)
    value, low, high, margin = (100 * float(v) for v in (value, low, high, margin))
    limit = 1.25 * float(np.nanmax(np.abs([low, high, value, 2 * margin, 1.0])))
    ax.axvspan(-limit, 0, color=VERMILION, alpha=0.07, linewidth=0)
    ax.axvspan(-margin, limit, color=BLUE, alpha=0.09, linewidth=0)
    ax.axvline(0, color=BLACK, linewidth=1)
    ax.axvline(-margin, color=GREY, linewidth=1, linestyle="--")
    if np.isfinite(value):
        ax.errorbar(value, 0, xerr=interval_bars([value], [low], [high]), fmt="o", color=BLACK, capsize=5, markersize=8)
        ax.annotate(
            f"{value:+.1f} [{low:+.1f}, {high:+.1f}]",
            (value, 0),
            (0, 10),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5},
        )
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-0.6, 0.9)
    ax.set_yticks([])
    for x, side, text in (
        (0.01, "left", "advised depth is worse"),
        (0.99, "right", "advised depth is as good or better"),
    ):
        ax.text(x, 0.04, text, transform=ax.transAxes, ha=side, va="bottom", fontsize=8, color="#555555")
    ax.set_xlabel(f"difference in points (dashed: the margin of {margin:g})")
    tidy(ax, f"Verdict: {label}" if label else "", grid="x")
    ax.spines["left"].set_visible(False)
    return finish(ax)


def score_by_images(curve: pd.DataFrame, *, metric: str = "f1_macro", ax: Axes | None = None) -> Axes:
    """The score by the number of training images, on a logarithmic scale: columns images and score."""
    ax = ax if ax is not None else own_axes(5.0, 3.4)
    ax.plot(curve["images"], curve["score"], color=BLUE, marker="o", linewidth=1.6)
    ax.set_xscale("log")
    ticks = [round(images) for images in curve["images"]]
    ax.set_xticks(ticks, [f"{images:,}" for images in ticks])
    ax.minorticks_off()
    ax.set_xlabel("training images")
    ax.set_ylabel(f"held-out {metric_name(metric)}")
    tidy(ax, "What more images bring: a linear head on frozen features")
    return finish(ax)


def comparison_cells(cells: pd.DataFrame, *, metric: str = "f1_macro", ax: Axes | None = None) -> Axes:
    """The test score of every cell of a comparison with its 95 % interval and the scores of its seeds, the first on top.

    `cells`: name, test, low, high, scores, validation, equals. Filled: cannot be told apart from the one that is best on
    validation, which has a ring.
    """
    ax = ax if ax is not None else own_axes(7.0, 1.2 + 0.42 * len(cells))
    best = cells["validation"].idxmax()
    for row, (index, cell) in enumerate(cells.iterrows()):
        bars = interval_bars([cell["test"]], [cell["low"]], [cell["high"]])
        fill = BLUE if cell["equals"] else "white"
        ax.errorbar(cell["test"], row, xerr=bars, color=BLUE, fmt="o", markerfacecolor=fill, capsize=3)
        if len(cell["scores"]) > 1:
            ax.plot(cell["scores"], np.full(len(cell["scores"]), row + 0.22), ".", color=GREY, markersize=5)
        if index == best:
            ax.plot(cell["test"], row, "o", markersize=14, markerfacecolor="none", markeredgecolor=BLACK)
    ax.set_yticks(range(len(cells)), [str(name) for name in cells["name"]])
    ax.set_ylim(len(cells) - 0.4, -0.6)
    ax.set_xlabel(f"{metric_name(metric)} (test); ring: best on validation; dots: seeds")
    tidy(ax, "Comparison, 95 % intervals over groups", grid="x")
    return finish(ax)
