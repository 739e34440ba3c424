"""Learning curves at each depth with the gradient clipped part by part, and by its norm over all trained variables.

    python benchmarks/clipping.py WORK IMAGES [--groups GROUPS.csv] --weights vgg16_imagenet_notop.h5 \
        [--image-size 48x48] [--images 250] [--epochs 6] [--rate 0.001] [--seeds 2]

A block, or the head, is a part. The norm over all parts grows with their number, so one limit for it shortens the steps of
a model more, the more of its blocks are trained. Trains Block 1..5 frozen with NAG both ways on the same images, and writes
one row per epoch to results/clipping.csv and the curves, means over the seeds, to docs/images/clipping.png.
"""

import argparse
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import pandas as pd
from frozen_features import part_of

from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.plots.marks import MARKERS, PALETTE
from xaitune.training import network
from xaitune.training.run import read_history
from xaitune.training.train import train_model

WAYS = {"all variables together": lambda model: ("all",) * len(model.trainable_variables), "part by part": None}
COLUMNS = {"train_loss": "training loss", "val_f1_macro": "validation macro F1", "clipped": "clipped share"}


def main() -> None:
    """Train both ways, write the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for lists and runs")
    parser.add_argument("images")
    parser.add_argument("--groups")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--image-size", default="48x48")
    parser.add_argument("--images", type=int, default=250, dest="count", help="training images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=2)
    results = Path(__file__).parent / "results" / "clipping.csv"
    args = parser.parse_args()
    every = ImageData.from_folder(args.images, groups=args.groups, image_size=args.image_size)
    data = part_of(every, args.count, 200, args.work / "clipping.csv", args.image_size)
    base = {"weights": args.weights, "optimizer": "nag", "learning_rate": args.rate}
    base |= {"epochs": args.epochs, "patience": args.epochs}
    tables = []
    for way, parts in WAYS.items():
        for depth in range(1, 6):
            for seed in range(args.seeds):
                config = TrainConfig(freeze_through=depth, seed=seed, **base)
                with mock.patch.object(network, "variable_parts", parts or network.variable_parts):
                    run = train_model(data, config, runs_dir=args.work / way.replace(" ", "-"))
                history = read_history(run.path).query("stage == 'fine-tune'")[["epoch", *COLUMNS]]
                tables.append(history.assign(way=way, depth=depth, seed=seed, images=(data.split == "train").sum()))
                print(tables[-1].tail(1).to_string(index=False, header=False), flush=True)
    table = pd.concat(tables)
    table.to_csv(results, index=False, float_format="%.4f")
    draw(table, Path(__file__).parents[1] / "docs" / "images" / "clipping.png")


def draw(table: pd.DataFrame, file: Path) -> None:
    """A row of panels for each way: loss, validation score and clipped share by epoch, a curve for each depth."""
    figure, axes = plt.subplots(
        len(WAYS), len(COLUMNS), figsize=(11, 6), sharex=True, sharey="col", layout="constrained"
    )
    means = table.groupby(["way", "depth", "epoch"])[list(COLUMNS)].mean().reset_index()
    for row, way in zip(axes, WAYS, strict=True):
        for ax, (column, title) in zip(row, COLUMNS.items(), strict=True):
            for depth, curve in means[means["way"] == way].groupby("depth"):
                name = "Block 1" if depth == 1 else f"Block 1-{depth}"
                style = {"color": PALETTE[int(depth) - 1], "marker": MARKERS[int(depth) - 1]}
                ax.plot(curve["epoch"], curve[column], label=f"{name} frozen", ms=4, lw=1.4, **style)
            ax.set_title(
                f"{title}\n(one norm for {way})"
                if way == "all variables together"
                else f"{title}\n(a norm for each part)",
                fontsize=10,
            )
            ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    axes[0][0].legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
