"""The top of the page: the answer in one sentence, what it rests on, and what to do next."""

from typing import Any

import pandas as pd

from xaitune._names import combination_name, frozen_name, metric_name, plural
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck
from xaitune.comparison.comparison_table import ComparisonTable
from xaitune.comparison.so_far import so_far_text
from xaitune.comparison.table import SweepTable
from xaitune.config.choices import PIXEL_METRICS
from xaitune.report.cell_details import improving_runs, still_improving
from xaitune.report.commands import shown_path
from xaitune.report.run_figures import best_or_none, read_or_empty
from xaitune.report.texts import duration_text, interval_text, picture, score_text
from xaitune.training.folder import CONFIG
from xaitune.training.run import Run


def train_command(through: int, optimizer: str, rate: float | None = None) -> str:
    """The command that trains one combination; `rate` is the learning rate that was best of several."""
    option = f" --learning-rate {rate:g}" if rate is not None else ""
    return f"xaitune train --freeze-through {through} --optimizer {optimizer}{option}"


def head_command(head: Any) -> str:
    """The command that fits a linear head on frozen features."""
    option = "" if len(head["blocks"]) == 5 else " --head-blocks best"
    return f"xaitune train --head blocks --freeze-through 5{option}"


def advise_command(result: Run | SweepTable) -> str:
    """The command that makes advice; on a segmentation it looks at the heatmaps of a trained one."""
    metric = result.config.metric if isinstance(result, Run) else result.metric
    return "xaitune advise --model RUN" if metric in PIXEL_METRICS else "xaitune advise"


def _cell_command(cell: Any) -> str:
    rate = cell["learning_rate"] if cell.get("rates", 1) > 1 else None
    return train_command(cell["freeze_through"], cell["optimizer"], rate)


def _advised_command(check: AdviceCheck, depth: int) -> str:
    return train_command(depth, check.optimizers[depth], check.learning_rates.get(depth))


def verdict_section(
    result: Run | SweepTable,
    sweep: SweepTable | None,
    advice: FreezeAdvice | None,
    check: AdviceCheck | None,
    run: dict,
    comparison: ComparisonTable | None = None,
) -> dict[str, Any]:
    """The verdict as the page shows it: tone, headline, what to do (text and command), paragraphs, and picture."""
    if check is not None:
        return checked_section(check, sweep)
    todo: list[tuple[str, str]] = []
    if comparison is not None:
        headline, *rest = comparison.lines()
        todo.append(
            (
                "Compare other values, which join these; NAME is a setting, V a value:",
                "xaitune compare --factor NAME --values V,V",
            )
        )
        shown = {"tone": "open", "headline": headline, "paragraphs": [("", line) for line in rest], "todo": todo}
        return shown | {"picture": None, "mcnemar": None}
    if sweep is not None and best_or_none(sweep) is None:
        headline, sentence = "No run of this sweep finished.", "Every run diverged, so there is nothing to compare."
        todo.append(("Try a lower learning rate:", "xaitune sweep-freeze --learning-rate 0.0001"))
    elif sweep is not None:
        headline, sentence = _sweep_sentences(sweep)
        best = sweep.best
        _add_rest(todo, sweep)
        todo.append(("Train the best combination:", _cell_command(best)))
        _add_frozen(todo, sweep)
    else:
        headline, sentence = _run_sentences(result, run)
    if advice is not None:
        sentence += f" The advice is: {advice.headline} It has not been checked."
    if sweep is None:
        todo.append(("Compare the freezing points with a sweep:", "xaitune sweep-freeze"))
    elif advice is None:
        todo.append(("Make the advice that the sweep can check:", advise_command(result)))
    else:
        todo.append(("Check the advice against the sweep:", "xaitune check-advice"))
    shown = {"tone": "open", "headline": headline, "paragraphs": [("", sentence)], "todo": todo}
    return shown | {"picture": None, "mcnemar": None}


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
        command, which = _cell_command(best), f"The best combination, {name},"
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


def checked_section(check: AdviceCheck, sweep: SweepTable | None) -> dict[str, Any]:
    """`verdict_section` where the sweep has checked the advice."""
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
                f"So far the score is better with {rival} frozen than with {advised} frozen, as advised.",
            )
        todo.append((f"Train with {rival} frozen:", _advised_command(check, check.rival)))
    else:
        tone, headline = "open", f"The sweep cannot tell whether {advised} frozen or {rival} frozen is better."
        best = check.best
        if "freeze_through" in best and "optimizer" in best:
            chosen = frozen_name(best["freeze_through"])
            if _leading_head(sweep) is None:
                headline = f"For now, freeze {chosen}: t{headline[1:]}"
            else:
                headline = f"For now, train only a linear head, which leads. {headline}"
            name = combination_name(best["freeze_through"], best["optimizer"])
            todo.append((f"Train with {name}, the best on validation:", _cell_command(best)))
    if check.enough is not None and check.enough["name"] != f"freeze{check.advised}-{check.optimizers[check.advised]}":
        name = combination_name(check.enough["freeze_through"], check.enough["optimizer"])
        todo.append((f"Where training time matters, {name} is shown to be good enough:", _cell_command(check.enough)))
    _add_frozen(todo, sweep)
    if check.so_far:
        _add_rest(todo, sweep)
    elif sweep is not None:
        todo += _using(check, sweep)
    ax = check.plot()
    d = check.difference
    alt = f"Difference {d.difference * 100:+.1f} points, interval {d.low * 100:+.1f} to {d.high * 100:+.1f}"
    caption = (
        f"{metric_name(check.metric)} with {advised} frozen minus that with {rival} frozen, 95 % interval over "
        f"{plural(d.groups, 'group')} ({plural(d.images, 'test image')}, {plural(check.seeds, 'seed')})."
    )
    if not d.reliable:
        caption += f" Not reliable: only {d.few}."
    shown = {"tone": tone, "headline": headline, "paragraphs": list(check.paragraphs), "todo": todo}
    names = {"advised": advised, "rival": rival, "rows": check.mcnemar}
    return shown | {"picture": picture(ax, alt, caption), "mcnemar": names if check.mcnemar else None}


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
    return headline, " ".join(filter(None, [sentence, sweep.frozen_sentence()]))


