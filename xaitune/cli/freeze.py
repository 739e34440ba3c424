"""Commands that decide how many blocks to freeze: advise, sweep-freeze, check-advice."""

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune._names import disk_size, duration, frozen_name
from xaitune.cli.completion import complete_run
from xaitune.cli.console import Ui
from xaitune.cli.data import DataPath, Overwrite, load_data
from xaitune.cli.model_choice import choose_model
from xaitune.cli.options import Job, command, option
from xaitune.cli.train import CacheGb, Name
from xaitune.cli.unlabelled import compare_flat
from xaitune.config.settings import DataConfig, SweepConfig, TrackingConfig, TrainConfig, replace_fields
from xaitune.errors import ConfigError, RunError

FEW_IMAGES = 100  # docs/advice.md: with 62 the advice from features lost 25 points, the race none


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
    if model is not None:
        choose_model(model, job.runs_dir)  # refuse what is no model before the images are read
        others = {"method": method, "max_calls": max_calls}
        if compare_flat(job, data, model, name=name, overwrite=overwrite, others=others):
            return
    config, images = load_data(job, data)
    options = {
        "method": method,
        "cost_weight": cost_weight / 100,
        "model": model,
        "name": name,
        "overwrite": overwrite,
        "max_calls": max_calls,
        "cache_gb": cache_gb,
    }
    advice = _advise(job, config, images, **options)
    following = "xaitune sweep-freeze"
    if advice.drift:
        following = _training_again(config.data, advice, model, job.given.get(DataConfig, {}))
    job.ui.finish(
        [advice.path],
        following,
        drift=advice.drift,
        retrain=advice.retrain,
        freeze_through=advice.freeze_through,
        frozen=advice.frozen,
        confidence=advice.confidence,
        votes=advice.votes,
        reasons=advice.reasons,
        model_calls=advice.model_calls,
    )


def _training_again(data: DataConfig, advice: Any, model: str | None, given: dict[str, Any]) -> str:
    """The command that trains a model again as the advice says."""
    height, width = advice.image_size
    words = ["train", data.path, "--weights", str(model), "--image-size", f"{height}x{width}"]
    for name in ("groups", "masks", "pixel_classes", "label_fixes", "split", "split_seed", "resize"):
        if name in given:
            value = given[name]
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    if advice.frozen:
        words += ["--head", "blocks", "--freeze-through", "5"]
        words += [] if advice.frozen == "frozen-all-blocks" else ["--head-blocks", "best"]
    else:
        words += ["--freeze-through", str(advice.freeze_through)]
    return "xaitune " + " ".join(shlex.quote(word) for word in words)


def _advise(job: Job, config: Any, images: Any, **options: Any) -> Any:
    from xaitune.advise.candidates import candidate_name
    from xaitune.advise.recommend import advise_freeze

    start = time.monotonic()
    with job.ui.progress("advising", "steps") as report:
        advice = advise_freeze(
            images,
            config.train,
            runs_dir=job.runs_dir,
            sweep=config.sweep,
            progress=report,
            notes=job.ui.say,
            **options,
        )
    columns = ["score", "low", "high", "agreement", "concentration", "stability", "empty_maps"]
    if advice.method != "heatmap":
        columns = ["score", "low", "high", *advice.figures]
    table = advice.evidence[columns].rename(index=lambda candidate: candidate_name(candidate))
    job.ui.table(table, f"Evidence (score: {advice.measure})")
    if advice.method != "heatmap":
        job.ui.say(
            "regret: expected loss against the best of all rows, linear heads included; the advice on depths below compares "
            "depths alone. near: chance of being within 1 point of the best row. linear, short: held-out scores of linearised "
            "and of short trainings. cost: share of the multiply-adds of training all blocks."
        )
    job.ui.say(f"Advice: {advice.headline} {advice.text}")
    few = len(images.indices("train"))
    if advice.method == "features" and few < FEW_IMAGES:
        job.ui.say(
            f"With {few} training images, frozen features may promise what a short training does not learn: "
            "--method race tries every depth for three epochs."
        )
    job.ui.say(f"This command took {duration(time.monotonic() - start)}")
    return advice


