"""The command line: thin commands over the public functions. Only errors, config and console load before a command runs."""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune import __version__
from xaitune.config import (
    CONFIG_FILE,
    NAMED_WEIGHTS,
    DataConfig,
    SweepConfig,
    TrainConfig,
    check_method,
    config_text,
    parse_fill,
)
from xaitune.console import Ui, disk_size, duration, print_error, told
from xaitune.errors import ConfigError, DataError, ImageError, RunError, XaituneError
from xaitune.options import Job, command

app = typer.Typer(
    name="xaitune",
    help="Look inside VGG16, decide how many of its blocks to freeze, and check the decision.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
INTERRUPTED = 130  # exit status
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


def main() -> None:
    """The entry point: runs a command and turns every error into one or two lines and an exit status."""
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone; nothing more may be written, not at the exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)
            sys.exit(2)
        status, message = told(error)
        print_error(message)
    if status == INTERRUPTED:  # the parser may have turned Ctrl-C into this status
        print_error("Interrupted. What was finished is kept: give the same command again to go on.")
    sys.exit(status if isinstance(status, int) else 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"xaitune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _load(job: Job, path: Path | None = None) -> tuple[Any, Any]:
    """(configuration, ImageData), saying what was read and skipped."""
    from xaitune.data import ImageData

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


@command(app, "init", DataConfig, TrainConfig, SweepConfig)
def init(
    job: Job,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Class folders or a CSV file,label[,split][,group].")],
    overwrite: Overwrite = False,
) -> None:
    """Look at DATA, write xaitune.toml, and price a sweep.

    The price is said for several image sizes.
    """
    from xaitune import cost, runs

    file = Path(CONFIG_FILE)
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} exists already. Edit it, or replace it with --overwrite.")
    job.fresh = job.config_file is None
    _, images = _load(job, data)
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


@command(app, "data-check", DataConfig)
def data_check(job: Job, data: DataPath = None) -> None:
    """Count and check the images: damage, duplicates, leakage.

    Counts, class frequencies, sizes, unreadable files, duplicates and near-duplicates, leakage between splits.
    """
    from xaitune import figures, plots, runs

    _, images = _load(job, data)
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


@command(app, "train", DataConfig, TrainConfig)
def train(
    job: Job, data: DataPath = None, name: Name = None, overwrite: Overwrite = False, cache_gb: CacheGb = 20.0
) -> None:
    """Train one model with Block 1..k frozen."""
    config, images = _load(job, data)
    from xaitune.device import resolve_precision
    from xaitune.figures import frozen_name
    from xaitune.training import train_model

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
    from xaitune.stats import bootstrap_interval, wilson_interval

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


def _subject(job: Job, model: str | None) -> Any:
    """The model to explain: --model, else the newest run, else the newest sweep's best cell, else ImageNet's VGG16."""
    from xaitune import runs, sweep, vgg
    from xaitune.subjects import Subject, open_subject

    if model and sweep.is_sweep(Path(model)):
        return _best_of(job, Path(model))
    if model:
        return open_subject(_existing(Path(model)))
    found = runs.find_runs(job.runs_dir)
    if found:
        job.ui.say(f"Model: {found[0]}, the newest finished run")
        return open_subject(found[0])
    folder = sweep.find_sweep(job.runs_dir)
    if folder:
        return _best_of(job, folder)
    job.ui.say("Model: VGG16 with its ImageNet classes, since there is no finished run here")
    classifier, names = vgg.imagenet_classifier()
    return Subject(classifier, tuple(names), name="VGG16 (ImageNet)")


def _best_of(job: Job, folder: Path) -> Any:
    from xaitune import sweep
    from xaitune.subjects import open_subject

    run = sweep.best_run(sweep.load_sweep(folder))
    job.ui.say(f"Model: {run.path}, the best cell on validation of the sweep {folder}")
    return open_subject(run)


