"""The command that compares trainings which differ in any settings: compare."""

import time
from typing import Annotated

from xaitune._names import duration, metric_name
from xaitune.cli.data import DataPath, load_data
from xaitune.cli.options import Job, command, option
from xaitune.cli.train import CacheGb, Name
from xaitune.config.settings import DataConfig, SweepConfig, TrainConfig
from xaitune.errors import ConfigError

SHOWN_PAIRS = 15


@command("compare", DataConfig, SweepConfig, TrainConfig, skip=("seed", "optimizers", "folds"))
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
            help="The values of the --factor before it, separated by commas (1-5 for depths; + joins a list, as in 1,4+5).",
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
    from xaitune.comparison.factors import parse_factors

    factors = parse_factors(factor or [], values or [])
    for field in factors:
        if field in job.given.get(TrainConfig, {}):
            flag = f"--{field.replace('_', '-')}"
            raise ConfigError(f"{field} is a factor, so {flag} has no meaning. Leave out {flag} or --factor {field}.")
    config, images = load_data(job, data)
    from xaitune.comparison.comparison import plan_comparison, run_comparison

    config.sweep.require_engine(job.given.get(SweepConfig, {}))
    plan = plan_comparison(
        images, factors, config.sweep, config.train, name=name, runs_dir=job.runs_dir, notes=job.ui.say
    )
    job.ui.say(f"{plan.total - plan.done} of {plan.total} runs to do in {plan.folder}")
    if dry_run:
        job.ui.finish([], "the same command without --dry-run", runs=plan.total, missing=plan.total - plan.done)
        return
    start = time.monotonic()
    with job.ui.progress("comparing") as report:
        table = run_comparison(
            plan, images, cache_dir=job.runs_dir / "cache", cache_gb=cache_gb, progress=report, notes=job.ui.say
        )
    seeds = f"mean over the seeds [95 % over {table.groups} groups, {table.images} images]"
    shown = table.table()
    job.ui.table(shown.set_index(shown.columns[0]), f"Test {metric_name(table.metric)}, {seeds}")
    pairs = table.pairs()
    if 1 < len(pairs) <= SHOWN_PAIRS:
        job.ui.table(pairs.set_index("cell"), "Pairs: each difference by itself")
    job.ui.say(table.sentence())
    job.ui.say(f"The comparison took {duration(time.monotonic() - start)}")
    job.ui.finish(
        [table.path / name for name in ("comparison.csv", "comparison.png", "curves.png")],
        "xaitune runs",
        cells=table.cells.to_dict("records"),
        pairs=pairs.to_dict("records"),
        sentence=table.sentence(),
    )
