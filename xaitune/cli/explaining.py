"""What `xaitune explain` does between its options and what it prints: the maps, and what is made of them."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from xaitune._names import duration, plural
from xaitune.cli.boxes import digest_of, true_boxes_of
from xaitune.cli.console import Ui
from xaitune.cli.options import Job
from xaitune.cli.reliability import Checks
from xaitune.config.explain_settings import BoxOptions, ExplainOptions, LimeOptions, ScoreOptions
from xaitune.config.toml import CONFIG_FILE
from xaitune.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is wanted of some images: their maps, and what is made of the maps.

    `boxing`: how boxes are drawn, None without boxes. `truth`: masks, groups and pixel classes, for boxes and scores.
    """

    paths: list[Path]
    options: ExplainOptions
    lime: LimeOptions
    check: bool
    scores: ScoreOptions | None
    boxing: BoxOptions | None
    truth: dict[str, Any]
    true_boxes: Any


@dataclasses.dataclass(frozen=True)
class Made:
    """What was made: the writer with all that it has written, what scored the maps, a sentence on their size."""

    writer: Any
    wrote: dict[str, Any]
    scorer: Any
    coarseness: str
    seconds: float


def what_is_wanted(
    job: Job, paths: list[Path], pixel_classes: str | None, *, check: bool, score: bool, boxes: bool
) -> Wanted:
    """What the options ask for; options of boxes and of scores ask for these. Raises ConfigError, DataError."""
    options, scores, boxing = job.options(ExplainOptions), job.options(ScoreOptions), job.options(BoxOptions)
    boxes = boxes or boxing != BoxOptions() or scores.true_boxes is not None
    _require_heatmaps(options.method, boxes=boxes, check=check)
    score = score or bool(scores.images or scores.steps) or (not boxes and scores != ScoreOptions())
    truth = _masks_and_groups(job, paths, scores, pixel_classes) if score or boxes else {}
    true_boxes = true_boxes_of(scores.true_boxes, paths, truth["masks"], truth["pixel_classes"]) if boxes else None
    return Wanted(
        paths,
        options,
        job.options(LimeOptions),
        check,
        scores if score else None,
        boxing if boxes else None,
        truth,
        true_boxes,
    )


def explain_files(ui: Ui, classifier: Any, wanted: Wanted, folder: Path, opening: dict[str, Any]) -> Made:
    """Explain the images batch by batch and write what is made of them to `folder`; `opening`: how the model was opened."""
    from xaitune.explain.api import CHUNK, iter_explanations, make_explainer
    from xaitune.explain.heatmaps import BlockHeatmaps
    from xaitune.explain.provenance import made_from
    from xaitune.explain.store import ExplanationWriter

    paths, options, lime, true_boxes = wanted.paths, wanted.options, wanted.lime, wanted.true_boxes
    about = _about(classifier, options)
    about |= {"made_from": made_from(classifier, options, lime, paths, opening)}
    # Scores and checks are made from the maps as they come, so with them nothing is taken over from an interrupted call.
    drawn = {"boxes": dataclasses.asdict(wanted.boxing), "true": digest_of(true_boxes)} if wanted.boxing else {}
    checks = Checks(ui, classifier, paths, options.class_name) if wanted.check else None
    identity = (
        None if wanted.scores or checks else _identity(about | opening | drawn, options, lime, classifier.name, paths)
    )
    size, scorer, coarseness, start = 1 if options.method == "lime" else CHUNK, None, "", time.monotonic()
    with (
        ui.progress("explaining", "images") as report,
        ExplanationWriter(folder, about, identity, wanted.boxing) as writer,
    ):
        if writer.done:
            ui.say(f"Resuming after {min(writer.done * size, len(paths))} of {plural(len(paths), 'image')}")
        explainer = make_explainer(classifier, options, lime, report.part)
        rest = iter_explanations(classifier, paths[writer.done * size :], explainer, size)
        for done, made in enumerate(rest, writer.done + 1):
            first = (done - 1) * size
            made = checks(made) if checks else made
            writer.add(made, None if true_boxes is None else true_boxes.boxes[first : first + len(made)])
            coarseness = made.coarseness() if isinstance(made, BlockHeatmaps) else ""
            if wanted.scores:
                scorer = scorer or _scorer(ui, classifier, made, len(paths), wanted.truth, wanted.scores)
                scorer.add(made)
            report(min(done * size, len(paths)), len(paths))
        writer.about |= {"checks": checks.about()} if checks else {}
        wrote = writer.close()
    return Made(writer, wrote, scorer, coarseness, time.monotonic() - start)


def _require_heatmaps(method: str, *, boxes: bool, check: bool) -> None:
    """Refuse for LIME what needs heatmaps. Raises ConfigError."""
    if method != "lime":
        return
    if boxes:
        raise ConfigError(
            "Boxes are drawn around regions of heatmaps: use --method gradcam or cam. Received: method=lime."
        )
    if check:
        raise ConfigError(
            "LIME reports its stability itself (explain.json): --check is for --method gradcam or cam. Received: method=lime."
        )


def _about(classifier: Any, options: ExplainOptions) -> dict[str, Any]:
    """What explain.json says of all maps."""
    about = {
        "preprocess": classifier.preprocess,
        "labels": classifier.labels,
        "method": options.method,
        "rule": options.rule,
        "model": classifier.name,
        "class_names": list(classifier.class_names),
        "resize": classifier.resize,
    }
    return about | ({"bit_depth": classifier.bit_depth} if classifier.bit_depth else {})


def _identity(
    about: dict[str, Any], options: ExplainOptions, lime: LimeOptions, model: str, paths: list[Path]
) -> dict[str, Any]:
    """All that determines explanations: what an interrupted call has made is taken over only if it is the same."""
    files = [path for path in (Path(model), Path(model) / "model.keras", *paths) if path.is_file()]
    return {
        "about": about,
        "options": dataclasses.asdict(options),
        "lime": {name: str(value) for name, value in dataclasses.asdict(lime).items()},
        "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
    }


def _masks_and_groups(job: Job, paths: list[Path], wanted: ScoreOptions, pixel_classes: str | None) -> dict[str, Any]:
    """What --masks and --groups name for these images, else what xaitune.toml names where it fits them."""
    from xaitune.evaluate.store import groups_of, masks_of

    known = job.file_config().data
    truth: dict[str, Any] = {"pixel_classes": pixel_classes or known.pixel_classes}
    for name, find in (("masks", masks_of), ("groups", groups_of)):
        given = getattr(wanted, name)
        rule = given or getattr(known, name)
        try:
            truth[name] = find(paths, rule) if rule else None
        except DataError:
            if given:
                raise
            truth[name] = None
            job.ui.say(f"The {name} of {job.config_file or CONFIG_FILE} do not fit these images and are left out.")
    return truth


def _scorer(ui: Ui, classifier: Any, first: Any, total: int, truth: dict[str, Any], wanted: ScoreOptions) -> Any:
    """What scores the maps as they come; says what it will ask of the model."""
    from xaitune.evaluate.store import FolderScorer

    scorer = FolderScorer(classifier, first, total, images=wanted.images, steps=wanted.steps, **truth)
    plan = scorer.effort
    ui.say(
        f"Scoring: deletion, insertion, average drop and ROAD on {plan.images} of {total} images in {plan.steps} steps, "
        f"{plan.calls:,} network calls, about {duration(plan.seconds)}"
    )
    return scorer
