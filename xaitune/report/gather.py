"""Finding what a report needs below a runs folder, and listing what is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune.advise import advice as advice_module
from xaitune.comparison import sweep
from xaitune.data.dataset import ImageData
from xaitune.errors import RunError, XaituneError
from xaitune.explain.api import explain_images
from xaitune.report.page import write_report
from xaitune.results import BlockHeatmaps, Run
from xaitune.training import folder as runs

SHOWN = 8  # images whose heatmaps stand in a report


def report_on(
    path: Path | None,
    runs_dir: Path,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[..., None] | None = None,
) -> Path:
    """Write the report on a sweep or run folder, by default the newest sweep, else the newest run."""
    folder = path or sweep.find_sweep(runs_dir)
    if folder is None:
        newest = runs.find_runs(runs_dir)
        if not newest:
            raise RunError(f"Nothing to report in {runs_dir}. Begin with 'xaitune train' or 'xaitune sweep-freeze'.")
        folder = newest[0]
    say(f"Report on {folder}")
    config = runs.read_json(folder / "config.json")
    table = sweep.load_sweep(folder) if "started" in config else None
    run = sweep.best_run(table) if table is not None else runs.load_run(folder)
    data = _data(run, say)
    if progress:
        progress(1, 3, "heatmaps")
    heatmaps = _heatmaps(run, data) if data is not None else None
    weights = str(run.metadata["weights_digest"])
    found = advice_module.find_advice(folder.parent if table is not None else runs_dir, run.fingerprint, weights)
    advice = advice_module.load_advice(found) if found else None
    check = None
    if advice is not None and table is not None:
        if sweep.can_check(advice, table):
            check = sweep.check_advice(advice, table)
        else:
            say(f"Without a verdict: the sweep lacks the advised depth {advice.freeze_through}, or any other.")
    if progress:
        progress(2, 3, "page")
    return write_report(
        table if table is not None else run,
        advice=advice,
        check=check,
        heatmaps=heatmaps,
        data=data,
        data_check=data.check() if data is not None else None,
    )


def _data(run: Run, say: Callable[[str], None]) -> ImageData | None:
    """The run's images, where they still are what they were."""
    try:
        data = ImageData.from_config(run.data_config)
    except XaituneError as error:
        say(f"Without pictures: {error}")
        return None
    if data.fingerprint != run.fingerprint:
        say(f"Without pictures: the images in {run.data_config.path} have changed since the training.")
        return None
    return data


def _heatmaps(run: Run, data: ImageData) -> BlockHeatmaps:
    """Grad-CAM at all blocks of a few test images, the classes in turn."""
    test = data.indices("test")
    turn = pd.Series(data.labels[test]).groupby(data.labels[test]).cumcount().to_numpy()
    rows = test[np.argsort(turn, kind="stable")][:SHOWN]
    made = explain_images(run, data.paths(rows))
    assert isinstance(made, BlockHeatmaps)
    return made


def list_runs(runs_dir: Path) -> pd.DataFrame:
    """One row a folder: name, kind, state, test score and what it is about."""
    rows: list[dict[str, Any]] = []
    for file in sorted(Path(runs_dir).glob("*/config.json")):
        folder, config = file.parent, runs.read_json(file)
        row = {
            "name": folder.name,
            "kind": "run",
            "state": "unfinished",
            "validation": np.nan,
            "test": np.nan,
            "about": "",
        }
        if (folder / "advice.json").is_file():
            advice = advice_module.load_advice(folder)
            row |= {
                "kind": "advice",
                "state": "finished",
                "about": f"freeze_through {advice.freeze_through}, {advice.confidence:.0%}",
            }
        elif "started" in config:
            done = len(list(folder.glob(f"*/{runs.RESULT}")))
            row |= {
                "kind": "sweep",
                "state": f"{done} runs",
                "about": runs.read_json(folder / "check.json")["verdict"] if (folder / "check.json").is_file() else "",
            }
        elif runs.is_finished(folder):
            run = runs.load_run(folder)
            row |= {
                "state": run.state,
                "validation": run.score("validation"),
                "test": run.score(),
                "about": run.config.metric,
            }
        rows.append(row)
    return pd.DataFrame(rows, columns=["name", "kind", "state", "validation", "test", "about"])
