"""One self-contained HTML page on a sweep or a run: the verdict first, then what it rests on. No network, no Keras."""

import base64
import dataclasses
import datetime
import json
import math
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd

from xaitune import _files
from xaitune._names import frozen_name, metric_name
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck
from xaitune.comparison.table import SweepTable
from xaitune.errors import InputError, XaituneError
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.lime.result import Superpixels
from xaitune.plots import charts, figures
from xaitune.stats import intervals as stats
from xaitune.stats import metrics, resampling
from xaitune.training.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_IMAGES = 6  # of heatmap strips on the page
MOST_LINES = 50  # of skipped files and of problems
SPLITS = ("train", "validation", "test")
DASH = "–"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture inside the page: its data URI, its width in CSS pixels, what it shows, and the line below it."""

    source: str
    width: int
    alt: str
    caption: str


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
) -> Path:
    """Write the report on a sweep or a single run; returns where it is.

    `path` defaults to report.html in the result's folder. `data` is the ImageData, `data_check` what its `check()`
    gave. `check` is made from `advice` and the sweep where it is not given. With a Run, `sweep` is the sweep that it
    is compared with. What is not given is said on the page, with the command that makes it. Raises InputError for
    another kind of result, RunError where the page cannot be written.
    """
    if isinstance(result, SweepTable):
        sweep = result
    elif not isinstance(result, Run):
        raise InputError(f"write_report wants a Run or a SweepTable. Received: {type(result).__name__}.")
    if check is None and advice is not None and sweep is not None:
        check = _check(advice, sweep)
    shown = _shown_run(result)
    maps = [heatmaps] if isinstance(heatmaps, BlockHeatmaps | Superpixels) else list(heatmaps or ())
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=result.path.name,
            created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            verdict=_verdict(result, sweep, advice, check, shown),
            warnings=_warnings(result, advice, check, data, sweep),
            data=_data(data, data_check, shown),
            heatmaps=[picture for m in maps for picture in _strips(m)],
            signed=any(isinstance(m, Superpixels) for m in maps),
            advice=_advice(advice),
            sweep=_sweep(sweep),
            run=shown,
            making=_making(result, sweep, shown),
        )
    )
    return _files.write_bytes(path or result.path / "report.html", page.encode("utf-8"))


def _check(advice: FreezeAdvice, sweep: SweepTable) -> AdviceCheck | None:
    """The verdict, where the sweep can give one on this advice; `_warnings` says why it cannot."""
    from xaitune.advise.check import can_check, check_advice

    same = (advice.fingerprint, advice.weights) == (sweep.fingerprint, sweep.weights)
    return check_advice(advice, sweep) if same and can_check(advice, sweep) else None


# ---- text and pictures


def _score(value: Any, digits: int = 3) -> str:
    return f"{float(value):.{digits}f}" if value is not None and math.isfinite(float(value)) else DASH


def _interval(low: Any, high: Any, sign: str = "") -> str:
    if any(v is None or not math.isfinite(float(v)) for v in (low, high)):
        return "[no interval]"
    return f"[{float(low):{sign}.3f}, {float(high):{sign}.3f}]"


def _duration(seconds: Any) -> str:
    if seconds is None or not math.isfinite(float(seconds)):
        return DASH
    seconds = float(seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _cell_text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return _score(value)
    return str(value)


def _hangul(text: Any) -> bool:
    return re.search("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]", str(text)) is not None


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "duration": _duration, "hangul": _hangul}
    return environment


def _picture(ax: "Axes", alt: str, caption: str = "", dpi: int = 150) -> Picture:
    content = figures.png_bytes(ax, dpi)
    width = struct.unpack(">I", content[16:20])[0]  # a PNG's header
    return Picture(
        "data:image/png;base64," + base64.b64encode(content).decode(), round(width * 100 / dpi), alt, caption
    )


def _plural(number: int, word: str) -> str:
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number:,} {word}{ending}"


# ---- the verdict


def _train_command(through: int, optimizer: str, rate: float | None = None) -> str:
    """`rate`: a learning rate that was found by trying several."""
    found = f" --learning-rate {rate:g}" if rate is not None else ""
    return f"xaitune train --freeze-through {through} --optimizer {optimizer}{found}"


def _cell_command(cell: Any) -> str:
    rate = cell["learning_rate"] if cell.get("rates", 1) > 1 else None
    return _train_command(cell["freeze_through"], cell["optimizer"], rate)


def _advised_command(check: AdviceCheck, depth: int) -> str:
    return _train_command(depth, check.optimizers[depth], check.learning_rates.get(depth))


def _verdict(
    result: Run | SweepTable,
    sweep: SweepTable | None,
    advice: FreezeAdvice | None,
    check: AdviceCheck | None,
    run: dict,
) -> dict[str, Any]:
    """tone, headline, sentence, what to do (text and command), and the verdict's picture."""
    if check is not None:
        return _checked(check)
    todo: list[tuple[str, str]] = []
    if sweep is not None and _best(sweep) is None:
        headline, sentence = "No run of this sweep ended well.", "Every run diverged, so there is nothing to compare."
        todo.append(("Try a lower learning rate:", "xaitune sweep-freeze --learning-rate 0.0001"))
    elif sweep is not None:
        headline, sentence = _sweep_sentences(sweep)
        best = sweep.best
        todo.append(("Train the best cell:", _cell_command(best)))
    else:
        headline, sentence = _run_sentences(result, run)
    if advice is not None:
        sentence += (
            f" The advice is to freeze {frozen_name(advice.freeze_through)} (confidence {advice.confidence:.0%});"
            " it has not been checked."
        )
    if sweep is None:
        todo.append(("Compare the freezing points with a sweep:", "xaitune sweep-freeze"))
    elif advice is None:
        todo.append(("Ask for the advice that the sweep can check:", "xaitune advise"))
    else:
        todo.append(("Check the advice against the sweep:", "xaitune check-advice"))
    shown = {"tone": "open", "headline": headline, "sentence": sentence, "todo": todo}
    return shown | {"picture": None, "mcnemar": None}


