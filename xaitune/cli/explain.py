"""The command that shows what a model sees: explain."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune._names import duration, plural
from xaitune.cli.boxes import say_box_scores, say_boxes
from xaitune.cli.completion import complete_run
from xaitune.cli.console import Ui
from xaitune.cli.explaining import Made, Wanted, explain_files, what_is_wanted
from xaitune.cli.inputs import readable_images, say_scaling
from xaitune.cli.model_choice import ModelChoice, choose_model
from xaitune.cli.options import Job, command, option
from xaitune.cli.reliability import say_checks, verify_file
from xaitune.config.explain_settings import BoxOptions, ExplainOptions, LimeOptions, ModelOptions, ScoreOptions
from xaitune.errors import ConfigError

LONG = 200  # characters of a command that is not written out again
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
    options, opening = job.options(ExplainOptions), job.options(ModelOptions)
    options.check_blocks(None if model and Path(model).is_file() else 5)  # any Keras model may have other blocks
    expand_images(images)
    choice = choose_model(model, job.runs_dir)
    choice.check_class(options.class_name)
    bit_depth = opening.bit_depth or choice.bit_depth
    paths = readable_images(job.ui, images, bit_depth)
    wanted = what_is_wanted(job, paths, choice.pixel_classes, check=check, score=score, boxes=boxes)
    classifier = dataclasses.replace(choice.open(job.ui.say, **opening.given), bit_depth=bit_depth)
    if options.layers == "list":
        _list_layers(job.ui, classifier)
        return
    say_scaling(job.ui, classifier, paths)
    folder = out or job.runs_dir / ("explain" if options.method == "gradcam" else f"explain-{options.method}")
    made = explain_files(job.ui, classifier, wanted, folder, opening.given)
    _say_made(job.ui, made, wanted, _next_command(choice, wanted))


def _say_made(ui: Ui, made: Made, wanted: Wanted, next_command: str) -> None:
    """Print what was made, its scores, and what should be known of it."""
    options, writer, count = wanted.options, made.writer, len(wanted.paths)
    blocks = options.layers or ("all blocks" if options.blocks == "all" else f"Block {options.blocks}")
    shown = {"gradcam": blocks, "cam": f"Block {', '.join(map(str, writer.blocks))}"}.get(
        options.method, wanted.lime.segmenter
    )
    how = f"{options.method}, {shown}, {writer.about['precision']}"
    ui.say(f"{plural(count, 'image')} in {duration(made.seconds)} ({how})")
    if made.coarseness:
        ui.say(made.coarseness)
    remarks = _say_remarks(ui, writer, count, wanted.lime.num_samples, wanted.check)
    files = [v for k, v in made.wrote.items() if k not in ("folder", "pictures")]
    if made.wrote["pictures"] > 1:
        named = "explained" if options.class_name else "predicted"
        ui.say(f"Each image has a picture in {writer.folder}, in a folder named after the {named} class.")
    if wanted.boxing:
        remarks |= _say_boxes(ui, writer, wanted.boxing, wanted.true_boxes, wanted.truth["groups"])
        files += remarks.pop("wrote")
    scored = _say_scores(ui, made.scorer, writer.folder) if made.scorer else {"wrote": []}
    files += scored.pop("wrote")
    ui.finish(files, next_command, **made.wrote, **scored, seconds=made.seconds, **remarks)


def _next_command(choice: ModelChoice, wanted: Wanted) -> str:
    """What can follow: the check of heatmaps that were not checked, then the report on the run."""
    if wanted.options.method != "lime" and not wanted.check:
        command = shlex.join(["xaitune", *sys.argv[1:], "--check"])
        return command if len(command) < LONG else "the same command with --check, which says which maps can be trusted"
    if choice.path is not None and choice.path.is_dir():
        return shlex.join(["xaitune", "report", str(choice.path)])
    return ""


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
