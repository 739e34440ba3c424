"""One self-contained HTML page on a sweep or a run: the verdict first, then what it rests on. No network, no Keras."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from xaitune._files import write_bytes
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck, can_check, check_advice
from xaitune.advise.leak import load_leak
from xaitune.advise.recommended import recommended_model
from xaitune.comparison.comparison_table import ComparisonTable
from xaitune.comparison.table import SweepTable
from xaitune.errors import InputError
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.lime.result import Superpixels
from xaitune.report.cautions import class_sentence, leak_warnings, suspects_section, worst_class
from xaitune.report.commands import CommandLine, data_name, is_complete, shown_path
from xaitune.report.comparisons import comparison_section
from xaitune.report.embedding import inline_parts
from xaitune.report.glossary import explained_terms, mark_terms
from xaitune.report.headline import SweepBeside, mismatches, unfinished_training, verdict_figures, verdict_texts
from xaitune.report.next_steps import advise_command
from xaitune.report.run_figures import shown_run
from xaitune.report.sections import (
    advice_section,
    data_section,
    heatmap_strips,
    making_section,
    result_settings,
    sweep_section,
)
from xaitune.report.texts import duration_text, has_hangul, picture, score_text
from xaitune.report.thresholds import threshold_section
from xaitune.report.viewer import Viewed, viewer_section
from xaitune.training.run import Run

SHEET = "Test images beside their true classes, the predicted classes and the pixels in error"


def write_report(
    result: Run | SweepTable,
    path: str | Path | None = None,
    *,
    advice: FreezeAdvice | None = None,
    check: AdviceCheck | None = None,
    heatmaps: BlockHeatmaps | Superpixels | Sequence[BlockHeatmaps | Superpixels] | None = None,
    data: Any = None,
    sweep: SweepTable | None = None,
    data_check: Any = None,
    comparisons: Sequence[ComparisonTable] = (),
    segmentation: Any = None,
    viewed: Viewed | None = None,
    beside: SweepBeside | None = None,
) -> Path:
    """Write the report on a sweep or a single run; returns where it is.

    `path` defaults to report.html in the result's folder. `data` is the ImageData, `data_check` what its `check()`
    gave. `check` is made from `advice` and the sweep where it is not given. With a Run, `sweep` is the sweep that it
    is compared with, `beside` one that has a page of its own. `comparisons` on the same images get
    a section; a run of one of them is reported as its best cell.
    `segmentation`: the Axes of `explain.pixels.sample_sheet`. `viewed`: what `drawn.viewed_images` gave, for the image viewer.
    What is not given is named on the page, with the command that makes it. Raises InputError for another kind of result,
    RunError where the page cannot be written.
    """
    if isinstance(result, SweepTable):
        sweep = result
    elif not isinstance(result, Run):
        raise InputError(f"write_report needs a Run or a SweepTable. Received: {type(result).__name__}.")
    if check is None and advice is not None and sweep is not None:
        check = _check(advice, sweep)
    shown = shown_run(result, recommended_model(result, check) if isinstance(result, SweepTable) else None)
    train, data_settings = result_settings(result, shown)
    own = next((table for table in comparisons if table.path in result.path.parents), None)
    maps = [heatmaps] if isinstance(heatmaps, BlockHeatmaps | Superpixels) else list(heatmaps or ())
    checks = result.path.parent / "data-check"
    suspects = suspects_section(checks / "labels.csv", data, shown["class_names"])
    viewer, grid = viewer_section(viewed, suspects and suspects["files"]), sweep_section(sweep)
    thresholds = threshold_section(shown["predictions"], shown["class_names"], shown.get("f1"))
    data_of = {"viewer": viewer, "thresholds": thresholds}
    inline = {name: part and part["data"] for name, part in data_of.items()} | {"counts": shown.get("counts")}
    verdict = verdict_texts(result, sweep, advice, check, shown, own, beside) | verdict_figures(check)
    if unfinished := unfinished_training(result, train.get("epochs")):
        verdict["paragraphs"].append(unfinished[0])
        verdict["todo"].append(unfinished[1])
    about_data, leaks = data_section(data, data_check, shown), leak_warnings(data_check)
    classes = _classes(shown, about_data, suspects)
    verdict["todo"] += _checks_to_make(suspects, data, classes["worst"])
    if leaks:  # they make every figure here too high
        look = "See which images look alike in several splits, and get groups proposed:"
        verdict["todo"].insert(0, (look, "xaitune data-check"))
    paste = CommandLine(result.path)
    environment = _environment(paste)
    made = str(shown["metadata"].get("ended", ""))[:10] or datetime.date.today().isoformat()
    page = environment.get_template("report.html").render(
        **inline_parts(environment, inline | {"sweep": grid and grid["details"]}),
        viewer=viewer,
        title=_title(data_settings, train, own.path.name if own else result.path.name, made),
        created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        verdict=verdict,
        warnings=[*leaks, *mismatches(result, advice, check, data, sweep)],
        classes=classes,
        suspects=suspects,
        data=about_data,
        leak=load_leak(checks, result.fingerprint),
        heatmaps=[strip for m in maps for strip in heatmap_strips(m)],
        signed=any(isinstance(m, Superpixels) for m in maps),
        advice=advice_section(advice),
        advise=advise_command(result),
        sweep=grid,
        thresholds=thresholds,
        comparisons=[comparison_section(table) for table in comparisons],
        run=shown,
        segmentation=picture(segmentation, SHEET, dpi=100, photo=True) if segmentation is not None else None,
        making=making_section(result, sweep, shown),
        beside=f"xaitune report {shown_path(beside.path)}" if beside else "",
        glossary=explained_terms(),
        folder=paste.folder,
    )
    return write_bytes(path or result.path / "report.html", page.encode("utf-8"))


def _check(advice: FreezeAdvice, sweep: SweepTable) -> AdviceCheck | None:
    """The verdict, where the sweep can give one on this advice; `mismatches` says why it cannot."""
    same = (advice.fingerprint, advice.weights) == (sweep.fingerprint, sweep.weights)
    return check_advice(advice, sweep) if same and can_check(advice, sweep) else None


def _title(data: dict[str, Any], train: dict[str, Any], name: str, made: str) -> str:
    """What the page is about: the data set, the network, the folder's name and the day, such as 2026-11-26."""
    network = str(train.get("architecture", "vgg16")).upper()
    weights = Path(str(train.get("weights", ""))).stem
    named = f"{network} ({weights})" if weights else network
    return ", ".join(filter(None, [data_name(data["path"]) if data.get("path") else "", named, name, made]))


