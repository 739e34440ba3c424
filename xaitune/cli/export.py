"""The command that writes a run in another file format: export."""

import os
from pathlib import Path
from typing import Annotated

import typer

from xaitune._names import disk_size
from xaitune.cli.inputs import readable_images
from xaitune.cli.model_choice import choose_model
from xaitune.cli.options import Job, command, option
from xaitune.config.rules import require_choice
from xaitune.export.formats import FORMATS, PROOF, require_writable


@command("export")
def export(
    job: Job,
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of a finished run, or of a sweep (the model that it recommends)."),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Images or folders to compare the file with the run on (default: 100 of its test images).",
            show_default=False,
        ),
    ] = None,
    to: Annotated[str, option("--to", help="Format of the file.", default="onnx", metavar="|".join(FORMATS))] = "onnx",
    with_heatmap: Annotated[
        bool, option("--with-heatmap", help="Output the class activation map of each class too (head gap).")
    ] = False,
    output: Annotated[
        Path | None,
        option("--output", help="The file to write.", default="export/ beside the run's folder", metavar="PATH"),
    ] = None,
    overwrite: Annotated[
        bool, option("--overwrite", help="Replace a file of another model too, or one with heatmaps by one without.")
    ] = False,
) -> None:
    """Write a run as ONNX, OpenVINO, SavedModel or Keras, compared with the run on images before it is kept."""
    require_choice("to", to, FORMATS)
    require_writable(to, os.environ.get("KERAS_BACKEND", "tensorflow"))
    choice = choose_model(run, job.runs_dir)
    paths = readable_images(job.ui, images, choice.bit_depth) if images else None
    from xaitune.export.writer import export_run

    with job.ui.progress("comparing", "images") as report:
        made = export_run(
            choice.run(job.ui.say, with_heatmap=with_heatmap),
            to,
            path=output,
            with_heatmap=with_heatmap,
            overwrite=overwrite,
            images=paths,
            progress=report,
        )
    job.ui.say(f"{disk_size(made.size)}. {made.sentence()}")
    proof = made.path.with_name(made.path.name + PROOF)
    job.ui.finish(
        [made.path, proof], f"xaitune predict {made.path} IMAGES", format=to, bytes=made.size, proof=made.proof
    )
