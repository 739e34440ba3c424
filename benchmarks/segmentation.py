"""The segmentation study in reduced form, on magnetic tiles: losses, and freezing depths; the tables of docs/studies.md.

    python benchmarks/segmentation.py WORK --data FOLDER --weights vgg16_imagenet_notop.h5 [--only NAME] [--write]

FOLDER holds magnetic-tile with its images, masks and groups.csv. The images are all tiles with a defect, and SOUND sound ones.
Each study is a comparison in WORK/runs, which goes on where it was stopped; what it found is put into results/segmentation.csv.
With --write the tables of docs/studies.md are made from it.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from studies import PAGE, PICTURES, fill_tables, markdown_table

import xaitune as xt
from xaitune.comparison.factors import value_name
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.explain.pixels import sample_sheet
from xaitune.plots import figures
from xaitune.stats.per_class import per_pixel_class_intervals
from xaitune.training.run import load_run, pixel_counts_of

RESULTS = Path(__file__).parent / "results" / "segmentation.csv"
SOUND, SIDE = 108, 64
TRAIN = {"task": "segment", "head_epochs": 10, "epochs": 5, "patience": 5, "batch_size": 16}
CROSS_ENTROPY = "categorical_crossentropy"
STUDIES: dict[str, dict[str, Any]] = {
    "losses": {
        "factor": {"loss": [CROSS_ENTROPY, "focal", "dice"], "class_weight": [None, "balanced"]},
        "train": {"freeze_through": 4},
        "seeds": 2,
    },
    "depths": {
        "factor": {"freeze_through": [0, 1, 2, 3, 4, 5]},
        "train": {"loss": "dice"},
        "seeds": 1,
    },
    "classes": {
        "factor": {"loss": [CROSS_ENTROPY, "dice"]},
        "train": {"freeze_through": 4},
        "seeds": 1,
        "pixel_classes": None,
    },
}


def images_of(work: Path, folder: Path, pixel_classes: str | None) -> xt.ImageData:
    """All tiles with a defect and SOUND sound ones, whose groups differ as far as possible, as a CSV in `work`."""
    options: dict[str, Any] = {"masks": folder / "masks", "image_size": (SIDE, SIDE), "pixel_classes": pixel_classes}
    file = work / "tiles.csv"
    if not file.is_file():
        every = xt.ImageData.from_folder(folder / "images", groups=folder / "groups.csv", **options)
        marked = labels_of_pixels(every).counts[:, 1:].sum(1) > 0
        sound = pd.DataFrame({"row": np.flatnonzero(~marked), "group": every.groups[~marked]}).sample(
            frac=1, random_state=0
        )
        sound["again"] = sound.groupby("group").cumcount()
        rows = np.sort([*np.flatnonzero(marked), *sound.sort_values("again", kind="stable")["row"][:SOUND]])
        names = np.array(every.class_names)[every.labels[rows]]
        paths = [str(path) for path in every.paths(rows)]
        work.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"file": paths, "label": names, "group": every.groups[rows]}).to_csv(file, index=False)
    return xt.ImageData.from_csv(file, **options)


def run_study(name: str, args: argparse.Namespace) -> None:
    """Make one comparison, and put what it found into the results."""
    study = STUDIES[name]
    data = images_of(args.work, args.data / "magnetic-tile", study.get("pixel_classes", "defect"))
    print(labels_of_pixels(data).shares())
    table = xt.compare(
        data,
        xt.TrainConfig(**TRAIN, **study["train"], weights=args.weights),
        factor=study["factor"],
        seeds=args.seeds or study["seeds"],
        learning_rates="own",
        name=name,
        runs_dir=args.work / "runs",
        progress=lambda done, total, what: print(f"{100 * done / total:.0f} %: {what}", flush=True),
        notes=print,
    )
    scores = table.scores()
    cells = table.cells.merge(scores, left_on="name", right_index=True)
    cells["values"] = [
        ", ".join(value_name(f, value) for f, value in zip(table.factors, row, strict=True))
        for row in cells[list(table.factors)].itertuples(index=False)
    ]
    background = scores.loc[["all background"]].assign(values="all background")
    kept = ["values", "test", "low", "high", "difference", "diff_low", "diff_high", "validation", "seconds", "seeds"]
    rows = pd.concat([background, cells[[*kept, *scores.columns]]])
    rows = rows.assign(study=name, images=table.images, groups=table.groups)
    for row, cell in zip(rows.index[1:], table.cells.to_dict("records"), strict=True):
        first = load_run(table.path / cell["part"] / cell["runs"][0])
        test = first.predictions.query("split == 'test'")
        found = per_pixel_class_intervals(pixel_counts_of(test, first.class_names), test["group"].to_numpy(str)).iou
        assert found is not None
        for number, label in enumerate(first.class_names):
            rows.loc[row, f"IoU {label} low"], rows.loc[row, f"IoU {label} high"] = (
                found.low[number],
                found.high[number],
            )
    old = pd.read_csv(RESULTS) if RESULTS.is_file() else pd.DataFrame(columns=["study"])
    pd.concat([old[old["study"] != name], rows]).round(5).to_csv(RESULTS, index=False)
    best = load_run(table.path / table.best["part"] / table.best["runs"][0])
    figures.save(sample_sheet(best, data), PICTURES / f"segmentation-{name}.png", dpi=90)
    print(table.sentence())


def study_table(name: str) -> str:
    """The table of one study in docs/studies.md."""
    every = pd.read_csv(RESULTS)
    rows = every[every["study"] == name].dropna(axis=1, how="all")
    classes = [c for c in rows if c.startswith("IoU ") and not c.endswith((" low", " high"))]
    found = [c for c in rows if c.startswith("f1_at_iou_")]
    header = [
        "values",
        *classes,
        *(f"F1@{c.rpartition('_')[2]}" for c in found),
        "mean IoU",
        "minus the best",
        "s a run",
    ]
    lines = []
    for row in rows.to_dict("records"):
        figures = [_with_interval(row, c) for c in classes] + [f"{row[c]:.3f}" for c in found]
        gap = (
            ""
            if pd.isna(row["difference"])
            else f"{row['difference']:+.3f} [{row['diff_low']:+.3f}, {row['diff_high']:+.3f}]"
        )
        mean = (
            f"{row['iou_mean']:.3f}"
            if pd.isna(row["test"])
            else f"{row['test']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        )
        lines.append(
            [f"`{row['values']}`", *figures, mean, gap, "" if pd.isna(row["seconds"]) else f"{row['seconds']:.0f}"]
        )
    return markdown_table(header, lines)


def _with_interval(row: dict[str, Any], column: str) -> str:
    low = row.get(f"{column} low", np.nan)
    return f"{row[column]:.3f}" + ("" if pd.isna(low) else f" [{low:.3f}, {row[f'{column} high']:.3f}]")


def main() -> None:
    """Make the comparisons, and with --write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder for runs and features")
    parser.add_argument("--data", type=Path, help="folder with magnetic-tile")
    parser.add_argument("--weights", help="ImageNet's VGG16 without its head (.h5)")
    parser.add_argument("--only", choices=list(STUDIES), help="this study alone")
    parser.add_argument("--seeds", type=int, help="seeds of each cell, in place of the study's own")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/studies.md")
    args = parser.parse_args()
    for name in STUDIES if args.work else ():
        if args.only in (None, name):
            run_study(name, args)
    if args.write:
        done = set(pd.read_csv(RESULTS)["study"])
        fill_tables(PAGE, {f"segment-{name}": study_table(name) for name in STUDIES if name in done})


if __name__ == "__main__":
    main()