def _checked(check: AdviceCheck) -> dict[str, Any]:
    advised, rival = frozen_name(check.advised), frozen_name(check.rival)
    todo: list[tuple[str, str]] = []
    if check.verdict == "confirmed":
        tone, headline = "good", f"Freeze {advised}: the sweep confirms the advice."
        todo.append((f"Train with {advised} frozen:", _advised_command(check, check.advised)))
    elif check.verdict == "contradicted":
        tone, headline = "bad", f"Do not follow the advice: freezing {rival} scores better than {advised}."
        todo.append((f"Train with {rival} frozen:", _advised_command(check, check.rival)))
    else:
        tone, headline = "open", f"The sweep cannot tell whether freezing {advised} or {rival} is better."
        best, cheap = check.best, check.cheapest
        if "freeze_through" in best and "optimizer" in best:
            text = f"Until then train the cell that is best on validation, {best['name']}:"
            todo.append((text, _cell_command(best)))
        if "freeze_through" in cheap and "optimizer" in cheap and cheap["name"] != best["name"]:
            gap = f" ({cheap['difference'] * 100:+.1f} points)" if "difference" in cheap else ""
            text = (
                "Or, where training time matters, the cheapest whose interval against it reaches 0, "
                f"{cheap['name']}{gap}:"
            )
            todo.append((text, _cell_command(cheap)))
        if check.test_images_needed:
            now = f"(there are {check.difference.images:,})"
            todo.insert(0, (f"Collect about {check.test_images_needed:,} test images {now} and sweep again.", ""))
    ax = check.plot()
    d = check.difference
    alt = f"Difference {d.difference * 100:+.1f} points, interval {d.low * 100:+.1f} to {d.high * 100:+.1f}"
    caption = (
        f"{metric_name(check.metric)} with {advised} frozen minus that with {rival} frozen, 95 % interval over "
        f"{_plural(d.groups, 'group')} ({_plural(d.images, 'test image')}, {_plural(check.seeds, 'seed')})."
    )
    if not d.reliable and not d.few:
        caption += f" Fewer than {resampling.FEW_GROUPS} groups: the interval is not to be relied on."
    shown = {"tone": tone, "headline": headline, "sentence": check.sentence(), "todo": todo}
    names = {"advised": advised, "rival": rival, "rows": check.mcnemar}
    return shown | {"picture": _picture(ax, alt, caption), "mcnemar": names if check.mcnemar else None}


