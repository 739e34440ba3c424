"""Commands that decide how many blocks to freeze: advise, sweep-freeze, check-advice."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune.cli.console import Ui, disk_size, duration
from xaitune.cli.data import CacheGb, DataPath, Name, Overwrite, load_data
from xaitune.cli.explain import ModelPath
from xaitune.cli.options import Job, command
from xaitune.config.schema import DataConfig, SweepConfig, TrainConfig
from xaitune.errors import ConfigError, RunError

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


@command("advise", DataConfig, TrainConfig, skip=(*OF_FINE_TUNING, "seed"))
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
    config, images = load_data(job, data)
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
    from xaitune.advise.advice import advise_freeze

    start = time.monotonic()
    with job.ui.progress("advising") as report:
        found = advise_freeze(images, config.train, runs_dir=job.runs_dir, progress=report, notes=job.ui.say, **options)
    columns = ["score", "low", "high", "agreement", "concentration", "stability", "empty_maps"]
    job.ui.table(found.evidence[columns], f"Evidence (score: {found.measure})")
    from xaitune.plots.figures import frozen_name

    job.ui.say(
        f"Advice: freeze {frozen_name(found.freeze_through)} (confidence {found.confidence:.0%}). {found.reasons}"
    )
    job.ui.say(f"{found.model_calls} network calls; this command took {duration(time.monotonic() - start)}")
    return found


@command("sweep-freeze", DataConfig, TrainConfig, SweepConfig, skip=("seed", "optimizer"))
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
    config, images = load_data(job, data)
    from xaitune.comparison import plan as cost
    from xaitune.comparison import sweep
    from xaitune.comparison.engines.ray import check_ray

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
    advice = _known_advice(job, images, plan["weights"]) or _advise(job, config, images, cache_gb=cache_gb)
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
    say_sweep(job.ui, table)
    job.ui.say(f"The sweep took {duration(time.monotonic() - start)}")
    wrote, verdict = _say_verdict(job.ui, advice, table)
    failed = table.runs[table.runs["state"].str.startswith("failed")]["name"].tolist()
    job.ui.finish(wrote, "xaitune report", cells=table.cells.to_dict("records"), failed=failed, **verdict)
    if failed:
        raise RunError(
            f"{len(failed)} of the runs failed: {', '.join(failed)}. Give the same command again to try them."
        )


def _known_advice(job: Job, images: Any, weights: str) -> Any | None:
    """The advice on these images and weights that is there already, if any."""
    from xaitune.advise.advice import find_advice, load_advice

    folder = find_advice(job.runs_dir, images.fingerprint, weights)
    if folder is None:
        return None
    advice = load_advice(folder)
    job.ui.say(f"Advice: {folder}, made {advice.created}")
    return advice


def _say_verdict(ui: Ui, advice: Any, table: Any) -> tuple[list[Path], dict[str, Any]]:
    """Check the advice where the sweep can, and say so; returns the files written, and the verdict for the JSON object."""
    from xaitune.comparison import sweep

    wrote = [table.path / "sweep.csv"]
    if not sweep.can_check(advice, table):
        return wrote, {"verdict": None, "sentence": ""}
    check = sweep.check_advice(advice, table)
    sweep.save_check(check, table.path)
    ui.say(check.sentence())
    return [*wrote, table.path / "check.json"], {"verdict": check.verdict, "sentence": check.sentence()}


def say_sweep(ui: Ui, table: Any) -> None:
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


@command("check-advice")
def check_advice(
    job: Job,
    sweep_path: Annotated[Path | None, typer.Argument(metavar="SWEEP", help="A sweep's folder [the newest].")] = None,
) -> None:
    """Say again whether the sweep confirms the advice."""
    from xaitune.comparison import sweep

    folder, advice = _sweep_and_advice(job, sweep_path)
    table = sweep.load_sweep(folder)
    check = sweep.check_advice(advice, table)
    sweep.save_check(check, folder)
    say_sweep(job.ui, table)
    job.ui.say(check.sentence())
    job.ui.finish([folder / "check.json"], "xaitune report", verdict=check.verdict, sentence=check.sentence())


def _sweep_and_advice(job: Job, path: Path | None) -> tuple[Path, Any]:
    from xaitune.advise.advice import load_advice
    from xaitune.comparison import sweep

    folder = path or sweep.find_sweep(job.runs_dir)
    if folder is None or not sweep.is_sweep(folder):
        raise ConfigError(f"No sweep in {path or job.runs_dir}. Make one with 'xaitune sweep-freeze'.")
    job.ui.say(f"Sweep: {folder}")
    found = sweep.advice_for(folder)
    if found is None:
        raise ConfigError(f"No advice on the data of {folder} in {job.runs_dir}. Make it with 'xaitune advise'.")
    job.ui.say(f"Advice: {found}")
    return folder, load_advice(found)
