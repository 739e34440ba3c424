"""How well near-duplicates are found by content: python benchmarks/near_duplicates.py IMAGES [GROUPS.csv]

Prints precision and recall of the pairs against the groups of a CSV `file,group` (pairs within one group are true),
for the pairs found directly and for those within the proposed groups, and the time.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from xaitune.data.dataset import ImageData
from xaitune.data.duplicates import find_near_duplicates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="a folder of class folders")
    parser.add_argument("groups", nargs="?", help="CSV file,group: the truth")
    parser.add_argument("--show", type=int, default=0, help="print so many of the pairs that the CSV denies")
    args = parser.parse_args()
    data = ImageData.from_folder(Path(args.images), groups=args.groups)
    start = time.perf_counter()
    found = find_near_duplicates(data.paths())
    seconds = time.perf_counter() - start
    sizes = np.bincount(found.component)
    threshold = np.median(found.thresholds)
    print(f"{len(data)} images in {seconds:.1f} s; median threshold {threshold:.3f}; {len(found.pairs)} pairs")
    print(f"{(sizes > 1).sum()} groups of several images, {sizes[sizes > 1].sum()} images, the largest {sizes.max()}")
    if args.groups is None:
        return
    truth = data.groups[:, None] == data.groups[None]
    direct = np.zeros_like(truth)
    direct[found.pairs[:, 0], found.pairs[:, 1]] = True
    joined = found.component[:, None] == found.component[None]
    upper = np.triu(np.ones_like(truth), 1)
    for name, chosen in (("pairs found", direct), ("pairs within proposed groups", joined)):
        right, all_, true = (chosen & truth & upper).sum(), (chosen & upper).sum(), (truth & upper).sum()
        print(
            f"{name}: precision {right / max(1, all_):.3f} ({right}/{all_}), recall {right / true:.3f} ({right}/{true})"
        )
    for i, j in found.pairs[~truth[tuple(found.pairs.T)]][: args.show]:
        print(f"  denied: {data.files[i]} ({data.groups[i]})  {data.files[j]} ({data.groups[j]})")


if __name__ == "__main__":
    main()