def _existing(path: Path) -> Path:
    """A run's folder or a .keras file. Raises ConfigError for a folder without a finished run."""
    if path.is_dir() and not (path / "result.json").is_file():
        unfinished = (path / "config.json").is_file()
        what = "is not finished, or no run" if unfinished else "holds no run"
        raise ConfigError(f"{path} {what}. Give a finished run's folder: 'xaitune runs' lists them.")
    return path


def _check_class(job: Job, model: str | None, class_name: str | None) -> None:
    """Refuse a class that the model lacks before anything slow happens, where a run's config.json tells."""
    if class_name is None:
        return
    from xaitune import runs, subjects, sweep

    newest = [*runs.find_runs(job.runs_dir)[:1], sweep.find_sweep(job.runs_dir)]
    folder = Path(model) if model else next((f for f in newest if f), None)
    if folder is not None and (folder / "config.json").is_file():
        known = runs.read_json(folder / "config.json").get("class_names", [class_name])
        if class_name not in known:
            raise subjects.unknown_class(class_name, known)


def _readable(ui: Ui, images: list[Path]) -> list[Path]:
    """The files behind `images`, having decoded each: a few unreadable ones among many are named and left out."""
    from xaitune.images import expand_images, read_image

    paths = expand_images(images)
    good, bad = [], []
    for path in paths:
        try:
            read_image(path)
            good.append(path)
        except ImageError as error:
            bad.append(error)
    if bad and (not good or len(bad) > max(3, len(paths) // 20)):
        more = f" ({len(bad)} of {len(paths)} images cannot be used.)" if len(bad) > 1 else ""
        raise ImageError(f"{bad[0]}{more}")
    for problem in bad:
        ui.warn(f"Skipped: {problem}")
    return good


ImageFiles = Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files or folders.")]
ModelPath = Annotated[str | None, typer.Option("--model", help="A run's folder or a .keras file [the newest run].")]


@command(app, "explain")
def explain(
    job: Job,
    images: ImageFiles,
    block: Annotated[str, typer.Option("--block", help="3, 1-3, 1,3 or all.")] = "all",
    method: Annotated[str, typer.Option("--method", help="gradcam, cam or lime.")] = "gradcam",
    class_name: Annotated[
        str | None, typer.Option("--class", help="The class to explain [each image's top class].")
    ] = None,
    model: ModelPath = None,
    rule: Annotated[
        str, typer.Option("--rule", help="gradcam, gradcam++, hirescam, xgradcam or layercam.")
    ] = "gradcam",
    num_samples: Annotated[int, typer.Option("--num-samples", help="Most forward passes an image, for lime.")] = 1000,
    segmenter: Annotated[
        str, typer.Option("--segmenter", help="quickshift, slic or felzenszwalb, for lime.")
    ] = "quickshift",
    fill: Annotated[
        str, typer.Option("--fill", help="What hides a superpixel: mean, blur or R,G,B, for lime.")
    ] = "mean",
    exact: Annotated[bool, typer.Option("--exact", help="The lime package's weights, sample for sample.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of lime's masks.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="auto, float32 or bfloat16.")] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Where pictures go [RUNS_DIR/explain, explain-cam or explain-lime].")
    ] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Measure the maps too: a table per block, scores.csv.")
    ] = False,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Score against masks: <class>/<stem>.* [those of xaitune.toml].")
    ] = None,
    groups: Annotated[
        str | None, typer.Option("--groups", help="For the scores' intervals: CSV file,group or a regular expression.")
    ] = None,
    score_images: Annotated[
        int | None,
        typer.Option("--score-images", min=1, help="Images that deletion and insertion look at [for 2 minutes]."),
    ] = None,
    score_steps: Annotated[
        int | None,
        typer.Option("--score-steps", min=1, help="Steps of deletion and insertion [10, or fewer in 2 minutes]."),
    ] = None,
) -> None:
    """Draw what the model sees: Grad-CAM a block, CAM or LIME.

    With --score also measure how good the maps are.
    """
    from xaitune.images import expand_images

    check_method(method, block, None if str(model).endswith(".keras") else 5)  # any Keras model may have other blocks
    hidden = parse_fill(fill)
    expand_images(images)
    _check_class(job, model, class_name)
    paths = _readable(job.ui, images)
    score = score or any(v is not None for v in (masks, groups, score_images, score_steps))
    truth = _masks_and_groups(job, paths, masks, groups) if score else {}
    from xaitune import explainers

    subject = _subject(job, model)
    lime = (num_samples, segmenter, hidden, exact, seed)
    make = explainers.explainer(subject, method, block, class_name, rule, *lime, precision)
    about = {"method": method, "rule": rule, "model": subject.name, "class_names": list(subject.class_names)}
    about["resize"] = subject.resize
    size = 1 if method == "lime" else explainers.CHUNK
    scorer = None
    start = time.monotonic()
    with (
        explainers.ExplanationWriter(
            out or job.runs_dir / ("explain" if method == "gradcam" else f"explain-{method}"), about
        ) as writer,
        job.ui.progress("explaining") as report,
    ):
        for done, made in enumerate(explainers.iter_explanations(subject, paths, make, size), 1):
            writer.add(made)
            if score:
                scorer = scorer or _scorer(job.ui, subject, made, len(paths), truth, score_images, score_steps)
                scorer.add(made)
            report(min(done * size, len(paths)), len(paths))
        wrote = writer.close()
    seconds = time.monotonic() - start
    shown = {"gradcam": "all blocks" if block == "all" else f"Block {block}", "cam": "Block 5"}.get(method, segmenter)
    count = f"{len(paths)} image{'s' if len(paths) > 1 else ''}"
    job.ui.say(f"{count} in {duration(seconds)} ({method}, {shown}, {writer.about['precision']})")
    empty = writer.empty_maps()
    if empty:
        job.ui.warn(f"{empty} of the maps have no positive evidence and show nothing; explain.json names them.")
    unstable = writer.unstable()
    if unstable:
        job.ui.warn(
            f"{unstable} of {len(paths)} explanations are not stable within {num_samples} samples: other masks would "
            "rank the superpixels otherwise. explain.json says how alike (spearman, top5_jaccard)."
        )
    files = [wrote[k] for k in ("first_picture", "contact_sheet", "json", "npz") if k in wrote]
    scored = _say_scores(job.ui, scorer, writer.folder) if scorer else {"wrote": []}
    files += scored.pop("wrote")
    job.ui.finish(files, "xaitune advise", **wrote, **scored, seconds=seconds, empty_maps=empty, unstable=unstable)


