"""How often intervals of differences exclude 0 where there is none: the same cell, trained with other seeds.

    python benchmarks/placebo.py WORK --weights vgg16_imagenet_notop.h5 \
        --data magnetic=IMAGES:GROUPS.csv --data chest=IMAGES:GROUPS.csv [--depths 4-5] [--seeds 12] [--epochs 6]

Trains every depth with NAG and all seeds on each data set, divides the seeds of a cell at random into sets of three
(PARTITIONS times), and compares any two sets of a partition as `check_advice` compares two depths. Also single runs. The
rule before allowed for the test groups alone: percentiles of the paired resamples. One row per pair in results/placebo.csv.
A run folder that exists already is used again.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune.comparison.sweep import sweep_freeze
from xaitune.comparison.table import SweepTable
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.stats.comparisons import PairedScores

PARTITIONS, TOGETHER = 5, 3


def main() -> None:
    """Train what is missing, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the runs")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=IMAGES[:GROUPS]")
    parser.add_argument("--image-size", default="64x64")
    parser.add_argument("--depths", default="4-5")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "placebo.csv")
    args = parser.parse_args()
    train = TrainConfig(weights=args.weights, epochs=args.epochs, patience=args.epochs)
    rows = []
    for given in args.data:
        name, _, place = given.partition("=")
        images, _, groups = place.partition(":")
        data = ImageData.from_folder(images, groups=groups or None, image_size=args.image_size)
        grid: dict[str, Any] = {"freeze_through": args.depths, "optimizers": "nag", "seeds": args.seeds}
        table = sweep_freeze(data, train=train, learning_rates="own", runs_dir=args.work / name, notes=print, **grid)
        for cell in table.cells.to_dict("records"):
            rows += [{"data": name, "depth": cell["freeze_through"], **row} for row in pairs_of(table, cell)]
    result = pd.DataFrame(rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result.to_csv(args.out, index=False, float_format="%.4f")
    summary = result.groupby(["data", "depth", "seeds"])[["reliable", "excludes 0", "excluded 0 before"]].mean()
    print(summary.assign(pairs=result.groupby(["data", "depth", "seeds"]).size()).round(3).to_string())
    for seeds, part in result.groupby("seeds"):
        print(
            f"{seeds} against {seeds} seeds: {len(part)} pairs, {part['excludes 0'].mean():.1%} of the intervals exclude 0 "
            f"({part['excluded 0 before'].mean():.1%} by the rule before)"
        )


def pairs_of(table: SweepTable, cell: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each pair of sets of seeds of a cell, and for each pair of neighbouring single seeds."""
    runs = table.cell_runs(cell["freeze_through"], cell["optimizer"])["name"]
    tests = [table.predictions(name).query("split == 'test'") for name in runs]
    number = {name: i for i, name in enumerate(table.class_names)}
    predicted = np.stack([test["predicted"].map(number).to_numpy(np.int64) for test in tests])
    true, groups = tests[0]["true"].map(number).to_numpy(np.int64), tests[0]["group"].to_numpy(str)
    rng, rows = np.random.default_rng(0), []
    for partition in range(PARTITIONS):
        order = rng.permutation(len(predicted))
        sets = [order[i : i + TOGETHER] for i in range(0, len(order) - TOGETHER + 1, TOGETHER)]
        scores = PairedScores(true, groups, table.metric)
        for i, chosen in enumerate(sets):
            scores.add(i, predicted[chosen])
        for a, b in itertools.combinations(range(len(sets)), 2):
            rows.append(row_of(scores, a, b, TOGETHER) | {"partition": partition})
    singles = PairedScores(true, groups, table.metric)
    for i, answers in enumerate(predicted):
        singles.add(i, answers)
    return rows + [row_of(singles, i, i + 1, 1) for i in range(0, len(predicted) - 1, 2)]


def row_of(scores: PairedScores, a: int, b: int, seeds: int) -> dict[str, Any]:
    """The interval of one difference, and that of the rule before."""
    gap = scores.difference(a, b)
    low, high = np.quantile(scores.models[a].drawn - scores.models[b].drawn, [0.025, 0.975])
    return {
        "seeds": seeds,
        "difference": gap.difference,
        "low": gap.low,
        "high": gap.high,
        "reliable": gap.reliable,
        "excludes 0": gap.low > 0 or gap.high < 0,
        "excluded 0 before": low > 0 or high < 0,
    }


if __name__ == "__main__":
    main()
