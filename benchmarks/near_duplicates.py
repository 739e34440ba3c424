"""How well near-duplicates are found by content: python benchmarks/near_duplicates.py IMAGES [GROUPS.csv]

Prints the precision and recall of the pairs against the groups of a CSV `file,group` (pairs within one group are true),
once for the pairs found directly and once for all pairs within the proposed groups, and the time taken.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from xaitune.data.dataset import ImageData
from xaitune.data.duplicates import find_near_duplicates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder with class folders")
    parser.add_argument("groups", nargs="?", help="CSV file,group with the true groups")
    parser.add_argument("--show", type=int, default=0, help="print this many of the pairs that the CSV contradicts")
    args = parser.parse_args()
    data = ImageData.from_folder(Path(args.images), groups=args.groups)
    start = time.perf_counter()
    near = find_near_duplicates(data.paths())
    seconds = time.perf_counter() - start
    sizes = np.bincount(near.component)
    threshold = np.median(near.thresholds)
    print(f"{len(data)} images in {seconds:.1f} s; median threshold {threshold:.3f}; {len(near.pairs)} pairs")
    print(
        f"{(sizes > 1).sum()} groups with more than one image, {sizes[sizes > 1].sum()} images in them, "
        f"{sizes.max()} in the largest"
    )
    if args.groups is None:
        return
    truth = data.groups[:, None] == data.groups[None]
    direct = np.zeros_like(truth)
    direct[near.pairs[:, 0], near.pairs[:, 1]] = True
    connected = near.component[:, None] == near.component[None]
    upper = np.triu(np.ones_like(truth), 1)
    for name, proposed in (("pairs found", direct), ("pairs within proposed groups", connected)):
        correct, count, true = (proposed & truth & upper).sum(), (proposed & upper).sum(), (truth & upper).sum()
        print(
            f"{name}: precision {correct / max(1, count):.3f} ({correct}/{count}), "
            f"recall {correct / true:.3f} ({correct}/{true})"
        )
    for i, j in near.pairs[~truth[tuple(near.pairs.T)]][: args.show]:
        print(f"  contradicted: {data.files[i]} ({data.groups[i]})  {data.files[j]} ({data.groups[j]})")


if __name__ == "__main__":
    main()
