"""How well near-duplicates are found by content: python benchmarks/near_duplicates.py IMAGES [GROUPS.csv]

Prints the precision and recall of the pairs against the groups of a CSV `file,group` (pairs within one group are true),
once for the pairs found directly and once for all pairs within the proposed groups, and the time taken. Then copies of
images are planted, mirrored or turned as augmentation on disk does it, and those that are found are counted.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from xaitune.data.dataset import ImageData
from xaitune.data.duplicates import find_near_duplicates


def plant(paths: Sequence[Path], count: int) -> None:
    """Copy images in one of the seven other orientations, every second in other light and cropped; count those found."""
    rng = np.random.default_rng(0)
    chosen = [paths[i] for i in rng.permutation(len(paths))[: 4 * count]]
    count = min(count, len(chosen))
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for i in range(count):
            image = Image.open(chosen[i]).convert("RGB").transpose(list(Image.Transpose)[rng.integers(7)])
            if i % 2:
                width, height = image.size
                left, top, right, bottom = (0.02 * rng.uniform(size=4) * [width, height, width, height]).astype(int)
                image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
                image = image.crop((left, top, width - right, height - bottom))
            copies.append(Path(folder) / f"{i}.jpg")
            image.save(copies[-1], quality=85)
        found = set(map(tuple, find_near_duplicates([*chosen, *copies]).pairs.tolist()))
    hits = np.array([(i, len(chosen) + i) in found for i in range(count)])
    print(
        f"planted among {len(chosen)} images: {hits[::2].sum()} of {len(hits[::2])} mirrored or turned copies found, "
        f"{hits[1::2].sum()} of {len(hits[1::2])} in other light and cropped"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder with class folders")
    parser.add_argument("groups", nargs="?", help="CSV file,group with the true groups")
    parser.add_argument("--show", type=int, default=0, help="print this many of the pairs that the CSV contradicts")
    parser.add_argument(
        "--plant", type=int, default=100, help="number of planted copies, among four times as many images"
    )
    args = parser.parse_args()
    data = ImageData.from_folder(Path(args.images), groups=args.groups)
    start = time.perf_counter()
    near = find_near_duplicates(data.paths())
    seconds = time.perf_counter() - start
    sizes = np.bincount(near.component)
    threshold = np.median(near.thresholds[0])
    print(
        f"{len(data)} images in {seconds:.1f} s; median threshold {threshold:.3f}; {len(near.pairs)} pairs, "
        f"{near.turned.sum()} of them mirrored or turned"
    )
    print(
        f"{(sizes > 1).sum()} groups with more than one image, {sizes[sizes > 1].sum()} images in them, "
        f"{sizes.max()} in the largest"
    )
    plant(data.paths(), args.plant)
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