def _sweep_sentences(sweep: SweepTable) -> tuple[str, str]:
    best, equals = sweep.best, sweep.equals
    headline = f"Best on validation: {frozen_name(best['freeze_through'])} frozen, {best['optimizer']}."
    sentence = (
        f"Its test {metric_name(sweep.metric)} is {_score(best['test'])} {_interval(best['low'], best['high'])} on "
        f"{_plural(sweep.images, 'image')} in {_plural(sweep.groups, 'group')}."
    )
    if len(equals) > 1:
        cheap = equals.iloc[0]
        sentence += (
            f" {_plural(len(equals) - 1, 'other cell')} cannot be told from it on these images; the cheapest to train "
            f"of all of them is {cheap['name']} ({_duration(cheap['seconds'])})."
        )
    return headline, sentence


def _run_sentences(result: Run | SweepTable, run: dict[str, Any]) -> tuple[str, str]:
    name = result.path.name
    if isinstance(result, Run) and result.state != "finished":
        return f"The run {name} diverged.", "Its loss became NaN; nothing here can be used. Lower the learning rate."
    if run["missing"]:
        return f"The run {name} has no test score.", run["missing"]
    headline = f"{name}: test {run['metric']} {_score(run['value'])} {run['interval']}."
    return headline, f"On {run['basis']}, one seed. Whether another freezing point is better has not been tried."


def _warnings(
    result: Run | SweepTable,
    advice: FreezeAdvice | None,
    check: AdviceCheck | None,
    data: Any,
    sweep: SweepTable | None,
) -> list[str]:
    """What does not fit together: parts made from other data, weights or depths."""
    found = []
    parts = {"advice": advice, "data set": data, "sweep": sweep}
    for name, part in parts.items():
        if part is not None and part.fingerprint != result.fingerprint:
            found.append(
                f"The {name} given here belongs to other images (another fingerprint) than {result.path.name}."
            )
    if advice is not None and check is not None and advice.freeze_through != check.advised:
        made = f"{frozen_name(advice.freeze_through)}, not {frozen_name(check.advised)}"
        found.append(f"The advice given here is {made}, which the verdict is about.")
    if advice is not None and sweep is not None and advice.weights != sweep.weights:
        found.append(f"The advice rests on other weights ({advice.weights}) than the sweep ({sweep.weights}).")
    return found


# ---- the data, the maps, the advice


def _data(data: Any, data_check: Any, run: dict[str, Any]) -> dict[str, Any] | None:
    """Class frequencies as picture and table, groups, skipped files, problems; from predictions without `data`."""
    if data is not None:
        counts, skipped = data.counts(), [(str(file), str(why)) for file, why in data.skipped]
        groups, images = len(np.unique(np.asarray(data.groups))), len(data.files)
    elif len(run.get("predictions", ())):
        table = run["predictions"]
        counts = pd.crosstab(table["true"], table["split"]).reindex(list(run["class_names"])).fillna(0).astype(int)
        skipped = [(str(file), str(why)) for file, why in run["metadata"].get("skipped", [])]
        groups, images = table["group"].nunique(), len(table)
    else:
        return None
    columns = [c for c in (*SPLITS, "images", "groups") if c in counts]
    splits = counts[[c for c in SPLITS if c in counts]]
    picture = _picture(
        charts.class_frequencies(splits), f"Bar chart: number of images of each of {len(counts)} classes in each split"
    )
    return {
        "summary": f"{_plural(images, 'image')} of {_plural(len(counts), 'class')} in {_plural(groups, 'group')}. "
        "A group (one thing, photographed several times) is never divided between splits.",
        "picture": picture,
        "columns": columns,
        "rows": [(str(name), [int(row[c]) for c in columns]) for name, row in counts.iterrows()],
        "totals": [int(counts[c].sum()) for c in columns if c != "groups"],
        "skipped": skipped[:MOST_LINES],
        "skipped_count": len(skipped),
        "problems": _problems(data_check)[:MOST_LINES],
    }


def _problems(data_check: Any) -> list[tuple[str, str]]:
    """(level, message) of each finding of a DataCheck, a table, or a list of problems."""
    found = getattr(data_check, "problems", data_check)
    if isinstance(found, pd.DataFrame):
        return [(str(p.get("level", "")), str(p.get("message", ""))) for p in found.to_dict("records")]
    return [(p.level, p.message) for p in found or ()]


