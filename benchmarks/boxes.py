"""How well boxes from heatmaps find defects, without a box in training: python benchmarks/boxes.py DATA WORK [--write]

    python benchmarks/boxes.py magnetic-tile WORK --weights vgg16_imagenet_notop.h5 --write

DATA is a folder with images/<class>/, masks/<class>/ and groups.csv (file,group). Trains one model (Block 1-4 frozen, NAG)
unless WORK has it already, explains the true class of every image with a mask by every rule at every block, and scores the
boxes of the test images against the boxes of their masks' regions (precision, recall and F1 at IoU 0.25 and 0.5, 95 %
intervals over groups). The threshold is 0.2 of a map's maximum, and the one of THRESHOLDS whose boxes have the best F1 at
IoU 0.25 on the validation images, chosen for each rule, block and kind of region. Two boxes that look at no image stand
beside them: the whole image, and a centred box with the mean shares of width and height of the training masks' boxes.
The largest region by the rule and block that are best on the validation images is also compared with the whole image class by
class, paired. Writes results/boxes.csv and results/boxes-classes.csv; with --write also the tables of docs/boxes.md.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import write_csv
from xaitune.config.choices import BOX_REGIONS, RULES
from xaitune.config.explain_settings import BoxOptions
from xaitune.data.dataset import ImageData
from xaitune.evaluate.detection import IOUS, score_boxes
from xaitune.evaluate.true_boxes import TrueBoxes, boxes_of_masks
from xaitune.explain.boxes import SIDES, Boxes, boxes_from_maps
from xaitune.explain.classifier import open_classifier
from xaitune.explain.gradcam import RulesMapper, as_heatmaps
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.stats.intervals import ratio_intervals
from xaitune.training.run import Run
from xaitune.training.train import train_model

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "boxes.md"
PAPERS = 0.2  # Zhou et al. 2016
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
CHOSEN_AT = 0.25  # IoU
FEWEST = 5  # groups for which an interval is shown
WHOLE, CENTRED = "the whole image", "a centred box of the mean size"


def masked_rows(data: ImageData, split: str) -> np.ndarray:
    """The images of a split whose mask is not empty."""
    return np.array([i for i in data.indices(split) if (m := data.mask(int(i))) is not None and m.any()])


def explained(run: Run, data: ImageData, rows: np.ndarray) -> dict[str, BlockHeatmaps]:
    """Rule -> the heatmaps of the true classes of these images at all blocks, in float32."""
    classifier, files = open_classifier(run), tuple(map(str, data.paths(rows)))
    images, classes = data.load(rows).astype(np.float32), data.labels[rows].astype(np.int32)
    raw, logits = RulesMapper(run.model, "all", RULES)(images, classes)
    made = {rule: as_heatmaps(classifier, "gradcam", raw[rule], logits, images, files, -1, rule) for rule in RULES}
    return {rule: dataclasses.replace(maps, classes=classes) for rule, maps in made.items()}


def scored(boxes: Boxes, truth: TrueBoxes, groups: np.ndarray, **about: Any) -> pd.DataFrame:
    """The scores of each block and IoU, with what the boxes are `about` as the first columns."""
    table = score_boxes(boxes, true_boxes=truth, groups=groups).table
    for column, value in reversed(about.items()):
        table.insert(0, column, value)
    return table


def of_maps(
    run: Run, data: ImageData, truth: dict[str, TrueBoxes], rows: dict[str, np.ndarray]
) -> Iterable[pd.DataFrame]:
    """The scores of the test images' boxes at the paper's threshold and at the chosen one, for each rule and kind of region."""
    maps = {split: explained(run, data, rows[split]) for split in ("validation", "test")}
    for rule in RULES:
        for regions in BOX_REGIONS:
            tables = {}
            for split in maps:
                parts = []
                for threshold in THRESHOLDS:
                    boxes = boxes_from_maps(maps[split][rule], threshold=threshold, regions=regions)
                    about = {"rule": rule, "regions": regions, "threshold": threshold}
                    parts.append(scored(boxes, truth[split], data.groups[rows[split]], **about))
                tables[split] = pd.concat(parts, ignore_index=True)
            keys = ["block", "threshold"]
            known = tables["validation"].query("iou == @CHOSEN_AT").rename(columns={"f1": "validation_f1"})
            best = known.loc[known.groupby("block")["validation_f1"].idxmax()].set_index("block")["threshold"]
            test = tables["test"].merge(known[[*keys, "validation_f1"]], on=keys)
            yield test[test["threshold"] == PAPERS].assign(chosen="paper")
            yield test[test["threshold"] == test["block"].map(best)].assign(chosen="validation")
            print(f"{rule}, {regions}", file=sys.stderr, flush=True)


def same_box(box: np.ndarray, data: ImageData, rows: np.ndarray) -> Boxes:
    """One box, as shares x, y, width, height, in each of these images."""
    headers = [data.headers[i] for i in rows]
    images = pd.DataFrame({"file": [data.files[i] for i in rows]})
    images = images.assign(width=[h.width for h in headers], height=[h.height for h in headers])
    table = pd.DataFrame(box * images[["width", "height", "width", "height"]].to_numpy(), columns=SIDES)
    table = table.assign(image=np.arange(len(rows)), file=images["file"], block=0, score=1.0)
    table["class"] = [data.class_names[data.labels[i]] for i in rows]
    return Boxes(table, images, (0,), data.class_names, BoxOptions())


def baselines(data: ImageData, truth: dict[str, TrueBoxes], rows: dict[str, np.ndarray]) -> Iterable[pd.DataFrame]:
    """The scores of the two boxes that look at no image."""
    sizes = [
        boxes[:, 2:] / [data.headers[row].width, data.headers[row].height]
        for row, boxes in zip(rows["train"], truth["train"].boxes, strict=True)
        if boxes is not None
    ]
    width, height = np.concatenate(sizes).mean(axis=0)
    centred = np.array([(1 - width) / 2, (1 - height) / 2, width, height])
    for name, box in ((WHOLE, np.array([0.0, 0.0, 1.0, 1.0])), (CENTRED, centred)):
        boxes = same_box(box, data, rows["test"])
        yield scored(boxes, truth["test"], data.groups[rows["test"]], rule=name).assign(block=np.nan)


def chosen_row(table: pd.DataFrame, regions: str, chosen: str) -> pd.Series:
    """The rule and block with the best F1 at IoU CHOSEN_AT on the validation images."""
    part = table[(table["regions"] == regions) & (table["chosen"] == chosen) & (table["iou"] == CHOSEN_AT)]
    return part.loc[part["validation_f1"].idxmax()]


def by_class(run: Run, data: ImageData, truth: TrueBoxes, rows: np.ndarray, table: pd.DataFrame) -> pd.DataFrame:
    """For each class and all: recall at CHOSEN_AT of the chosen largest region and of the whole image, and the difference."""
    best = chosen_row(table, "largest", "validation")
    maps = explained(run, data, rows)[best["rule"]].block(int(best["block"]))
    found, number = {}, np.array([len(boxes) for boxes in truth.boxes if boxes is not None], float)
    for name, boxes in (
        ("map", boxes_from_maps(maps, threshold=best["threshold"])),
        ("whole", same_box(np.array([0.0, 0.0, 1.0, 1.0]), data, rows)),
    ):
        found[name] = score_boxes(boxes, true_boxes=truth).per_image[f"found_at_{CHOSEN_AT:g}"].to_numpy(float)
    shares = [
        b[:, 2:].prod(1) / (data.headers[r].width * data.headers[r].height)
        for r, b in zip(rows, truth.boxes, strict=True)
        if b is not None
    ]
    result = []
    for label, name in [*enumerate(data.class_names), (None, "all")]:
        mine = np.flatnonzero(data.labels[rows] == label) if label is not None else np.arange(len(rows))
        if not len(mine):
            continue
        tops = np.stack([found["map"], found["whole"], found["map"] - found["whole"]], 1)[mine]
        recall, low, high = ratio_intervals(tops, np.repeat(number[mine, None], 3, axis=1), data.groups[rows[mine]])
        result.append(
            {
                "class": name,
                "images": len(mine),
                "groups": len(np.unique(data.groups[rows[mine]])),
                "true_boxes": int(number[mine].sum()),
                "median_share": float(np.median(np.concatenate([shares[i] for i in mine]))),
                "recall": recall[0],
                "whole_image": recall[1],
                **{"gain": recall[2], "gain_low": low[2], "gain_high": high[2]},
            }
        )
    return pd.DataFrame(result)


def classes_table(classes: pd.DataFrame) -> str:
    """The Markdown table of `by_class`."""
    lines = [
        "| class | tiles | true boxes | median share of the image | recall at 0.25 | the whole image | gain |",
        "| --- " * 7 + "|",
    ]
    for row in classes.to_dict("records"):
        gain = f"{row['gain']:+.2f}"
        if row["groups"] >= FEWEST:
            gain += f" [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]"
        recalls = f"{row['recall']:.2f} | {row['whole_image']:.2f}"
        lines.append(
            f"| {row['class']} | {row['groups']} | {row['true_boxes']} | {row['median_share']:.1%} | {recalls} | {gain} |"
        )
    return "\n".join(lines)


def cell(row: Any, score: str) -> str:
    """A score with its interval."""
    return f"{row[score]:.2f} [{row[f'{score}_low']:.2f}, {row[f'{score}_high']:.2f}]"


def by_block(table: pd.DataFrame, score: str, iou: float) -> str:
    """A Markdown table, rules x blocks, of the largest region at the chosen thresholds; the best of each rule is bold."""
    part = table.query("regions == 'largest' and chosen == 'validation' and iou == @iou")
    blocks = sorted(part["block"].unique())
    lines = [f"| {score.capitalize()} at IoU {iou:g} | " + " | ".join(f"Block {b:.0f}" for b in blocks) + " |"]
    lines.append("| --- " * (len(blocks) + 1) + "|")
    for rule in RULES:
        rows = part[part["rule"] == rule].set_index("block")
        bold = {b: "**" if b == rows[score].idxmax() else "" for b in blocks}
        lines.append(
            f"| {rule} | " + " | ".join(f"{bold[b]}{cell(rows.loc[b], score)}{bold[b]}" for b in blocks) + " |"
        )
    return "\n".join(lines)


def beside_baselines(table: pd.DataFrame) -> str:
    """A Markdown table of the rule and block that are best on the validation images, and of the baselines."""
    lines = [
        "| boxes | precision at 0.25 | recall at 0.25 | precision at 0.5 | recall at 0.5 | boxes | true boxes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    named = []
    for (regions, chosen), part in table[table["block"].notna()].groupby(["regions", "chosen"], sort=False):
        best = chosen_row(table, regions, chosen)
        rows = part[(part["rule"] == best["rule"]) & (part["block"] == best["block"])]
        which = "the largest region" if regions == "largest" else "all regions"
        name = f"{which}, {best['rule']} at Block {best['block']:.0f}, threshold {best['threshold']:g} ({chosen})"
        named.append((name, rows))
    named += table[table["block"].isna()].groupby("rule", sort=False)
    for name, rows in named:
        at = rows.set_index("iou")
        cells = [cell(at.loc[iou], score) for iou in IOUS for score in ("precision", "recall")]
        counts = [f"{at[column].iloc[0]:.0f}" for column in ("boxes", "true_boxes")]
        lines.append(f"| {' | '.join([name, *cells, *counts])} |")
    return "\n".join(lines)


def tables_of(table: pd.DataFrame) -> dict[str, str]:
    """Name of a table in docs/boxes.md -> its Markdown."""
    return {"best": beside_baselines(table)} | {f"recall at {iou}": by_block(table, "recall", iou) for iou in IOUS}


def write_page(tables: dict[str, str]) -> None:
    """Replace the tables of docs/boxes.md, each between <!-- name --> and <!-- end -->."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda found, new=table: f"{found[1]}{new}\n{found[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE} has no place for the table {name!r}.")
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Train or find the model, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images, masks and groups.csv")
    parser.add_argument("work", type=Path, help="folder for the run")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "boxes.csv")
    parser.add_argument("--write", action="store_true", help="replace the tables of docs/boxes.md")
    args = parser.parse_args()
    places = {"masks": args.data / "masks", "groups": args.data / "groups.csv"}
    data = ImageData.from_folder(args.data / "images", image_size=(96, 96), **places)
    options = {"weights": args.weights, "freeze_through": 4, "optimizer": "nag", "epochs": args.epochs}
    run = train_model(data, name="boxes-freeze4", runs_dir=args.work, precision="float32", **options)
    rows = {split: masked_rows(data, split) for split in ("train", "validation", "test")}
    truth = {split: boxes_of_masks([data.mask(int(i)) for i in rows[split]]) for split in rows}
    table = pd.concat([*of_maps(run, data, truth, rows), *baselines(data, truth, rows)], ignore_index=True)
    classes = by_class(run, data, truth["test"], rows["test"], table)
    write_csv(args.out, table.round(4))
    write_csv(args.out.with_stem(f"{args.out.stem}-classes"), classes.round(4))
    tested = run.predictions.set_index("file").loc[[data.files[i] for i in rows["test"]]]
    right, groups = (tested["true"] == tested["predicted"]).sum(), len(np.unique(data.groups[rows["test"]]))
    print(f"{len(rows['test'])} test images with a mask in {groups} groups; {right} are classified correctly")
    print(f"macro F1 on the test images: {run.metrics['test']['f1_macro']:.3f}\n")
    tables = tables_of(table) | {"classes": classes_table(classes)}
    print("\n\n".join(tables.values()))
    if args.write:
        write_page(tables)


if __name__ == "__main__":
    main()
