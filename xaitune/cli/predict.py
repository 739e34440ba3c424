"""The command that asks a model for the classes of images or of their pixels: predict."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune._files import make_folder, write_csv
from xaitune.cli.completion import complete_run
from xaitune.cli.console import Ui
from xaitune.cli.inputs import readable_images, say_scaling
from xaitune.cli.model_choice import choose_model
from xaitune.cli.options import Job, command, option
from xaitune.config.explain_settings import ModelOptions

ImageFiles = Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files or folders.")]


@command("predict", ModelOptions)
def predict(
    job: Job,
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A finished run's folder, or a .keras or .h5 file.", autocompletion=complete_run
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
    choice = choose_model(run, job.runs_dir)
    opening = job.options(ModelOptions)
    bit_depth = opening.bit_depth or choice.bit_depth
    paths = readable_images(job.ui, images, bit_depth)
    from xaitune.explain.probabilities import predict_files

    if csv:
        make_folder(csv.parent)
    classifier = dataclasses.replace(choice.open(job.ui.say, **opening.given), bit_depth=bit_depth)
    if classifier.segmenter is not None:
        table, wrote = _predict_pixels(job.ui, classifier, paths, out or job.runs_dir / "predict")
    else:
        say_scaling(job.ui, classifier, paths)
        with job.ui.progress("predicting", "images") as report:
            table = predict_files(classifier, paths, report)
        job.ui.table(table[["file", "predicted", "probability"]].set_index("file").head(50))
        wrote = []
    if csv:
        write_csv(csv, table)
    predictions = table.to_dict("records") if job.ui.json_only else len(table)
    job.ui.finish([*wrote, *([csv] if csv else [])], "", predictions=predictions)


def _predict_pixels(ui: Ui, classifier: Any, paths: list[Path], folder: Path) -> tuple[Any, list[Path]]:
    """Write a mask for each image below `folder`, and a sheet of the first ones; returns the table of classes and shares."""
    import os

    import pandas as pd

    from xaitune.explain.pixels import iter_segmentations, write_labels
    from xaitune.plots import figures

    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    stems = Counter(path.absolute().with_suffix("") for path in paths)
    tables: list[Any] = []
    wrote: list[Path] = []
    with ui.progress("predicting", "images") as report:
        for made in iter_segmentations(classifier, paths, report):
            for file, labels in zip(made.files, made.labels, strict=True):
                place = Path(file).absolute().relative_to(root)
                shared = stems[Path(file).absolute().with_suffix("")] > 1  # x.png and x.bmp
                place = place.with_name(f"{place.name}.png") if shared else place.with_suffix(".png")
                write_labels(labels, folder / "masks" / place)
            if not tables:
                wrote = [folder / "masks", figures.save(made.plot(), folder / "segmentation.png")]
            tables.append(made.to_dataframe())
    table = pd.concat(tables, ignore_index=True)
    ui.table(table.set_index("file").head(50))
    values = ",".join(f"{number}={name}" for number, name in enumerate(classifier.class_names))
    ui.say(f"The values of the masks: {values}")
    return table, wrote
