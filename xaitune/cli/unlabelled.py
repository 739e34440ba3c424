"""What `advise --model RUN` does with new images for which no depth can be advised: without labels, or too few to be split."""

import shlex
from pathlib import Path
from typing import Any

from xaitune._names import plural
from xaitune.cli.data import say_remarks
from xaitune.cli.model_choice import choose_model
from xaitune.cli.options import Job
from xaitune.config.settings import DataConfig, TrainConfig
from xaitune.errors import ConfigError

USED = ("groups", "image_size", "resize", "bit_depth")  # settings of the images


def compare_flat(
    job: Job, data: Path | None, model: str, *, name: str | None, overwrite: bool, others: dict[str, Any]
) -> bool:
    """Compare images without labels with a run's own, and print what was found and which to label first.

    False, with nothing done, where `data` is not a flat folder, or one with masks (of a segmentation). `others`: options that
    need labels, and what was given. Raises ConfigError for one of them.
    """
    from xaitune.data.unlabelled import is_flat, unlabelled_images

    config = job.config(data).data
    if config.masks is not None or not is_flat(Path(config.path)):
        return False
    given = job.given.get(DataConfig, {})
    needless = [*(key for key in given if key not in USED), *job.given.get(TrainConfig, {})]
    for key in [*needless, *(key for key, value in others.items() if value is not None)]:
        raise ConfigError(
            f"--{key.replace('_', '-')} needs labels, and {config.path} holds images without class folders: leave it out."
        )
    run = choose_model(model, job.runs_dir).run(job.ui.say)
    from xaitune.advise.unlabelled import TO_LABEL, config_for

    images = unlabelled_images(config_for(run, config.path, config.groups, given))
    groups = plural(len(set(images.groups)), "group")
    job.ui.say(
        f"Data: {plural(len(images), 'image')} without labels, {groups} ({config.path}): it has no class folders, so the images "
        "are compared with the model's own, and no depth is advised."
    )
    if config.groups is None and run.data_config.groups is not None:
        job.ui.say(
            "Without groups: the model's own images have some. Give --groups if a thing was photographed several times."
        )
    say_remarks(job.ui, images)
    drift = _compared(job, run, images, name, overwrite)
    job.ui.table(drift.predicted, "Share of each predicted class")
    _finish(
        job,
        drift,
        [drift.path / TO_LABEL],
        _advice_on_labels(run.path, images.config),
        p_predicted=drift.p_predicted,
        predicted=drift.predicted.reset_index().to_dict("records"),
        to_label=drift.to_label["file"].tolist(),
    )
    return True


def compare_few(
    job: Job, images: Any, model: str, *, name: str | None, overwrite: bool, others: dict[str, Any]
) -> bool:
    """Compare labelled images that are too few to be split with a run's own, and print what was found.

    False, with nothing done, where the images can be split, an option asks for more than a comparison, or drift is not
    measured: of a segmentation, and of a model that is not a run.
    """
    from xaitune.data.checks import trainability

    problems = trainability(images)
    if not problems or job.given.get(TrainConfig) or any(value is not None for value in others.values()):
        return False
    choice = choose_model(model, job.runs_dir)
    if choice.path is None or not choice.path.is_dir():
        return False
    run = choice.run(job.ui.say)
    if run.config.segments:
        return False
    drift = _compared(job, run, images, name, overwrite)
    job.ui.say(f"No depth is advised, since the images cannot be split for a training. {problems[0].message}")
    _finish(job, drift, [], "")
    return True


def _compared(job: Job, run: Any, images: Any, name: str | None, overwrite: bool) -> Any:
    """The drift, with its blocks printed."""
    from xaitune.advise.unlabelled import measured_in_folder

    with job.ui.progress("comparing", "images") as report:
        options: dict[str, Any] = {"overwrite": overwrite, "progress": report, "notes": job.ui.say}
        drift = measured_in_folder(run, images, name, job.runs_dir, **options)
    measure = (
        "how concentrated they are (mean Gini coefficient)"
        if drift.measure == "gini"
        else f"their mean {drift.measure}"
    )
    job.ui.table(drift.blocks, "Drift of each block")
    job.ui.say(
        "distance: 0 where the features have the same distribution, 1 where they have nothing in common; usual: 95 % of the "
        "distances without drift are below it; p: the chance of such a distance without drift; empty_old, empty_new: the share "
        f"of empty heatmaps; maps_old, maps_new: {measure}"
    )
    return drift


def _finish(job: Job, drift: Any, files: list[Path], following: str, **more: Any) -> None:
    job.ui.say(f"{drift.headline} {drift.text}")
    about = {"headline": drift.headline, "drift": drift.text, "retrain": drift.retrain, "p": drift.p}
    job.ui.finish([drift.path, *files], following, **about, **more)


def _advice_on_labels(run: Path, config: DataConfig) -> str:
    """The command for the images once they are labelled, in class folders."""
    words = ["xaitune", "advise", "LABELLED", "--model", str(run), "--image-size", "{}x{}".format(*config.image_size)]
    words += ["--resize", config.resize] if config.resize != DataConfig().resize else []
    words += ["--bit-depth", str(config.bit_depth)] if config.bit_depth else []
    return shlex.join(words)