def _add_frozen(todo: list[tuple[str, str]], sweep: SweepTable | None) -> None:
    """Put first what needs no training, where that is shown to be good enough; last, where it may be."""
    head = sweep.best_head if sweep is not None else None
    if head is None or head["verdict"] == "contradicted":
        return
    seconds = duration_text(max(head["seconds"], 1))
    gap = f"{_signed(head['difference'])} points [{_signed(head['diff_low'])}, {_signed(head['diff_high'])}]"
    if head["verdict"] == "confirmed":
        todo.insert(0, (f"No block needs training. Fit only a linear head, in {seconds}:", head_command(head)))
    elif _leading_head(sweep) is not None:
        todo.insert(
            0, (f"Fit only a linear head, in {seconds} ({gap} against the best combination):", head_command(head))
        )
    else:
        text = f"Perhaps as good ({gap} against the best combination), in {seconds}: train only a linear head, and no block:"
        todo.append((text, head_command(head)))


def _leading_head(sweep: SweepTable | None) -> Any:
    """The linear head on frozen features that scores above every trained combination, shown or not; None if there is none."""
    head = sweep.best_head if sweep is not None else None
    return head if head is not None and head["difference"] > 0 and head["verdict"] != "contradicted" else None


def _add_rest(todo: list[tuple[str, str]], sweep: SweepTable | None) -> None:
    """Put first what finishes a sweep of which some runs have not ended."""
    if sweep is not None and so_far_text(sweep.path):
        todo.insert(0, ("Finish the sweep:", sweep_command(sweep)))


def _using(check: AdviceCheck, sweep: SweepTable) -> list[tuple[str, str]]:
    """How to use the model that is recommended, which the sweep has trained: (text, command)."""
    chosen, head = _recommended(check), sweep.best_head
    if head is not None and (head["verdict"] == "confirmed" or _leading_head(sweep) is not None):
        name, which = str(head["name"]), "the linear head"
    elif chosen is None:
        return []
    else:
        runs = sweep.cell_runs(*chosen)
        name, which = str(runs.loc[runs["validation"].idxmax(), "name"]), combination_name(*chosen)
    path = shown_path(sweep.path / sweep.parts.get(name, (name,))[0])
    fold = " (of the first fold)" if name in sweep.parts else ""
    todo = [
        (f"Export the model that the sweep has trained, {which}{fold}:", f"xaitune export {path} --to onnx"),
        ("Use it on new images:", f"xaitune predict {path} IMAGES"),
    ]
    if which == "the linear head" and chosen is not None:
        text = (
            "A file that also gives heatmaps (xaitune export --with-heatmap) needs a model with a gap head. Train one:"
        )
        todo.append((text, f"{train_command(*chosen)} --head gap"))
    return todo


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


def sweep_command(sweep: SweepTable) -> str:
    """The command that runs the sweep, or goes on with it: its whole grid, with the runs that have not ended yet."""
    runs, grid = all_runs(sweep), read_or_empty(sweep.path / CONFIG).get("grid") or {}
    grid = grid or read_or_empty(sweep.path / "sweep.json").get("grid", {})
    depths = grid.get("freeze_through") or sorted(runs["freeze_through"].unique())
    optimizers = grid.get("optimizers") or list(dict.fromkeys(runs["optimizer"]))
    seeds = grid.get("seeds") or runs["seed"].nunique()
    rates, folds = grid.get("learning_rates"), grid.get("folds")
    shown = rates if rates == "own" else ",".join(f"{rate:g}" for rate in rates or ())
    return (
        f"xaitune sweep-freeze --freeze-through {','.join(map(str, depths))} --optimizers {','.join(optimizers)} "
        f"--seeds {seeds}" + (f" --learning-rates {shown}" if rates else "") + (f" --folds {folds}" if folds else "")
    )


def all_runs(sweep: SweepTable) -> pd.DataFrame:
    """The sweep's runs. A run that failed before it wrote anything has its depth, optimizer and seed in its name alone."""
    runs = sweep.runs.copy()
    named = runs["name"].str.extract(r"^freeze(?P<freeze_through>\d)-(?P<optimizer>\w+)(?:-lr.+)?-seed(?P<seed>\d+)")
    for column in ("freeze_through", "optimizer", "seed"):
        runs[column] = runs[column].where(runs[column].notna(), named[column])
    runs = runs.dropna(subset=["freeze_through", "optimizer", "seed"])
    return runs.astype({"freeze_through": int, "seed": int})


def _signed(share: float) -> str:
    return f"{share * 100:+.1f}"


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
