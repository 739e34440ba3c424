"""What of runs, sweeps and comparisons is sent to MLflow: one run for each folder, nested as the folders are."""

import math
from pathlib import Path

import pandas as pd

from xaitune._files import read_json
from xaitune._progress import Notes
from xaitune.comparison.comparison_table import load_comparison
from xaitune.comparison.table import SweepTable, load_sweep
from xaitune.config.tracking_settings import TrackingConfig
from xaitune.errors import RunError
from xaitune.plots import figures
from xaitune.tracking.contents import Summary, read_contents
from xaitune.tracking.follow import try_mlflow
from xaitune.tracking.run_log import RunLog, is_sent, send_run
from xaitune.training.folder import folder_kind

GROUPS = ("sweep", "comparison")  # kinds of folders that contain runs
WRITTEN_LAST = ("sweep.json", "comparison.csv")  # by a sweep or a comparison that has ended


def open_group(folder: Path, tracking: TrackingConfig | None, notes: Notes | None) -> None:
    """Make the MLflow run of a sweep or a comparison, before those that it contains. A failure is noted."""
    if tracking is not None and tracking.mlflow is not None:
        try_mlflow(tracking.mlflow, lambda: RunLog(folder, tracking, read_contents(folder)), notes, folder)


def close_group(folder: Path, tracking: TrackingConfig | None, notes: Notes | None) -> None:
    """Send what a sweep or a comparison has found, and those of its runs that have not been sent. A failure is noted."""
    if tracking is not None and tracking.mlflow is not None:
        try_mlflow(tracking.mlflow, lambda: send_folder(folder, tracking, changed=True), notes, folder)


def send_folder(
    folder: Path,
    tracking: TrackingConfig,
    *,
    again: bool = False,
    changed: bool = False,
    sent: list[str] | None = None,
) -> None:
    """Send a run, or a sweep or comparison with all its runs; the paths of what is sent are added to `sent`.

    What has been sent is left out unless `again`; `changed`: the sweep or comparison itself has new figures. May raise
    whatever MLflow and the network raise.
    """
    if folder_kind(folder) not in GROUPS:
        if again or not is_sent(folder, tracking):
            send_run(folder, tracking)
            if sent is not None:
                sent.append(str(folder))
        return
    parts = [file.parent for file in sorted(folder.glob("*/config.json"))]
    if not (again or changed) and is_sent(folder, tracking) and all(is_sent(part, tracking) for part in parts):
        return
    summary = _summary(folder)
    contents = read_contents(folder, summary)
    log = RunLog(folder, tracking, contents)
    for part in parts:
        send_folder(part, tracking, again=again, sent=sent)
    ended = any((folder / name).is_file() for name in WRITTEN_LAST)
    log.finish(contents, summary.drawn, "FINISHED" if ended else "RUNNING")
    if sent is not None:
        sent.append(str(folder))


def _summary(folder: Path) -> Summary:
    """The figures of a sweep or a comparison; nothing before a run has finished."""
    try:
        if folder_kind(folder) == "sweep":
            return _sweep_summary(load_sweep(folder))
        table = load_comparison(folder)
    except RunError:
        return Summary()
    return Summary(_cell_scores(table.best), {"best": str(table.best["name"])}, table.sentence())


def _sweep_summary(table: SweepTable) -> Summary:
    check = table.path / "check.json"
    verdict = read_json(check) if check.is_file() else {}
    tags = {"best": str(table.best["name"])} | ({"verdict": verdict["verdict"]} if verdict else {})
    note = verdict.get("sentence") or table.frozen_sentence()
    drawn = {"cells.png": table.plot(), "curves.png": table.plot_histories()}
    pictures = {name: figures.png_bytes(axes, dpi=100) for name, axes in drawn.items()}
    return Summary(_cell_scores(table.best), tags, note, pictures)


def _cell_scores(cell: pd.Series) -> dict[str, float]:
    """The scores of the best cell: on validation, which chose it, and on test with its interval."""
    columns = {"validation": "best_validation", "test": "best_test", "low": "best_test_low", "high": "best_test_high"}
    return {name: float(cell[column]) for column, name in columns.items() if math.isfinite(float(cell[column]))}
