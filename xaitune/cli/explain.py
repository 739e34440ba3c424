"""The command that shows what a model sees: explain."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune._names import duration, plural
from xaitune.cli.boxes import digest_of, say_box_scores, say_boxes, true_boxes_of
from xaitune.cli.completion import complete_run
from xaitune.cli.console import Ui
from xaitune.cli.inputs import readable_images, say_scaling
from xaitune.cli.model_choice import choose_model
from xaitune.cli.options import Job, command, option
from xaitune.cli.reliability import Checks, say_checks, verify_file
from xaitune.config.explain_settings import BoxOptions, ExplainOptions, LimeOptions, ModelOptions, ScoreOptions
from xaitune.config.toml import CONFIG_FILE
from xaitune.errors import ConfigError, DataError

ModelPath = Annotated[
    str | None,
    option(
        "--model",
        help="A run's folder, or a .keras or .h5 file of a whole model.",
        panel="Model",
        default="the newest run",
        metavar="PATH",
        autocompletion=complete_run,
    ),
]


@command("explain", ExplainOptions, ModelOptions, LimeOptions, BoxOptions, ScoreOptions)
def explain(
    job: Job,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGES", help="Image files or folders.", show_default=False)
    ] = None,
    model: ModelPath = None,
    check: Annotated[
        bool,
        option(
            "--check",
            help="Check which maps should not be relied on, by asking the model; says first what that costs.",
            panel="Scores",
        ),
    ] = False,
    verify: Annotated[
        Path | None,
        option(
            "--verify",
            help="Make an earlier explanation again from its explain.json, and say how far it has moved.",
            panel="Scores",
            metavar="FILE",
        ),
    ] = None,
    score: Annotated[
        bool, option("--score", help="Score the maps too: a table per block, and scores.csv.", panel="Scores")
    ] = False,
    boxes: Annotated[
        bool,
        option(
            "--boxes", help="Draw a box around what a map marks too: boxes.csv, and boxes.json (COCO).", panel="Boxes"
        ),
    ] = False,
    out: Annotated[
        Path | None,
        option("--out", help="Folder for the pictures.", default="explain, explain-cam or explain-lime in --runs-dir"),
    ] = None,
) -> None:
    """Draw what the model sees: Grad-CAM at each block, CAM or LIME.

    With --check say which maps should not be relied on, with --score measure how good they are. With --boxes draw boxes around
    what they mark, and with --masks or --true-boxes say how well those find the true ones. --verify FILE repeats an earlier
    explanation; it takes no images, and exits with 1 where a map has moved.
    """
    from xaitune.data.images import expand_images

    _require_one_source(images, verify)
    if verify is not None:
        verify_file(job, verify, model)
        return
    assert images
    options, lime = job.options(ExplainOptions), job.options(LimeOptions)
    options.check_blocks(None if model and Path(model).is_file() else 5)  # any Keras model may have other blocks
    expand_images(images)
    choice = choose_model(model, job.runs_dir)
    choice.check_class(options.class_name)
    opening = job.options(ModelOptions)
    bit_depth = opening.bit_depth or choice.bit_depth
    paths = readable_images(job.ui, images, bit_depth)
    wanted, boxing = job.options(ScoreOptions), job.options(BoxOptions)
    boxes = boxes or boxing != BoxOptions() or wanted.true_boxes is not None
    _require_heatmaps(options.method, boxes=boxes, check=check)
    score = score or bool(wanted.images or wanted.steps) or (not boxes and wanted != ScoreOptions())
    truth = _masks_and_groups(job, paths, wanted, choice.pixel_classes) if score or boxes else {}
    true_boxes = true_boxes_of(wanted.true_boxes, paths, truth["masks"], truth["pixel_classes"]) if boxes else None

    from xaitune.explain.api import CHUNK, iter_explanations, make_explainer
    from xaitune.explain.provenance import made_from
    from xaitune.explain.store import ExplanationWriter

    method = options.method
    classifier = dataclasses.replace(choice.open(job.ui.say, **opening.given), bit_depth=bit_depth)
    if options.layers == "list":
        _list_layers(job.ui, classifier)
        return
    say_scaling(job.ui, classifier, paths)
    about = _about(classifier, options)
    about |= {"made_from": made_from(classifier, options, lime, paths, opening.given)}
    size, scorer, start = 1 if method == "lime" else CHUNK, None, time.monotonic()
    folder = out or job.runs_dir / ("explain" if method == "gradcam" else f"explain-{method}")
    # Scores and checks are made from the maps as they come, so with them nothing is taken over from an interrupted call.
    drawn = {"boxes": dataclasses.asdict(boxing), "true": digest_of(true_boxes)} if boxes else {}
    checks = Checks(job.ui, classifier, paths, options.class_name) if check else None
    identity = (
        None if score or check else _identity(about | opening.given | drawn, options, lime, classifier.name, paths)
    )
    made_of = (folder, about, identity, boxing if boxes else None)
    with job.ui.progress("explaining", "images") as report, ExplanationWriter(*made_of) as writer:
        if writer.done:
            job.ui.say(f"Resuming after {min(writer.done * size, len(paths))} of {plural(len(paths), 'image')}")
        explainer = make_explainer(classifier, options, lime, report.part)
        rest = iter_explanations(classifier, paths[writer.done * size :], explainer, size)
        for done, made in enumerate(rest, writer.done + 1):
            first = (done - 1) * size
            made = checks(made) if checks else made
            writer.add(made, None if true_boxes is None else true_boxes.boxes[first : first + len(made)])
            if score:
                scorer = scorer or _scorer(job.ui, classifier, made, len(paths), truth, wanted)
                scorer.add(made)
            report(min(done * size, len(paths)), len(paths))
        writer.about |= {"checks": checks.about()} if checks else {}
        wrote = writer.close()
    seconds = time.monotonic() - start
    blocks = options.layers or ("all blocks" if options.blocks == "all" else f"Block {options.blocks}")
    shown = {"gradcam": blocks, "cam": f"Block {', '.join(map(str, writer.blocks))}"}.get(method, lime.segmenter)
    count = plural(len(paths), "image")
    job.ui.say(f"{count} in {duration(seconds)} ({method}, {shown}, {writer.about['precision']})")
    remarks = _say_remarks(job.ui, writer, len(paths), lime.num_samples, check)
    files = [v for k, v in wrote.items() if k not in ("folder", "pictures")]
    if boxes:
        remarks |= _say_boxes(job.ui, writer, boxing, true_boxes, truth["groups"])
        files += remarks.pop("wrote")
    scored = _say_scores(job.ui, scorer, writer.folder) if scorer else {"wrote": []}
    files += scored.pop("wrote")
    next_command = "" if choice.path is not None and choice.path.is_file() else "xaitune advise"
    if next_command and classifier.segmenter is not None:
        next_command += f" --model {classifier.name}"
    job.ui.finish(files, next_command, **wrote, **scored, seconds=seconds, **remarks)


def _say_boxes(ui: Ui, writer: Any, options: BoxOptions, true_boxes: Any, groups: Any) -> dict[str, Any]:
    """Print the number of boxes and, against the true ones, their scores; returns them for the JSON object."""
    from xaitune.evaluate.detection import score_boxes

    boxes = writer.all_boxes()
    said = say_boxes(ui, boxes, options)
    if true_boxes is None or not any(true is not None and len(true) for true in true_boxes.boxes):
        if true_boxes is not None:
            ui.warn("None of the images has a true box, so boxes are not scored.")
        return said | {"wrote": []}
    scores = score_boxes(boxes, true_boxes=true_boxes, groups=groups)
    return said | say_box_scores(ui, scores, writer.folder, boxes.layers)


def _require_one_source(images: list[Path] | None, verify: Path | None) -> None:
    """Refuse neither and both of images and an earlier explanation. Raises ConfigError."""
    if verify is None and not images:
        raise ConfigError("Missing argument 'IMAGES': give image files or folders. See 'xaitune explain --help'.")
    if verify is not None and images:
        raise ConfigError("--verify repeats the images of its FILE: leave the images out.")


def _require_heatmaps(method: str, *, boxes: bool, check: bool) -> None:
    """Refuse for LIME what needs heatmaps. Raises ConfigError."""
    if method != "lime":
        return
    if boxes:
        raise ConfigError(
            "Boxes are drawn around regions of heatmaps: use --method gradcam or cam. Received: method=lime."
        )
    if check:
        raise ConfigError(
            "LIME reports its stability itself (explain.json): --check is for --method gradcam or cam. Received: method=lime."
        )


def _about(classifier: Any, options: ExplainOptions) -> dict[str, Any]:
    """What explain.json says of all maps."""
    about = {
        "preprocess": classifier.preprocess,
        "labels": classifier.labels,
        "method": options.method,
        "rule": options.rule,
        "model": classifier.name,
        "class_names": list(classifier.class_names),
        "resize": classifier.resize,
    }
    return about | ({"bit_depth": classifier.bit_depth} if classifier.bit_depth else {})


def _identity(
    about: dict[str, Any], options: ExplainOptions, lime: LimeOptions, model: str, paths: list[Path]
) -> dict[str, Any]:
    """All that determines explanations: what an interrupted call has made is taken over only if it is the same."""
    files = [path for path in (Path(model), Path(model) / "model.keras", *paths) if path.is_file()]
    return {
        "about": about,
        "options": dataclasses.asdict(options),
        "lime": {name: str(value) for name, value in dataclasses.asdict(lime).items()},
        "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
    }


def _list_layers(ui: Ui, classifier: Any) -> None:
    """Print the layers that maps can be made from, with the shapes of their maps."""
    import pandas as pd

    from xaitune.models.stages import find_stages, layers_with_maps

    layers = layers_with_maps(classifier.model)
    blocks = {name: f"Block {block}" for block, name in find_stages(classifier.model).items()}
    rows = {
        name: {"maps": "x".join(map(str, shape)), "drawn as": blocks.get(name, "")} for name, shape in layers.items()
    }
    ui.table(
        pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer"), f"Layers with maps in {classifier.name}"
    )
    ui.finish([], "the same command with --layer NAME", layers={name: list(shape) for name, shape in layers.items()})


def _say_remarks(ui: Ui, writer: Any, images: int, num_samples: int, checked: bool) -> dict[str, Any]:
    """Warn of maps and superpixels that say little; returns how many of them there are, for the JSON object."""
    empty, unstable = writer.empty_maps(), writer.unstable()
    said = say_checks(ui, writer.doubts()) if checked else {}
    if empty and not checked:
        ui.warn(f"{plural(empty, 'map')} without positive evidence, which show nothing; explain.json names them.")
    if unstable:
        ui.warn(
            f"{unstable} of {images} explanations are not stable within {num_samples} samples: other masks would "
            "rank the superpixels differently. explain.json says how alike (spearman, top5_jaccard)."
        )
    if writer.bright:
        ui.warn(
            f"{writer.bright} of {images} decisions lean on Block 1's means, which see brightness and fine texture without "
            "their place: that may be the lamp and not the part."
        )
    return said | {"empty_maps": empty, "unstable": unstable, "lean_on_brightness": writer.bright}


def _masks_and_groups(job: Job, paths: list[Path], wanted: ScoreOptions, pixel_classes: str | None) -> dict[str, Any]:
    """What --masks and --groups name for these images, else what xaitune.toml names where it fits them."""
    from xaitune.evaluate.store import groups_of, masks_of

    known = job.file_config().data
    truth: dict[str, Any] = {"pixel_classes": pixel_classes or known.pixel_classes}
    for name, find in (("masks", masks_of), ("groups", groups_of)):
        given = getattr(wanted, name)
        rule = given or getattr(known, name)
        try:
            truth[name] = find(paths, rule) if rule else None
        except DataError:
            if given:
                raise
            truth[name] = None
            job.ui.say(f"The {name} of {job.config_file or CONFIG_FILE} do not fit these images and are left out.")
    return truth


def _scorer(ui: Ui, classifier: Any, first: Any, total: int, truth: dict[str, Any], wanted: ScoreOptions) -> Any:
    """What scores the maps as they come; says what it will ask of the model."""
    from xaitune.evaluate.store import FolderScorer

    scorer = FolderScorer(classifier, first, total, images=wanted.images, steps=wanted.steps, **truth)
    plan = scorer.effort
    ui.say(
        f"Scoring: deletion, insertion, average drop and ROAD on {plan.images} of {total} images in {plan.steps} steps, "
        f"{plan.calls:,} network calls, about {duration(plan.seconds)}"
    )
    return scorer


def _say_scores(ui: Ui, scorer: Any, folder: Path) -> dict[str, Any]:
    """Finish, print and write the scores; returns them for the JSON object."""
    from xaitune.evaluate.store import write_scores
    from xaitune.evaluate.table import printable

    with ui.progress("scoring", "images") as report:
        table = scorer.finish(report)
    about = scorer.about(table)
    summary, wrote = write_scores(folder, table, about)
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
