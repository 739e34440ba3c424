"""The sweep: an engine trains the missing runs of the grid, and a table compares all of them."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from xaitune._files import read_json, write_csv, write_json
from xaitune._machine import now, usable_cores
from xaitune._progress import SHARES, Notes, PartProgress, Progress, part_of, shown_progress
from xaitune.comparison.cost import run_seconds, training_rate
from xaitune.comparison.engines.local import run_local
from xaitune.comparison.engines.ray import run_ray
from xaitune.comparison.engines.task import End, Step, Task
from xaitune.comparison.plan import SweepPlan, plan_sweep
from xaitune.comparison.rates import has_ended, runs_to_do, stop_others, trial_epochs, trials_to_do
from xaitune.comparison.so_far import LAST, add_grid, recorded_grids
from xaitune.comparison.table import SweepTable, load_sweep
from xaitune.comparison.tracked import close_group, open_group
from xaitune.config.settings import SweepConfig, TrackingConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.errors import RunError
from xaitune.models.blocks import multiply_adds
from xaitune.tracking.follow import require_packages
from xaitune.training.checkpoint import Checkpoint
from xaitune.training.folder import CONFIG, RESULT, is_linear, locked, start_folder

VISIBLE_SECONDS = 60
FEATURES = "frozen features"  # name of the task that computes them


def sweep_freeze(
    data: ImageData,
    config: SweepConfig | None = None,
    *,
    train: TrainConfig | None = None,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    run_progress: PartProgress | None = None,
    notes: Notes | None = None,
    tracking: TrackingConfig | None = None,
    **options: Any,
) -> SweepTable:
    """Train every cell of the grid that is not finished yet, and return the table of all cells.

    `train` is the base configuration; the grid replaces its freeze_through, optimizer and seed. `options` are fields of
    SweepConfig. The sweep's folder is `runs_dir`/sweep, with one subfolder per run. The same call resumes where an
    earlier one stopped, and a larger grid, also one of more learning rates, trains only the missing runs. Beside the
    grid it fits two linear heads on frozen features, which trains no block (`grid.frozen_runs`). A run that
    fails is recorded and the others continue. `progress(done, total, what)` counts shares of the work;
    `run_progress(name, done, total, what)` counts the epochs of each active run, and done is total when the run ends.
    `tracking` logs the runs to TensorBoard or MLflow too.
    Raises InputError, and RunError if no run finished.

    Examples:
        >>> data = ImageData.from_folder("images", image_size=(96, 96))  # doctest: +SKIP
        >>> sweep_freeze(data, freeze_through="3-5", seeds=1).table()  # doctest: +SKIP
    """
    config = replace_fields(config or SweepConfig(), options)
    config.require_engine(options)
    plan = plan_sweep(data, config, train or TrainConfig(), name=name, runs_dir=runs_dir, notes=notes)
    return run_sweep(
        plan,
        data,
        cache_dir=cache_dir or Path(runs_dir) / "cache",
        cache_gb=cache_gb,
        progress=shown_progress(progress, "sweep"),
        run_progress=run_progress,
        notes=notes,
        tracking=tracking and tracking.located(runs_dir),
    )


def run_sweep(
    plan: SweepPlan,
    data: ImageData,
    *,
    cache_dir: str | Path,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    run_progress: PartProgress | None = None,
    notes: Notes | None = None,
    tracking: TrackingConfig | None = None,
) -> SweepTable:
    """Train the runs that a plan lacks, and return the table of all runs; see `sweep_freeze`. Raises RunError."""
    failures = train_missing(
        plan,
        data,
        cache_dir=cache_dir,
        cache_gb=cache_gb,
        progress=progress,
        run_progress=run_progress,
        notes=notes,
        tracking=tracking,
    )
    folder = plan.folder
    ended = [file for file in folder.glob(f"*/{RESULT}") if not file.parent.name.startswith("frozen-")]
    if failures and not plan.folds and not ended:
        first, error = next(iter(failures.items()))
        raise RunError(f"No run of the sweep finished. {first}: {error}")
    table = load_sweep(folder)
    precisions = table.runs["precision"].dropna().unique()
    if notes and len(precisions) > 1:
        mixed = " and ".join(sorted(precisions))
        notes(f"The runs were computed in different precisions ({mixed}). Set --precision if your machines differ.")
    if notes and table.runs["clipping"].nunique() > 1:
        notes(
            "Some runs were trained by an earlier version, which clipped the gradient of all blocks together. "
            "Start a new sweep with another --name to compare like with like."
        )
    write_csv(folder / "sweep.csv", table.to_dataframe())
    close_group(folder, tracking, notes)
    return table


def train_missing(
    plan: SweepPlan,
    data: ImageData,
    *,
    cache_dir: str | Path,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    run_progress: PartProgress | None = None,
    notes: Notes | None = None,
    tracking: TrackingConfig | None = None,
) -> dict[str, str]:
    """Train the runs that a plan lacks; returns the errors of those that failed, by name."""
    require_packages(tracking)
    folder = plan.folder
    with locked(folder):
        contents = {
            "identity": plan.identity,
            "train": dataclasses.asdict(plan.base),
            "data": dataclasses.asdict(data.config),
            "class_names": list(data.class_names),
        }
        start_folder(folder, "sweep", contents, overwrite=False)
        if not plan.only_trials:
            _note_start(folder, plan.config)
        open_group(folder, tracking, notes)
        for file in folder.glob(f"*/{RESULT}"):
            Checkpoint(file.parent).remove()  # left by a run that was killed as it finished
        if notes and plan.done:
            notes(f"{plan.done} of {plan.total} runs are already finished.")
        if plan.folds:
            options: dict[str, Any] = {"cache_dir": cache_dir, "cache_gb": cache_gb, "run_progress": run_progress}
            options |= {"notes": notes, "tracking": tracking}
            failures = _run_folds(plan, progress, **options)
        else:
            monitor = _Monitor(plan, data, progress, run_progress)
            queue = _Queue(plan, data, str(Path(cache_dir).absolute()), cache_gb, monitor, tracking)
            if plan.expected:
                _run_tasks(queue, notes)
                monitor.finish()
            failures = monitor.failures
        if not plan.only_trials:
            write_json(folder / LAST, {"grid": dataclasses.asdict(plan.config), "failures": failures})
    return failures


def _note_start(folder: Path, grid: SweepConfig) -> None:
    """Record when a sweep began, and the grids that it is to fill. Trials that advice made before do not count."""
    grids = {"grids": add_grid(recorded_grids(folder), grid)}
    write_json(folder / CONFIG, {"started": now()} | read_json(folder / CONFIG) | grids)


def _run_folds(plan: SweepPlan, progress: Progress | None, **options: Any) -> dict[str, str]:
    """Sweep on one fold after another; the errors of the runs that failed."""
    failures: dict[str, str] = {}
    count = len(plan.folds)
    for number, (data, part) in enumerate(plan.folds):
        shown = part_of(progress, number / count, (number + 1) / count, f"fold {number + 1} of {count}: ")
        if plan.only_trials:
            own = train_missing(part, data, progress=shown, **options)
        else:
            run_sweep(part, data, progress=shown, **options)
            own = read_json(part.folder / LAST)["failures"]
        failures |= {f"{part.folder.name}/{name}": error for name, error in own.items()}
    return failures


def _run_tasks(queue: "_Queue", notes: Notes | None) -> None:
    """Run the tasks of a queue on the configured engine."""
    plan, config = queue.plan, queue.plan.config
    if config.engine == "ray":
        resources: dict[str, Any] = {"address": config.ray_address, "cpus": config.run_cpus, "gpus": config.run_gpus}
        run_ray([queue.features], config.workers, queue.monitor.on_step, queue.on_end, notes=notes, **resources)
    else:
        # Counted over the whole grid, so that its remaining runs get the same number of threads and the same bits.
        workers = min(config.workers or max(usable_cores() // 2, 1), plan.total)
        run_local([queue.features], workers, queue.monitor.on_step, queue.on_end)


class _Queue:
    """The tasks of a sweep: first the frozen features, then all runs that can be trained, then those they make possible."""

    def __init__(
        self,
        plan: SweepPlan,
        data: ImageData,
        cache_dir: str,
        cache_gb: float,
        monitor: "_Monitor",
        tracking: TrackingConfig | None,
    ) -> None:
        self.plan, self.monitor = plan, monitor
        depths = tuple(sorted({cell[0].freeze_through for cell in plan.cells} | {5}))
        folders = (str(plan.folder.absolute()), cache_dir, cache_gb)
        base = Task(FEATURES, data.config, data.fingerprint, plan.base, *folders, depths=depths)
        self.features = dataclasses.replace(base, tracking=tracking) if tracking else base
        self.started: set[tuple[str, int | None]] = set()  # names and pauses of the tasks handed out

    def on_end(self, task: Task, end: End) -> list[Task]:
        """Record the end of a task, and return the tasks that can be done now."""
        if task.is_run and end.state != "failed":
            _wait_for(Path(task.runs_dir) / task.name / (RESULT if end.state != "paused" else "history.csv"))
        self.monitor.on_end(task, end)
        if not task.is_run:
            heads = [self._task(run, None) for run in self.plan.frozen if not has_ended(run, self.plan.folder)]
            return heads + [new for cell in self.plan.cells for new in self._due(cell)]
        same = [c for c in self.plan.cells if task.train in c]
        return [new for cell in same for new in self._due(cell)]

    def _due(self, cell: list[TrainConfig]) -> list[Task]:
        """The tasks of a cell that can be done now and have not been handed out yet."""
        stop_others(cell, self.plan.folder)
        due = runs_to_do(cell, self.plan.folder)
        if self.plan.only_trials:
            due = [(run, trial_epochs(run)) for run in trials_to_do(cell, self.plan.folder)]
        tasks = [self._task(run, pause) for run, pause in due]
        new = [task for task in tasks if (task.name, task.pause) not in self.started]
        self.started |= {(task.name, task.pause) for task in new}
        return new

    def _task(self, run: TrainConfig, pause: int | None) -> Task:
        return dataclasses.replace(self.features, name=self.plan.run_name(run), train=run, depths=(), pause=pause)


def _wait_for(file: Path) -> None:
    """Wait until a file that another machine has written can be seen here; a network file system may need seconds."""
    end = time.monotonic() + VISIBLE_SECONDS
    while not file.is_file() and time.monotonic() < end:
        time.sleep(0.5)


def _cost_share(task: Task, step: Step) -> float:
    """The share (0..1) of the cost of a task's epochs that is spent after a step: those of the head alone cost little."""
    cheap = 0
    if task.is_run and not is_linear(task.train) and not task.train.segments:  # a decoder's head epochs are most of it
        cheap = step.total - task.train.epochs - task.train.final_epochs
    return max(step.done - cheap, 0) / max(step.total - cheap, 1)


