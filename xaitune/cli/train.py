"""The command that trains one model: train."""

import shlex
from typing import Annotated, Any

from xaitune._names import frozen_name, metric_name
from xaitune.cli.console import Ui
from xaitune.cli.data import DataPath, Overwrite, check_call, load_data
from xaitune.cli.options import Job, command, option
from xaitune.config.settings import DataConfig, TrackingConfig, TrainConfig
from xaitune.errors import XaituneError

Name = Annotated[
    str | None,
    option(
        "--name", help="Name of the result's folder in --runs-dir.", default="made from the settings", metavar="NAME"
    ),
]
CacheGb = Annotated[
    float, option("--cache-gb", help="Disk space for frozen features, in GB.", default="20", metavar="X", min=0)
]


@command("train", DataConfig, TrainConfig, TrackingConfig)
def train(
    job: Job, data: DataPath = None, name: Name = None, overwrite: Overwrite = False, cache_gb: CacheGb = 20.0
) -> None:
    """Train one model with Block 1..k frozen."""
    check_call(job, data, name)
    config, images = load_data(job, data)
    from xaitune.models.precision import resolve_precision
    from xaitune.training.train import train_model

    precision, why = resolve_precision(config.train.precision)
    job.ui.say(f"{_training_name(config.train)}, {precision} ({why})")
    with job.ui.progress("training", "epochs") as report:
        run = train_model(
            images,
            config.train,
            name=name,
            runs_dir=job.runs_dir,
            overwrite=overwrite,
            cache_gb=cache_gb,
            progress=report,
            notes=job.ui.say,
            tracking=config.tracking,
        )
    if run.state == "diverged":
        raise XaituneError(f"{run.path}: the loss became NaN. Try a lower --learning-rate than {run.config.rate:g}.")
    wrote = [run.path]
    if run.config.segments:
        _say_segmentation(job.ui, run, images)
        from xaitune.explain.pixels import sample_sheet
        from xaitune.plots import figures
        from xaitune.tracking.follow import send_again

        wrote.append(figures.save(sample_sheet(run, images), run.path / "segmentation.png"))
        send_again(run.path, config.tracking.located(job.runs_dir), job.ui.say)
    else:
        _say_run(job.ui, run)
    job.ui.finish(
        wrote,
        f"xaitune explain --model {shlex.quote(str(run.path))} IMAGES",
        run=run.name,
        metrics={
            split: {k: v for k, v in m.items() if k not in ("confusion", "pixels")} for split, m in run.metrics.items()
        },
        seconds=float(run.history["seconds"].sum()),
    )


def _training_name(config: TrainConfig) -> str:
    """What is trained, and with which optimizer where there is one."""
    from xaitune.training.folder import is_linear

    if is_linear(config):
        blocks = "all blocks" if config.head_blocks == "all" else "the best block"
        return f"A linear head on the frozen features of {blocks}"
    trained = config.trained_blocks
    blocks = f"Only Block {trained} trained" if trained else f"{frozen_name(config.freeze_through)} frozen"
    what = "Segmentation, " if config.segments else ""
    return f"{what}{blocks}, {config.optimizer}"


def _say_run(ui: Ui, run: Any) -> None:
    ui.table(run.to_dataframe()[run.figures], run.name)
    ui.table(run.per_class(), "Test images, per class")
    ui.say(run.sentence())


def _say_segmentation(ui: Ui, run: Any, images: Any) -> None:
    """Print the scores of a segmentation beside those of background everywhere, and each class with its interval."""
    import numpy as np
    import pandas as pd

    from xaitune.stats.per_class import per_pixel_class_intervals
    from xaitune.stats.segmentation import background_metrics
    from xaitune.training.run import pixel_counts_of

    test = run.predictions.query("split == 'test'")
    counts, groups = pixel_counts_of(test, run.class_names), test["group"].to_numpy(str)
    table = run.to_dataframe()
    baseline = background_metrics(counts, run.class_names)
    table.loc["all background"] = {name: baseline[name] for name in table}
    ui.table(table[run.figures].astype(float).rename(columns=metric_name), run.name)
    found = per_pixel_class_intervals(counts, groups)
    rows = {
        "IoU": found.iou,
        "Dice": found.f1,
        "precision": found.precision,
        "recall": found.recall,
    }
    shown = {
        name: [
            "-" if np.isnan(v) else f"{v:.3f} [{low:.3f}, {high:.3f}]"
            for v, low, high in zip(s.value, s.low, s.high, strict=True)
        ]
        for name, s in rows.items()
        if s is not None
    }
    index = pd.Index(run.class_names, name="class")
    ui.table(
        pd.DataFrame(shown | {"images": found.images, "groups": found.groups}, index=index), "Test pixels, per class"
    )
    ui.say(run.sentence())
    for split, metrics in run.metrics.items():
        if metrics["absent"]:
            ui.say(f"No pixel of {', '.join(metrics['absent'])} in the {split} images.")