def _strips(maps: BlockHeatmaps | Superpixels) -> list[Picture]:
    """A few images with their maps, as many classes as possible."""
    first = list(dict(zip(reversed(maps.classes.tolist()), range(len(maps) - 1, -1, -1), strict=True)).values())
    chosen = (sorted(first) + [i for i in range(len(maps)) if i not in first])[:MOST_IMAGES]
    pictures = []
    for i in chosen:
        what = f"blocks {', '.join(map(str, maps.blocks))}" if isinstance(maps, BlockHeatmaps) else "superpixels"
        alt = f"{maps.method} maps ({what}) of {maps.files[i]} for class {maps.explained(i)}"
        pictures.append(_picture(maps.plot(image=i), alt, "/".join(Path(maps.files[i]).parts[-2:]), dpi=100))
    return pictures


def _advice(advice: FreezeAdvice | None) -> dict[str, Any] | None:
    if advice is None:
        return None
    evidence = advice.evidence
    measures = [c for c in evidence.columns if c not in ("score", "low", "high")]
    rows = []
    for block, row in evidence.iterrows():
        figures = [_cell_text(row[c]) for c in measures]
        name, score = frozen_name(int(block)), f"{_score(row['score'])} {_interval(row.get('low'), row.get('high'))}"
        rows.append(
            (name, f"{advice.votes.get(int(block), 0):.0%}", score, figures, int(block) == advice.freeze_through)
        )
    alt = f"Score of each block with its interval; {frozen_name(advice.freeze_through)} is advised"
    return {
        "headline": f"Freeze {frozen_name(advice.freeze_through)} (confidence {advice.confidence:.0%}).",
        "reasons": [p for p in advice.reasons.split("\n") if p.strip()],
        "measures": [str(m).replace("_", " ") for m in measures],
        "measure": advice.measure,
        "rows": rows,
        "picture": _picture(advice.plot(), alt),
        "basis": f"{_plural(advice.images, 'validation image')} in {_plural(advice.groups, 'group')}; no test image. "
        f"Method {advice.method}, {_plural(advice.model_calls, 'model call')}, made {advice.created}.",
    }


# ---- the sweep and the run


def _best(sweep: SweepTable) -> pd.Series | None:
    return sweep.best if sweep.cells["validation"].notna().any() else None


def _sweep(sweep: SweepTable | None) -> dict[str, Any] | None:
    """The table frozen blocks x optimizer, all seeds, and the pictures."""
    if sweep is None:
        return None
    best, runs = _best(sweep), _all_runs(sweep)
    optimizers = list(dict.fromkeys(runs["optimizer"]))
    cells = {(int(c["freeze_through"]), c["optimizer"]): _table_cell(c, best) for c in sweep.cells.to_dict("records")}
    rows: list[tuple[str, list[dict[str, Any]]]] = []
    for depth in sorted(runs["freeze_through"].unique()):
        row = []
        for optimizer in optimizers:
            ended = runs.loc[(runs["freeze_through"] == depth) & (runs["optimizer"] == optimizer), "state"]
            states = ", ".join(dict.fromkeys(s.partition(":")[0] for s in ended)) or "not run"
            cell = cells.get((depth, optimizer), {"finished": False, "best": False})
            lost = int((ended != "finished").sum())
            what = "runs" if cell.get("rate") else "seeds"
            row.append(cell | {"state": states, "lost": f"{lost} of {len(ended)} {what} not finished" if lost else ""})
        rows.append((frozen_name(depth), row))
    pictures = []
    if best is not None:
        pictures.append(_picture(sweep.plot(), f"Test {metric_name(sweep.metric)} of every cell with its interval"))
        pictures.append(_picture(sweep.plot_histories(), "Validation curves of all runs of the sweep"))
    return {
        "metric": metric_name(sweep.metric),
        "basis": f"{_plural(sweep.images, 'test image')} in {_plural(sweep.groups, 'group')}",
        "few": _few(sweep),
        "optimizers": optimizers,
        "rows": rows,
        "cheapest": sweep.equals.iloc[0].to_dict() if best is not None and len(sweep.equals) else None,
        "best": None if best is None else best.to_dict(),
        "runs": runs[["name", "seed", "state", "validation", "test", "seconds"]].to_dict("records"),
        "pictures": pictures,
    }


