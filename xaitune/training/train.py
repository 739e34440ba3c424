"""Training of one model: its folder, and what is already in it."""

import dataclasses
from pathlib import Path
from typing import Any

from xaitune._progress import Notes, Progress, shown_progress
from xaitune.config.settings import TrackingConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.models.precision import resolve_precision
from xaitune.models.weights import load_backbone
from xaitune.tracking.follow import Follower, require_packages
from xaitune.training.features import FeatureCache
from xaitune.training.folder import (
    RESULT,
    choose_folder,
    is_finished,
    is_stopped,
    locked,
    run_identity,
    run_name,
    start_folder,
)
from xaitune.training.network import Networks, network_for
from xaitune.training.run import Run, load_run
from xaitune.training.stages import Training
from xaitune.training.targets import class_names, pixel_digest, require_trainable


def train_model(
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Notes | None = None,
    tracking: TrackingConfig | None = None,
    **options: Any,
) -> Run:
    """Train one model and write its run folder; the same call again returns the finished run, or resumes an unfinished one.

    `options` are fields of TrainConfig. Frozen features are cached in `cache_dir` (default `runs_dir`/cache), up to
    `cache_gb`. `progress(done, total, what)` counts epochs; `notes` receives lines for the user. `tracking`
    logs the run to TensorBoard or MLflow too. If the loss becomes NaN, the run ends as 'diverged', which is recorded and
    returned. Raises InputError for a call or input that must be fixed, and RunError for a locked folder, a full disk, or a
    `name` that another configuration has.

    Examples:
        >>> data = ImageData.from_folder("images")  # doctest: +SKIP
        >>> run = train_model(data, freeze_through=3, epochs=10)  # doctest: +SKIP
    """
    config = replace_fields(config or TrainConfig(), options)
    run = train_until(
        data,
        config,
        name=name,
        runs_dir=runs_dir,
        overwrite=overwrite,
        cache_dir=cache_dir,
        cache_gb=cache_gb,
        progress=shown_progress(progress, "training"),
        notes=notes,
        tracking=tracking,
    )
    assert run is not None  # nothing pauses it
    return run


def train_until(
    data: ImageData,
    config: TrainConfig,
    pause: int | None = None,
    *,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Notes | None = None,
    networks: Networks | None = None,
    tracking: TrackingConfig | None = None,
) -> Run | None:
    """`train_model`, which pauses after `pause` epochs of fine-tuning and then returns None.

    The folder of a paused run holds its history so far, and a later call continues it. `networks` keeps what has been
    built and traced for the next call.
    """
    require_trainable(data, config)
    require_packages(tracking)
    backbone = load_backbone(config.weights, config.architecture)
    identity = run_identity(config, data.config, data.fingerprint, backbone.digest, pixel_digest(data, config))
    folder, note = choose_folder(Path(runs_dir), run_name(config), name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    with locked(folder):
        contents = {
            "train": dataclasses.asdict(config),
            "data": dataclasses.asdict(data.config),
            "class_names": list(class_names(data, config)),
            "identity": identity,
        }
        start_folder(folder, "run", contents, overwrite=overwrite)
        if is_stopped(folder):  # it was not chosen then; now it is
            (folder / RESULT).unlink()
        follower = Follower(folder, tracking and tracking.located(runs_dir), notes)
        if is_finished(folder):
            if notes:
                notes(f"{folder} is finished already; it is not trained again.")
            follower.catch_up()
            return load_run(folder)
        cache = FeatureCache(Path(cache_dir or Path(runs_dir) / "cache"), cache_gb)
        precision = resolve_precision(config.precision)[0]
        network = network_for(data, config, backbone, precision, {} if networks is None else networks)
        follower.start()
        Training(data, config, backbone, network, folder, cache, follower, progress, pause).run()
        follower.end()
        return load_run(folder) if is_finished(folder) else None
