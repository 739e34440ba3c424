"""The command that compares freezing depths: sweep-freeze."""

import time
from typing import Annotated, Any

from xaitune._names import disk_size, duration, frozen_name, plural
from xaitune.cli.advise import make_advice
from xaitune.cli.data import DataPath, check_call, load_data
from xaitune.cli.options import Job, command, option
from xaitune.cli.train import CacheGb, Name
from xaitune.cli.verdict import check_sweep, report_command, say_sweep, say_time, say_verdict
from xaitune.config.settings import Config, DataConfig, SweepConfig, TrackingConfig, TrainConfig
from xaitune.errors import RunError


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
    check_call(job, data, name, sweeps=True)
    config, images = load_data(job, data)
    from xaitune.comparison.plan import plan_sweep

    plan = plan_sweep(images, config.sweep, config.train, name=name, runs_dir=job.runs_dir, notes=job.ui.say)
    advice = _known_advice(job, images, plan)
    plan = _with_advised(job, config, images, plan, advice, name)
    costs = _say_cost(job, plan, images)
    if advice is None:
        _say_no_advice(job, config)
    if dry_run:
        job.ui.finish([], "the same command without --dry-run", folder=str(plan.folder), **costs)
        return
    if advice is None and not config.train.segments:
        method = None if _race_is_shared(config, name) else "features"
        advice = make_advice(job, config, images, method=method, cache_gb=cache_gb)
        plan = _with_advised(job, config, images, plan, advice, name)
        if plan.total != costs["runs"]:
            _say_cost(job, plan, images)
    table = _train(job, config, images, plan, cache_gb)
    _finish(job, config, table, advice)


def _say_cost(job: Job, plan: Any, images: Any) -> dict[str, Any]:
    """Say what the runs of a plan that are still to be trained cost; returns that for the JSON object."""
    from xaitune.comparison.cost import plan_cost
    from xaitune.comparison.grid import grid_text

    seconds, disk_bytes = plan_cost(plan, images)
    missing = plan.total - plan.done
    job.ui.say(f"{plural(plan.total, 'run')}: {grid_text(plan.config, plan.base)}.")
    job.ui.say(
        f"{missing} of them to do, about {duration(seconds)} and {disk_size(disk_bytes)} of disk in {plan.folder}"
    )
    return {"runs": plan.total, "missing": missing, "seconds": seconds, "disk_bytes": disk_bytes}


def _say_no_advice(job: Job, config: Config) -> None:
    """Say what becomes of the sweep where no advice is known."""
    if config.train.segments:
        job.ui.say("No advice was made: for a segmentation it is based on a trained run (xaitune advise --model RUN).")
        return
    text = "There is no advice on these images yet, so it is made first."
    if "freeze_through" not in job.given.get(SweepConfig, {}):
        text += " If it advises a depth that this grid lacks, the depth is added, which makes more runs."
    job.ui.say(text)


def _race_is_shared(config: Config, name: str | None) -> bool:
    """Whether the trainings of a race are a part of this sweep: its grid has them all."""
    from xaitune.advise.candidates import DEPTHS

    whole = len(config.sweep.freeze_through) >= len(DEPTHS) - 1
    return whole and config.train.optimizer in config.sweep.optimizers and name is None


def _with_advised(job: Job, config: Config, images: Any, plan: Any, advice: Any | None, name: str | None) -> Any:
    """The plan with the advised depth in its grid, unless the grid was given; warns of a grid that cannot check the advice."""
    from xaitune.comparison.plan import plan_sweep

    if advice is None:
        return plan
    depths, advised = plan.config.freeze_through, advice.freeze_through
    if advised not in depths and "freeze_through" not in job.given.get(SweepConfig, {}):
        grid = config.sweep.with_depth(advised)
        plan = plan_sweep(images, grid, config.train, name=name, runs_dir=job.runs_dir)
        job.ui.say(f"The advice is to freeze {frozen_name(advised)}, which is added to the grid (depth {advised}).")
    elif advised not in depths or len(depths) < 2:
        job.ui.warn(
            f"This grid cannot check the advice: it needs the advised depth {advised} and another. "
            f"Received: {', '.join(map(str, depths))}."
        )
    return plan


def _known_advice(job: Job, images: Any, plan: Any) -> Any | None:
    """The advice for this sweep that is there already, if any."""
    from xaitune.advise.advice import find_advice, load_advice

    task = "segment" if plan.base.segments else "classify"
    folder = find_advice(job.runs_dir, images.fingerprint, plan.weights, task, plan.config.folds)
    if folder is None:
        return None
    advice = load_advice(folder)
    job.ui.say(f"Advice: {folder}, made {advice.created}")
    return advice


def _train(job: Job, config: Config, images: Any, plan: Any, cache_gb: float) -> Any:
    """Train the runs that the plan lacks, and print the table of all."""
    from xaitune.comparison.sweep import run_sweep

    start, again = time.monotonic(), plan.folder.is_dir()
    with job.ui.progress("sweeping") as report:
        table = run_sweep(
            plan,
            images,
            cache_dir=job.runs_dir / "cache",
            cache_gb=cache_gb,
            progress=report,
            run_progress=report.part,
            notes=job.ui.say,
            tracking=config.tracking.located(job.runs_dir),
        )
    say_sweep(job.ui, table)
    say_time(job.ui, start, table.to_dataframe()["seconds"].sum() if again else None)
    return table


def _finish(job: Job, config: Config, table: Any, advice: Any | None) -> None:
    """Check the advice where the sweep can, and say the answer. Raises RunError if runs failed."""
    from xaitune.comparison.tracked import close_group

    wrote, check = [table.path / "sweep.csv"], check_sweep(advice, table)
    if check is not None:
        wrote.append(table.path / "check.json")
        close_group(table.path, config.tracking.located(job.runs_dir), job.ui.say)  # once more, with the verdict
    verdict = say_verdict(job.ui, table, check)
    failed = table.runs[table.runs["state"].str.startswith("failed")]["name"].tolist()
    records = {"cells": table.cells.to_dict("records"), "heads": table.heads.to_dict("records")}
    job.ui.finish(wrote, report_command(table.path), **records, failed=failed, **verdict)
    if failed:
        raise RunError(
            f"{len(failed)} of the runs failed: {', '.join(failed)}. Run the same command again to try them."
        )