def _classes(shown: dict[str, Any], data: dict[str, Any] | None, suspects: dict[str, Any] | None) -> dict[str, Any]:
    """What the page says of the classes in words; of a segmentation nothing."""
    if shown.get("score") != "F1":
        return {"sentence": "", "worst": None}
    rows = {name: dict(zip(data["columns"], counts, strict=True)) for name, counts in data["rows"]} if data else {}
    known = [rows[name] for name in shown["class_names"]] if {*shown["class_names"]} <= set(rows) else []
    images, groups = ([row[c] for row in known if c in row] for c in ("images", "groups"))
    worst = worst_class(
        shown["counts"], shown["class_names"], images if len(groups) == len(images) else (), groups, suspects
    )
    named = worst["number"] if worst else None
    return {"sentence": class_sentence(shown["counts"], shown["class_names"], named), "worst": worst}


def _checks_to_make(suspects: dict[str, Any] | None, data: Any, worst: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What to do about the images: (text, command)."""
    todo = []
    if suspects:
        todo.append((f"Look at the {suspects['count']:,} doubtful labels below, the first ones at least.", ""))
    elif data is not None and worst:
        todo.append(("Find doubtful labels:", "xaitune data-check --labels"))
    if worst:
        todo.append(("Find out which images to collect next, class by class:", "xaitune collect"))
    return todo


def _environment(paste: CommandLine) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": score_text, "duration": duration_text, "hangul": has_hangul}
    environment.filters |= {"paste": paste, "complete": is_complete, "terms": mark_terms}
    return environment