def _masks_and_groups(job: Job, paths: list[Path], masks: Path | None, groups: str | None) -> dict[str, Any]:
    """What --masks and --groups name for these images, else what xaitune.toml names where it fits them."""
    from xaitune import scorefiles

    known, found = job.file_config().data, {}
    for name, given, find in (("masks", masks, scorefiles.masks_of), ("groups", groups, scorefiles.groups_of)):
        rule = given or getattr(known, name)
        try:
            found[name] = find(paths, rule) if rule else None
        except DataError:
            if given:
                raise
            found[name] = None
            job.ui.say(f"The {name} of {job.config_file or CONFIG_FILE} do not fit these images and are left out.")
    return found


def _scorer(
    ui: Ui, subject: Any, first: Any, total: int, truth: dict[str, Any], images: int | None, steps: int | None
) -> Any:
    """What scores the maps as they come; says what it will ask of the model."""
    from xaitune.scorefiles import FolderScorer

    scorer = FolderScorer(subject, first, total, images=images, steps=steps, **truth)
    plan = scorer.effort
    ui.say(
        f"Scoring: deletion, insertion, average drop and ROAD on {plan.images} of {total} images in {plan.steps} steps, "
        f"{plan.calls:,} network calls, about {duration(plan.seconds)}"
    )
    return scorer


