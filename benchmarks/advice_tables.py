"""What the battery says about the advice: every table and picture of docs/advice.md, and the model that the package ships.

    python benchmarks/advice_tables.py [--write]

Reads results/advice-truth.csv and results/advice-signals.csv. Whatever is learnt is judged on images that it was not learnt
from: the model of a task is learnt from the tasks with images of other sources. The regret of a choice is the test score of
the best candidate minus its own, where the best is chosen on another seed, so that the luck of a seed does not count as
merit; seed 0, whose first epochs are the race, is left out. With --write the tables in docs/advice.md,
docs/images/advice-*.png and xaitune/advise/decision.json are replaced.
"""

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import t as student

from xaitune.advise.candidates import CANDIDATES, DEPTHS, HEADS, candidate_name, training_costs
from xaitune.advise.decision import COST_WEIGHT, NEAR, DecisionModel, decide, fit_model
from xaitune.advise.race import SHORT, race_cost
from xaitune.models.blocks import CHANNELS
from xaitune.models.weights import load_backbone

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[1]
PAGE, MODEL = ROOT / "docs" / "advice.md", ROOT / "xaitune" / "advise" / "decision.json"
SIGNALS = {"features": ("linear",), "race": ("linear", "short")}
OPINIONS = ("linear", "short", "probe", "logme", "h_score", "transrate", "heatmap")
RACE_SEED = 0
COST_WEIGHTS = (0, 0.5, 1, 2, 3)  # points
SLIM = "slim"
DEFAULT = "advice: the default (race where it is short)"
DEPTH_NAMES = tuple(str(depth) for depth in DEPTHS)


@dataclasses.dataclass(frozen=True)
class Known:
    """A task of the battery whose truth is known; `images`: their source.

    `seeds`: (seeds, candidates) test scores without those of the race's seed; `with_race`: all rows of the task.
    """

    name: str
    images: str
    weights: str
    seeds: np.ndarray
    evidence: pd.DataFrame
    heatmap: int
    about: dict[str, Any]
    with_race: pd.DataFrame

    @property
    def scores(self) -> dict[str, float]:
        """Candidate -> mean test score."""
        return dict(zip(CANDIDATES, self.seeds.mean(axis=0), strict=True))

    def regret(self, candidate: str, among: tuple[str, ...]) -> float:
        """The score of the best of `among`, chosen on the other seeds, minus the candidate's; the mean over the seeds."""
        columns, own = [CANDIDATES.index(name) for name in among], CANDIDATES.index(candidate)
        losses = []
        for seed in range(len(self.seeds)):
            others = np.delete(self.seeds, seed, axis=0).mean(axis=0)[columns]
            losses.append(self.seeds[seed, columns[int(others.argmax())]] - self.seeds[seed, own])
        return float(np.mean(losses))

    @property
    def race_is_short(self) -> bool:
        """Whether `xaitune advise` takes the race by default."""
        side, channels = int(self.about["side"]), load_backbone(SLIM).channels if self.weights == SLIM else CHANNELS
        return race_cost(int(self.about["train images"]), (side, side), channels) <= SHORT

    def training(self) -> dict[str, Any]:
        """What `fit_model` learns from."""
        return {"source": self.weights, "scores": self.scores, "evidence": self.evidence}


def load_tasks() -> list[Known]:
    """The tasks that are complete in both files."""
    truth = pd.read_csv(HERE / "results" / "advice-truth.csv", dtype={"depth": str})
    signals = pd.read_csv(HERE / "results" / "advice-signals.csv", dtype={"candidate": str})
    tasks = []
    for name, rows in truth.groupby("task", sort=False):
        evidence = signals[signals["task"] == name].set_index("candidate")
        table = rows.pivot_table(index="seed", columns="depth", values="test")
        for head in HEADS:
            table[head] = table[head].iloc[0]  # nothing about it is random
        side = int(rows["side"].iloc[0])
        cost = training_costs((side, side))
        tasks.append(
            Known(
                name=str(name),
                images=str(rows["source"].iloc[0]),
                weights=str(rows["weights"].iloc[0]),
                seeds=table[list(CANDIDATES)].drop(index=RACE_SEED).dropna().to_numpy(),
                evidence=evidence.assign(cost=[cost[c] for c in evidence.index]),
                heatmap=int(evidence["heatmap_advice"].iloc[0]),
                about=rows.iloc[0].to_dict(),
                with_race=rows,
            )
        )
    return tasks


# ---- methods: for each task the candidate that is advised


def without(tasks: list[Known], task: Known, signals: tuple[str, ...]) -> DecisionModel:
    """The model learnt from the tasks with images of other sources."""
    return fit_model([other.training() for other in tasks if other.images != task.images], CANDIDATES, signals)


def advised(tasks: list[Known], signals: tuple[str, ...], among: tuple[str, ...]) -> list[Any]:
    """The decision for each task, by the model learnt from the others."""
    return [decide(without(tasks, task, signals), task.evidence, task.weights, among=among) for task in tasks]


