"""The command that recommends how many blocks to freeze: advise."""

import dataclasses
import time
from typing import Annotated, Any

from xaitune._names import duration
from xaitune.cli.completion import complete_run
from xaitune.cli.data import DataPath, Overwrite, check_call, load_data
from xaitune.cli.model_choice import choose_model
from xaitune.cli.options import Job, command, option
from xaitune.cli.train import CacheGb, Name
from xaitune.cli.unlabelled import compare_few, compare_flat
from xaitune.config.settings import Config, DataConfig, TrainConfig

FEW_IMAGES = 100  # docs/advice.md: with 62 the advice from features lost 25 points, the race none
LONG = 3600  # seconds of a sweep, from which on cheaper steps are named first


@command(
    "advise", DataConfig, TrainConfig, skip=("seed", "freeze_through", "trained_blocks", "final_epochs", "head_blocks")
)
def advise(
    job: Job,
    data: DataPath = None,
    method: Annotated[
        str | None,
        option(
            "--method",
            help="What the advice rests on: frozen features (features), also a few epochs of every depth (race), or "
            "heatmaps alone (heatmap).",
            default="race where it is short, else features; heatmap with a --model that is not trained on other images",
            metavar="NAME",
        ),
    ] = None,
    cost_weight: Annotated[
        float,
        option(
            "--cost-weight",
            help="Points of the score that the dearest training must gain over the cheapest.",
            metavar="POINTS",
        ),
    ] = 1.0,
    model: Annotated[
        str | None,
        option(
            "--model",
            help="A run to train again on these images: compared with its own, its weights the start. On its own images, "
            "or with --method heatmap (also a .keras file): look at its heatmaps.",
            panel="Model",
            default="a new model",
            metavar="PATH",
            autocompletion=complete_run,
        ),
    ] = None,
    name: Name = None,
    overwrite: Overwrite = False,
    max_calls: Annotated[
        int | None,
        option(
            "--max-calls",
            help="Maximum network calls for heatmaps: an image once forward or backward is one.",
            default="by image size",
            metavar="N",
        ),
    ] = None,
    cache_gb: CacheGb = 20.0,
) -> None:
    """Recommend how many blocks to freeze, or to train nothing.

    Looks at what frozen features and the gradients of each block tell about the classes of the training and validation
    images, and weighs it by what was learnt from many tasks. With --method race, the default where that is short, every
    depth is also fine-tuned for three epochs, which a sweep that follows continues. With --model RUN on other images than
    the run's own: whether they have drifted, and how deep to train the run again. Images directly in DATA, without class
    folders, have no labels: then whether they have drifted, and which to label first.
    """
    others: dict[str, Any] = {"method": method, "max_calls": max_calls}
    others["cost_weight"] = None if cost_weight == 1 else cost_weight
    others["cache_gb"] = None if cache_gb == 20 else cache_gb
    if model is not None:
        choose_model(model, job.runs_dir)  # refuse what is not a model before the images are read
        if compare_flat(job, data, model, name=name, overwrite=overwrite, others=others):
            return
    check_call(job, data, name)
    from xaitune.advise.recommend import check_settings

    check_settings(job.config(data).train, method, cost_weight / 100)
    config, images = load_data(job, data)
    if model is not None and compare_few(job, images, model, name=name, overwrite=overwrite, others=others):
        return
    options = {
        "method": method,
        "cost_weight": cost_weight / 100,
        "model": model,
        "name": name,
        "overwrite": overwrite,
        "max_calls": max_calls,
        "cache_gb": cache_gb,
    }
    advice = make_advice(job, config, images, **options)
    again = _training_again(job, data, advice, model) if advice.drift else ""
    job.ui.finish(
        [advice.path],
        again or _following(job, data, config, images, advice),
        drift=advice.drift,
        retrain=advice.retrain,
        freeze_through=advice.freeze_through,
        frozen=advice.frozen,
        confidence=advice.confidence,
        votes=advice.votes,
        reasons=advice.reasons,
        model_calls=advice.model_calls,
    )


def _training_again(job: Job, data: Any, advice: Any, model: str | None) -> str:
    """The command that trains a model again as the advice says."""
    height, width = advice.image_size
    start = ["--weights", str(model), "--image-size", f"{height}x{width}"]
    return job.following("train", data, *start, *_advised_options(advice))


def _advised_options(advice: Any) -> list[str]:
    """The options of `xaitune train` that follow the advice."""
    if not advice.frozen:
        return ["--freeze-through", str(advice.freeze_through)]
    blocks = [] if advice.frozen == "frozen-all-blocks" else ["--head-blocks", "best"]
    return ["--head", "blocks", "--freeze-through", "5", *blocks]


def _following(job: Job, data: Any, config: Config, images: Any, advice: Any) -> str:
    """Say what a sweep that checks the advice costs; returns that command, or the advised training where it is long."""
    from xaitune.comparison.cost import sweep_costs
    from xaitune.comparison.grid import QUICK_OPTIONS

    task = "segment" if config.train.segments else "classify"
    if advice.task != task:  # the advice is about another training than the settings
        return job.following("sweep-freeze", data, "--task", advice.task)
    grid = config.sweep.with_depth(advice.freeze_through)
    cost = sweep_costs(dataclasses.replace(config, sweep=grid), images).filter(like="chosen", axis="index").iloc[0]
    text = f"A sweep checks this advice, in {duration(cost['seconds'])} at most"
    check = job.following("sweep-freeze", data)
    if cost["seconds"] < LONG:
        job.ui.say(f"{text}.")
        return check
    job.ui.say(f"{text}: {check}")
    if cost["quick_seconds"] < cost["seconds"]:
        quick = job.following("sweep-freeze", data, *QUICK_OPTIONS.format(config.train.optimizer).split())
        job.ui.say(f"With one optimizer and one seed, in {duration(cost['quick_seconds'])} at most: {quick}")
    return job.following("train", data, *_advised_options(advice))


def make_advice(job: Job, config: Config, images: Any, **options: Any) -> Any:
    """Make the advice and print it."""
    from xaitune.advise.recommend import advise_freeze

    start = time.monotonic()
    with job.ui.progress("advising") as report:
        advice = advise_freeze(
            images,
            config.train,
            runs_dir=job.runs_dir,
            sweep=config.sweep,
            progress=report,
            notes=job.ui.say,
            **options,
        )
    table = advice.table()
    if advice.method == "heatmap":
        table = table[[table.columns[0], "agreement", "concentration", "stability", "empty_maps"]]
    job.ui.table(table, f"Evidence (score: {advice.score_meaning})")
    if advice.method != "heatmap":
        job.ui.say(f"{advice.meanings}. The confidence below is the same chance among depths alone.")
    job.ui.say(f"Advice: {advice.headline}")
    job.ui.say(f"Reasons: {advice.text}")
    if advice.frozen:
        job.ui.say(
            "A linear head has no heatmaps that an exported file can hold: for 'xaitune export --with-heatmap', train with "
            "--head gap instead."
        )
    few = len(images.indices("train"))
    if advice.method == "features" and few < FEW_IMAGES:
        job.ui.say(
            f"With {few} training images, frozen features may promise what a short training does not learn: "
            "--method race tries every depth for three epochs."
        )
    job.ui.say(f"This command took {duration(time.monotonic() - start)}")
    return advice
