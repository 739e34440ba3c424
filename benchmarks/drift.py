"""Whether the advice for training again sees a drift where there is one, and only there.

    python benchmarks/drift.py WORK IMAGES GROUPS.csv --weights vgg16_imagenet_notop.h5 [--image-size 48x48] [--draws 10]

Half of the groups, drawn at random, belong to a model (Block 1-4 frozen, NAG); the other half are new images: as they are
(any drift found is false), brighter, darker, blurred, and with a class that the model does not know. Writes one row per draw
and change to results/drift.csv: the smallest p-value, the block with the clearest drift, the change of the score, and the
advice; and the same images compared without their labels. With --halves, instead, the new images of each draw, as they are, are
divided at random into two halves of their groups so many times, which are compared without labels: how often the answer is not
"no" there, by mistake.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from xaitune.advise.drift import SIGNIFICANT, measure_drift, seen_by
from xaitune.advise.exchange import two_samples
from xaitune.advise.unlabelled import for_two_tests, measure_unlabelled, one_of_each_group, same_shares
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.data.images import read_image
from xaitune.training.run import Run
from xaitune.training.train import train_model

Change = Callable[[np.ndarray], np.ndarray]
CHANGES: dict[str, Change | None] = {
    "none": None,
    "5 % brighter": lambda image: image * 1.05,
    "20 % brighter": lambda image: image * 1.2,
    "20 % darker": lambda image: image * 0.8,
    "blurred, sigma 1 % of the width": lambda image: cv2.GaussianBlur(image, (0, 0), image.shape[1] / 100),
    "blurred, sigma 3 % of the width": lambda image: cv2.GaussianBlur(image, (0, 0), image.shape[1] / 33),
}


def main() -> None:
    """Train a model for every draw, compare every change with its own images, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for images, lists and runs")
    parser.add_argument("images")
    parser.add_argument("groups")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--image-size", default="48x48")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument(
        "--head", default="gap", help="gap, or blocks: a linear head on all blocks, which are then frozen"
    )
    parser.add_argument("--halves", type=int, default=0)
    parser.add_argument("--new-class", help="the class that the model does not know (default: the rarest)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "drift.csv")
    args = parser.parse_args()
    args.work = args.work.absolute()
    every = ImageData.from_folder(args.images, groups=args.groups, image_size=args.image_size)
    table = every.to_dataframe().assign(file=[str(path) for path in every.paths()])
    unknown = args.new_class or table["class"].value_counts().index[-1]
    rows: list[dict[str, object]] = []
    for draw in range(args.draws):
        is_old = old_groups(table, draw)
        known = table[is_old & (table["class"] != unknown)]
        old = listed(known, args.work / f"{draw}-old.csv", args.image_size)
        frozen = 5 if args.head == "blocks" else 4
        config = TrainConfig(weights=args.weights, head=args.head, freeze_through=frozen, epochs=args.epochs, seed=draw)
        run = train_model(old, config, runs_dir=args.work / "runs", name=f"old{draw}")
        new = table[~is_old]
        if args.halves:
            same = changed(new[new["class"] != unknown], None, args, f"{draw}-none")
            rows += [{"draw": draw, **row} for row in without_drift(run, same, args.halves)]
            continue
        for name, change in CHANGES.items():
            part = new[new["class"] != unknown]
            rows.append(
                {"draw": draw, "change": name, **row_of(run, old, changed(part, change, args, f"{draw}-{name}"))}
            )
        rows.append(
            {"draw": draw, "change": "a new class", **row_of(run, old, changed(new, None, args, f"{draw}-class"))}
        )
        print(
            pd.DataFrame(rows).tail(len(CHANGES) + 1).to_string(index=False, float_format="{:.3f}".format), flush=True
        )
    result = pd.DataFrame(rows)
    result.to_csv(args.out, index=False, float_format="%.4f")
    if args.halves:
        print(result.groupby("draw")["answer"].value_counts().unstack(fill_value=0).to_string())
        return
    found = {"drifted": result["p"] <= 0.05, "unlabelled": result["p_unlabelled"] <= 0.05}
    summary = result.assign(**found, classes=result["p_predicted"] <= 0.05).groupby("change", sort=False)
    print(summary[["drifted", "unlabelled", "classes", "lower", "gap"]].mean().round(3).to_string())


def old_groups(table: pd.DataFrame, draw: int) -> np.ndarray:
    """Which images belong to the half of the groups that the model knows, half of every class."""
    rng = np.random.default_rng(draw)
    first = table.groupby("group")["class"].first()
    chosen: set[str] = set()
    for _, groups in first.groupby(first):
        names = rng.permutation(groups.index.to_numpy())
        chosen |= set(names[: (len(names) + 1) // 2])
    return table["group"].isin(chosen).to_numpy()


def listed(table: pd.DataFrame, file: Path, image_size: str) -> ImageData:
    """The images of a table, as a data set listed in a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table.rename(columns={"class": "label"})[["file", "label", "group"]].to_csv(file, index=False)
    return ImageData.from_csv(file, image_size=image_size)


def changed(table: pd.DataFrame, change: Change | None, args: argparse.Namespace, name: str) -> ImageData:
    """The images of a table, changed, in a folder of their own."""
    if change is None:
        return listed(table, args.work / f"{name}.csv", args.image_size)
    folder = args.work / "changed" / name.replace(" ", "-").replace("%", "").replace(",", "")
    files = []
    for number, file in enumerate(table["file"]):
        target = folder / f"{number}.png"
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            image = change(read_image(Path(file)).astype(np.float32))
            cv2.imwrite(str(target), np.clip(image, 0, 255).astype(np.uint8)[..., ::-1])
        files.append(str(target))
    return listed(table.assign(file=files), folder / "list.csv", args.image_size)


def row_of(run: Run, old: ImageData, data: ImageData) -> dict[str, object]:
    """What the comparison says."""
    drift, without = measure_drift(run, old, data), measure_unlabelled(run, old, data)
    gap, low, high = drift.score_gap
    worst = drift.blocks["distance"].sub(drift.blocks["usual"]).idxmax()
    return {
        "p": drift.p,
        "block": int(worst),
        "old": drift.scores.loc["old", "score"],
        "new": drift.scores.loc["new", "score"],
        "gap": gap,
        "gap_low": low,
        "gap_high": high,
        "lower": high < 0,
        "retrain": drift.retrain,
        "new_classes": " ".join(drift.new_classes),
        "p_unlabelled": without.p,
        "p_predicted": without.p_predicted,
        "without_labels": without.retrain,
    }


def without_drift(run: Run, data: ImageData, halves: int) -> list[dict[str, object]]:
    """What is said of two halves of the groups, an image of each, so many times: the p-values and the answer."""
    rows = one_of_each_group(data, np.arange(len(data)))
    features, logits = seen_by(run, {"old": (data, rows), "new": (data, rows)}, None)
    classes, found = logits["old"].argmax(axis=1), []
    for half in range(halves):
        order = np.random.default_rng(half).permutation(len(rows))
        parts = {"old": order[: len(rows) // 2], "new": order[len(rows) // 2 :]}
        predicted = {which: classes[part].astype(str) for which, part in parts.items()}
        blocks = two_samples([(f[parts["old"]], f[parts["new"]]) for f, _ in features], predicted, parts)
        p, p_predicted = for_two_tests(np.array([blocks["p"].min(), same_shares(predicted, parts)]))
        answer = "drifted" if p <= SIGNIFICANT else "classes" if p_predicted <= SIGNIFICANT else "no"
        found.append({"half": half, "p": p, "p_predicted": p_predicted, "answer": answer})
    return found


if __name__ == "__main__":
    main()
