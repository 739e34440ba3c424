"""The top of the page: the answer in one sentence, what it rests on, and what to do next."""

import dataclasses
from pathlib import Path
from typing import Any

from xaitune._names import combination_name, frozen_name, metric_name, plural
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck
from xaitune.advise.recommended import leading_head
from xaitune.comparison.comparison_table import ComparisonTable
from xaitune.comparison.so_far import so_far_text
from xaitune.comparison.table import SweepTable, best_or_none
from xaitune.report.cell_details import improving_runs, still_improving
from xaitune.report.commands import shown_path
from xaitune.report.next_steps import add_depth_command, add_use, advise_command, cell_command
from xaitune.report.texts import duration_text, interval_text, picture, score_text, spaced_percent
from xaitune.training.folder import CONFIG
from xaitune.training.run import Run


@dataclasses.dataclass(frozen=True)
class SweepBeside:
    """A finished sweep on the images of a run: its folder, its `answer` in a sentence, and whether it checked the advice."""

    path: Path
    answer: str
    checked: bool


def verdict_texts(
    result: Run | SweepTable,
    sweep: SweepTable | None,
    advice: FreezeAdvice | None,
    check: AdviceCheck | None,
    run: dict,
    comparison: ComparisonTable | None = None,
    beside: SweepBeside | None = None,
) -> dict[str, Any]:
    """The verdict in words: tone, headline, what to do (text and command), and paragraphs (heading and text).

    `beside`: of a run, a finished sweep on the same images and its answer.
    """
    if check is not None:
        return checked_texts(check, sweep)
    todo: list[tuple[str, str]] = []
    more: list[tuple[str, str]] = []
    if comparison is not None:
        headline, *rest = comparison.lines()
        todo.append(
            (
                "Compare other values, which join these; NAME is a setting, V a value:",
                "xaitune compare --factor NAME --values V,V",
            )
        )
        return {"tone": "open", "headline": headline, "paragraphs": [("", line) for line in rest], "todo": todo}
    if sweep is not None and best_or_none(sweep) is None:
        headline, sentence = "No run of this sweep finished.", "Every run diverged, so there is nothing to compare."
        todo.append(("Try a lower learning rate:", "xaitune sweep-freeze --learning-rate 0.0001"))
    elif sweep is not None:
        headline, sentence = _sweep_sentences(sweep)
        more += [("Without training", text) for text in (sweep.frozen_sentence(),) if text]
    else:
        headline, sentence = _run_sentences(result, run, beside)
    if advice is not None:
        unchecked = "" if beside is not None and beside.checked else " It has not been checked by a sweep."
        more.append(("The advice", spaced_percent(advice.headline) + unchecked))
    if beside is not None:
        todo.append(("See how the freezing points compare:", f"xaitune report {shown_path(beside.path)}"))
    elif sweep is None:
        todo.append(("Compare the freezing points with a sweep:", "xaitune sweep-freeze"))
    elif advice is None:
        todo.append(("Make the advice that the sweep can check:", advise_command(result)))
    elif advice.freeze_through in set(sweep.cells["freeze_through"]) and sweep.cells["freeze_through"].nunique() > 1:
        todo.append(("Check the advice against the sweep:", "xaitune check-advice"))
    else:
        todo.append(
            ("Add the advised depth to the sweep, which can then check the advice:", add_depth_command(sweep, advice))
        )
    add_use(todo, result, sweep)
    return {"tone": "open", "headline": headline, "paragraphs": [("", sentence), *more], "todo": todo}


def unfinished_training(result: Run | SweepTable, epochs: int | None) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """Where the run, or the best combination, was still improving when it ended: (heading, sentence) and what to do about it.

    `epochs`: the setting of the trainings, which is doubled; None where it is unknown.
    """
    command, which, improving, trainings = "", "The run", 0, 1
    if isinstance(result, SweepTable):
        if best_or_none(result) is None:
            return None
        best = result.best
        improving, trainings = improving_runs(result, best)
        name = combination_name(best["freeze_through"], best["optimizer"])
        command, which = cell_command(best), f"The best combination, {name},"
    elif result.state == "finished":
        improving = int(still_improving(result.history, result.config.metric))
        command = f"xaitune train --config {shown_path(result.path / CONFIG)}"  # whatever was set for it
    if not improving:
        return None
    often = f" in {improving} of its {trainings} trainings" if trainings > 1 else ""
    sentence = f"{which} was still improving at the last epoch{often}: with more epochs the score may be higher"
    sentence += ", and another depth may be the best." if isinstance(result, SweepTable) else "."
    longer = f"{command} --epochs {2 * epochs}" if epochs else f"{command} --epochs N"
    what = "the best combination" if isinstance(result, SweepTable) else "it"
    return ("Trained long enough?", sentence), (f"Train {what} for longer:", longer)


def checked_texts(check: AdviceCheck, sweep: SweepTable | None) -> dict[str, Any]:
    """`verdict_texts` where the sweep has checked the advice."""
    tone, headline = _checked_headline(check, leading_head(sweep))
    todo: list[tuple[str, str]] = []
    if sweep is not None:
        add_use(todo, sweep, sweep, check)
    return {"tone": tone, "headline": headline, "paragraphs": list(check.paragraphs), "todo": todo}


