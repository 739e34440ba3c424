"""Commands on images: init, data-check."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune._files import write_csv, writing
from xaitune._names import disk_size, duration
from xaitune.cli.console import Ui
from xaitune.cli.options import Job, command, option
from xaitune.config.choices import NAMED_WEIGHTS
from xaitune.config.fields import settings_of
from xaitune.config.settings import Config, DataConfig, SweepConfig, TrackingConfig, TrainConfig
from xaitune.config.toml import CONFIG_FILE, config_text
from xaitune.errors import ConfigError, DataError

DATA_HELP = "Class folders or a CSV file,label[,split][,group]."
DataPath = Annotated[Path | None, typer.Argument(metavar="DATA", help=DATA_HELP)]
FOR_LABELS = ("weights", "precision")  # settings of a training that --labels uses
USED = ("task", *FOR_LABELS)
LISTED_LABELS = 10
FIXES = "fixes.csv"  # what the filled-in labels.csv may be called
SAID = ("passed over", "grey values")  # kinds of problems that `load_data` names
Overwrite = Annotated[bool, option("--overwrite", help="Replace what is there.")]


def check_call(job: Job, path: Path | None, name: str | None = None, *, sweeps: bool = False) -> None:
    """Refuse, before any image is read, what needs none: a name, missing packages and weights, and the engine of a sweep.

    Raises InputError and RunError.
    """
    from xaitune.comparison.engines.ray import check_ray
    from xaitune.tracking.follow import require_packages
    from xaitune.training.folder import check_name

    config = job.config(path)
    check_name(name)
    if TrackingConfig in job.tables:
        require_packages(config.tracking.located(job.runs_dir))
    if sweeps:
        config.sweep.require_engine(job.given.get(SweepConfig, {}))
        if config.sweep.engine == "ray":
            check_ray(config.sweep.ray_address)
    if config.train.weights not in NAMED_WEIGHTS and not config.train.from_scratch:
        from xaitune.models.weights import load_backbone

        load_backbone(config.train.weights, config.train.architecture)


def load_data(job: Job, path: Path | None = None) -> tuple[Any, Any]:
    """(configuration, ImageData), saying what was read and skipped."""
    from xaitune.data.dataset import ImageData

    config = job.config(path)
    config = dataclasses.replace(config, train=_absolute_weights(config.train))
    with job.ui.errors.status("reading the images"):  # seen on a terminal alone
        data = ImageData.from_config(config.data)
    data.require_classes(config.train.named_classes)
    groups = len(set(data.groups))
    job.ui.say(
        f"Data: {len(data)} images, {len(data.class_names)} classes, {groups} groups, "
        f"{data.image_size[0]}x{data.image_size[1]} ({config.data.path})"
    )
    if path is not None and config.data.groups is None and job.file_config().data.groups:
        job.ui.say("Without groups: those in xaitune.toml are for its own images. Give --groups if these have some.")
    say_remarks(job.ui, data)
    return config, data


def say_remarks(ui: Ui, data: Any) -> None:
    """Say what was odd about the images, and which could not be read."""
    from xaitune.data.checks import remarks

    for remark in remarks(data):
        (ui.say if remark.level == "note" else ui.warn)(remark.message)
    for file, reason in data.skipped[:5]:
        ui.warn(f"Skipped {file}: {reason}")
    if len(data.skipped) > 5:
        ui.warn(f"and {len(data.skipped) - 5} more unreadable files: see 'xaitune data-check'.")


def _absolute_weights(train: TrainConfig) -> TrainConfig:
    """A path that holds in every folder, since config.json keeps it."""
    if train.weights in NAMED_WEIGHTS:
        return train
    return dataclasses.replace(train, weights=str(Path(train.weights).expanduser().absolute()))


@command("init", DataConfig, TrainConfig, SweepConfig)
def init(
    job: Job,
    data: Annotated[Path, typer.Argument(metavar="DATA", help=DATA_HELP)],
    overwrite: Overwrite = False,
) -> None:
    """Look at DATA, write xaitune.toml, and estimate what a sweep would cost.

    The estimate is made for several image sizes.
    """
    file = Path(CONFIG_FILE)
    if not data.exists():
        raise DataError(f"No image folder or CSV at {data}. Check the path.")
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} exists already. Edit it, or replace it with --overwrite.")
    job.fresh = job.config_file is None
    check_call(job, data)
    _, images = load_data(job, data)
    config = job.config(data)  # with its paths as they were given
    from xaitune.training.targets import require_trainable

    require_trainable(images, config.train)
    counts = images.counts()[["train", "validation", "test", "groups"]]
    job.ui.table(counts, "Images per class")
    if counts["groups"].sum() > len(set(images.groups)):
        job.ui.say("A group with images of several classes counts in each of them.")
    if config.data.groups is None:
        job.ui.warn(
            "No groups: if one thing was photographed several times, run 'xaitune data-check' and give --groups."
        )
    costs = _say_costs(job, config, images)
    with writing(file) as part:
        part.write_text(config_text(config), encoding="utf-8")
    job.ui.finish(
        [file],
        shlex.join(["xaitune", "data-check", *job.runs]),  # all else stands in the file
        images=len(images),
        classes=list(images.class_names),
        cost=costs.reset_index().to_dict("records"),
    )


def _say_costs(job: Job, config: Config, images: Any) -> Any:
    """Print what the whole sweep and the quick one cost; returns the figures.

    With nothing frozen too, unless the depths are given: the advice may add that.
    """
    from xaitune.comparison.cost import sweep_costs
    from xaitune.comparison.grid import QUICK_OPTIONS, grid_text

    added = ""
    if "freeze_through" not in job.given.get(SweepConfig, {}):
        config, added = dataclasses.replace(config, sweep=config.sweep.with_depth(0)), " (one that the advice may add)"
    costs = sweep_costs(config, images)
    shown = costs.assign(
        seconds=costs["seconds"].map(duration),
        quick_seconds=costs["quick_seconds"].map(duration),
        disk_bytes=costs["disk_bytes"].map(disk_size),
    )
    shown.columns = ["whole sweep", "quick sweep", "disk space"]
    job.ui.table(shown, "What a sweep over the freeze depths takes, at most")
    sweeps, quick = shlex.join(["xaitune", "sweep-freeze", *job.runs]), QUICK_OPTIONS.format(config.train.optimizer)
    job.ui.say(f"Whole, {grid_text(config.sweep, config.train, added)}: {sweeps}")
    job.ui.say(f"Quick, 1 optimizer x 1 seed: {sweeps} {quick}")
    return costs


@command("data-check", DataConfig, TrainConfig, skip=tuple(n for n in settings_of(TrainConfig) if n not in USED))
def data_check(
    job: Job,
    data: DataPath = None,
    labels: Annotated[
        bool, option("--labels", help="Also rank images whose label is doubtful, by frozen features.")
    ] = False,
    label_count: Annotated[
        int | None, option("--label-count", help="Doubtful images in labels.png.", default="20", metavar="N", min=1)
    ] = None,
) -> None:
    """Count and check the images: damage, duplicates, leakage.

    Counts, class frequencies, sizes, unreadable files, duplicates and near-duplicates, leakage between splits; with --labels,
    doubtful labels too.
    """
    from xaitune.plots import charts, figures

    folder = job.runs_dir / "data-check"
    _require_labels_usable(job, labels, label_count, folder / "labels.csv")
    config, images = load_data(job, data)
    with job.ui.progress("comparing images", "images") as report:
        check = images.check(report)
    _say_counts(job.ui, check)
    if config.train.segments or (config.data.pixel_classes is not None and images.masks is not None):
        check = _check_pixels(job.ui, images, check)
    for row in check.problems[~check.problems["kind"].isin(SAID)].itertuples():
        (job.ui.say if row.level == "note" else job.ui.warn)(f"{row.level}: {row.message}")
    write_csv(folder / "counts.csv", check.counts.reset_index())
    write_csv(folder / "problems.csv", check.to_dataframe())
    picture = figures.save(charts.class_frequencies(check.counts), folder / "counts.png")
    wrote = [folder / "counts.csv", folder / "problems.csv", picture]
    if check.proposed_groups is not None:
        groups = folder / "groups.csv"
        write_csv(groups, check.proposed_groups)
        wrote.append(groups)
        job.ui.say(f"Proposed groups: {check.proposed_groups['group'].nunique()}. Use them with --groups {groups}")
    errors = [row.message for row in check.problems.itertuples() if row.level == "error"]
    found: dict[str, Any] = {"ok": check.ok, "image_worth": check.image_worth, "errors": errors}
    if labels and not errors:
        check_them = _check_masks if config.train.segments else _check_labels
        doubtful = check_them(job, config, images, label_count)
        wrote += doubtful.write(folder)
        found |= {"labels": doubtful.headline, "doubtful_labels": doubtful.table.to_dict("records")}
    advised = not (config.train.segments or config.train.from_scratch)  # else advice needs a model, or has no blocks
    following = job.following("advise" if advised else "train", data)
    if "labels" in found and not config.train.segments and found["doubtful_labels"]:
        following = job.following("train", data, *([] if config.data.label_fixes else ["--label-fixes", FIXES]))
    if check.proposed_groups is not None:
        following = _with_groups(job, config, folder / "groups.csv")
    job.ui.finish(wrote, "" if errors else following, **found)
    if errors:
        raise DataError(f"Training would be meaningless: {' '.join(errors[:2])}")


def _say_counts(ui: Ui, check: Any) -> None:
    """Print how many images each class has, and the kinds of files."""
    frequencies = check.frequencies
    table = check.counts[["images", "groups", "train", "validation", "test"]].copy()
    table.insert(1, "% of all", 100 * frequencies["share"])
    ui.table(table, "Images per class", digits=1)
    rarer = frequencies["times_rarer"]
    if rarer.max() > 1:
        ui.say(
            f"The largest class, {rarer.idxmin()}, has {rarer.max():.1f} times the images of the smallest, {rarer.idxmax()}."
        )
    ui.table(check.sizes, "Kinds of files, height x width in pixels")


def _with_groups(job: Job, config: Config, groups: Path) -> str:
    """The command that makes xaitune.toml again, with the proposed groups and all else that it says."""
    height, width = config.data.image_size
    options = ["--groups", str(groups)]
    if job.config_file is None and Path(CONFIG_FILE).is_file():
        options += ["--config", CONFIG_FILE]
    elif job.config_file is None:
        options += ["--weights", config.train.weights, "--image-size", f"{height}x{width}"]
        options += ["--masks", config.data.masks] if config.data.masks else []
    return job.following("init", config.data.path, *options, "--overwrite")


def _check_pixels(ui: Ui, images: Any, check: Any) -> Any:
    """Print how frequent each pixel class is; returns the check of a segmentation's data."""
    from xaitune.data.pixel_labels import PixelLabels, segmentation_check

    labels = PixelLabels(images)
    if not labels.unusable:
        ui.table(labels.shares(), "Pixels per class, at the files' own sizes, and the images that have them", digits=4)
    return segmentation_check(check, labels)


