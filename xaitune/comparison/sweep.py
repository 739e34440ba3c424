"""A grid of runs, freeze depth x optimizer x seed, and what it says about an advice."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune.advise import advice as advice_module
from xaitune.comparison.engines.local import Task, run_local
from xaitune.comparison.engines.ray import run_ray
from xaitune.config.schema import OPTIMIZERS, SweepConfig, TrainConfig, replace_fields, usable_cores
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, DataError, RunError
from xaitune.models import vgg
from xaitune.results import AdviceCheck, FreezeAdvice, Run, SweepTable
from xaitune.stats import intervals as stats
from xaitune.training import folder as runs
from xaitune.training.features import Progress

RunProgress = Callable[[str, int, int, str], None]  # name of a run, epochs done, epochs in all, what
GRID_FIELDS = ("freeze_through", "optimizer", "seed")


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
    run_progress: RunProgress | None = None,
    notes: Callable[[str], None] | None = None,
    **options: Any,
) -> SweepTable:
    """Train every cell of the grid that is not finished yet, and return the table of all of them.

    `train` is the base configuration; its freeze_through, optimizer and seed are replaced by the grid's. `options`
    are fields of SweepConfig. The sweep stands in `runs_dir`/sweep, each run in a folder below it; the same call goes
    on where an earlier one stopped, and a larger grid, of more learning rates too, runs only what is missing. A run
    that fails is recorded and the others go on. `run_progress(name, done, total, what)` counts the epochs of each run
    that is under way; at its end done is total. Raises InputError, and RunError where no run at all was finished.
    """
    config = replace_fields(config or SweepConfig(), options)
    config.require_engine(options)
    base = base_config(train or TrainConfig(), config, notes)
    data.require_trainable()
    data.require_classes(base.classes_to_augment, "augment_classes")
    digest = vgg.load_backbone(base.weights).digest
    folder, note = runs.choose_folder(
        Path(runs_dir), "sweep", name, sweep_identity(data, base, digest), overwrite=False
    )
    if note and notes:
        notes(note)
    with runs.locked(folder):
        contents = {
            "identity": sweep_identity(data, base, digest),
            "train": dataclasses.asdict(base),
            "data": dataclasses.asdict(data.config),
            "class_names": list(data.class_names),
            "started": runs.now(),
        }
        runs.start_folder(folder, contents, overwrite=False)
        cache = Path(cache_dir or Path(runs_dir) / "cache").absolute()
        for file in folder.glob(f"*/{runs.RESULT}"):
            runs.Checkpoint(file.parent).remove()  # of a run that was killed as it finished
        missing = unfinished(folder, config, base)
        if notes and len(missing) < len(grid(config, base)):
            notes(f"{len(grid(config, base)) - len(missing)} of {len(grid(config, base))} runs are finished already.")
        failures = (
            _run(data, missing, config, folder, cache, cache_gb, progress, run_progress, notes) if missing else {}
        )
        runs.write_json(folder / "sweep.json", {"grid": dataclasses.asdict(config), "failures": failures})
    if failures and not list(folder.glob(f"*/{runs.RESULT}")):
        first, error = next(iter(failures.items()))
        raise RunError(f"No run of the sweep was finished. {first}: {error}")
    table = load_sweep(folder)
    mixed = table.runs["precision"].dropna().unique()
    if notes and len(mixed) > 1:
        notes(f"The runs were computed in {' and '.join(sorted(mixed))}: give --precision where machines differ.")
    runs.write_csv(folder / "sweep.csv", table.runs)
    return table


def base_config(base: TrainConfig, config: SweepConfig, notes: Callable[[str], None] | None = None) -> TrainConfig:
    """The training of all cells: without what the sweep compares or tries itself, which `notes` is told."""
    left_out: dict[str, Any] = {}
    if base.final_epochs:
        left_out["final_epochs"] = 0, "it would unfreeze what the sweep compares"
    if base.learning_rate is not None and config.learning_rates:
        left_out["learning_rate"] = None, "each cell tries learning_rates"
    for field, (_, why) in left_out.items():
        if notes:
            notes(f"{field} is left out: {why}.")
    return replace_fields(base, {field: value for field, (value, _) in left_out.items()})


def grid(config: SweepConfig, base: TrainConfig) -> list[TrainConfig]:
    """The runs of a sweep, the cheapest depth first, so that a first picture comes early."""
    return [
        replace_fields(base, {"freeze_through": depth, "optimizer": optimizer, "learning_rate": rate, "seed": seed})
        for seed in range(config.seeds)
        for depth in sorted(config.freeze_through, reverse=True)
        for optimizer in config.optimizers
        for rate in config.learning_rates or (base.learning_rate,)
    ]


def unfinished(folder: Path, config: SweepConfig, base: TrainConfig) -> list[TrainConfig]:
    """The runs of the grid that have not ended in a sweep's folder, whether or not a name there carries the rate."""

    def is_done(run: TrainConfig) -> bool:
        found = (folder / runs.run_name(run, with_rate=with_rate) for with_rate in (False, True))
        return any(runs.is_finished(p) and _rate_of(p) == run.rate for p in found)

    return [run for run in grid(config, base) if not is_done(run)]


