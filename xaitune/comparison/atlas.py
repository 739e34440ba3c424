"""A finished sweep as rows of the freeze atlas: one per run, with all that says what was trained and how it scored."""

from pathlib import Path
from typing import Any

import pandas as pd

from xaitune.comparison.folds import test_rows
from xaitune.config.choices import NAMED_WEIGHTS
from xaitune.stats.intervals import outcome_interval
from xaitune.training.run import load_run, outcomes_of

SPLITS = ("train", "validation", "test")
# What the columns of the atlas hold, in their order.
COLUMNS = {
    "task": "the task in one word, the same for all rows of a sweep",
    "data": "the set of images",
    "weights": "the pretrained weights: imagenet, slim, random, or the name of a file or run",
    "image_size": "height x width of the model's input in pixels",
    "classes": "number of classes",
    **{f"{split}_images": f"number of {split} images" for split in SPLITS},
    "groups": "groups of test images: things photographed, over which intervals are drawn",
    "metric": "the score of validation, test, low and high",
    "head": "the head on the blocks: gap, fc, blocks, or the decoder of a segmentation",
    "depth": "freeze_through: the last frozen block, 0 for none; or frozen-all-blocks, frozen-best-block: a linear head on "
    "frozen features, which trains no block",
    "optimizer": "the optimizer, empty for a linear head",
    "learning_rate": "the learning rate that was best on validation, 0 for a linear head",
    "seed": "the seed of initialisation and order",
    "epochs": "epochs of fine-tuning that were trained",
    "validation": "score on validation images, by which everything is chosen",
    "test": "score on test images",
    "low": "lower end of the test score's 95 % interval over groups, for this run alone",
    "high": "upper end",
    "seconds": "seconds of training",
    "precision": "precision of the computation",
    "processor": "the processor or graphics card",
}


def atlas_rows(sweep: Any, data: str, task: str | None = None) -> pd.DataFrame:
    """One row per finished run and linear head of a sweep, with the COLUMNS; of each cell those at its best learning rate.

    `sweep` is a SweepTable. `data` names the set of images; `task` is made from it, the weights, the number of training images
    and the image size unless given. In a sweep over folds a row stands for one run in each fold, and its counts of training and
    validation images are the first fold's. Raises RunError for a damaged run.
    """
    names = [
        n for cell in sweep.cells.itertuples() for n in sweep.cell_runs(cell.freeze_through, cell.optimizer)["name"]
    ]
    runs = sweep.runs.set_index("name").loc[names].reset_index().to_dict("records")
    rows = [_row(sweep, run, linear=False) for run in runs]
    rows += [_row(sweep, head, linear=True) for head in sweep.heads.to_dict("records")]
    table = pd.DataFrame(rows).assign(data=data)
    first = table.iloc[0]
    words = (data, first["weights"], str(first["train_images"]), first["image_size"])
    table["task"] = task or "-".join(words).replace(" ", "-")
    return table[list(COLUMNS)]


def _row(sweep: Any, row: dict[str, Any], *, linear: bool) -> dict[str, Any]:
    """What is kept of one run."""
    name = row["name"]
    run = load_run(sweep.path / sweep.parts.get(name, (name,))[0])
    tests = test_rows(sweep.predictions(name))
    answers = outcomes_of([tests], sweep.class_names, sweep.metric)
    interval = outcome_interval(answers, tests["group"].to_numpy(str), sweep.metric)
    counts = {f"{split}_images": int((run.predictions["split"] == split).sum()) for split in SPLITS}
    weights, gpus = run.config.weights, run.metadata.get("gpus")
    return {
        "weights": weights if weights in NAMED_WEIGHTS else Path(weights).stem,
        "image_size": "x".join(map(str, run.data_config.image_size)),
        "classes": len(sweep.class_names),
        **counts,
        "test_images": interval.images,
        "groups": interval.groups,
        "metric": sweep.metric,
        "head": "decoder" if run.config.segments else run.config.head,
        "depth": name.rpartition("/")[2] if linear else str(row["freeze_through"]),
        "optimizer": "" if linear else row["optimizer"],
        "learning_rate": 0.0 if linear else row["learning_rate"],
        "seed": 0 if linear else row["seed"],
        "epochs": int((run.history["stage"] == "fine-tune").sum()),
        "validation": row["validation"],
        "test": row["test"],
        "low": interval.low,
        "high": interval.high,
        "seconds": row["seconds"],
        "precision": run.metadata["precision"],
        "processor": ", ".join(gpus) if isinstance(gpus, list) and gpus else run.metadata.get("processor", ""),
    }
