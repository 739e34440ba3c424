"""The top of the page: the answer in one sentence, what it rests on, and what to do next."""

from typing import Any

from xaitune._names import combination_name, frozen_name, metric_name, plural
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck
from xaitune.comparison.comparison_table import ComparisonTable
from xaitune.comparison.so_far import so_far_text
from xaitune.comparison.table import SweepTable
from xaitune.report.cell_details import improving_runs, still_improving
from xaitune.report.commands import shown_path
from xaitune.report.next_steps import (
    add_depth_command,
    add_frozen,
    add_use,
    advise_command,
    cell_command,
    leading_head,
    train_command,
)
from xaitune.report.run_figures import best_or_none
from xaitune.report.texts import duration_text, interval_text, picture, score_text, spaced_percent
from xaitune.training.folder import CONFIG
from xaitune.training.run import Run


def _advised_command(check: AdviceCheck, depth: int) -> str:
    return train_command(depth, check.optimizers[depth], check.learning_rates.get(depth))


def verdict_texts(
    result: Run | SweepTable,
    sweep: SweepTable | None,
    advice: FreezeAdvice | None,
    check: AdviceCheck | None,
    run: dict,
    comparison: ComparisonTable | None = None,
) -> dict[str, Any]:
    """The verdict in words: tone, headline, what to do (text and command), and paragraphs (heading and text)."""
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
        best = sweep.best
        todo.append(("Train the best combination:", cell_command(best)))
        add_frozen(todo, sweep)
    else:
        headline, sentence = _run_sentences(result, run)
    if advice is not None:
        more.append(("The advice", f"{spaced_percent(advice.headline)} It has not been checked by a sweep."))
    if sweep is None:
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
    advised, rival = frozen_name(check.advised), frozen_name(check.rival)
    todo: list[tuple[str, str]] = []
    if check.verdict == "confirmed":
        tone, headline = "good", f"Freeze {advised}: the sweep confirms the advice."
        if check.so_far:
            tone, headline = "open", f"So far the sweep confirms the advice to freeze {advised}."
        todo.append((f"Train with {advised} frozen:", _advised_command(check, check.advised)))
    elif check.verdict == "contradicted":
        tone, headline = (
            "bad",
            f"Do not follow the advice: with {rival} frozen the score is better than with {advised} frozen.",
        )
        if check.so_far:
            tone, headline = (
                "open",
                f"So far the sweep contradicts the advice to freeze {advised}: with {rival} frozen the score is better.",
            )
        todo.append((f"Train with {rival} frozen:", _advised_command(check, check.rival)))
    else:
        tone, headline = "open", f"The sweep cannot tell whether freezing {advised} or freezing {rival} is better."
        best = check.best
        if "freeze_through" in best and "optimizer" in best:
            chosen = frozen_name(best["freeze_through"])
            head = leading_head(sweep)
            if head is None:
                headline = f"For now, freeze {chosen}: t{headline[1:]}"
            else:
                why = "which is good enough" if head["verdict"] == "confirmed" else "the best on validation"
                headline = f"For now, train only a linear head, {why}. {headline}"
            name = combination_name(best["freeze_through"], best["optimizer"])
            todo.append((f"Train the combination that is best on validation, {name}:", cell_command(best)))
    if check.enough is not None and check.enough["name"] != f"freeze{check.advised}-{check.optimizers[check.advised]}":
        name = combination_name(check.enough["freeze_through"], check.enough["optimizer"])
        todo.append((f"Where training time matters, {name} is shown to be good enough:", cell_command(check.enough)))
    add_frozen(todo, sweep)
    if sweep is not None:
        add_use(todo, sweep, sweep, _recommended(check))
    return {"tone": tone, "headline": headline, "paragraphs": list(check.paragraphs), "todo": todo}


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
    best_so_far = "Best on validation so far" if unfinished else "Best on validation"
    headline = f"{best_so_far}: {combination_name(best['freeze_through'], best['optimizer'])}."
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


def _recommended(check: AdviceCheck) -> tuple[int, str] | None:
    """The depth and the optimizer to take by the verdict; None where the sweep has no best combination."""
    if check.verdict == "cannot tell":
        best = check.best
        return (
            (int(best["freeze_through"]), str(best["optimizer"]))
            if {"freeze_through", "optimizer"} <= set(best)
            else None
        )
    depth = check.advised if check.verdict == "confirmed" else check.rival
    return depth, check.optimizers[depth]


def _run_sentences(result: Run | SweepTable, run: dict[str, Any]) -> tuple[str, str]:
    name = result.path.name
    if isinstance(result, Run) and result.state != "finished":
        return (
            f"The run {name} diverged.",
            "Its loss became NaN, so none of its figures can be used. Lower the learning rate.",
        )
    if run["missing"]:
        return f"The run {name} has no test score.", run["missing"]
    headline = f"{name}: test {run['metric']} {score_text(run['value'])} {run['interval']}."
    return headline, f"On {run['basis']}, one seed. No other freezing point has been tried."


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