def _rate_of(folder: Path) -> Any:
    return runs.read_json(folder / "config.json")["identity"].get("learning_rate")


def sweep_identity(data: ImageData, base: TrainConfig, digest: str) -> dict[str, Any]:
    """What makes a sweep this one: its data and base configuration; the grid may grow."""
    identity = runs.run_identity(base, data.config, data.fingerprint, digest)
    identity["learning_rate"] = base.learning_rate
    return {k: v for k, v in identity.items() if k not in GRID_FIELDS}


def run_cost(config: TrainConfig, images: int, image_size: tuple[int, int]) -> float:
    """Multiply-adds of a run's training with its frozen features cached: 3 passes over the blocks that are trained."""
    macs = vgg.multiply_adds(image_size)
    trained = sum(value for block, value in macs.items() if block > config.freeze_through)
    again = 0 if not config.augmentation else config.augmented_views or config.epochs  # times that the prefix is passed
    frozen = sum(macs.values()) - trained
    return (config.epochs * 3 * trained + again * frozen + 0.002 * sum(macs.values())) * images


def _run(
    data: ImageData,
    missing: list[TrainConfig],
    config: SweepConfig,
    folder: Path,
    cache: Path,
    cache_gb: float,
    progress: Progress | None,
    run_progress: RunProgress | None,
    notes: Callable[[str], None] | None,
) -> dict[str, str]:
    """Run what is missing on the engine; returns run name -> error of those that failed."""
    common = {
        "data": dataclasses.asdict(data.config),
        "fingerprint": data.fingerprint,
        "cache_dir": str(cache),
        "cache_gb": cache_gb,
        "runs_dir": str(folder.absolute()),
    }
    names = [runs.run_name(c, with_rate=config.learning_rates is not None) for c in missing]
    tasks: list[Task] = [
        {**common, "kind": "run", "name": name, "train": dataclasses.asdict(c)}
        for name, c in zip(names, missing, strict=True)
    ]
    first: Task = {
        **common,
        "kind": "features",
        "depths": sorted({c.freeze_through for c in missing} | {5}),
        "train": tasks[0]["train"],
        "name": "frozen features",
    }
    costs = {
        name: run_cost(c, len(data.indices("train")), data.image_size) for name, c in zip(names, missing, strict=True)
    }
    costs[first["name"]] = sum(vgg.multiply_adds(data.image_size).values()) * len(data.files)
    watch = _Watch(folder, missing[0].metric, costs, progress, run_progress)
    # Of the whole grid, so that what is left of it runs with as many threads and gives the same bits.
    workers = min(config.workers or max(usable_cores() // 2, 1), len(grid(config, missing[0])))
    if config.engine == "ray":
        resources: dict[str, Any] = {"address": config.ray_address, "cpus": config.run_cpus, "gpus": config.run_gpus}
        run_ray([first], tasks, config.workers, watch.report, watch.done, notes=notes, **resources)
    else:
        run_local([first], tasks, workers, watch.report, watch.done)
    return watch.failures


class _Watch:
    """What the engine's tasks say, as shares of the whole for `progress` and a part each for `run_progress`."""

    def __init__(
        self,
        folder: Path,
        metric: str,
        costs: dict[str, float],
        progress: Progress | None,
        run_progress: RunProgress | None,
    ) -> None:
        self.folder, self.metric, self.costs = folder, metric, costs
        self.progress, self.run_progress = progress, run_progress
        self.spent: dict[str, float] = {}  # of the costs
        self.failures: dict[str, str] = {}  # run name -> error
        self.summary = _summary(folder, metric)

    def report(self, task: Task, event: dict[str, Any]) -> None:
        """A step of a task."""
        name = task["name"]
        self.spent[name] = self.costs[name] * event["done"] / max(event["total"], 1)
        if self.run_progress:  # its end is told when its results are there
            self.run_progress(name, min(event["done"], event["total"] - 1), event["total"], event["what"])
        self._show(f"{name}: {event['what']}")

    def done(self, task: Task, event: dict[str, Any]) -> None:
        """The end of a task, good or bad."""
        name, failed = task["name"], event["event"] == "failed"
        self.spent[name] = self.costs[name]
        self.summary = _summary(self.folder, self.metric)
        if self.run_progress:
            self.run_progress(name, 1, 1, event["event"])
        if failed and task["kind"] == "run":  # without kept features the runs compute them
            self.failures[name] = event["error"]
        self._show(f"{name}: {event['error'] if failed else event['state']}")

    def _show(self, what: str) -> None:
        if self.progress:
            told = self.summary if self.run_progress else "; ".join(filter(None, (self.summary, what)))
            self.progress(int(1000 * sum(self.spent.values()) / sum(self.costs.values())), 1000, told)


def load_sweep(path: str | Path) -> SweepTable:
    """A sweep from its folder, with every run that is finished. Raises RunError where there is none."""
    folder = Path(path)
    config = runs.read_json(folder / "config.json")
    if "started" not in config:
        raise RunError(f"{folder} holds no sweep.")
    made = [runs.load_run(p.parent) for p in sorted(folder.glob(f"*/{runs.RESULT}"))]
    finished = [r for r in made if r.state == "finished"]
    if not finished and made:
        raise RunError(f"All {len(made)} runs in {folder} diverged. Sweep again with a lower --learning-rate.")
    if not finished:
        raise RunError(f"{folder} has no finished run yet. Give 'xaitune sweep-freeze' again to go on.")
    metric = finished[0].config.metric
    order = [*OPTIMIZERS]
    made.sort(key=lambda r: (r.config.freeze_through, order.index(r.config.optimizer), r.config.rate, r.config.seed))
    table = pd.DataFrame([_row(r) for r in made])
    failures = json.loads((folder / "sweep.json").read_text())["failures"] if (folder / "sweep.json").is_file() else {}
    failed = [{"name": n, "state": f"failed: {e}"} for n, e in failures.items() if n not in set(table["name"])]
    by_name = {r.name: r for r in finished}
    test = _test_arrays(finished)
    cells = _cells(table, test, metric)
    return SweepTable(
        path=folder,
        metric=metric,
        runs=pd.concat([table, pd.DataFrame(failed)], ignore_index=True) if failed else table,
        cells=cells,
        class_names=finished[0].class_names,
        fingerprint=config["identity"]["fingerprint"],
        weights=config["identity"]["weights"],
        groups=len(np.unique(test["groups"])),
        images=len(test["true"]),
        predictions=lambda name: by_name[name].predictions,
        histories=lambda name: by_name[name].history,
    )


def _row(run: Any) -> dict[str, Any]:
    return {
        "name": run.name,
        "freeze_through": run.config.freeze_through,
        "optimizer": run.config.optimizer,
        "seed": run.config.seed,
        "state": run.state,
        "validation": run.score("validation"),
        "test": run.score("test"),
        "test_accuracy": run.metrics.get("test", {}).get("accuracy", np.nan),
        "train": run.score("train"),
        "epochs": len(run.history),
        "seconds": float(run.history["seconds"].sum()),
        "learning_rate": run.config.rate,
        "precision": run.metadata["precision"],
    }


def _summary(folder: Path, metric: str) -> str:
    """How many runs are there, and the best of them; '' before the first."""
    scores: dict[str, float] = {}
    files = list(folder.glob(f"*/{runs.RESULT}"))
    for file in files:
        found = runs.read_json(file)["metrics"].get("validation", {}).get(metric)
        if found is not None:
            scores[file.parent.name] = found
    told = [f"{len(files)} done"] if files else []
    if scores:
        best = max(scores, key=lambda name: scores[name])
        told.append(f"best {best} ({metric} {scores[best]:.3f} on validation)")
    return ", ".join(told)


def _test_arrays(finished: list[Any]) -> dict[str, Any]:
    """True classes and groups of the test images, and run name -> predicted classes, as numbers."""
    number = {name: i for i, name in enumerate(finished[0].class_names)}
    reference = finished[0].predictions.query("split == 'test'")
    predicted = {}
    for run in finished:
        rows = run.predictions.query("split == 'test'")
        if list(rows["file"]) != list(reference["file"]):
            raise DataError(f"{run.path} was tested on other images than {finished[0].path}: they cannot be compared.")
        predicted[run.name] = rows["predicted"].map(number).to_numpy(np.int64)
    true = reference["true"].map(number).to_numpy(np.int64)
    return {"true": true, "groups": reference["group"].to_numpy(str), "predicted": predicted}


def _cells(table: pd.DataFrame, test: dict[str, Any], metric: str) -> pd.DataFrame:
    """One row a cell, with its interval and its comparison with the cell that is best on validation."""
    rows = []
    for (depth, optimizer), tried in table.groupby(["freeze_through", "optimizer"], sort=False):
        part = _best_rate(tried[tried["state"] == "finished"])
        if part.empty:
            continue
        predicted = np.stack([test["predicted"][n] for n in part["name"]])
        interval = stats.bootstrap_interval(test["true"], predicted, test["groups"], metric)
        rows.append(
            {
                "name": f"freeze{depth}-{optimizer}",
                "freeze_through": int(depth),
                "optimizer": optimizer,
                "learning_rate": part["learning_rate"].iloc[0],
                "rates": tried["learning_rate"].nunique(),
                "seeds": len(part),
                "validation": part["validation"].mean(),
                "test": part["test"].mean(),
                "low": interval.low,
                "high": interval.high,
                "few": interval.few,
                "scores": part["test"].tolist(),
                "train": part["train"].mean(),
                "seconds": part["seconds"].mean(),
                "predicted": predicted,
            }
        )
    seeds = max(row["seeds"] for row in rows)
    best = max((row for row in rows if row["seeds"] == seeds), key=lambda row: row["validation"])  # SweepTable.best
    for row in rows:
        gap = stats.paired_bootstrap(row["predicted"], best["predicted"], test["true"], test["groups"], metric)
        row |= {"difference": gap.difference, "diff_low": gap.low, "diff_high": gap.high, "equals": gap.high >= 0}
    return pd.DataFrame(rows).drop(columns="predicted")


def _best_rate(part: pd.DataFrame) -> pd.DataFrame:
    """The runs of a cell at one learning rate: of those with the most seeds, the best on validation, seed-mean.

    No test score takes part. Of equal ones the lowest rate counts.
    """
    rates = part.groupby("learning_rate")["validation"].agg(["count", "mean"])
    if rates.empty:
        return part
    return part[part["learning_rate"] == rates[rates["count"] == rates["count"].max()]["mean"].idxmax()]


def check_advice(advice: FreezeAdvice, sweep: SweepTable) -> AdviceCheck:
    """Whether the sweep confirms the advice, contradicts it, or cannot tell.

    For each depth the optimizer that is best on validation; d = test score of the advised depth minus that of the
    other depth best on validation, seed-mean, with its 95 % paired interval over groups. Confirmed: lower bound above
    -1 point. Contradicted: upper bound below 0. Raises DataError where advice and sweep are of different data or
    weights, ConfigError where the sweep lacks the advised depth or any other.
    """
    if (advice.fingerprint, advice.weights) != (sweep.fingerprint, sweep.weights):
        raise DataError("The advice and the sweep are of different data or weights: make both from the same.")
    chosen = sweep.complete.loc[sweep.complete.groupby("freeze_through")["validation"].idxmax()].set_index(
        "freeze_through"
    )
    if not can_check(advice, sweep):
        raise ConfigError(
            f"The sweep must hold the advised depth {advice.freeze_through} and another. "
            f"It has: {', '.join(map(str, chosen.index))}. Add depths with 'xaitune sweep-freeze --freeze-through 1-5'."
        )
    rival = int(chosen["validation"].drop(advice.freeze_through).idxmax())
    depths = (advice.freeze_through, rival)
    optimizers = {d: str(chosen.loc[d, "optimizer"]) for d in depths}
    predicted, seeds, true, groups = {}, {}, None, None
    for depth in depths:
        part = sweep.cell_runs(depth, optimizers[depth])
        seeds[depth] = part["seed"].astype(int).tolist()
        tables = [sweep.predictions(n).query("split == 'test'") for n in part["name"]]
        number = {name: i for i, name in enumerate(sweep.class_names)}
        predicted[depth] = np.stack([t["predicted"].map(number).to_numpy(np.int64) for t in tables])
        true, groups = tables[0]["true"].map(number).to_numpy(np.int64), tables[0]["group"].to_numpy(str)
    gap = stats.paired_bootstrap(predicted[depths[0]], predicted[depths[1]], true, groups, sweep.metric)
    right = {depth: dict(zip(seeds[depth], predicted[depth] == true, strict=True)) for depth in depths}
    verdict = stats.verdict(gap.difference, gap.low, gap.high)
    needed = stats.images_needed(gap.difference, gap.half_width, gap.images) if verdict == "cannot tell" else None
    return AdviceCheck(
        verdict=verdict,
        advised=advice.freeze_through,
        rival=rival,
        optimizers=optimizers,
        difference=gap,
        margin=stats.MARGIN,
        metric=sweep.metric,
        mcnemar=tuple(
            {
                "seed": seed,
                "advised_only": int((right[depths[0]][seed] & ~right[rival][seed]).sum()),
                "rival_only": int((right[rival][seed] & ~right[depths[0]][seed]).sum()),
                "p": stats.mcnemar_exact(right[depths[0]][seed], right[rival][seed]),
            }
            for seed in sorted(set(seeds[depths[0]]) & set(seeds[rival]))
        ),
        learning_rates={d: float(chosen.loc[d, "learning_rate"]) for d in depths if chosen.loc[d, "rates"] > 1},
        best=sweep.best.to_dict(),
        cheapest=sweep.equals.iloc[0].to_dict(),
        test_images_needed=needed,
        seeds=int(sweep.cells["seeds"].min()),
        advice_made_first=advice.created <= runs.read_json(sweep.path / "config.json")["started"],
    )


def can_check(advice: FreezeAdvice, sweep: SweepTable) -> bool:
    """Whether the sweep holds the advised depth and another."""
    depths = set(sweep.complete["freeze_through"])
    return advice.freeze_through in depths and len(depths) > 1


def save_check(check: AdviceCheck, folder: Path) -> None:
    """Write check.json into the sweep's folder."""
    keep = dataclasses.asdict(check)
    runs.write_json(
        folder / "check.json", {**json.loads(json.dumps(keep, default=_plain)), "sentence": check.sentence()}
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's, finished or not."""
    file = folder / "config.json"
    return file.is_file() and "started" in runs.read_json(file)


def find_sweep(runs_dir: str | Path, fingerprint: str | None = None) -> Path | None:
    """The newest sweep with a finished run under `runs_dir`, on that data where a fingerprint is given."""
    found = []
    for file in Path(runs_dir).glob("*/config.json"):
        config = runs.read_json(file)
        if "started" not in config or not list(file.parent.glob(f"*/{runs.RESULT}")):
            continue
        if fingerprint in (None, config["identity"]["fingerprint"]):
            found.append((file.stat().st_mtime, file.parent))
    return max(found)[1] if found else None


def best_run(sweep: SweepTable) -> Run:
    """The run of the best cell that is best on validation among its seeds."""
    cell = sweep.best
    part = sweep.cell_runs(cell["freeze_through"], cell["optimizer"])
    return runs.load_run(sweep.path / str(part.loc[part["validation"].idxmax(), "name"]))


def advice_for(folder: Path) -> Path | None:
    """The newest advice on a sweep's data and weights, beside the sweep."""
    identity = runs.read_json(folder / "config.json")["identity"]
    return advice_module.find_advice(folder.parent, identity["fingerprint"], identity["weights"])
