"""A comparison of trainings that differ in any setting: a sweep for each value, and one table of all of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaitune._files import read_json, write_csv, write_json
from xaitune._progress import Notes, Progress, part_of, shown_progress
from xaitune.comparison.comparison_table import PARTS, ComparisonTable, load_comparison
from xaitune.comparison.factors import check_factors, part_name, parts_of
from xaitune.comparison.plan import SweepPlan, plan_sweep
from xaitune.comparison.sweep import train_missing
from xaitune.comparison.tracked import close_group, open_group
from xaitune.config.settings import SweepConfig, TrackingConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, RunError
from xaitune.models.weights import load_backbone
from xaitune.plots import figures
from xaitune.tracking.follow import require_packages
from xaitune.training.folder import choose_folder, locked, run_identity, start_folder
from xaitune.training.targets import pixel_digest


@dataclasses.dataclass(frozen=True)
class ComparisonPlan:
    """What a comparison will do: `factors`, field -> values, and for each part its values and the plan of its sweep."""

    folder: Path
    identity: dict[str, Any]
    factors: dict[str, tuple[Any, ...]]
    parts: tuple[tuple[dict[str, Any], SweepPlan], ...]

    @property
    def total(self) -> int:
        """How many runs it has."""
        return sum(plan.total for _, plan in self.parts)

    @property
    def done(self) -> int:
        """How many of them have ended."""
        return sum(plan.done for _, plan in self.parts)


def plan_comparison(
    data: ImageData,
    factors: Mapping[str, Sequence[Any]],
    config: SweepConfig,
    train: TrainConfig,
    *,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    notes: Notes | None = None,
) -> ComparisonPlan:
    """Plan the comparison that `compare` would run with the same arguments. Writes nothing. Raises InputError, RunError."""
    checked = check_factors(factors)
    parts = parts_of(checked, train)  # a value that contradicts another setting is refused here
    for _, base in parts:
        data.require_classes(base.named_classes)
    varied = {*checked, "seed"} | ({"freeze_through"} if "trained_blocks" in checked else set())
    own_weights = {"weights", "architecture"} & set(checked)  # each network has weights of its own
    varied |= {"weights"} if own_weights else set()
    digest = "" if own_weights else load_backbone(train.weights, train.architecture).digest
    identity = run_identity(train, data.config, data.fingerprint, digest, pixel_digest(data, train))
    identity["learning_rate"] = train.learning_rate
    identity = {key: value for key, value in identity.items() if key not in varied} | {"factors": sorted(checked)}
    folder, note = choose_folder(Path(runs_dir), "comparison", name, identity, overwrite=False)
    if note and notes:  # which of the factors and settings differ would say little
        notes(f"Another comparison is in {Path(runs_dir) / 'comparison'}, so this one is in {folder}.")
    plans = []
    for values, base in parts:
        grid: dict[str, Any] = {
            "freeze_through": checked.get("freeze_through", (base.freeze_through,)),
            "optimizers": checked.get("optimizer", (base.optimizer,)),
            "folds": None,
        }
        if "learning_rate" in checked or base.learning_rate != train.learning_rate:  # a value of it, or a preset's
            grid["learning_rates"] = "own" if base.learning_rate is None else None
        plan = plan_sweep(data, replace_fields(config, grid), base, name=part_name(values), runs_dir=folder)
        plans.append((values, dataclasses.replace(plan, frozen=())))
    return ComparisonPlan(folder, identity, checked, tuple(plans))


def compare(
    data: ImageData,
    train: TrainConfig | None = None,
    *,
    factor: str | Mapping[str, Sequence[Any]] | None = None,
    values: Sequence[Any] = (),
    config: SweepConfig | None = None,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Notes | None = None,
    tracking: TrackingConfig | None = None,
    **options: Any,
) -> ComparisonTable:
    """Train what differs in any settings, with the same seeds on the same images, and compare all of it.

    `factor`: a field of TrainConfig, whose `values` are compared; or field -> values of several, which make a grid; None repeats
    the training `train` alone. The values of architecture may also be names of config.choices.PRESETS.
    `config` and `options`, fields of SweepConfig, say how many seeds, which learning rates every cell tries, and what
    runs them; `tracking` logs the runs to TensorBoard or MLflow too. The folder `runs_dir`/comparison holds a sweep for each
    combination of values (depths and optimizers vary within one), comparison.csv, comparison.png and curves.png. The same
    call resumes, and other values join those that are there. Raises InputError before anything is trained, and RunError
    if no run finished.

    Examples:
        >>> data = ImageData.from_folder("images", image_size=(96, 96))  # doctest: +SKIP
        >>> compare(data, factor="loss", values=["categorical_crossentropy", "focal"]).sentence()  # doctest: +SKIP
    """
    config = replace_fields(config or SweepConfig(), options)
    config.require_engine(options)
    if values and not isinstance(factor, str):
        raise ConfigError(
            "values belong to a factor that is named: factor='loss', values=[...]; or factor={'loss': [...]}."
        )
    factors = {factor: values} if isinstance(factor, str) else factor or {}
    plan = plan_comparison(data, factors, config, train or TrainConfig(), name=name, runs_dir=runs_dir, notes=notes)
    return run_comparison(
        plan,
        data,
        cache_dir=cache_dir or Path(runs_dir) / "cache",
        cache_gb=cache_gb,
        progress=shown_progress(progress, "comparison"),
        notes=notes,
        tracking=tracking and tracking.located(runs_dir),
    )


def run_comparison(
    plan: ComparisonPlan,
    data: ImageData,
    *,
    cache_dir: str | Path,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Notes | None = None,
    tracking: TrackingConfig | None = None,
) -> ComparisonTable:
    """Train the runs that a plan lacks, and return the table of all; see `compare`. Raises RunError."""
    require_packages(tracking)
    with locked(plan.folder):
        start_folder(plan.folder, "comparison", {"identity": plan.identity}, overwrite=False)
        open_group(plan.folder, tracking, notes)
        file = plan.folder / PARTS
        known = read_json(file)["parts"] if file.is_file() else {}
        known |= {part_name(values): values for values, _ in plan.parts}
        write_json(file, {"factors": list(plan.factors), "parts": known})
        failures: dict[str, str] = {}
        for number, (values, part) in enumerate(plan.parts):
            count = len(plan.parts)
            report = part_of(progress, number / count, (number + 1) / count, f"{part_name(values)}: ")
            shared: dict[str, Any] = {
                "cache_dir": cache_dir,
                "cache_gb": cache_gb,
                "notes": notes,
                "tracking": tracking,
            }
            errors = train_missing(part, data, progress=report, **shared)
            failures |= {f"{part_name(values)}/{run}": error for run, error in errors.items()}
        if failures and not plan.done:
            first, error = next(iter(failures.items()))
            raise RunError(f"No run of the comparison finished. {first}: {error}")
        table = load_comparison(plan.folder)
        write_csv(plan.folder / "comparison.csv", table.cells.drop(columns=["scores", "runs"]))
        figures.save(table.plot(), plan.folder / "comparison.png")
        figures.save(table.plot_histories(), plan.folder / "curves.png")
        close_group(plan.folder, tracking, notes)
        return table