class _Monitor:
    """Turns the tasks' reports into shares of the estimated time for `progress`, and epochs per run for `run_progress`.

    Not into runs: those of different depths take very different times.
    """

    def __init__(
        self, plan: SweepPlan, data: ImageData, progress: Progress | None, run_progress: PartProgress | None
    ) -> None:
        self.plan, self.metric = plan, plan.base.metric
        self.progress, self.run_progress = progress, run_progress
        size, rate = data.image_size, training_rate(plan.base.precision)

        def seconds(run: TrainConfig, *, ends: bool) -> float:
            return run_seconds(run, data, size, plan.channels, rate, ends=ends)

        features = sum(multiply_adds(size, architecture=plan.base.architecture).values()) * len(data.files) / rate
        whole = plan.base.epochs

        def expected(run: TrainConfig) -> float:
            if run.epochs == whole:
                return seconds(run, ends=True)
            trial = dataclasses.replace(run, epochs=whole)  # after which it pauses
            return seconds(trial, ends=False) * run.epochs / whole

        self.total = features + sum(expected(run) for run in plan.expected)
        runs = {plan.run_name(run): run for run in (*plan.frozen, *(run for cell in plan.cells for run in cell))}
        self.epochs = {FEATURES: features} | {name: seconds(run, ends=False) for name, run in runs.items()}
        self.costs = {FEATURES: features} | {name: seconds(run, ends=True) for name, run in runs.items()}
        self.spent: dict[str, float] = {}  # task name -> the part of its cost that is done
        self.failures: dict[str, str] = {}  # run name -> error
        self.summary = self._summary()

    def on_step(self, task: Task, step: Step) -> None:
        """Record a step of a task."""
        self.spent[task.name] = self.epochs[task.name] * _cost_share(task, step)
        if self.run_progress:  # done becomes total only in `on_end`, when the results exist
            self.run_progress(task.name, min(step.done, step.total - 1), step.total, step.what)
        self._show(step.what if step.what == task.name else f"{task.name}: {step.what}")

    def on_end(self, task: Task, end: End) -> None:
        """Record the end of a task, successful or not."""
        if end.state != "paused":
            self.spent[task.name] = self.costs[task.name]
        self.summary = self._summary()
        if self.run_progress:
            self.run_progress(task.name, 1, 1, end.state)
        if end.state == "failed" and task.is_run:  # if caching the features failed, the runs compute them
            self.failures[task.name] = end.error
        self._show(f"{task.name}: {end.error or end.state}")

    def finish(self) -> None:
        """Report that all is done: the estimate may have been too high."""
        if self.progress:
            self.progress(SHARES, SHARES, self.summary)

    def _show(self, what: str) -> None:
        """Report the share of the work that is done."""
        if self.progress:
            text = self.summary if self.run_progress else "; ".join(filter(None, (self.summary, what)))
            share = min(sum(self.spent.values()) / self.total, 1.0)
            self.progress(int(SHARES * share), SHARES, text)

    def _summary(self) -> str:
        """How many runs have ended, and the best of them; '' before the first."""
        scores: dict[str, float] = {}
        files = list(self.plan.folder.glob(f"*/{RESULT}"))
        for file in files:
            score = read_json(file)["metrics"].get("validation", {}).get(self.metric)
            if score is not None:
                scores[file.parent.name] = score
        done = self.plan.done
        parts = [f"{done} of {self.plan.total} runs done"] if done else []
        if scores:
            best = max(scores, key=lambda name: scores[name])
            parts.append(f"best {best} ({self.metric} {scores[best]:.3f} on validation)")
        return ", ".join(parts)