def _few(sweep: SweepTable) -> str:
    """What there is too little of for the intervals of the cells: what each of them lacks, and the groups."""
    lacks = list(dict.fromkeys(sweep.cells["few"])) if "few" in sweep.cells else []
    return "; ".join(filter(None, lacks)) or (
        _plural(sweep.groups, "group") if sweep.groups < resampling.FEW_GROUPS else ""
    )


def _all_runs(sweep: SweepTable) -> pd.DataFrame:
    """The sweep's runs; of one that failed before it wrote anything, depth, optimizer and seed are in its name."""
    runs = sweep.runs.copy()
    told = runs["name"].str.extract(r"^freeze(?P<freeze_through>\d)-(?P<optimizer>\w+)(?:-lr.+)?-seed(?P<seed>\d+)")
    for column in ("freeze_through", "optimizer", "seed"):
        runs[column] = runs[column].where(runs[column].notna(), told[column])
    runs = runs.dropna(subset=["freeze_through", "optimizer", "seed"])
    return runs.astype({"freeze_through": int, "seed": int})


def _table_cell(cell: dict[str, Any], best: pd.Series | None) -> dict[str, Any]:
    finished = cell["test"] is not None and math.isfinite(cell["test"])
    same = best is not None and (cell["freeze_through"], cell["optimizer"]) == (
        best["freeze_through"],
        best["optimizer"],
    )
    return {
        "finished": finished,
        "test": _score(cell["test"]),
        "interval": _interval(cell["low"], cell["high"]),
        "validation": _score(cell["validation"]),
        "seeds": int(cell.get("seeds", 1)),
        "seconds": _duration(cell.get("seconds")),
        "rate": f"{cell['learning_rate']:g}, best of {cell['rates']}" if cell.get("rates", 1) > 1 else "",
        "difference": f"{_score(cell.get('difference'))} {_interval(cell.get('diff_low'), cell.get('diff_high'), '+')}",
        "best": same,
        "equals": finished and bool(cell.get("equals", False)) and not same,
    }


def _shown_run(result: Run | SweepTable) -> dict[str, Any]:
    """The run, or the seed of a sweep's best cell that is best on validation: its test figures, confusion matrix and curves."""
    if isinstance(result, Run):
        name, metric = result.name, result.config.metric
        predictions, metadata = result.predictions, result.metadata
    else:
        name, metric, best = "", result.metric, _best(result)
        if best is not None:
            runs = result.cell_runs(best["freeze_through"], best["optimizer"])
            name = str(runs.loc[runs["validation"].idxmax(), "name"]) if len(runs) else ""
        predictions, metadata = pd.DataFrame(), _read_json(result.path / name / "metadata.json") if name else {}
    shown: dict[str, Any] = {"name": name, "metric": metric_name(metric), "class_names": result.class_names}
    shown |= {"missing": "", "metadata": metadata, "predictions": predictions, "history": None}
    try:
        if isinstance(result, SweepTable) and name:
            shown["predictions"] = predictions = result.predictions(name)
        if isinstance(result, Run) and len(result.history):
            shown["history"] = _picture(result.plot_history(), f"Learning curves of {name}")
        return shown | _test_figures(predictions, result.class_names, metric)
    except XaituneError as error:
        return shown | {"missing": str(error)}


def _test_figures(predictions: pd.DataFrame, class_names: Sequence[str], metric: str) -> dict[str, Any]:
    """Score, confusion matrix and per-class figures on the test images, with intervals over groups."""
    test = predictions[predictions["split"] == "test"] if len(predictions) else predictions
    if not len(test):
        return {"missing": "There are no predictions on test images."}
    true, predicted = (
        pd.Categorical(test[c].astype(str), list(class_names)).codes.astype(int) for c in ("true", "predicted")
    )
    groups = test["group"].to_numpy()
    value = stats.bootstrap_interval(true, predicted, groups, metric)
    counts = metrics.confusion(true, predicted, len(class_names))
    alt = f"Confusion matrix of {len(class_names)} classes; the per-class table below gives its precision and recall"
    return {
        "value": value.value,
        "interval": _interval(value.low, value.high),
        "few": value.few,
        "basis": f"{_plural(value.images, 'test image')} in {_plural(value.groups, 'group')}",
        "confusion": _picture(charts.confusion_matrix(counts, class_names), alt),
        "per_class": _per_class(true, predicted, groups, class_names),
        "few_groups": resampling.FEW_GROUPS,
    }