def choices(tasks: list[Known], among: tuple[str, ...]) -> dict[str, list[str]]:
    """Method -> the candidate that it advises for each task."""
    found = {f"always {candidate_name(name)}": [name] * len(tasks) for name in among}
    found["heatmaps without masks (the advice of before)"] = [str(task.heatmap) for task in tasks]
    for signal in OPINIONS:
        rows = [task.evidence.loc[list(among), signal] for task in tasks]
        if not any(row.isna().all() for row in rows):
            found[f"highest {signal.replace('_', ' ')}"] = [str(row.idxmax()) for row in rows]
    found["the prior alone"] = [d.advised for d in advised(tasks, (), among)]
    for method, signals in SIGNALS.items():
        found[f"advice: {method}"] = [d.advised for d in advised(tasks, signals, among)]
    found[DEFAULT] = [
        race if task.race_is_short else features
        for task, race, features in zip(tasks, found["advice: race"], found["advice: features"], strict=True)
    ]
    for signal in SIGNALS["race"]:
        rest = tuple(s for s in SIGNALS["race"] if s != signal)
        found[f"advice: race without {signal}"] = [d.advised for d in advised(tasks, rest, among)]
    for extra in ("heatmap", "probe", "logme"):
        found[f"advice: race with {extra}"] = [d.advised for d in advised(tasks, (*SIGNALS["race"], extra), among)]
    return found


