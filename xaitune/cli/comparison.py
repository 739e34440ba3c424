"""The command that compares trainings which differ in any settings: compare."""

import time
from typing import Annotated, Any

from xaitune._names import metric_name
from xaitune.cli.console import Ui
from xaitune.cli.data import DataPath, check_call, load_data
from xaitune.cli.options import Job, command, option
from xaitune.cli.train import CacheGb, Name
from xaitune.cli.verdict import say_time
from xaitune.config.choices import PRESETS
from xaitune.config.settings import DataConfig, SweepConfig, TrackingConfig, TrainConfig
from xaitune.errors import ConfigError

SHOWN_PAIRS = 15


@command("compare", DataConfig, SweepConfig, TrainConfig, TrackingConfig, skip=("seed", "optimizers", "folds"))
def compare(
    job: Job,
    data: DataPath = None,
    factor: Annotated[
        list[str] | None,
        option(
            "--factor",
            help="A training setting to compare, such as loss, optimizer or freeze_through; several make a grid.",
            panel="Comparison",
            default="none: repeats with other seeds",
            metavar="NAME",
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        option(
            "--values",
            help="The values of the --factor before it, separated by commas (1-5 for depths; + joins a list, as in 1,4+5). "
            f"Those of architecture may also be the freezing study's models: {', '.join(PRESETS)}.",
            panel="Comparison",
            metavar="V,V",
        ),
    ] = None,
    name: Name = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Print the number of runs, and start nothing.", panel="Comparison")
    ] = False,
    cache_gb: CacheGb = 20.0,
) -> None:
    """Compare trainings that differ in any settings.

    With the same seeds on the same images. What is not a factor is as in xaitune.toml and the options.
    """
    from xaitune.comparison.factors import parse_factors, parts_of

    factors = parse_factors(factor or [], values or [])
    _require_effect(job, factors)
    check_call(job, data, name, sweeps=True)
    parts_of(factors, job.config(data).train)  # refuses values that contradict other settings
    config, images = load_data(job, data)
    from xaitune.comparison.comparison import plan_comparison, run_comparison

    plan = plan_comparison(
        images, factors, config.sweep, config.train, name=name, runs_dir=job.runs_dir, notes=job.ui.say
    )
    job.ui.say(f"{plan.total - plan.done} of {plan.total} runs to do in {plan.folder}")
    if dry_run:
        job.ui.finish([], "the same command without --dry-run", runs=plan.total, missing=plan.total - plan.done)
        return
    start, again = time.monotonic(), plan.folder.is_dir()
    with job.ui.progress("comparing") as report:
        table = run_comparison(
            plan,
            images,
            cache_dir=job.runs_dir / "cache",
            cache_gb=cache_gb,
            progress=report,
            notes=job.ui.say,
            tracking=config.tracking.located(job.runs_dir),
        )
    _say_comparison(job.ui, table)
    say_time(job.ui, start, sum(part.runs["seconds"].sum() for part in table.parts.values()) if again else None)
    job.ui.finish(
        [table.path / name for name in ("comparison.csv", "comparison.png", "curves.png")],
        f"xaitune report {table.path}",
        cells=table.cells.to_dict("records"),
        scores=table.scores().reset_index().to_dict("records"),
        pairs=table.pairs().to_dict("records"),
        sentence=table.sentence(),
    )


def _say_comparison(ui: Ui, table: Any) -> None:
    """Print the cells, their scores, with the factor loss the loss of each class, the pairs, and what follows."""
    from xaitune.comparison.cells import over_seeds

    seeds = over_seeds(table.cells)
    shown = table.table()
    tested = f"[95 % interval over {table.groups} groups, {table.images} images]"
    ui.table(shown.set_index(shown.columns[0]), f"Test {metric_name(table.metric)}, {seeds} {tested}")
    scores = table.scores().round(3)
    if table.segments:
        ui.table(scores.rename(columns=metric_name), f"Test IoU of each class, mean IoU and F1@IoU; {seeds}")
    else:
        scores.columns = ["validation loss", "train", "validation", "test", "test weighted F1"]
        ui.table(scores, f"Loss in nats, accuracy on each split, and weighted F1; {seeds}")
    if "loss" in table.factors and not table.segments:
        for split in ("validation", "test"):
            ui.table(_wide(table.losses(split)), f"Loss per class and seed, {split} (-log p of the true class, nats)")
    pairs = table.pairs()
    if 1 <= len(pairs) <= SHOWN_PAIRS:
        shown = pairs.rename(columns={"images_needed": "test images to tell 1 point"})
        ui.table(shown.set_index("cell"), "Pairs: each difference by itself")
    ui.say(table.sentence())


def _require_effect(job: Job, factors: dict[str, tuple[Any, ...]]) -> None:
    """Refuse options that a factor contradicts. Raises ConfigError."""
    presets = [set(PRESETS.get(value, {})) for value in factors.get("architecture", ())]
    decided = dict.fromkeys(factors, "")
    decided |= dict.fromkeys(set.intersection(*presets), "architecture") if presets else {}
    given = {field: field for field in job.given.get(TrainConfig, {})}
    if "learning_rates" in job.given.get(SweepConfig, {}):
        given["learning_rate"] = "learning_rates"
    for field, by in decided.items():
        if field in given:
            flag, factor = f"--{given[field].replace('_', '-')}", by or field
            why = f"Every value of the factor {by} sets {field}" if by else f"{field} is a factor"
            raise ConfigError(f"{why}, so {flag} has no meaning. Leave out {flag} or --factor {factor}.")


def _wide(losses: Any) -> Any:
    """Losses with the cell and the class in one column."""
    return losses.round(3).rename(index=str).reset_index().set_index("cell")