@command(
    "sweep-freeze",
    *(DataConfig, TrainConfig, SweepConfig, TrackingConfig),
    skip=("seed", "optimizer", "trained_blocks"),
)
def sweep_freeze(
    job: Job,
    data: DataPath = None,
    name: Name = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Print runs, time and disk space, and start nothing.", panel="Comparison")
    ] = False,
    cache_gb: CacheGb = 20.0,
) -> None:
    """Train depth x optimizer x seed, and check the advice.

    Makes the advice first where there is none. An advised depth is added to the grid unless --freeze-through is given.
    """
    config, images = load_data(job, data)
    from xaitune.advise.candidates import DEPTHS
    from xaitune.comparison.cost import plan_cost
    from xaitune.comparison.engines.ray import check_ray
    from xaitune.comparison.plan import plan_sweep
    from xaitune.comparison.sweep import run_sweep
    from xaitune.comparison.tracked import close_group
    from xaitune.tracking.follow import require_packages

    config.sweep.require_engine(job.given.get(SweepConfig, {}))
    if config.sweep.engine == "ray":
        check_ray(config.sweep.ray_address)
    plan = plan_sweep(images, config.sweep, config.train, name=name, runs_dir=job.runs_dir, notes=job.ui.say)
    seconds, disk_bytes = plan_cost(plan, images)
    job.ui.say(
        f"{plan.total - plan.done} of {plan.total} runs to do, about {duration(seconds)} and "
        f"{disk_size(disk_bytes)} of disk in {plan.folder}"
    )
    tracking = config.tracking.located(job.runs_dir)
    require_packages(tracking)
    if dry_run:
        counts = {"folder": str(plan.folder), "runs": plan.total, "missing": plan.total - plan.done}
        job.ui.finish([], "the same command without --dry-run", **counts, seconds=seconds, disk_bytes=disk_bytes)
        return
    if config.train.segments:
        advice = _known_advice(job, images, plan.weights, "segment")
        if advice is None:
            job.ui.say(
                "No advice was made: for a segmentation it is based on a trained run (xaitune advise --model RUN)."
            )
    else:
        known = _known_advice(job, images, plan.weights, "classify")
        # A race is a part of this sweep where its grid has the race's trainings.
        shared = len(config.sweep.freeze_through) >= len(DEPTHS) - 1
        shared = shared and config.train.optimizer in config.sweep.optimizers and name is None
        advice = known or _advise(job, config, images, method=None if shared else "features", cache_gb=cache_gb)
    if advice is not None:
        plan = _with_advised(job, config, images, plan, advice, name)
    start = time.monotonic()
    with job.ui.progress("sweeping") as report:
        table = run_sweep(
            plan,
            images,
            cache_dir=job.runs_dir / "cache",
            cache_gb=cache_gb,
            progress=report,
            run_progress=report.part,
            notes=job.ui.say,
            tracking=tracking,
        )
    say_sweep(job.ui, table)
    job.ui.say(f"The sweep took {duration(time.monotonic() - start)}")
    wrote, verdict = [table.path / "sweep.csv"], {"verdict": None, "sentence": ""}
    if advice is not None:
        wrote, verdict = _say_verdict(job.ui, advice, table)
        close_group(table.path, tracking, job.ui.say)  # once more, with the verdict
    failed = table.runs[table.runs["state"].str.startswith("failed")]["name"].tolist()
    records = {"cells": table.cells.to_dict("records"), "heads": table.heads.to_dict("records")}
    job.ui.finish(wrote, "xaitune report", **records, failed=failed, **verdict)
    if failed:
        raise RunError(
            f"{len(failed)} of the runs failed: {', '.join(failed)}. Run the same command again to try them."
        )


def _with_advised(job: Job, config: Any, images: Any, plan: Any, advice: Any, name: str | None) -> Any:
    """The plan with the advised depth in its grid, unless the grid was given; warns of a grid that cannot check the advice."""
    from xaitune.comparison.plan import plan_sweep

    depths = config.sweep.freeze_through
    if advice.freeze_through not in depths and "freeze_through" not in job.given.get(SweepConfig, {}):
        depths = tuple(sorted({*depths, advice.freeze_through}))
        grid = replace_fields(config.sweep, {"freeze_through": depths})
        plan = plan_sweep(images, grid, config.train, name=name, runs_dir=job.runs_dir)
        job.ui.say(f"The advised depth {advice.freeze_through} is added to the grid.")
    if advice.freeze_through not in depths or len(depths) < 2:
        job.ui.warn(
            f"This grid cannot check the advice: it needs the advised depth {advice.freeze_through} and another. "
            f"Received: {', '.join(map(str, depths))}."
        )
    return plan


def _known_advice(job: Job, images: Any, weights: str, task: str) -> Any | None:
    """The advice on these images and weights that is there already, if any."""
    from xaitune.advise.advice import find_advice, load_advice

    folder = find_advice(job.runs_dir, images.fingerprint, weights, task)
    if folder is None:
        return None
    advice = load_advice(folder)
    job.ui.say(f"Advice: {folder}, made {advice.created}")
    return advice


