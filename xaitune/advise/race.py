"""The race: every freezing depth is fine-tuned for a few epochs, beside linear heads on the frozen features.

The trainings are the first epochs of a sweep's own runs, in the sweep's folder: a sweep that follows continues them. Those of a
sweep over folds are in its folds, and their scores are averaged.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from xaitune._progress import Notes, Progress
from xaitune.advise.candidates import CANDIDATES, DEPTHS, HEADS
from xaitune.comparison.plan import SweepPlan, plan_sweep
from xaitune.comparison.rates import TRIAL_EPOCHS, chosen_rate, run_folder, trial_epochs, trial_score
from xaitune.comparison.sweep import train_missing
from xaitune.config.settings import SweepConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, RunError
from xaitune.models.blocks import CHANNELS, multiply_adds
from xaitune.training.folder import run_name
from xaitune.training.run import load_run, read_history

LAST_EPOCHS = 2  # of a short training, over which its validation score is averaged
SHORT = 1e13  # multiply-adds: about five minutes on two cores with AVX2, one with AMX units


def race_cost(
    images: int,
    image_size: Sequence[int],
    channels: Sequence[int] = CHANNELS,
    architecture: str = "vgg16",
    rates: int = 2,
) -> float:
    """Multiply-adds of a race on so many training images: three passes per epoch over the trained blocks of every depth.

    `rates`: how many learning rates each depth tries, by default as many as in a sweep.

    Examples:
        >>> f"{race_cost(150, (32, 32)):.1e}"
        '2.6e+12'
    """
    blocks = multiply_adds(image_size, channels, architecture)
    trained = sum(cost for depth in DEPTHS for block, cost in blocks.items() if block > depth)
    return 3.0 * rates * TRIAL_EPOCHS * trained * images


def plan_race(
    data: ImageData, train: TrainConfig, sweep: SweepConfig, runs_dir: str | Path, notes: Notes | None = None
) -> SweepPlan:
    """The short trainings of every depth, as a part of a sweep with these settings. Raises ConfigError."""
    if not train.epochs:
        raise ConfigError("A race needs trainings. Set epochs to at least 1, or use --method features.")
    only = {"freeze_through": DEPTHS, "optimizers": (train.optimizer,), "seeds": 1}
    config = replace_fields(sweep, only)
    return plan_sweep(data, config, train, runs_dir=runs_dir, only_trials=True, notes=notes)


def run_race(
    plan: SweepPlan,
    data: ImageData,
    *,
    cache_dir: str | Path,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Train what is missing, and return one row per candidate.

    `short`: the validation score of a depth's short training at the better of its learning rates, averaged over its last
    LAST_EPOCHS epochs; for the linear heads their validation score. `learning_rate`: that rate. Over folds the mean score, and
    the most frequent rate. Raises RunError if a training failed.
    """
    failures = train_missing(plan, data, cache_dir=cache_dir, cache_gb=cache_gb, progress=progress)
    if failures:
        name, error = next(iter(failures.items()))
        raise RunError(f"The advice needs a short training of every depth. {name}: {error}")
    parts = pd.concat([_scores(part) for _, part in plan.folds] or [_scores(plan)]).groupby(level="candidate")
    rates = parts["learning_rate"].agg(lambda found: found.mode().get(0, np.nan))
    return pd.DataFrame({"short": parts["short"].mean(), "learning_rate": rates}).loc[list(CANDIDATES)]


def _scores(plan: SweepPlan) -> pd.DataFrame:
    """The rows of `run_race` for one split."""
    rows = {}
    for cell in plan.cells:
        rate = chosen_rate(cell, plan.folder)
        run = next(run for run in cell if run.rate == rate)
        folder = run_folder(run, plan.folder)
        assert folder is not None
        history = read_history(folder)
        tuned = history[history["stage"] == "fine-tune"].head(trial_epochs(run))
        score = float(tuned[f"val_{run.metric}"].tail(LAST_EPOCHS).mean())
        if not np.isfinite(trial_score(run, plan.folder) or 0.0):  # it has diverged at every rate
            score = 0.0
        depth = str(run.freeze_through)
        rows[depth] = {"short": score, "learning_rate": rate}
    for head in plan.frozen:
        fitted = load_run(plan.folder / run_name(head))
        rows[fitted.name] = {"short": fitted.score("validation")}
    rows.setdefault("5", rows[HEADS[0]])  # with --head blocks nothing is left to train there
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("candidate")
