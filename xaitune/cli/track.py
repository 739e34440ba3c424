"""The command that sends what is in run folders to MLflow, and writes their TensorBoard files: track."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from xaitune.cli.completion import complete_run
from xaitune.cli.options import Job, command
from xaitune.config.settings import TrackingConfig, replace_fields
from xaitune.errors import ConfigError, RunLockedError, XaituneError


@command("track", TrackingConfig)
def track(
    job: Job,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, sweeps or comparisons (default: all in --runs-dir).",
            autocompletion=complete_run,
        ),
    ] = None,
) -> None:
    """Send runs to MLflow, or write their TensorBoard files.

    For runs that were made without --mlflow or --tensorboard, or while the server did not answer. Without --mlflow each
    goes to the address that it was meant for. What has been sent already is left out unless its folder is named.
    """
    from xaitune.tracking.follow import require_packages
    from xaitune.training.folder import folder_kind

    config = replace_fields(job.file_config().tracking, job.given.get(TrackingConfig, {}))
    require_packages(config)
    chosen = folders or sorted(file.parent for file in job.runs_dir.glob("*/config.json"))
    kinds = ("run", "sweep", "comparison")
    for folder in folders or ():
        if folder_kind(folder) not in kinds:
            raise ConfigError(f"{folder} holds no run, sweep or comparison.")
    found = [folder for folder in chosen if folder_kind(folder) in kinds]
    if not found:
        raise ConfigError(f"No run in {job.runs_dir}. Train one with 'xaitune train'.")
    written = _write_events(job, found) if config.tensorboard else 0
    sent = _send(job, found, config, again=bool(folders)) if config.mlflow or not config.tensorboard else {}
    job.ui.finish([], "", sent=sent, event_files=written)


def _send(job: Job, folders: list[Path], config: TrackingConfig, *, again: bool) -> dict[str, list[str]]:
    """Send the folders; address -> what was sent to it."""
    from xaitune.comparison.tracked import send_folder
    from xaitune.tracking.follow import require_packages
    from xaitune.tracking.mlflow_server import reason_of
    from xaitune.tracking.run_log import record_of

    sent: dict[str, list[str]] = {}
    for folder in folders:
        uri = config.located(job.runs_dir).mlflow or record_of(folder)["uri"]
        if uri is None:
            continue
        target = replace_fields(config, {"mlflow": uri})
        require_packages(target)
        listed = sent.setdefault(uri, [])
        try:
            send_folder(folder, target, again=again, sent=listed)
        except XaituneError:
            raise
        except Exception as error:
            raise XaituneError(f"MLflow at {uri} cannot be used: {reason_of(error)}.") from error
    if not sent:
        raise ConfigError("No address of MLflow. Give --mlflow local, or --mlflow with the address of a server.")
    for uri, listed in sent.items():
        job.ui.say(f"Sent to {uri}: {', '.join(listed) or 'nothing, all of it is there'}")
    return sent


def _write_events(job: Job, folders: list[Path]) -> int:
    """Write the event files of all runs in the folders; how many."""
    from xaitune.tracking.follow import Follower
    from xaitune.training.folder import folder_kind, locked

    count = 0
    for folder in folders:
        for file in (folder / "config.json", *folder.rglob("*/config.json")):
            if folder_kind(file.parent) == "run":
                with contextlib.suppress(RunLockedError), locked(file.parent):  # one that trains writes its own
                    follower = Follower(file.parent, TrackingConfig(tensorboard=True), None)
                    follower.start()
                    follower.end()
                    count += 1
    job.ui.say(f"TensorBoard files of {count} runs. Look at them with: tensorboard --logdir {job.runs_dir}")
    return count