def _checked_headline(check: AdviceCheck, head: Any) -> tuple[str, str]:
    """(tone, answer) of a checked sweep; `head` is the linear head that leads, if one does."""
    advised, rival = frozen_name(check.advised), frozen_name(check.rival)
    if check.verdict == "confirmed":
        tone, headline = "good", f"Freeze {advised}: the sweep confirms the advice."
        if check.so_far or head is not None:
            headline = f"The sweep confirms the advice to freeze {advised}."
    elif check.verdict == "contradicted":
        better = f"with {rival} frozen the score is better"
        tone, headline = "bad", f"Do not follow the advice: {better} than with {advised} frozen."
        if check.so_far:
            headline = f"The sweep contradicts the advice to freeze {advised}: {better}."
    else:
        tone, headline = "open", f"The sweep cannot tell whether freezing {advised} or freezing {rival} is better."
        if head is None:
            headline = f"For now, freeze {frozen_name(check.best['freeze_through'])}: t{headline[1:]}"
    if check.so_far and check.verdict != "cannot tell":
        tone, headline = "open", f"So far t{headline[1:]}"
    return tone, _head_first(head) + headline


def _head_first(head: Any) -> str:
    """What comes before an answer where a linear head leads, which needs no freezing point; else ''."""
    if head is None:
        return ""
    why = "which is good enough" if head["verdict"] == "confirmed" else "the best on validation"
    return f"For now, take the linear head, {why}. "


def verdict_figures(check: AdviceCheck | None) -> dict[str, Any]:
    """The picture of the difference and the table of McNemar's test, which the page shows beside a checked verdict."""
    if check is None:
        return {"picture": None, "mcnemar": None}
    advised, rival = frozen_name(check.advised), frozen_name(check.rival)
    d = check.difference
    alt = f"Difference {d.difference * 100:+.1f} points, interval {d.low * 100:+.1f} to {d.high * 100:+.1f}"
    caption = (
        f"The {metric_name(check.metric)} with {advised} frozen minus that with {rival} frozen, 95 % interval over "
        f"{plural(d.groups, 'group')} ({plural(d.images, 'test image')}, {plural(check.seeds, 'seed')})."
    )
    if not d.reliable:
        caption += f" Not reliable: only {d.few}."
    names = {"advised": advised, "rival": rival, "rows": check.mcnemar}
    return {"picture": picture(check.plot(), alt, caption), "mcnemar": names if check.mcnemar else None}


def _sweep_sentences(sweep: SweepTable) -> tuple[str, str]:
    best, equals = sweep.best, sweep.equals
    unfinished = so_far_text(sweep.path)
    so_far = " so far" if unfinished else ""
    name = combination_name(best["freeze_through"], best["optimizer"])
    headline = f"{_head_first(leading_head(sweep))}Best combination on validation{so_far}: {name}."
    sentence = f"The sweep is not finished: {unfinished}. " if unfinished else ""
    sentence += (
        f"Its test {metric_name(sweep.metric)} is {score_text(best['test'])} {interval_text(best['low'], best['high'])} on "
        f"{plural(sweep.images, 'image')} in {plural(sweep.groups, 'group')}."
    )
    if len(equals) > 1:
        sentence += f" These images cannot tell {plural(len(equals) - 1, 'other combination')} apart from it."
    if sweep.enough is not None:
        enough = combination_name(sweep.enough["freeze_through"], sweep.enough["optimizer"])
        sentence += (
            f" The cheapest combination that is shown to be within 1 point of all the others is {enough} "
            f"({duration_text(sweep.enough['seconds'])})."
        )
    return headline, sentence


def _run_sentences(result: Run | SweepTable, run: dict[str, Any], beside: SweepBeside | None) -> tuple[str, str]:
    name = result.path.name
    if isinstance(result, Run) and result.state != "finished":
        return (
            f"The run {name} diverged.",
            "Its loss became NaN, so none of its figures can be used. Lower the learning rate.",
        )
    if run["missing"]:
        return f"The run {name} has no test score.", run["missing"]
    headline = f"{name}: test {run['metric']} {score_text(run['value'])} {run['interval']}."
    tried = "No other freezing point has been tried."
    if beside is not None:
        tried = f"What the sweep {shown_path(beside.path)} found on the same images: {beside.answer}"
    return headline, f"On {run['basis']}, one seed. {tried}"


def mismatches(
    result: Run | SweepTable,
    advice: FreezeAdvice | None,
    check: AdviceCheck | None,
    data: Any,
    sweep: SweepTable | None,
) -> list[str]:
    """Warnings about parts that do not belong together: made from other data, weights or depths."""
    warnings = []
    parts = {"advice": advice, "data set": data, "sweep": sweep}
    for name, part in parts.items():
        if part is not None and part.fingerprint != result.fingerprint:
            warnings.append(
                f"The {name} given here is about other images (another fingerprint) than {result.path.name}."
            )
    if advice is not None and check is not None and advice.freeze_through != check.advised:
        advised, checked = frozen_name(advice.freeze_through), frozen_name(check.advised)
        warnings.append(f"The advice given here is {advised}, but the verdict is about {checked}.")
    if advice is not None and sweep is not None and advice.weights != sweep.weights:
        warnings.append(f"The advice rests on other weights ({advice.weights}) than the sweep ({sweep.weights}).")
    return warnings
