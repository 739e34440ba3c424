"""The command that asks a model for the classes of images or of their pixels: predict."""

import dataclasses
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune._files import make_folder, read_json, write_csv
from xaitune._names import plural
from xaitune.cli.completion import complete_run
from xaitune.cli.console import Ui
from xaitune.cli.inputs import readable_images, say_scaling
from xaitune.cli.model_choice import ModelChoice, choose_model
from xaitune.cli.options import Job, command, option
from xaitune.config.explain_settings import ModelOptions
from xaitune.errors import ConfigError
from xaitune.export.formats import PROOF, format_of
from xaitune.training.folder import CONFIG

SHOWN = 50  # rows of the printed table

ImageFiles = Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files or folders.")]


@command("predict", ModelOptions)
def predict(
    job: Job,
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder of a finished run or of a sweep (the model that it recommends), an exported file, a .keras or .h5.",
            autocompletion=complete_run,
        ),
    ],
    images: ImageFiles,
    csv: Annotated[Path | None, option("--csv", help="Write the predictions to this file.", metavar="FILE")] = None,
    out: Annotated[
        Path | None,
        option(
            "--out", help="Folder for the masks of a segmentation.", default="predict in --runs-dir", metavar="FOLDER"
        ),
    ] = None,
) -> None:
    """Print the predicted class and the probabilities of images; of a segmentation also write a mask for each."""
    opening = job.options(ModelOptions)
    masks = out or job.runs_dir / "predict"
    if format_of(run):
        table, wrote = _predict_exported(job.ui, run, opening, images, csv, masks)
    else:
        table, wrote = _predict_run(job.ui, choose_model(run, job.runs_dir), opening, images, csv, masks)
    if csv:
        write_csv(csv, table)
    predictions = table.to_dict("records") if job.ui.json_only else len(table)
    least = table.loc[table["probability"].idxmin()] if "probability" in table else None
    if least is not None and len(table) > 1:
        job.ui.say(
            f"Least sure: {least['file']}, {least['predicted']} with a probability of {least['probability']:.2f}"
        )
    options = [f"--{name.replace('_', '-')}={value}" for name, value in job.given.get(ModelOptions, {}).items()]
    words = [
        "explain",
        str((table.loc[0] if least is None else least)["file"]),
        "--model",
        _explained_by(run),
        *options,
    ]
    if not csv and (least is None or format_of(run)):
        places = ["--out", str(out)] if out else job.runs
        words = ["predict", str(run), "IMAGES", *options, *places, "--csv", "predictions.csv"]
    job.ui.finish([*wrote, *([csv] if csv else [])], shlex.join(["xaitune", *words]), predictions=predictions)


def _explained_by(model: Path) -> str:
    """What `xaitune explain` takes for a model: itself; for an exported file its run, or the word RUN where that is not found."""
    if format_of(model) is None:
        return str(model)
    proof = model.with_name(model.name + PROOF)
    run = model.parent.parent / (read_json(proof)["run"] if proof.is_file() else "")
    return str(run) if (run / CONFIG).is_file() else "RUN"


def _say_trained_on(ui: Ui, run: Path, paths: list[Path]) -> None:
    """Say how many of the images the model of a run was trained on; nothing of other models."""
    from xaitune.training.folder import is_finished

    if not is_finished(run):
        return
    from xaitune.training.run import load_run

    known = {path.resolve() for path in load_run(run).paths("train")}
    count = sum(path.resolve() in known for path in paths)
    if count:
        these, them = ("this image", "it") if len(paths) == 1 else (f"{count} of these {len(paths):,} images", "them")
        ui.warn(f"{run} was trained on {these}: that it gets {them} right says nothing about new images.")