def _require_labels_usable(job: Job, labels: bool, count: int | None, file: Path) -> None:
    """Raise ConfigError, before any work, for options without --labels, for missing cleanlab, and for answers in `file`."""
    given = job.given.get(TrainConfig, {})
    if not labels:
        for name in [*(name for name in given if name in FOR_LABELS), *(["label-count"] if count else [])]:
            raise ConfigError(f"--{name} only applies with --labels: add --labels, or leave it out.")
        return
    from xaitune.advise.labels import require_cleanlab
    from xaitune.data.label_fixes import may_hold_actions

    if given.get("task", job.file_config().train.task) != "segment":
        require_cleanlab()
    if may_hold_actions(file):
        raise ConfigError(f"{file} has actions that you filled in, and would be replaced. Move or rename it first.")


def _check_masks(job: Job, config: Any, images: Any, count: int | None) -> Any:
    """The check of a segmentation's masks, printed."""
    from xaitune.advise.mask_labels import COUNT, doubtful_masks, segmentation_of

    doubtful = doubtful_masks(segmentation_of(images, job.runs_dir), images, count=count or COUNT)
    if len(doubtful.table):
        columns = ["file", "class", "suggested", "disagreement", "missed", "false_alarm"]
        shown = doubtful.table.set_index("rank")[columns].head(LISTED_LABELS)
        job.ui.table(shown, "Masks that disagree most with the prediction")
    job.ui.say(doubtful.headline)
    return doubtful