def _say_verdict(ui: Ui, advice: Any, table: Any) -> tuple[list[Path], dict[str, Any]]:
    """Check the advice where the sweep can, and say so; returns the files written, and the verdict for the JSON object."""
    from xaitune.advise.check import can_check, check_advice, save_check

    wrote = [table.path / "sweep.csv"]
    if not can_check(advice, table):
        sentence = table.frozen_sentence()
        if sentence:
            ui.say(sentence)
        return wrote, {"verdict": None, "sentence": sentence}
    check = check_advice(advice, table)
    save_check(check, table.path)
    _say_check(ui, check)
    return [*wrote, table.path / "check.json"], {"verdict": check.verdict, "sentence": check.sentence()}


def _say_check(ui: Ui, check: Any) -> None:
    """Print the verdict, paragraph by paragraph."""
    for heading, text in check.paragraphs:
        ui.say(f"{heading}: {text}" if heading else text)


def say_sweep(ui: Ui, table: Any) -> None:
    """Print a sweep's cells as the table frozen blocks x optimizer, and what is to be known of it."""
    import pandas as pd

    from xaitune.comparison.cells import head_name, lacking

    cells, best = table.cells.copy(), table.best["name"]
    cells["shown"] = [
        f"{r.test:.3f} [{r.low:.3f}, {r.high:.3f}]"
        + ("*" if r.name == best else "=" if r.equals else "")
        + (f" lr {r.learning_rate:g} of {r.rates}" if r.rates > 1 else "")
        for r in cells.itertuples()
    ]
    order = list(dict.fromkeys(cells["optimizer"]))
    grid = cells.pivot(index="freeze_through", columns="optimizer", values="shown")[order].fillna("")
    grid = grid.sort_index(ascending=False)
    grid.index = [frozen_name(depth) for depth in grid.index]
    grid.index.name = "frozen"
    ui.table(
        grid,
        f"Test {table.metric}, mean over the seeds [95 % interval over {table.groups} groups, {table.images} images]",
    )
    if len(table.heads):
        heads = pd.DataFrame(
            {
                "test": [f"{h.test:.3f} [{h.low:.3f}, {h.high:.3f}]" for h in table.heads.itertuples()],
                "minus the best cell": [
                    f"{h.difference:+.3f} [{h.diff_low:+.3f}, {h.diff_high:+.3f}]" for h in table.heads.itertuples()
                ],
                "seconds": [f"{h.seconds:.1f}" for h in table.heads.itertuples()],
            },
            index=pd.Index([head_name(head) for _, head in table.heads.iterrows()], name="features of"),
        )
        ui.table(heads, "No block trained: a linear head on frozen features")
    if table.baseline is not None:
        ui.say(f"A model that marks nothing (all background) scores {table.baseline:.3f}.")
    ui.say("* best on validation. = not told apart from the best by these test images, which does not mean equal.")
    enough = table.enough
    if enough is not None:
        ui.say(f"The cheapest cell that is shown to be within 1 point of all the others is {enough['name']}.")
    if lacks := lacking(cells):
        ui.say(f"There is too little data to rely on the intervals: only {lacks}.")
    if (cells["rates"] > 1).any():
        ui.say("lr: the learning rate that is best on validation, of as many as were tried.")
        if "sgd" in order and len(order) > 1:
            ui.say("At a momentum of 0.9, nag and momentum at a tenth of sgd's rate take steps as long as sgd's.")
    for row in table.runs[~table.runs["state"].isin(["finished", "stopped"])].itertuples():
        ui.warn(f"{row.name}: {row.state}")


@command("check-advice")
def check_again(
    job: Job,
    sweep: Annotated[
        Path | None,
        typer.Argument(metavar="SWEEP", help="A sweep's folder (default: the newest).", autocompletion=complete_run),
    ] = None,
) -> None:
    """Check the advice against the sweep again."""
    from xaitune.advise.check import check_advice, save_check
    from xaitune.comparison.table import load_sweep

    folder, advice = _sweep_and_advice(job, sweep)
    table = load_sweep(folder)
    check = check_advice(advice, table)
    save_check(check, folder)
    say_sweep(job.ui, table)
    _say_check(job.ui, check)
    job.ui.finish([folder / "check.json"], "xaitune report", verdict=check.verdict, sentence=check.sentence())


def _sweep_and_advice(job: Job, path: Path | None) -> tuple[Path, Any]:
    from xaitune.advise.advice import load_advice
    from xaitune.advise.check import advice_for
    from xaitune.comparison.table import find_sweep
    from xaitune.training.folder import folder_kind

    folder = path or find_sweep(job.runs_dir)
    if folder is None or folder_kind(folder) != "sweep":
        raise ConfigError(f"No sweep in {path or job.runs_dir}. Make one with 'xaitune sweep-freeze'.")
    job.ui.say(f"Sweep: {folder}")
    place = advice_for(folder)
    if place is None:
        raise ConfigError(f"No advice on the data of {folder} in {job.runs_dir}. Make it with 'xaitune advise'.")
    job.ui.say(f"Advice: {place}")
    return folder, load_advice(place)