def _predict_run(
    ui: Ui, choice: ModelChoice, opening: ModelOptions, images: list[Path], csv: Path | None, masks: Path
) -> tuple[Any, list[Path]]:
    """The table of predictions of a run or of a model of the user's own, and what was written."""
    bit_depth = opening.bit_depth or choice.bit_depth
    paths = readable_images(ui, images, bit_depth)
    from xaitune.explain.probabilities import Probabilities

    if csv:
        make_folder(csv.parent)
    classifier = dataclasses.replace(choice.open(ui.say, **opening.given), bit_depth=bit_depth)
    _say_trained_on(ui, Path(classifier.name), paths)
    if classifier.segmenter is not None:
        from xaitune.explain.pixels import PixelLabels

        return _predict_pixels(ui, classifier, PixelLabels(classifier), paths, masks, csv)
    say_scaling(ui, classifier, paths)
    return _predict_classes(ui, classifier, Probabilities(classifier, "float32"), paths, csv), []


def _predict_exported(
    ui: Ui, file: Path, opening: ModelOptions, images: list[Path], csv: Path | None, masks: Path
) -> tuple[Any, list[Path]]:
    """The same of a file that `xaitune export` wrote. ONNX and OpenVINO files need no TensorFlow."""
    from xaitune.export.exported import open_exported

    for name, value in opening.given.items():
        if value not in (None, "auto"):
            raise ConfigError(
                f"{name} is for a model of your own, and {file} was exported. Received: {name}={value!r}."
            )
    model = open_exported(file, bit_depth=opening.bit_depth)
    paths = readable_images(ui, images, model.bit_depth)
    if trained_on := model.about.get("trained_on"):  # files of earlier versions lack it
        ui.say(
            f"{file} was trained on {plural(trained_on['images'], 'image')} of {trained_on['of']}: that it gets those right "
            "says nothing about new images."
        )
    if csv:
        make_folder(csv.parent)
    if model.segments:
        return _predict_pixels(ui, model, model.pixel_labels, paths, masks, csv)
    return _predict_classes(ui, model, model.probabilities, paths, csv), []


def _predict_classes(ui: Ui, model: Any, probabilities: Any, paths: list[Path], csv: Path | None) -> Any:
    """Print the predicted classes; returns their table."""
    from xaitune.explain.rows import predicted_rows

    with ui.progress("predicting", "images") as report:
        table = predicted_rows(model, probabilities, paths, report)
    _show(ui, table[["file", "predicted", "probability"]], csv, "Probabilities, computed in float32")
    return table


def _show(ui: Ui, table: Any, csv: Path | None, title: str = "") -> None:
    """Print the first rows, and say how many there are beyond them, and which file has all."""
    ui.table(table.set_index("file").head(SHOWN), title)
    if len(table) > SHOWN:
        writes = f"{csv} has" if csv else "--csv FILE writes"
        ui.say(f"{len(table) - SHOWN:,} more are not shown: {writes} all {len(table):,}.")


def _predict_pixels(
    ui: Ui, model: Any, labels: Any, paths: list[Path], folder: Path, csv: Path | None
) -> tuple[Any, list[Path]]:
    """Write a mask for each image below `folder`, and a sheet of the first ones; returns the table of classes and shares.

    `labels`: as `explain.pixels.PixelLabels`.
    """
    import os

    import pandas as pd

    from xaitune.explain.pixels import iter_segmentations, write_labels
    from xaitune.plots import figures

    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    stems = Counter(path.absolute().with_suffix("") for path in paths)
    tables: list[Any] = []
    wrote: list[Path] = []
    with ui.progress("predicting", "images") as report:
        for made in iter_segmentations(model, labels, paths, report):
            for file, values in zip(made.files, made.labels, strict=True):
                place = Path(file).absolute().relative_to(root)
                shared = stems[Path(file).absolute().with_suffix("")] > 1  # x.png and x.bmp
                place = place.with_name(f"{place.name}.png") if shared else place.with_suffix(".png")
                write_labels(values, folder / "masks" / place)
            if not tables:
                wrote = [folder / "masks", figures.save(made.plot(), folder / "segmentation.png")]
            tables.append(made.to_dataframe())
    table = pd.concat(tables, ignore_index=True)
    _show(ui, table, csv)
    legend = ",".join(f"{number}={name}" for number, name in enumerate(model.class_names))
    ui.say(f"The values of the masks: {legend}")
    return table, wrote