def _say_scores(ui: Ui, scorer: Any, folder: Path) -> dict[str, Any]:
    """Finish, print and write the scores; returns them for the JSON object."""
    from xaitune import scorefiles
    from xaitune.scores import printable

    with ui.progress("scoring") as report:
        table = scorer.finish(report)
    about = scorer.about(table)
    summary, wrote = scorefiles.write_scores(folder, table, about)
    over = f"{about['groups']} groups" if about["groups"] else "images"
    ui.table(printable(summary), f"Scores, mean over {about['images']} images [95 % interval over {over}]")
    asked = about["asked_of_the_model"]
    ui.say(
        f"Deletion and insertion: {asked['images']} of {about['images']} images, {asked['steps']} steps, hidden pixels "
        f"get the image's mean colour; {asked['network_calls']:,} network calls in {duration(asked['seconds'])}"
    )
    if "masks" in about:
        has, empty = about["masks"]["images"], about["masks"]["empty"]
        left_out = f", {empty} of them empty and left out" if empty else ""
        ui.say(f"Masks: {has} of {about['images']} images have one{left_out}; chance is mask_area")
    return {"scores": summary.to_dict("records"), "scored": about, "wrote": wrote}


@command(app, "predict")
def predict(
    job: Job,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder or a .keras file.")],
    images: ImageFiles,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the predictions here.")] = None,
) -> None:
    """Class and probabilities of images."""
    import pandas as pd

    _existing(run)
    paths = _readable(job.ui, images)
    from xaitune import runs
    from xaitune.explainers import CHUNK

    if csv:
        runs.make_folder(csv.parent)
    from xaitune.subjects import open_subject
    from xaitune.superpixels import probability_function

    subject = open_subject(run)
    probabilities = probability_function(subject, "float32")
    rows = []
    with job.ui.progress("predicting") as report:
        for start in range(0, len(paths), CHUNK):
            part = paths[start : start + CHUNK]
            found = probabilities(subject.read_paths(part))
            for path, row in zip(part, found, strict=True):
                named = {f"p({n})": float(p) for n, p in zip(subject.class_names, row, strict=True)}
                rows.append(
                    {
                        "file": str(path),
                        "predicted": subject.class_names[int(row.argmax())],
                        "probability": float(row.max()),
                    }
                    | named
                )
            report(start + len(part), len(paths))
    table = pd.DataFrame(rows)
    job.ui.table(table[["file", "predicted", "probability"]].set_index("file").head(50))
    if csv:
        runs.write_csv(csv, table)
    job.ui.finish([csv] if csv else [], "", predictions=rows if job.ui.json_only else len(rows))


OF_FINE_TUNING = (
    "freeze_through",
    "optimizer",
    "learning_rate",
    "schedule",
    "warmup_epochs",
    "block_rates",
    "augmentation",
    "augment_classes",
    "augmented_views",
)


@command(app, "advise", DataConfig, TrainConfig, skip=(*OF_FINE_TUNING, "seed"))
def advise(
    job: Job,
    data: DataPath = None,
    model: ModelPath = None,
    name: Name = None,
    overwrite: Overwrite = False,
    max_calls: Annotated[
        int | None, typer.Option("--max-calls", help="Most network calls, an image each [by its size].")
    ] = None,
    cache_gb: CacheGb = 20.0,
) -> None:
    """Recommend how many blocks to freeze, from heatmaps.

    Of a probe's five blocks, on validation images.
    """
    config, images = _load(job, data)
    options = {"model": model, "name": name, "overwrite": overwrite, "max_calls": max_calls, "cache_gb": cache_gb}
    found = _advise(job, config, images, **options)
    job.ui.finish(
        [found.path],
        "xaitune sweep-freeze",
        freeze_through=found.freeze_through,
        confidence=found.confidence,
        votes=found.votes,
        reasons=found.reasons,
        model_calls=found.model_calls,
    )


def _advise(job: Job, config: Any, images: Any, **options: Any) -> Any:
    from xaitune.advice import advise_freeze

    start = time.monotonic()
    with job.ui.progress("advising") as report:
        found = advise_freeze(images, config.train, runs_dir=job.runs_dir, progress=report, notes=job.ui.say, **options)
    columns = ["score", "low", "high", "agreement", "concentration", "stability", "empty_maps"]
    job.ui.table(found.evidence[columns], f"Evidence (score: {found.measure})")
    from xaitune.figures import frozen_name

    job.ui.say(
        f"Advice: freeze {frozen_name(found.freeze_through)} (confidence {found.confidence:.0%}). {found.reasons}"
    )
    job.ui.say(f"{found.model_calls} network calls; this command took {duration(time.monotonic() - start)}")
    return found


