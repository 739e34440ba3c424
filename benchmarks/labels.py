"""Which share of planted wrong labels the check of labels finds.

    python benchmarks/labels.py WORK --weights vgg16_imagenet_notop.h5 --data NAME IMAGES GROUPS.csv [--data ...] [--write]

In each data set 5 % of the images, drawn singly whatever their group, are given another class at random, once for each seed. All
images are then ranked by `judge_labels` on held-out probabilities, as `doubtful_labels` does it, by other scores of cleanlab, and
by the probability of the given class alone. `found` is the share of the planted labels among as many of the most doubtful
images; a random order finds 5 %. `half`: the share of all images to look at until half of the planted labels are found. The
ranking was chosen on seeds below 5, so the figures are of seeds 5 to 9. Frozen features are computed once, in WORK. Writes one
row per data set, seed and ranking to results/labels.csv; with --write the table of docs/labels.md is made from them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.rank import get_label_quality_scores

from xaitune.advise.held_out import HeldOut
from xaitune.advise.labels import RANKING, judge_labels
from xaitune.advise.pooled import pooled_features
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.weights import load_backbone
from xaitune.training.features import FeatureCache

SHARE = 0.05  # of the labels, planted wrong
NAMES = {
    RANKING: "confidence-weighted entropy (the one used)",
    "probability": "probability of the given class alone",
    "normalized_margin": "margin",
    "adjusted": "probability, adjusted by the class's mean",
    "random": "random order",
}
RESULTS = Path(__file__).parent / "results" / "labels.csv"
PAGE = Path(__file__).parents[1] / "docs" / "labels.md"


def main() -> None:
    """Plant wrong labels in every data set, rank them, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for frozen features")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--data", nargs=3, action="append", default=[], metavar=("NAME", "IMAGES", "GROUPS"))
    parser.add_argument("--image-size", default="96x96")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7, 8, 9])
    parser.add_argument("--write", action="store_true", help="write the table of docs/labels.md")
    args = parser.parse_args()
    rows = []
    for name, images, groups in args.data:
        data = ImageData.from_folder(images, groups=groups, image_size=args.image_size)
        config = TrainConfig(weights=args.weights)
        backbone = load_backbone(config.weights, config.architecture)
        _, features = pooled_features(data, config, backbone, FeatureCache(args.work / "cache"))
        for seed in args.seeds:
            rows += [{"data": name, "seed": seed, **row} for row in rows_of(data, features, config.metric, seed)]
            print(pd.DataFrame(rows[-len(NAMES) :]).to_string(index=False), flush=True)
    if rows:
        pd.DataFrame(rows).to_csv(RESULTS, index=False, float_format="%.4f")
    if args.write:
        write_table(pd.read_csv(RESULTS))


def rows_of(data: ImageData, features: np.ndarray, metric: str, seed: int) -> Iterator[dict[str, object]]:
    """One row per ranking, for the wrong labels of a seed."""
    rng, classes = np.random.default_rng(seed), len(data.class_names)
    planted = rng.choice(len(data), round(SHARE * len(data)), replace=False)
    labels = data.labels.copy()
    labels[planted] = (labels[planted] + rng.integers(1, classes, len(planted))) % classes
    held_out = HeldOut(features, labels, np.asarray(data.groups), classes, metric)
    probabilities = held_out.probabilities()
    quality, issue = judge_labels(labels, probabilities)
    right = np.isin(np.arange(len(data)), planted)
    about = {"images": len(data), "planted": len(planted), "issues": int(issue.sum())}
    about |= {"issues_planted": int((issue & right).sum())}
    about |= {"accuracy": float((probabilities.argmax(axis=1) == data.labels).mean())}
    scores = {
        RANKING: quality,
        "probability": probabilities[np.arange(len(data)), labels],
        "normalized_margin": get_label_quality_scores(labels, probabilities, method="normalized_margin"),
        "adjusted": get_label_quality_scores(labels, probabilities, adjust_pred_probs=True),
        "random": rng.random(len(data)),
    }
    for ranking, score in scores.items():
        found = np.cumsum(right[np.argsort(score, kind="stable")])
        half = (np.searchsorted(found, len(planted) / 2) + 1) / len(data)
        yield {"ranking": ranking, "found": found[len(planted) - 1] / len(planted), "half": half, **about}


def write_table(table: pd.DataFrame) -> None:
    """Put the table into docs/labels.md, between its marks."""
    lines = ["| data | ranking | found | to find half, look at |", "| --- | --- | --- | --- |"]
    for data, part in table.groupby("data", sort=False):
        for ranking, rows in part.groupby("ranking", sort=False):
            spread = f"{rows['found'].mean():.0%} ({rows['found'].min():.0%} to {rows['found'].max():.0%})"
            lines.append(f"| {data} | {NAMES[str(ranking)]} | {spread} | {rows['half'].mean():.0%} of the images |")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- found -->\n")
    _, _, after = rest.partition("<!-- end -->")
    PAGE.write_text(f"{before}<!-- found -->\n" + "\n".join(lines) + f"\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