def _check_labels(job: Job, config: Any, images: Any, count: int | None) -> Any:
    """The check of the labels, printed."""
    from xaitune.advise.labels import COUNT, doubtful_labels

    with job.ui.progress("learning") as report:
        doubtful = doubtful_labels(images, config.train, count=count or COUNT, runs_dir=job.runs_dir, progress=report)
    if len(doubtful.table):
        job.ui.table(
            _as_on_the_sheet(doubtful.table.head(LISTED_LABELS)), "Most doubtful labels, with their probabilities"
        )
        job.ui.say(
            "The probabilities are those of a linear head that has not seen the image. The rank is by cleanlab's "
            "confidence-weighted entropy: a label ranks high if its probability is low, and higher if the head is not sure of "
            "another class either."
        )
    job.ui.say(doubtful.headline)
    if doubtful.leak:
        job.ui.say(f"Leak premium: {doubtful.leak.sentence}")
    if len(doubtful.table):
        file, fixes = job.runs_dir / "data-check" / "labels.csv", config.data.label_fixes
        job.ui.say(
            f"Look at labels.png, fill in the column action of {file} (keep, relabel or drop), and "
            + (f"add its rows to {fixes}." if fixes else f"save it under another name, such as {FIXES}.")
        )
    return doubtful


def _as_on_the_sheet(table: Any) -> Any:
    """Doubtful images by rank, the given and the suggested class with their probabilities, as labels.png has them."""
    shown = table.set_index("rank")[["file"]].copy()
    for column, name, share in (
        ("given", "class", "probability"),
        ("suggested", "suggested", "suggested_probability"),
    ):
        shown[column] = [f"{label} {p:.0%}" for label, p in zip(table[name], table[share], strict=True)]
    return shown
