"""Finding what a report needs below a runs folder, and listing what is there."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import read_json
from xaitune._names import plural
from xaitune._progress import Notes, Progress, part_of
from xaitune.advise.advice import FreezeAdvice, find_advice, load_advice
from xaitune.advise.check import AdviceCheck, advice_for, own_check
from xaitune.advise.collection import RESULT as COLLECTION
from xaitune.advise.recommended import recommended_model
from xaitune.comparison.comparison_table import PARTS, ComparisonTable, load_comparison
from xaitune.comparison.so_far import count_runs, unfinished_grid
from xaitune.comparison.table import SweepTable, find_sweep, find_sweeps, load_sweep
from xaitune.config.settings import DataConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import PixelLabels, segmentation_check
from xaitune.errors import ConfigError, RunError, XaituneError
from xaitune.explain.api import explain_images
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.pixels import sample_sheet
from xaitune.report.drawn import viewed_images
from xaitune.report.headline import SweepBeside, verdict_texts
from xaitune.report.next_steps import add_use, load_finished_runs
from xaitune.report.page import write_report
from xaitune.training.folder import CONFIG, RESULT, find_runs, folder_kind, is_finished
from xaitune.training.run import Run, load_run

SHOWN = 8  # images whose heatmaps stand in a report


def report_on(
    path: Path | None,
    runs_dir: Path,
    say: Notes = lambda text: None,
    progress: Progress | None = None,
    *,
    checked: bool = False,
) -> tuple[Path, str]:
    """Write the report on a folder of a sweep, a comparison or a run, by default the newest sweep, else the newest run.

    Returns where it is, and the command that exports the model that it recommends; '' where there is none yet.
    `checked`: whether the maps of the image viewer are checked, which takes minutes.
    """
    if path is not None and folder_kind(path) == "comparison":
        return _report_on_comparison(load_comparison(path), say, progress, checked), ""
    folder = path or find_sweep(runs_dir)
    if folder is None:
        newest = find_runs(runs_dir)
        if not newest:
            raise ConfigError(
                f"Nothing to report in {runs_dir} yet. Run 'xaitune train' or 'xaitune sweep-freeze' first."
            )
        folder = newest[0]
    say(f"Report on {folder}")
    step = progress or (lambda done, total, what: None)
    step(0, 100, "reading runs")
    table = load_finished_runs(folder) if folder_kind(folder) == "sweep" else None
    advice, check = _advice_and_check(folder, table, runs_dir, say)
    chosen = recommended_model(table, check) if table is not None else None
    run = load_run(table.folder(chosen.run) if table is not None and chosen is not None else folder)
    step(10, 100, "reading images")
    tested = _data(run.data_config, run.fingerprint, say)
    data, fingerprint = tested, run.fingerprint if table is None else table.fingerprint
    if table is not None and tested is not None and table.parts:  # the split of the advice, not that of a fold
        data = _data(replace_fields(run.data_config, {"fold": None}), table.fingerprint, say)
    pictures = _pictures(_in_all_folds(run, table), data, tested, checked, progress)
    comparisons = find_comparisons(folder.parent, fingerprint)
    step(90, 100, "writing the page")
    result = table if table is not None else run
    beside = sweep_beside(run, runs_dir) if table is None else None
    page = write_report(
        result, advice=advice, check=check, data=data, comparisons=comparisons, beside=beside, **pictures
    )
    return page, _export_command(result, advice, check)


def _advice_and_check(
    folder: Path, table: SweepTable | None, runs_dir: Path, say: Notes
) -> tuple[FreezeAdvice | None, AdviceCheck | None]:
    """The newest advice on the images of a run or of a sweep, and the sweep's check of it."""
    if table is None:
        run = load_run(folder)
        place = find_advice(runs_dir, run.fingerprint, str(run.metadata["weights_digest"]), run.config.task)
        return load_advice(place) if place else None, None
    place = advice_for(folder)
    advice = load_advice(place) if place else None
    check = own_check(table)
    if advice is not None and check is None:
        say(f"Without a verdict: the sweep lacks the advised depth {advice.freeze_through}, or any other.")
    return advice, check


def sweep_beside(run: Run, runs_dir: Path) -> SweepBeside | None:
    """The newest finished sweep on a run's images and with its weights; None without one."""
    for folder in find_sweeps(runs_dir, run.fingerprint):
        identity = read_json(folder / CONFIG)["identity"]
        same = (identity["weights"], identity.get("task", "classify"))
        if same != (str(run.metadata["weights_digest"]), run.config.task) or unfinished_grid(folder) is not None:
            continue
        with contextlib.suppress(XaituneError):  # all of its runs diverged, or it is damaged
            sweep = load_sweep(folder)
            check = own_check(sweep)
            answer = verdict_texts(sweep, sweep, None, check, {})["headline"]
            return SweepBeside(folder, answer, checked=check is not None)
    return None


def _export_command(result: Run | SweepTable, advice: FreezeAdvice | None, check: AdviceCheck | None) -> str:
    """The page's own command that exports the recommended model, if it has one."""
    todo: list[tuple[str, str]] = []
    if isinstance(result, SweepTable):
        todo = verdict_texts(result, result, advice, check, {})["todo"]
    else:
        add_use(todo, result, None)
    return next((command for _, command in todo if command.startswith("xaitune export")), "")


