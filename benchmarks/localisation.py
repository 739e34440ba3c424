"""How well each block's heatmaps find the defects: python benchmarks/localisation.py RUN... [--out CSV] [--draws 5]

Uses the test images with a mask, from the data that the runs were trained on. For each run, rule and block, the true
class is explained in float32, and the [0, 1] views are scored in the file's own geometry. There are two levels of chance:
`area`, the mask's share of the image, which a map without information scores (as its best IoU too), and `elsewhere`, the
score of the same map shifted, mirrored and turned at random (mean of --draws), which is just as smooth and as concentrated.
`gain` is the score minus `elsewhere`, image by image; `over` is a block's gain minus that of Block 3, the freezing study's
choice. Intervals are 95 %, over groups. Writes the CSV and prints Markdown tables.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from xaitune import evaluate
from xaitune._files import write_csv
from xaitune.data.dataset import ImageData
from xaitune.data.resize import map_to_image
from xaitune.explain.gradcam import RULES, RulesMapper
from xaitune.explain.heatmaps import unit_view
from xaitune.stats.intervals import mean_intervals
from xaitune.training.run import load_run

REFERENCE = 3  # block
MEAN = "mean of the runs"
SCORES = ("mass_inside", "pointing_game", "average_precision", "best_iou", "iou")


def masked_rows(data: ImageData) -> np.ndarray:
    """The test images whose mask is not empty."""
    return np.array([i for i in data.indices("test") if (m := data.mask(int(i))) is not None and m.any()])


def measure(run: Any, data: ImageData, rows: np.ndarray, draws: int) -> np.ndarray:
    """(2, SCORES, rules, blocks, images) of one run: the scores, and those of the same maps moved to random places."""
    images, classes = data.load(rows).astype(np.float32), data.labels[rows].astype(np.int32)
    raw, _ = RulesMapper(run.model, "all", tuple(RULES))(images, classes)
    rng, start = np.random.default_rng(0), time.monotonic()
    views = [[unit_view(raw[rule][b]) for b in sorted(raw[rule])] for rule in RULES]
    moved = [[[evaluate.random_like(view, rng) for view in blocks] for blocks in views] for _ in range(draws)]
    scores = np.zeros((2, len(SCORES), len(views), len(views[0]), len(rows)))
    for i, row in enumerate(rows):
        mask = data.mask(int(row))
        assert mask is not None
        for kind, versions in enumerate(([views], moved)):
            for version in versions:
                for rule, blocks in enumerate(version):
                    maps = np.stack(
                        [map_to_image(v[i], mask.shape, data.image_size, data.config.resize) for v in blocks]
                    )
                    scores[kind, :, rule, :, i] += np.stack(evaluate.localise(maps, mask)) / len(versions)
    print(f"{run.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return scores


def table_of(name: str, scores: np.ndarray, area: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    """One row per score, rule and block: mean, gain, and gain over the reference block's, with their intervals."""
    values, elsewhere = scores
    index = pd.MultiIndex.from_product([[name], SCORES, list(RULES), range(1, values.shape[2] + 1)])
    gain = values - elsewhere
    over = gain - gain[:, :, [REFERENCE - 1]]
    columns = {}
    for title, part in (("", values), ("gain_", gain), ("over_", over)):
        mean, low, high = mean_intervals(part.reshape(len(index), -1).T, groups)
        columns |= {f"{title}mean": mean, f"{title}low": low, f"{title}high": high}
    frame = pd.DataFrame(columns, index=index.set_names(["run", "score", "rule", "block"])).reset_index()
    frame["elsewhere"] = elsewhere.reshape(len(index), -1).mean(1)
    return frame.assign(area=area.mean(), images=len(groups), groups=len(np.unique(groups)))


def markdown(table: pd.DataFrame, rows: str, columns: str, score: str, prefix: str = "") -> str:
    """A Markdown table of one score, with cells 'mean [low, high]'."""
    part = table[table["score"] == score]
    cells = part.assign(
        cell=[
            f"{m:.3f} [{lo:.3f}, {hi:.3f}]" for m, lo, hi in part[[prefix + k for k in ("mean", "low", "high")]].values
        ]
    )
    wide = cells.pivot(index=rows, columns=columns, values="cell").loc[part[rows].unique()]
    head = f"| {rows} | " + " | ".join(f"{columns} {c}" for c in wide.columns) + " |"
    lines = [f"| {i} | " + " | ".join(line) + " |" for i, line in zip(wide.index, wide.to_numpy(), strict=True)]
    return "\n".join([head, "| --- " * (len(wide.columns) + 1) + "|", *lines])


def agreement_of_rules(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Kendall's tau between the orders in which two rules rank the blocks, averaged over the runs."""
    single = table[(table["score"] == score) & (table["run"] != MEAN)]
    wide = single.pivot(index=["run", "block"], columns="rule", values="gain_mean")[list(RULES)]
    taus = [
        [[kendalltau(run[a], run[b]).statistic for b in RULES] for a in RULES] for _, run in wide.groupby(level="run")
    ]
    return pd.DataFrame(np.mean(taus, axis=0), index=list(RULES), columns=list(RULES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs on one data set with masks")
    parser.add_argument("--out", type=Path, default=Path("localisation.csv"))
    parser.add_argument("--draws", type=int, default=5, help="how many times each map is moved to a random place")
    args = parser.parse_args()
    runs = [load_run(path) for path in args.runs]
    data = ImageData.from_config(runs[0].data_config)
    if other := [run.name for run in runs if run.fingerprint != data.fingerprint]:
        parser.error(f"{other[0]} was trained on other data than {runs[0].name}")
    rows = masked_rows(data)
    masks = [data.mask(int(i)) for i in rows]
    area, groups = np.array([m.mean() for m in masks if m is not None]), data.groups[rows]
    scores = np.stack([measure(run, data, rows, args.draws) for run in runs])
    tables = [table_of(run.name, part, area, groups) for run, part in zip(runs, scores, strict=True)]
    # Runs share their images: they are averaged image by image, never pooled as if they were more images.
    table = pd.concat([*tables, table_of(MEAN, scores.mean(0), area, groups)], ignore_index=True)
    write_csv(args.out, table.round(6))
    together = table[table["run"] == MEAN]
    print(f"{len(rows)} test images with a mask in {len(np.unique(groups))} groups; mean mask area {area.mean():.4f}")
    for run in runs:
        test = run.predictions.set_index("file").loc[[data.files[i] for i in rows]]
        print(f"{run.name} classifies {(test['true'] == test['predicted']).sum()} of them correctly")
    print()
    for score in SCORES:
        for prefix, title in (("", "score"), ("gain_", "gain"), ("over_", f"gain over Block {REFERENCE}'s")):
            print(f"{score}, {title}, mean of {len(runs)} runs\n")
            print(markdown(together, "rule", "block", score, prefix), end="\n\n")
    gradcam = table[table["rule"] == "gradcam"]
    print("average_precision, gain, gradcam\n")
    print(markdown(gradcam, "run", "block", "average_precision", "gain_"), end="\n\n")
    print("Kendall's tau between two rules' orders of the blocks, by the gain in average_precision\n")
    print(agreement_of_rules(table, "average_precision").round(2).to_string())


if __name__ == "__main__":
    main()