def summary(tasks: list[Known], among: tuple[str, ...]) -> pd.DataFrame:
    """One row per method: mean regret with its 95 % interval over the sources of images, the worst task, cost, distance
    from the hull.
    """
    rows = {}
    for method, chosen in choices(tasks, among).items():
        regrets = 100 * np.array([task.regret(name, among) for task, name in zip(tasks, chosen, strict=True)])
        by_source = pd.Series(regrets).groupby([task.images for task in tasks]).mean()
        half = student.ppf(0.975, len(by_source) - 1) * by_source.std(ddof=1) / np.sqrt(len(by_source))
        cost = float(np.mean([task.evidence.loc[name, "cost"] for task, name in zip(tasks, chosen, strict=True)]))
        rows[method] = {
            "regret": regrets.mean(),
            "low": regrets.mean() - half,
            "high": regrets.mean() + half,
            "worst": regrets.max(),
            "cost": cost,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    constants = table[table.index.str.startswith("always ")]
    table["below hull"] = [
        hull(constants["cost"].to_numpy(), constants["regret"].to_numpy(), cost) - regret
        for cost, regret in zip(table["cost"], table["regret"], strict=True)
    ]
    return table


def hull(costs: np.ndarray, regrets: np.ndarray, cost: float) -> float:
    """The lowest regret at a cost that a coin between two constants reaches."""
    best = np.inf
    for a, x in zip(costs, regrets, strict=True):
        best = min(best, x) if a <= cost + 1e-9 else best
        for b, y in zip(costs, regrets, strict=True):
            if a < cost < b:
                best = min(best, x + (y - x) * (cost - a) / (b - a))
    return float(best)


def calibration(tasks: list[Known], signals: tuple[str, ...], among: tuple[str, ...]) -> pd.DataFrame:
    """Of the tasks in three equal parts by confidence: its mean, and the share that lost at most NEAR."""
    decisions = advised(tasks, signals, among)
    table = pd.DataFrame(
        {
            "confidence": [d.confidence for d in decisions],
            "right": [task.regret(d.advised, among) <= NEAR + 1e-9 for task, d in zip(tasks, decisions, strict=True)],
        }
    ).sort_values("confidence")
    parts = [table.iloc[part] for part in np.array_split(np.arange(len(table)), 3)]
    return pd.DataFrame(
        [
            {"tasks": len(p), "mean confidence": p["confidence"].mean(), "right within 1 point": p["right"].mean()}
            for p in parts
        ]
    )


# ---- output


def markdown(table: pd.DataFrame, digits: int) -> str:
    """A table in Markdown, with fractions to so many digits."""

    def text(value: Any) -> str:
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    lines = [["", *table.columns], ["---"] * (len(table.columns) + 1)]
    lines += [[name, *row] for name, row in zip(table.index, table.itertuples(index=False), strict=True)]
    return "\n".join(f"| {' | '.join(map(text, line))} |" for line in lines)


def truth_table(tasks: list[Known]) -> pd.DataFrame:
    """All tasks: size, and the mean test score of each candidate."""
    rows = []
    for task in tasks:
        about = {"task": task.name, **{k: int(task.about[k]) for k in ("train images", "test images", "classes")}}
        rows.append(about | {candidate_name(c): task.scores[c] for c in CANDIDATES})
    return pd.DataFrame(rows).set_index("task")


def cost_weight_table(tasks: list[Known]) -> pd.DataFrame:
    """What the advice with a race loses and costs at several cost weights, in points."""
    rows = {}
    for kind, among in (("depths", DEPTH_NAMES), ("all candidates", CANDIDATES)):
        constants = [(np.mean([t.evidence.loc[n, "cost"] for t in tasks]), n) for n in among]
        regrets = np.array([np.mean([100 * t.regret(n, among) for t in tasks]) for _, n in constants])
        models = [without(tasks, task, SIGNALS["race"]) for task in tasks]
        for points in COST_WEIGHTS:
            names = [
                decide(model, t.evidence, t.weights, among=among, cost_weight=points / 100).advised
                for model, t in zip(models, tasks, strict=True)
            ]
            lost = np.array([100 * t.regret(name, among) for t, name in zip(tasks, names, strict=True)])
            cost = float(np.mean([t.evidence.loc[name, "cost"] for t, name in zip(tasks, names, strict=True)]))
            below = hull(np.array([c for c, _ in constants]), regrets, cost) - lost.mean()
            row = {"regret": lost.mean(), "worst": lost.max(), "cost": cost, "below hull": below}
            rows[f"{kind}, {points:g} points"] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def optimizer_table(tasks: list[Known]) -> pd.DataFrame:
    """Mean test score of each depth with NAG, and with the optimizers of results/advice-optimizers.csv."""
    known = pd.read_csv(HERE / "results" / "advice-optimizers.csv", dtype={"depth": str})
    rows = {}
    for name, table in known.groupby("task", sort=False):
        nag = next(task for task in tasks if task.name == name).with_race
        rows[f"{name}, nag"] = nag.groupby("depth")["test"].mean()
        for optimizer, part in table.groupby("optimizer", sort=False):
            rows[f"{name}, {optimizer}"] = part.groupby("depth")["test"].mean()
    table = pd.DataFrame.from_dict(rows, orient="index")[list(DEPTH_NAMES)]
    return table.rename(columns=candidate_name)


def draw_plane(table: pd.DataFrame, file: Path) -> None:
    """Regret against cost of every method, with the hull of the constants."""
    _, ax = plt.subplots(figsize=(10, 5), constrained_layout=True)
    constant = table.index.str.startswith("always ")
    constants, methods = table[constant], table[~constant & ~table.index.str.startswith("advice: race with")]
    costs, regrets = constants["cost"].to_numpy(), constants["regret"].to_numpy()
    grid = np.linspace(0, 1, 201)
    ax.plot(grid, [hull(costs, regrets, c) for c in grid], color="#8a98a3", linewidth=1)
    names, offsets = [], ((5, 5), (5, -11), (-14, 5), (-14, -11))
    for kind, colour, marker in ((constants, "#0072B2", "o"), (methods, "#D55E00", "s")):
        ax.scatter(kind["cost"], kind["regret"], color=colour, marker=marker, zorder=3)
        for name, row in kind.iterrows():
            names.append(str(name))
            place, at = offsets[len(names) % 4], (row["cost"], row["regret"])
            ax.annotate(str(len(names)), at, place, textcoords="offset points", fontsize=8, color=colour)
    ax.text(
        1.02,
        1,
        "\n".join(f"{number}  {name}" for number, name in enumerate(names, 1)),
        transform=ax.transAxes,
        va="top",
        fontsize=8,
        linespacing=1.6,
    )
    ax.set_xlabel("multiply-adds of the advised training, over those with nothing frozen")
    ax.set_ylabel("mean regret, points of macro F1")
    ax.set_title("Constants (circles), the best coin between two of them (line), and methods (squares)", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(file, dpi=140)
    plt.close()


def write_tables(tables: dict[str, str]) -> None:
    """Replace the tables of docs/advice.md, each between <!-- name --> and <!-- end -->."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"{PAGE} has no place for the table {name!r}.")
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Print all tables, and write them where they belong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the tables, the pictures and the shipped model")
    args = parser.parse_args()
    tasks = load_tasks()
    plane, every = summary(tasks, DEPTH_NAMES), summary(tasks, CANDIDATES)
    tables = {
        "truth": markdown(truth_table(tasks), 3),
        "depths": markdown(plane, 2),
        "candidates": markdown(every, 2),
        "cost-weights": markdown(cost_weight_table(tasks), 2),
        "optimizers": markdown(optimizer_table(tasks), 3),
        **{
            f"calibration-{method}": markdown(calibration(tasks, signals, DEPTH_NAMES), 2)
            for method, signals in SIGNALS.items()
        },
    }
    models = {m: fit_model([t.training() for t in tasks], CANDIDATES, s) for m, s in SIGNALS.items()}
    for name, table in tables.items():
        print(f"\n{name}, {len(tasks)} tasks, cost weight {COST_WEIGHT * 100:g} points\n{table}")
    for method, model in models.items():
        print(method, model.weights)
    if args.write:
        write_tables(tables)
        draw_plane(plane, ROOT / "docs" / "images" / "advice-plane.png")
        values = {method: dataclasses.asdict(model) for method, model in models.items()}
        MODEL.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