def _pictures(
    runs: list[Run], data: ImageData | None, tested: ImageData | None, checked: bool, progress: Progress | None
) -> dict[str, Any]:
    """What the page shows of the images: their check, heatmaps of some, a segmentation's pixels, and the viewer's images."""
    if data is None or tested is None:
        return {}
    step = progress or (lambda done, total, what: None)
    run = runs[0]
    check = data.check(part_of(progress, 0.15, 0.35))
    if run.config.segments:  # with that of its masks
        check = segmentation_check(check, PixelLabels(data))
    step(35, 100, f"heatmaps of {SHOWN} images")
    return {
        "data_check": check,
        "heatmaps": _heatmaps(run, tested),
        "segmentation": sample_sheet(run, tested) if run.config.segments else None,
        "viewed": viewed_images(runs, tested, checked=checked, progress=part_of(progress, 0.4, 0.9)),
    }


def _in_all_folds(run: Run, table: SweepTable | None) -> list[Run]:
    """The run; of a sweep over folds the runs of its training in all of them."""
    for names in table.parts.values() if table is not None else ():
        if table is not None and table.path / names[0] == run.path:
            return [run, *(load_run(table.path / name) for name in names[1:])]
    return [run]


def _report_on_comparison(table: ComparisonTable, say: Notes, progress: Progress | None, checked: bool) -> Path:
    """Write the report on a comparison, with the first run of the combination that is best on validation."""
    say(f"Report on {table.path}")
    best = table.best
    run = load_run(table.path / best["part"] / best["runs"][0])
    data = _data(run.data_config, run.fingerprint, say)
    pictures = _pictures([run], data, data, checked, progress)
    return write_report(run, table.path / "report.html", data=data, comparisons=[table], **pictures)


def find_comparisons(runs_dir: Path, fingerprint: str) -> list[ComparisonTable]:
    """The comparisons directly under `runs_dir` on that data that have a finished run."""
    found = []
    for file in sorted(Path(runs_dir).glob(f"*/{PARTS}")):
        if read_json(file.parent / CONFIG)["identity"]["fingerprint"] == fingerprint:
            with contextlib.suppress(RunError):  # none of its runs has finished yet
                found.append(load_comparison(file.parent))
    return found


def _data(config: DataConfig, fingerprint: str, say: Notes) -> ImageData | None:
    """The images, where they still are what they were."""
    try:
        data = ImageData.from_config(config)
    except XaituneError as error:
        say(f"Without pictures: {error}")
        return None
    if data.fingerprint != fingerprint:
        say(f"Without pictures: the images in {config.path} have changed since the training.")
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
    """One row per folder below `runs_dir`: name, kind, state, validation and test score, and what it is about."""
    rows = []
    for file in sorted(Path(runs_dir).glob(f"*/{CONFIG}")):
        folder = file.parent
        kind = folder_kind(folder)
        about = ABOUT.get(str(kind), _about_run)(folder)
        rows.append({"name": folder.name, "kind": kind, "state": "unfinished", "about": ""} | about)
    return pd.DataFrame(rows, columns=["name", "kind", "state", "validation", "test", "about"])


def _about_advice(folder: Path) -> dict[str, Any]:
    if not (folder / "advice.json").is_file():
        return {}
    return {"state": "finished", "about": load_advice(folder).headline}


def _about_sweep(folder: Path) -> dict[str, Any]:
    check = folder / "check.json"
    verdict = read_json(check)["verdict"] if check.is_file() else ""
    ended, count = count_runs(folder)
    if not count:  # made by an earlier version
        ended = count = len([*folder.glob(f"*/{RESULT}"), *folder.glob(f"*/*/{RESULT}")])
    state = plural(count, "run") if ended == count else f"{ended} of {plural(count, 'run')}"
    return {"state": state, "about": verdict}


def _about_run(folder: Path) -> dict[str, Any]:
    if not is_finished(folder):
        return {}
    run = load_run(folder)
    scores = {"validation": run.score("validation"), "test": run.score()}
    return {"state": run.state, "about": run.config.metric, **scores}


def _about_collection(folder: Path) -> dict[str, Any]:
    return {"state": "finished", "about": "what to collect next"} if (folder / COLLECTION).is_file() else {}


def _about_drift(folder: Path) -> dict[str, Any]:
    file = folder / "drift.json"
    return {"state": "finished", "about": read_json(file)["headline"]} if file.is_file() else {}


def _about_comparison(folder: Path) -> dict[str, Any]:
    ended = list(folder.glob(f"*/*/{RESULT}"))
    factors = read_json(folder / PARTS)["factors"] if (folder / PARTS).is_file() else {}
    return {"state": plural(len(ended), "run"), "about": ", ".join(factors) or "repeats"}


ABOUT = {
    "advice": _about_advice,
    "sweep": _about_sweep,
    "comparison": _about_comparison,
    "collection": _about_collection,
    "drift": _about_drift,
}
