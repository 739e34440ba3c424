"""From how many images on training pays: linear heads on frozen features against fine-tuning, by the number of images.

    python benchmarks/frozen_features.py WORK --weights vgg16_imagenet_notop.h5 --data NAME=IMAGES[:GROUPS] \
        [--sizes 50,100,200,400,800] [--image-size 64x64] [--depths 3,4] [--epochs 8] [--test 600]

For each number of training images (whole groups, drawn at random, those of a smaller number among those of a larger one) the
same validation and test images. Compared: the linear heads of a sweep, its best depth with a GAP head, and the best depth
fine-tuned from the linear head (`--head blocks`), each with NAG and the better of two rates, chosen on validation. Writes
one row per number and method to results/frozen_features.csv (the rows of other data sets in it stay), and a figure of all.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from xaitune.comparison.sweep import sweep_freeze
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.plots.marks import MARKERS, PALETTE

METHODS = ("linear head, all blocks", "linear head, best block", "GAP head, fine-tuned", "blocks head, fine-tuned")


def main() -> None:
    """Sweep at every number of images, and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for lists and runs")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--data", required=True, metavar="NAME=IMAGES[:GROUPS]")
    parser.add_argument("--sizes", default="50,100,200,400,800", help="numbers of training images")
    parser.add_argument("--image-size", default="64x64")
    parser.add_argument("--depths", default="3,4")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--test", type=int, default=600, help="most test images, and most validation images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "frozen_features.csv")
    args = parser.parse_args()
    name, _, place = args.data.partition("=")
    images, _, groups = place.partition(":")
    every = ImageData.from_folder(images, groups=groups or None, image_size=args.image_size)
    rows = []
    for size in (int(text) for text in args.sizes.split(",")):
        if size > (every.split == "train").sum():
            break
        data = part_of(every, size, args.test, args.work / name / f"{size}.csv", args.image_size)
        rows += [
            {"data": name, "training images": (data.split == "train").sum(), **row} for row in rows_of(data, args, size)
        ]
        print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format), flush=True)
    table = pd.DataFrame(rows)
    if args.out.is_file():
        known = pd.read_csv(args.out)
        table = pd.concat([known[known["data"] != name], table], ignore_index=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out, index=False, float_format="%.4f")
    draw(table, Path(__file__).parents[1] / "docs" / "images" / "frozen-features.png")


def part_of(data: ImageData, size: int, most: int, file: Path, image_size: str) -> ImageData:
    """The data set with about `size` training images, and at most `most` for validation and for testing."""
    rows = [first_groups(data, "train", size), first_groups(data, "validation", most), first_groups(data, "test", most)]
    chosen = np.concatenate(rows)
    table = data.to_dataframe().iloc[chosen]
    paths = [str(path) for path in data.paths(chosen)]
    frame = pd.DataFrame({"file": paths, "label": table["class"], "split": table["split"], "group": table["group"]})
    file.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(file, index=False)
    return ImageData.from_csv(file, image_size=image_size)


def first_groups(data: ImageData, split: str, size: int) -> np.ndarray:
    """Images of a split: its groups in a random order, the classes in turn, until there are `size` of them."""
    rows = data.indices(split)
    groups = np.random.default_rng(0).permutation(np.unique(data.groups[rows]))
    label = {group: data.labels[rows[data.groups[rows] == group][0]] for group in groups}
    turn = pd.Series([label[g] for g in groups])
    order = np.argsort(turn.groupby(turn).cumcount().to_numpy(), kind="stable")
    shares = np.bincount(data.labels[rows], minlength=len(data.class_names)) / len(rows)
    taken: list[int] = []
    counts = np.zeros(len(data.class_names))
    for group in groups[order]:
        own = rows[data.groups[rows] == group]
        few = counts[label[group]] < max(np.ceil(shares[label[group]] * size), 5)  # in proportion, but at least five
        if few:
            taken += own.tolist()
            counts[label[group]] += len(own)
    return np.sort(np.array(taken))


def rows_of(data: ImageData, args: argparse.Namespace, size: int) -> list[dict[str, Any]]:
    """The scores of each method."""
    train = TrainConfig(weights=args.weights, epochs=args.epochs, patience=args.epochs)
    grid: dict[str, Any] = {"freeze_through": args.depths, "optimizers": "nag", "seeds": 1, "notes": print}
    runs_dir = args.work / Path(args.data.partition("=")[0]) / "runs"
    gap = sweep_freeze(data, train=train, runs_dir=runs_dir, name=f"gap{size}", **grid)
    blocks_train = TrainConfig(weights=args.weights, epochs=args.epochs, patience=args.epochs, head="blocks")
    blocks = sweep_freeze(data, train=blocks_train, runs_dir=runs_dir, name=f"blocks{size}", **grid)
    heads = gap.heads.set_index("name")
    rows = [row_of(METHODS[0], heads.loc["frozen-all-blocks"]), row_of(METHODS[1], heads.loc["frozen-best-block"])]
    return [*rows, row_of(METHODS[2], gap.best), row_of(METHODS[3], blocks.best)]


def row_of(method: str, found: pd.Series) -> dict[str, Any]:
    """The figures of one method."""
    detail = found["name"] if "optimizer" in found else "Block " + ", ".join(map(str, found["blocks"]))
    return {
        "method": method,
        "which": detail,
        "validation": found["validation"],
        "test": found["test"],
        "low": found["low"],
        "high": found["high"],
        "seconds": found["seconds"],
    }


def draw(table: pd.DataFrame, file: Path) -> None:
    """Test score by number of training images, one panel per data set."""
    names = list(dict.fromkeys(table["data"]))
    figure, axes = plt.subplots(1, len(names), figsize=(1 + 4.2 * len(names), 4), squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], names, strict=True):
        for i, method in enumerate(METHODS):
            part = table[(table["data"] == name) & (table["method"] == method)].sort_values("training images")
            x = part["training images"] * 1.03 ** (i - 1.5)
            bars = [part["test"] - part["low"], part["high"] - part["test"]]
            ax.errorbar(
                x, part["test"], yerr=bars, color=PALETTE[i], marker=MARKERS[i], label=method, capsize=2, lw=1.2
            )
        ax.set_xscale("log")
        ticks = sorted(table.loc[table["data"] == name, "training images"].unique())
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.minorticks_off()
        ax.set_title(name)
        ax.set_xlabel("training images")
        ax.grid(alpha=0.3)
    axes[0][0].set_ylabel("macro F1 (test)")
    axes[0][0].legend(fontsize=8, loc="upper left")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
