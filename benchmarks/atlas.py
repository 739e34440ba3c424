"""The freeze atlas: docs/atlas.md, docs/atlas.csv and docs/images/atlas.png, from every finished sweep of this project.

    python benchmarks/atlas.py                                          # write the page, the CSV and the picture
    python benchmarks/atlas.py --check                                  # fail where the page or the CSV is not up to date
    python benchmarks/atlas.py --add runs/sweep --data magnetic-tile    # first add the rows of a sweep's folder
    python benchmarks/atlas.py --rows castings.csv --out here           # also with rows of your own, into another folder

It reads results/advice-truth.csv and, where there is one, results/advice-optimizers.csv, which benchmarks/advice.py extends, and
results/atlas-sweeps.csv, which --add extends.
"""

import argparse
import re
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from xaitune.advise.candidates import CANDIDATES, DEPTHS, HEADS, candidate_name
from xaitune.comparison.atlas import COLUMNS
from xaitune.comparison.table import load_sweep

HERE, DOCS = Path(__file__).parent, Path(__file__).parents[1] / "docs"
TRUTH, OPTIMIZERS = HERE / "results" / "advice-truth.csv", HERE / "results" / "advice-optimizers.csv"
SWEEPS = HERE / "results" / "atlas-sweeps.csv"
NAMES = {
    "scans": "Drawn scans of steel",
    "magnetic-tile": "Magnetic tiles",
    "magnetic-tile-masks": "Magnetic tiles, segmentation",
    "chest-xray": "Chest X-rays",
    "solar-cells": "Solar cells",
    "cifar10": "CIFAR-10",
}
IMAGENET = "vgg16_imagenet_notop"  # the name of the file with ImageNet's weights
FEWEST = 3  # depths of a task in the picture
ACROSS = 4  # panels
WRAP = 120  # characters of a line
TEXT = {"task": str, "data": str, "depth": str, "optimizer": str, "head": str, "processor": str}


def battery_rows() -> pd.DataFrame:
    """The rows of the battery that the advice is measured on, with the atlas's columns: all with NAG, some with others too."""
    table = pd.read_csv(TRUTH, dtype={"depth": str}).assign(optimizer="nag")
    if OPTIMIZERS.is_file():
        others = pd.read_csv(OPTIMIZERS, dtype={"depth": str})
        table = pd.concat(
            [table, others[~others["depth"].isin(HEADS) & (others["optimizer"] != "nag")]], ignore_index=True
        )
    epochs = table[[column for column in table if re.fullmatch(r"epoch [1-9]\d*", column)]].notna().sum(axis=1)
    linear = table["depth"].isin(HEADS)
    size = table["side"].astype(str)
    table = table.rename(columns={f"{split} images": f"{split}_images" for split in ("train", "validation", "test")})
    table = table.rename(columns={"source": "data"}).assign(
        image_size=size + "x" + size, metric="f1_macro", epochs=epochs, head=np.where(linear, "blocks", "gap")
    )
    return table.assign(optimizer=table["optimizer"].where(~linear, ""))[list(COLUMNS)]