def _per_class(
    true: np.ndarray, predicted: np.ndarray, groups: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class with 95 % intervals.

    Intervals come from a bootstrap over groups; those of precision and recall reach at least as far as Wilson's over
    images, since a resample of a class without a mistake never has one.
    """
    numbers, right = np.unique(groups, return_inverse=True)[1], true == predicted
    hits, support, claimed = (np.zeros((numbers.max() + 1, len(names)), int) for _ in range(3))  # (G, C) each
    for counts, labels, which in ((hits, true, right), (support, true, slice(None)), (claimed, predicted, slice(None))):
        np.add.at(counts, (numbers[which], labels[which]), 1)
    weights = resampling.bootstrap_weights(len(hits), 1000)
    drawn = _ratios(*(weights @ p for p in (hits, support, claimed)))
    whole = _ratios(*(p.sum(0) for p in (hits, support, claimed)))
    rows = []
    for c, name in enumerate(names):
        figures = []
        for key, of in (("precision", claimed), ("recall", support), ("f1", None)):
            values = drawn[key][:, c]
            low, high = np.nanquantile(values, (0.025, 0.975)) if np.isfinite(values).any() else (np.nan, np.nan)
            if of is not None and of[:, c].sum():
                wilson = stats.wilson_interval(int(hits[:, c].sum()), int(of[:, c].sum()))
                low, high = min(low, wilson[0]), max(high, wilson[1])
            figures.append((_score(whole[key][c]), _interval(low, high)))
        many = int((support[:, c] > 0).sum())
        rows.append({"name": str(name), "figures": figures, "images": int(support[:, c].sum()), "groups": many})
    return rows


def _ratios(hits: np.ndarray, support: np.ndarray, claimed: np.ndarray) -> dict[str, np.ndarray]:
    pairs = {"precision": (hits, claimed), "recall": (hits, support), "f1": (2 * hits, support + claimed)}
    return {k: np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0) for k, (a, b) in pairs.items()}


# ---- how it was made


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _flat(values: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield key, ", ".join(f"{k} {v}" for k, v in value.items())
        elif key != "skipped" and value not in (None, "", []):
            between = " x " if key == "image_size" else ", "
            yield key, between.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _rates_option(sweep: SweepTable) -> str:
    if "rates" not in sweep.cells or sweep.cells["rates"].max() < 2:
        return ""
    return f" --learning-rates {','.join(f'{r:g}' for r in sorted(sweep.runs['learning_rate'].dropna().unique()))}"


def _making(result: Run | SweepTable, sweep: SweepTable | None, run: dict[str, Any]) -> dict[str, Any]:
    """Machine and versions, configuration, and the commands that make this again."""
    if isinstance(result, Run):
        train, data = dataclasses.asdict(result.config), dataclasses.asdict(result.data_config)
        commands = [
            _train_command(result.config.freeze_through, result.config.optimizer) + f" --seed {result.config.seed}"
        ]
    else:
        config = _read_json(result.path / run["name"] / "config.json") if run["name"] else {}
        train, data, commands = config.get("train", {}), config.get("data", {}), []
    if sweep is not None:
        runs = _all_runs(sweep)
        depths, names = sorted(runs["freeze_through"].unique()), list(dict.fromkeys(runs["optimizer"]))
        commands.append(
            f"xaitune sweep-freeze --freeze-through {','.join(map(str, depths))} --optimizers {','.join(names)} "
            f"--seeds {runs['seed'].nunique()}" + _rates_option(sweep)
        )
    made = {"fingerprint": result.fingerprint, **run["metadata"]}
    of = f" (of {run['name']})" if run["name"] else ""
    tables = [(f"Machine and versions{of}", made), (f"Training{of}", train), ("Data", data)]
    return {"tables": [(t, list(_flat(v))) for t, v in tables if v], "commands": [*commands, "xaitune report"]}
