"""What the checks of maps find, and whether it is right: python benchmarks/map_checks.py RUN [--images 60] [--out CSV]

Checks Grad-CAM of the test images with a mask, from the data that the run was trained on (`xt.check_maps`), and the same maps
moved to random places, which know nothing of the image. For each block: the share of the maps that fail each check; of those
that are no better than elsewhere, the share where the prediction is right, and the share of the moved maps; and how many of
the maps have their maximum inside the mask (pointing game), of those that fail and of those that pass. Writes the CSV and
prints a Markdown table.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import pandas as pd

import xaitune as xt
from xaitune._files import write_csv
from xaitune.evaluate.maps import random_like
from xaitune.explain.map_checks import ELSEWHERE, EMPTY, IGNORES, UNSTABLE


def measure(run: xt.Run, images: int) -> pd.DataFrame:
    """One row per block."""
    data = xt.ImageData.from_config(run.data_config)
    rows = [i for i in data.indices("test") if (mask := data.mask(int(i))) is not None and mask.any()]
    rows = np.random.default_rng(0).permutation(rows)[:images]
    maps = xt.gradcam_blocks(run, data.paths(rows), precision="float32")
    start = time.monotonic()
    found = xt.check_maps(maps, run)
    print(f"{len(maps)} images, {found.calls:,} forward passes, {time.monotonic() - start:.0f} s. {found.summary()}")
    rng = np.random.default_rng(0)
    moved = dataclasses.replace(maps, raw={block: random_like(raw, rng) for block, raw in maps.raw.items()})
    chance = xt.check_maps(moved, run, images=1).found[ELSEWHERE].mean(axis=0)
    scores = xt.score_maps(maps, masks=[data.mask(int(i)) for i in rows])
    hits = scores["pointing_game"].to_numpy().reshape(len(maps), -1)  # (images, blocks)
    right = maps.classes == data.labels[rows]
    fails = found.found[ELSEWHERE]
    columns: dict[str, object] = {"block": maps.blocks}
    columns |= {doubt: found.found[doubt].mean(axis=0) for doubt in (EMPTY, IGNORES, ELSEWHERE, UNSTABLE)}
    columns |= {"elsewhere, right": fails[right].mean(axis=0), "elsewhere, wrong": fails[~right].mean(axis=0)}
    columns |= {"elsewhere, moved": chance, "random weights": found.randomised}
    columns |= {"stability, lowest 5 %": np.nanquantile(found.stability, 0.05, axis=0)}
    for name, chosen in (("hits, fails", fails), ("hits, passes", ~fails)):
        count = chosen.sum(axis=0)
        columns[name] = np.divide((hits * chosen).sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0)
    return pd.DataFrame(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    table = measure(xt.load_run(arguments.run), arguments.images)
    if arguments.out:
        write_csv(arguments.out, table)
    print("| " + " | ".join(table) + " |\n|" + " --- |" * table.shape[1])
    for row in table.itertuples(index=False):
        print("| " + " | ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row) + " |")


if __name__ == "__main__":
    main()
