"""Commands that ask a model about images: explain, predict."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune.cli.console import Ui, duration
from xaitune.cli.options import Job, command
from xaitune.config.schema import CONFIG_FILE, check_method, parse_fill
from xaitune.errors import ConfigError, DataError, ImageError


def _subject(job: Job, model: str | None) -> Any:
    """The model to explain: --model, else the newest run, else the newest sweep's best cell, else ImageNet's VGG16."""
    from xaitune.comparison import sweep
    from xaitune.explain.classifier import Subject, open_subject
    from xaitune.models import vgg
    from xaitune.training import folder as runs

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
    from xaitune.comparison import sweep
    from xaitune.explain.classifier import open_subject

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
    from xaitune.comparison import sweep
    from xaitune.explain import classifier as subjects
    from xaitune.training import folder as runs

    newest = [*runs.find_runs(job.runs_dir)[:1], sweep.find_sweep(job.runs_dir)]
    folder = Path(model) if model else next((f for f in newest if f), None)
    if folder is not None and (folder / "config.json").is_file():
        known = runs.read_json(folder / "config.json").get("class_names", [class_name])
        if class_name not in known:
            raise subjects.unknown_class(class_name, known)


def _readable(ui: Ui, images: list[Path]) -> list[Path]:
    """The files behind `images`, having decoded each: a few unreadable ones among many are named and left out."""
    from xaitune.data.images import expand_images, read_image

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


@command("explain")
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
    from xaitune.data.images import expand_images

    check_method(method, block, None if str(model).endswith(".keras") else 5)  # any Keras model may have other blocks
    hidden = parse_fill(fill)
    expand_images(images)
    _check_class(job, model, class_name)
    paths = _readable(job.ui, images)
    score = score or any(v is not None for v in (masks, groups, score_images, score_steps))
    truth = _masks_and_groups(job, paths, masks, groups) if score else {}
    from xaitune.explain import api as explainers

    subject = _subject(job, model)
    lime = (num_samples, segmenter, hidden, exact, seed)
    about = {"method": method, "rule": rule, "model": subject.name, "class_names": list(subject.class_names)}
    size = 1 if method == "lime" else explainers.CHUNK
    scorer = None
    start = time.monotonic()
    folder = out or job.runs_dir / ("explain" if method == "gradcam" else f"explain-{method}")
    with job.ui.progress("explaining") as report:
        make = explainers.explainer(subject, method, block, class_name, rule, *lime, precision, report.part)
        with explainers.ExplanationWriter(folder, about | {"resize": subject.resize}) as writer:
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
    remarks = _say_remarks(job.ui, writer, len(paths), num_samples)
    files = [wrote[k] for k in ("first_picture", "contact_sheet", "json", "npz") if k in wrote]
    scored = _say_scores(job.ui, scorer, writer.folder) if scorer else {"wrote": []}
    files += scored.pop("wrote")
    job.ui.finish(files, "xaitune advise", **wrote, **scored, seconds=seconds, **remarks)


def _say_remarks(ui: Ui, writer: Any, images: int, num_samples: int) -> dict[str, int]:
    """Warn of maps and superpixels that say little; returns how many of them there are, for the JSON object."""
    empty, unstable = writer.empty_maps(), writer.unstable()
    if empty:
        ui.warn(f"{empty} of the maps have no positive evidence and show nothing; explain.json names them.")
    if unstable:
        ui.warn(
            f"{unstable} of {images} explanations are not stable within {num_samples} samples: other masks would "
            "rank the superpixels otherwise. explain.json says how alike (spearman, top5_jaccard)."
        )
    return {"empty_maps": empty, "unstable": unstable}


def _masks_and_groups(job: Job, paths: list[Path], masks: Path | None, groups: str | None) -> dict[str, Any]:
    """What --masks and --groups name for these images, else what xaitune.toml names where it fits them."""
    from xaitune.evaluate import store as scorefiles

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
    from xaitune.evaluate.store import FolderScorer

    scorer = FolderScorer(subject, first, total, images=images, steps=steps, **truth)
    plan = scorer.effort
    ui.say(
        f"Scoring: deletion, insertion, average drop and ROAD on {plan.images} of {total} images in {plan.steps} steps, "
        f"{plan.calls:,} network calls, about {duration(plan.seconds)}"
    )
    return scorer


def _say_scores(ui: Ui, scorer: Any, folder: Path) -> dict[str, Any]:
    """Finish, print and write the scores; returns them for the JSON object."""
    from xaitune.evaluate import store as scorefiles
    from xaitune.evaluate.table import printable

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


@command("predict")
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
    from xaitune.explain.api import CHUNK
    from xaitune.training import folder as runs

    if csv:
        runs.make_folder(csv.parent)
    from xaitune.explain.classifier import open_subject
    from xaitune.explain.lime.explain import probability_function

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