@command(app, "sweep-freeze", DataConfig, TrainConfig, SweepConfig, skip=("seed", "optimizer"))
def sweep_freeze(
    job: Job,
    data: DataPath = None,
    name: Name = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say runs, time and disk, and start nothing.")] = False,
    cache_gb: CacheGb = 20.0,
) -> None:
    """Train depth x optimizer x seed, and check the advice.

    Makes the advice first where there is none.
    """
    config, images = _load(job, data)
    from xaitune import cost, sweep
    from xaitune.advice import find_advice, load_advice
    from xaitune.rayengine import check_ray

    config.sweep.require_engine(job.given.get("sweep", {}))
    if config.sweep.engine == "ray":
        check_ray(config.sweep.ray_address)
    plan = cost.plan(config, images, job.runs_dir, name)
    job.ui.say(
        f"{plan['missing']} of {plan['runs']} runs to do, about {duration(plan['seconds'])} and "
        f"{disk_size(plan['disk_bytes'])} of disk in {plan['folder']}"
    )
    if dry_run:
        job.ui.finish([], "the same command without --dry-run", **plan)
        return
    before = find_advice(job.runs_dir, images.fingerprint, plan["weights"])
    if before:
        advice = load_advice(before)
        job.ui.say(f"Advice: {before}, made {advice.created}")
    else:
        advice = _advise(job, config, images, cache_gb=cache_gb)
    depths = config.sweep.freeze_through
    if advice.freeze_through not in depths or len(depths) < 2:
        job.ui.warn(
            f"This grid cannot check the advice: it needs the advised depth {advice.freeze_through} and another. "
            f"Received: {', '.join(map(str, depths))}."
        )
    start = time.monotonic()
    with job.ui.progress("sweeping") as report:
        table = sweep.sweep_freeze(
            images,
            config.sweep,
            train=config.train,
            name=name,
            runs_dir=job.runs_dir,
            cache_gb=cache_gb,
            progress=report,
            run_progress=report.part,
            notes=job.ui.say,
        )
    _say_sweep(job.ui, table)
    job.ui.say(f"The sweep took {duration(time.monotonic() - start)}")
    wrote, told_verdict = [table.path / "sweep.csv"], {"verdict": None, "sentence": ""}
    if sweep.can_check(advice, table):
        check = sweep.check_advice(advice, table)
        sweep.save_check(check, table.path)
        job.ui.say(check.sentence())
        wrote.append(table.path / "check.json")
        told_verdict = {"verdict": check.verdict, "sentence": check.sentence()}
    failed = table.runs[table.runs["state"].str.startswith("failed")]["name"].tolist()
    job.ui.finish(wrote, "xaitune report", cells=table.cells.to_dict("records"), failed=failed, **told_verdict)
    if failed:
        raise RunError(
            f"{len(failed)} of the runs failed: {', '.join(failed)}. Give the same command again to try them."
        )


