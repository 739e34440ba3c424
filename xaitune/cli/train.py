"""The command that trains one model: train."""

from typing import Annotated, Any

from xaitune._names import frozen_name
from xaitune.cli.console import Ui
from xaitune.cli.data import DataPath, Overwrite, load_data
from xaitune.cli.options import Job, command, option
from xaitune.config.settings import DataConfig, TrainConfig
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


@command("train", DataConfig, TrainConfig)
def train(
    job: Job, data: DataPath = None, name: Name = None, overwrite: Overwrite = False, cache_gb: CacheGb = 20.0
) -> None:
    """Train one model with Block 1..k frozen."""
    config, images = load_data(job, data)
    from xaitune.models.precision import resolve_precision
    from xaitune.training.train import train_model

    precision, why = resolve_precision(config.train.precision)
    trained = config.train.trained_blocks
    blocks = f"Only Block {trained} trained" if trained else f"{frozen_name(config.train.freeze_through)} frozen"
    job.ui.say(f"{blocks}, {config.train.optimizer}, {precision} ({why})")
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
        )
    if run.state == "diverged":
        raise XaituneError(f"{run.path}: the loss became NaN. Try a lower --learning-rate than {run.config.rate:g}.")
    _say_run(job.ui, run)
    job.ui.finish(
        [run.path],
        f"xaitune explain --model {run.path} IMAGES",
        run=run.name,
        metrics={split: {k: v for k, v in m.items() if k != "confusion"} for split, m in run.metrics.items()},
        seconds=float(run.history["seconds"].sum()),
    )


def _say_run(ui: Ui, run: Any) -> None:
    from xaitune.stats.intervals import bootstrap_interval, wilson_interval

    columns = ["accuracy", "f1_macro", "f1_weighted", "precision_macro", "recall_macro", "loss"]
    ui.table(run.to_dataframe()[columns], run.name)
    ui.table(run.per_class().astype({"support": int}), "Test images, per class")
    test = run.predictions.query("split == 'test'")
    number = {name: i for i, name in enumerate(run.class_names)}
    true, predicted = test["true"].map(number).to_numpy(), test["predicted"].map(number).to_numpy()
    interval = bootstrap_interval(true, predicted, test["group"].to_numpy(str), run.config.metric)
    low, high = wilson_interval(int((true == predicted).sum()), len(true))
    ui.say(
        f"Test {run.config.metric} {interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}] over {interval.groups} groups, "
        f"accuracy {(true == predicted).mean():.3f} [{low:.3f}, {high:.3f}] over {len(true)} images"
    )
    if interval.few:
        ui.say(f"There is too little data to rely on the interval of {run.config.metric}: only {interval.few}.")
