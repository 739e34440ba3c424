"""Commands on images, and on one training: init, data-check, train."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune.cli.console import Ui
from xaitune.cli.options import Job, command
from xaitune.config.schema import CONFIG_FILE, NAMED_WEIGHTS, DataConfig, SweepConfig, TrainConfig, config_text
from xaitune.errors import ConfigError, DataError, XaituneError

DataPath = Annotated[
    Path | None, typer.Argument(metavar="DATA", help="Class folders or a CSV file,label[,split][,group].")
]
Name = Annotated[
    str | None, typer.Option("--name", help="The folder's name below --runs-dir, instead of a made-up one.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")]
CacheGb = Annotated[
    float, typer.Option("--cache-gb", min=0, help="Disk for frozen features, in GB [20].", show_default=False)
]


def load_data(job: Job, path: Path | None = None) -> tuple[Any, Any]:
    """(configuration, ImageData), saying what was read and skipped."""
    from xaitune.data.dataset import ImageData

    config = job.config(path)
    config = dataclasses.replace(config, train=_absolute_weights(config.train))
    data = ImageData.from_config(config.data)
    data.require_classes(config.train.classes_to_augment, "augment_classes")
    groups = len(set(data.groups))
    job.ui.say(
        f"Data: {len(data)} images, {len(data.class_names)} classes, {groups} groups, "
        f"{data.image_size[0]}x{data.image_size[1]} ({config.data.path})"
    )
    for file, reason in data.skipped[:5]:
        job.ui.warn(f"Skipped {file}: {reason}")
    if len(data.skipped) > 5:
        job.ui.warn(f"and {len(data.skipped) - 5} more unreadable files: see 'xaitune data-check'.")
    return config, data


def _absolute_weights(train: TrainConfig) -> TrainConfig:
    """A path that holds in every folder, since config.json keeps it."""
    if train.weights in NAMED_WEIGHTS:
        return train
    return dataclasses.replace(train, weights=str(Path(train.weights).expanduser().absolute()))


@command("init", DataConfig, TrainConfig, SweepConfig)
def init(
    job: Job,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Class folders or a CSV file,label[,split][,group].")],
    overwrite: Overwrite = False,
) -> None:
    """Look at DATA, write xaitune.toml, and price a sweep.

    The price is said for several image sizes.
    """
    from xaitune.comparison import plan as cost
    from xaitune.training import folder as runs

    file = Path(CONFIG_FILE)
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} exists already. Edit it, or replace it with --overwrite.")
    job.fresh = job.config_file is None
    _, images = load_data(job, data)
    config = job.config(data)  # with its paths as they were given
    images.require_trainable()
    job.ui.table(images.counts()[["train", "validation", "test", "groups"]], "Images a class")
    if config.data.groups is None:
        job.ui.warn(
            "No groups: if one thing was photographed several times, run 'xaitune data-check' and give --groups."
        )
    table = cost.sweep_costs(config, images)
    job.ui.table(
        table,
        f"A sweep of {len(config.sweep.freeze_through) * len(config.sweep.optimizers)} cells x "
        + (f"{len(rates)} learning rates x " if len(rates := config.sweep.learning_rates or ()) > 1 else "")
        + f"{config.sweep.seeds} seed{'s' if config.sweep.seeds > 1 else ''}",
        digits=1,
    )
    with runs.writing(file) as part:
        part.write_text(config_text(config), encoding="utf-8")
    job.ui.finish(
        [file],
        "xaitune data-check",
        images=len(images),
        classes=list(images.class_names),
        cost=table.to_dict("records"),
    )


@command("data-check", DataConfig)
def data_check(job: Job, data: DataPath = None) -> None:
    """Count and check the images: damage, duplicates, leakage.

    Counts, class frequencies, sizes, unreadable files, duplicates and near-duplicates, leakage between splits.
    """
    from xaitune.plots import charts as plots
    from xaitune.plots import figures
    from xaitune.training import folder as runs

    _, images = load_data(job, data)
    with job.ui.progress("comparing images") as report:
        check = images.check(report)
    job.ui.table(check.counts[["images", "groups", "train", "validation", "test"]], "Images a class")
    job.ui.table(check.frequencies, "Class frequencies")
    job.ui.table(check.sizes, "Sizes and modes")
    for row in check.problems.itertuples():
        (job.ui.say if row.level == "note" else job.ui.warn)(f"{row.level}: {row.message}")
    folder = job.runs_dir / "data-check"
    runs.write_csv(folder / "counts.csv", check.counts.reset_index())
    runs.write_csv(folder / "problems.csv", check.to_dataframe())
    wrote = [
        folder / "counts.csv",
        folder / "problems.csv",
        figures.save(plots.class_frequencies(check.counts), folder / "counts.png"),
    ]
    if check.proposed_groups is not None:
        runs.write_csv(folder / "groups.csv", check.proposed_groups)
        wrote.append(folder / "groups.csv")
        job.ui.say(
            f"Proposed groups: {check.proposed_groups['group'].nunique()}. Use them with --groups {folder / 'groups.csv'}"
        )
    errors = [row.message for row in check.problems.itertuples() if row.level == "error"]
    job.ui.finish(wrote, "" if errors else "xaitune train", ok=check.ok, image_worth=check.image_worth, errors=errors)
    if errors:
        raise DataError(f"Training would be meaningless: {' '.join(errors[:2])}")


@command("train", DataConfig, TrainConfig)
def train(
    job: Job, data: DataPath = None, name: Name = None, overwrite: Overwrite = False, cache_gb: CacheGb = 20.0
) -> None:
    """Train one model with Block 1..k frozen."""
    config, images = load_data(job, data)
    from xaitune.models.backend import resolve_precision
    from xaitune.plots.figures import frozen_name
    from xaitune.training.train import train_model

    precision, why = resolve_precision(config.train.precision)
    job.ui.say(f"{frozen_name(config.train.freeze_through)} frozen, {config.train.optimizer}, {precision} ({why})")
    with job.ui.progress("training") as report:
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
        raise XaituneError(
            f"{run.path}: the loss is no longer a number. Try a lower --learning-rate than {run.config.rate:g}."
        )
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
    ui.table(run.per_class().astype({"support": int}), "Test images, a class")
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
        ui.say(f"Too few to rely on the interval of {run.config.metric}: {interval.few}.")