def all_rows(own: list[Path]) -> pd.DataFrame:
    """All rows of the atlas, and those in files of one's own."""
    files = [*([SWEEPS] if SWEEPS.is_file() else []), *own]
    tables = [battery_rows(), *(pd.read_csv(file, dtype=TEXT, keep_default_na=False) for file in files)]
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def add_sweep(folder: Path, data: str, task: str | None) -> None:
    """Add the rows of a sweep's folder to results/atlas-sweeps.csv, in place of those of the same task."""
    rows = load_sweep(folder).atlas_rows(data, task)
    rows = rows.assign(weights=rows["weights"].replace(IMAGENET, "imagenet"))
    rows["task"] = rows["task"].str.replace(IMAGENET, "imagenet")
    old = pd.read_csv(SWEEPS, dtype=TEXT, keep_default_na=False) if SWEEPS.is_file() else rows[:0]
    old = old[~old["task"].isin(rows["task"])]
    pd.concat([old, rows], ignore_index=True).to_csv(SWEEPS, index=False, float_format="%.5g")


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per task and candidate: means over the seeds, of the optimizer that is best on validation."""
    means = rows.groupby(["task", "depth", "optimizer"], sort=False).agg(
        validation=("validation", "mean"),
        test=("test", "mean"),
        low=("low", "mean"),
        high=("high", "mean"),
        seeds=("seed", "nunique"),
    )
    means = means.reset_index().sort_values("validation", ascending=False, kind="stable")
    return means.drop_duplicates(["task", "depth"]).set_index(["task", "depth"])


def tables(rows: pd.DataFrame) -> str:
    """The page's tables, one for each set of images, in Markdown."""
    means, parts = cells(rows), []
    known = [data for data in NAMES if data in set(rows["data"])]
    for data in [*known, *sorted(set(rows["data"]) - set(known))]:
        part = rows[rows["data"] == data]
        metric = part["metric"].iloc[0]
        head = ["task", "training images", "test images (groups)", "seeds", *map(candidate_name, CANDIDATES)]
        lines = [f"### {NAMES.get(data, data)}\n\nTest `{metric}`.\n", head, ["---"] * len(head)]
        for task in part["task"].unique():
            about = part[part["task"] == task].iloc[0]
            own = means.loc[task]
            trained = own[own.index.isin([str(depth) for depth in DEPTHS])]
            best = trained["validation"].idxmax()
            seeds = f"{trained['seeds'].min()}"
            images = f"{about['test_images']} ({about['groups']})"
            line = [f"`{task}`", str(about["train_images"]), images, seeds]
            lines.append(line + [_cell(own, name, bold=name == best and len(trained) > 1) for name in CANDIDATES])
        parts.append("\n".join(line if isinstance(line, str) else f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def _cell(own: pd.DataFrame, name: str, *, bold: bool) -> str:
    if name not in own.index:
        return ""
    row = own.loc[name]
    mean = f"**{row['test']:.3f}**" if bold else f"{row['test']:.3f}"
    return f"{mean} [{row['low']:.2f}, {row['high']:.2f}]"


def summary(rows: pd.DataFrame) -> str:
    """What all tasks with every depth say together, in sentences."""
    means = cells(rows)
    full = [task for task in rows["task"].unique() if {str(d) for d in DEPTHS} <= set(means.loc[task].index)]
    trained = {task: means.loc[task].loc[[str(depth) for depth in DEPTHS]] for task in full}
    counts = pd.Series([part["validation"].idxmax() for part in trained.values()]).value_counts()
    named = ", ".join(f"{candidate_name(str(d))} in {counts[str(d)]}" for d in DEPTHS if str(d) in counts)
    wide = pd.Series({task: part["test"].max() - part["test"].min() for task, part in trained.items()})
    linear = [task for task in full if HEADS[0] in means.loc[task].index]
    ahead = sum(means.loc[(task, HEADS[0]), "test"] > trained[task]["test"].max() for task in linear)
    text = (
        f"{len(rows):,} runs of {rows['task'].nunique()} tasks. In {len(full)} tasks all of the depths 0 to 5 were trained. "
        f"There the depth that is best on validation is {named}. Between the best and the worst "
        f"depth lie {100 * wide.min():.1f} to {100 * wide.max():.1f} points (median {100 * wide.median():.1f}). In {ahead} "
        f"of {len(linear)} the linear head on the frozen features of all blocks, which trains no block, scores above every "
        "depth."
    )
    return textwrap.fill(text, WRAP)


def page(rows: pd.DataFrame, text: str) -> str:
    """The page with its summary and tables replaced."""
    for name, made in (("summary", summary(rows)), ("tables", tables(rows))):
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, made=made: f"{match[1]}{made}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"The page has no place for {name!r}.")
    return text


def csv_text(rows: pd.DataFrame) -> str:
    """The rows as the downloadable CSV."""
    return rows.to_csv(index=False, float_format="%.5g", lineterminator="\n")


def draw(rows: pd.DataFrame, file: Path) -> None:
    """A panel for each task with enough depths: every seed, the mean with its interval, and the linear head on all blocks."""
    means = cells(rows)
    depths = [str(depth) for depth in DEPTHS]
    tasks = [t for t in rows["task"].unique() if means.loc[t].index.isin(depths).sum() >= FEWEST]
    down = -(-len(tasks) // ACROSS)
    figure, axes = plt.subplots(down, ACROSS, figsize=(2.4 * ACROSS, 1.9 * down), constrained_layout=True)
    for ax in axes.flat[len(tasks) :]:
        ax.set_axis_off()
    for ax, task in zip(axes.flat, tasks, strict=False):
        own = means.loc[task]
        shown = own[own.index.isin(depths)].sort_index()
        at = shown.index.astype(int)
        ax.fill_between(at, shown["low"], shown["high"], color="#0072B2", alpha=0.15, linewidth=0)
        ax.plot(at, shown["test"], color="#0072B2", marker="o", markersize=3)
        runs = rows[(rows["task"] == task) & rows["depth"].isin(depths)]
        runs = runs[[own.loc[d, "optimizer"] == o for d, o in zip(runs["depth"], runs["optimizer"], strict=True)]]
        ax.scatter(runs["depth"].astype(int), runs["test"], color="#0072B2", s=6, alpha=0.5)
        if HEADS[0] in own.index:
            ax.axhline(own.loc[HEADS[0], "test"], color="#D55E00", linestyle="--", linewidth=1)
        ax.set_title(task, fontsize=7)
        ax.set_xticks(DEPTHS)
        ax.set_xlim(-0.3, 5.3)
        ax.tick_params(labelsize=7)
    figure.supxlabel("blocks frozen: 0 (nothing) to 5 (all)", fontsize=9)
    figure.supylabel("test score", fontsize=9)
    figure.suptitle(
        "Blue: mean of the seeds, each seed, and the 95 % interval over groups; dashed: linear head on all frozen blocks.\n"
        "Every panel has its own scale.",
        fontsize=9,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=140)
    plt.close(figure)


def main() -> None:
    """Write or check the atlas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, metavar="FOLDER", help="a finished sweep whose rows are added first")
    parser.add_argument("--data", help="with --add: the name of the set of images")
    parser.add_argument("--task", help="with --add: the name of the task (default: made from what was trained)")
    parser.add_argument("--rows", type=Path, nargs="*", default=[], help="further CSVs of SweepTable.atlas_rows")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the page, the CSV and the picture")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where something is out of date")
    args = parser.parse_args()
    if args.add:
        if not args.data:
            parser.error("--add needs --data")
        add_sweep(args.add, args.data, args.task)
    rows = all_rows(args.rows)
    old = (DOCS / "atlas.md").read_text(encoding="utf-8")
    made = {"atlas.md": page(rows, old), "atlas.csv": csv_text(rows)}
    if args.check:
        behind = [name for name, text in made.items() if (args.out / name).read_text(encoding="utf-8") != text]
        if behind:
            raise SystemExit(f"Out of date: {', '.join(behind)}. Run python benchmarks/atlas.py.")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (args.out / name).write_text(text, encoding="utf-8")
    draw(rows, args.out / "images" / "atlas.png")
    print(f"wrote {args.out / 'atlas.md'} with {len(rows)} runs")


if __name__ == "__main__":
    main()