def _say_sweep(ui: Ui, table: Any) -> None:
    shown = table.cells.copy()
    best = table.best["name"]
    shown["shown"] = [
        f"{r.test:.3f} [{r.low:.3f}, {r.high:.3f}]"
        + ("*" if r.name == best else "=" if r.equals else "")
        + (f" lr {r.learning_rate:g} of {r.rates}" if r.rates > 1 else "")
        for r in shown.itertuples()
    ]
    order = list(dict.fromkeys(shown["optimizer"]))
    grid = (
        shown.pivot(index="freeze_through", columns="optimizer", values="shown")[order]
        .fillna("")
        .sort_index(ascending=False)
    )
    grid.index = [f"Block 1-{k}" if k > 1 else "Block 1" if k else "nothing" for k in grid.index]
    grid.index.name = "frozen"
    ui.table(
        grid,
        f"Test {table.metric}, mean over the seeds [95 % interval over {table.groups} groups, {table.images} images]",
    )
    ui.say(
        f"* best on validation. = cannot be told from it; the cheapest of these to train is {table.equals.iloc[0]['name']}."
    )
    lacks = dict.fromkeys(reason for few in shown["few"] if few for reason in few.split(", "))
    if lacks:
        ui.say(f"Too few to rely on the intervals: {', '.join(lacks)}.")
    if (shown["rates"] > 1).any():
        ui.say("lr: the learning rate that is best on validation, of as many as were tried.")
    bad = table.runs[table.runs["state"] != "finished"]
    for row in bad.itertuples():
        ui.warn(f"{row.name}: {row.state}")


@command(app, "check-advice")
def check_advice(
    job: Job,
    sweep_path: Annotated[Path | None, typer.Argument(metavar="SWEEP", help="A sweep's folder [the newest].")] = None,
) -> None:
    """Say again whether the sweep confirms the advice."""
    from xaitune import sweep

    folder, advice = _sweep_and_advice(job, sweep_path)
    table = sweep.load_sweep(folder)
    check = sweep.check_advice(advice, table)
    sweep.save_check(check, folder)
    _say_sweep(job.ui, table)
    job.ui.say(check.sentence())
    job.ui.finish([folder / "check.json"], "xaitune report", verdict=check.verdict, sentence=check.sentence())


def _sweep_and_advice(job: Job, path: Path | None) -> tuple[Path, Any]:
    from xaitune import sweep
    from xaitune.advice import load_advice

    folder = path or sweep.find_sweep(job.runs_dir)
    if folder is None or not sweep.is_sweep(folder):
        raise ConfigError(f"No sweep in {path or job.runs_dir}. Make one with 'xaitune sweep-freeze'.")
    job.ui.say(f"Sweep: {folder}")
    found = sweep.advice_for(folder)
    if found is None:
        raise ConfigError(f"No advice on the data of {folder} in {job.runs_dir}. Make it with 'xaitune advise'.")
    job.ui.say(f"Advice: {found}")
    return folder, load_advice(found)


@command(app, "report")
def report(
    job: Job,
    path: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run's or sweep's folder [the newest sweep].")
    ] = None,
) -> None:
    """Write one self-contained HTML page on a sweep or a run."""
    from xaitune import pages

    if path is not None and not (path / "config.json").is_file():
        raise ConfigError(f"{path} holds no run and no sweep. Name one: 'xaitune runs' lists them.")
    with job.ui.progress("report") as progress:
        written = pages.report_on(path, job.runs_dir, job.ui.say, progress)
    job.ui.finish([written], "", report=str(written))


@command(app, "runs")
def list_runs(job: Job) -> None:
    """List runs, sweeps and advice: name, state and score."""
    from xaitune import pages

    table = pages.list_runs(job.runs_dir)
    if len(table):
        job.ui.table(table.set_index("name"))
    else:
        job.ui.say(f"No runs in {job.runs_dir} yet.")
    job.ui.finish([], "" if len(table) else "xaitune train", runs=table.to_dict("records"))


@command(app, "demo")
def demo(
    job: Job, folder: Annotated[Path, typer.Option("--folder", help="Where the demo works.")] = Path("xaitune-demo")
) -> None:
    """Do all of it on generated images, in minutes.

    In xaitune-demo/: train, explain, advise, sweep 5 x 3, check, report.
    """
    from xaitune.demo import run_demo

    with job.ui.progress("demo") as report:
        summary = run_demo(folder, report, job.ui.say)
    _say_sweep(job.ui, summary["sweep"])
    job.ui.say(summary["check"].sentence())
    job.ui.finish(
        [summary["report"]],
        f"open {summary['report']}",
        verdict=summary["check"].verdict,
        advised=summary["check"].advised,
        seconds=summary["seconds"],
    )


if __name__ == "__main__":
    main()
