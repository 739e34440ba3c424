"""How well the cost model of docs/scale.md predicts the time of the runs of the freeze atlas.

    python benchmarks/cost_model.py [--write]

For every run of docs/atlas.csv that trained blocks on a fixed split, without a graphics card: the multiply-adds of the formula,
for the epochs that were trained, and the seconds that it took. With --write the table in docs/scale.md is replaced.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd

from xaitune._names import frozen_name
from xaitune.models.blocks import multiply_adds

DOCS = Path(__file__).parents[1] / "docs"
NARROW = 1 / 16  # the multiply-adds of 'slim', a quarter as wide, over VGG16's


def predicted_work(run: pd.Series) -> float:
    """The multiply-adds of the formula."""
    height, width = map(int, run["image_size"].split("x"))
    trained = sum(cost for block, cost in multiply_adds((height, width)).items() if block > int(run["depth"]))
    counts = [run[f"{split}_images"] for split in ("train", "validation", "test")]
    passes = run["epochs"] * (3 * counts[0] + counts[1]) + sum(counts)
    return float(trained * passes * (NARROW if run["weights"] == "slim" else 1))


def table() -> tuple[pd.DataFrame, float]:
    """(depth -> runs and quartiles of billions of multiply-adds per second, correlation of the logarithms)."""
    runs = pd.read_csv(DOCS / "atlas.csv", dtype={"depth": str})
    runs = runs[runs["depth"].isin(list("01234")) & (runs["head"] == "gap") & ~runs["task"].str.contains("5folds")]
    runs = runs[~runs["processor"].str.contains("GPU", na=False)]
    runs = runs.assign(work=[predicted_work(run) for _, run in runs.iterrows()])
    rate = (runs["work"] / runs["seconds"] / 1e9).groupby(runs["depth"])
    made = pd.DataFrame({"runs": rate.size(), **{name: rate.quantile(q) for name, q in QUARTILES.items()}})
    return made, float(np.corrcoef(np.log(runs["work"]), np.log(runs["seconds"]))[0, 1])


QUARTILES = {"a quarter below": 0.25, "median": 0.5, "a quarter above": 0.75}


def markdown() -> str:
    """The table and the correlation, as the page has them."""
    made, correlation = table()
    lines = [f"| frozen | runs | {' | '.join(QUARTILES)} |", "| --- | --- | --- | --- | --- |"]
    for depth, row in made.iterrows():
        name = "nothing" if depth == "0" else frozen_name(int(depth))
        lines.append(f"| {name} | {row['runs']:.0f} | " + " | ".join(f"{row[q]:.0f}" for q in QUARTILES) + " |")
    return (
        "\n".join(lines)
        + f"\n\nThe logarithms of work and time of the {made['runs'].sum():.0f} runs correlate by {correlation:.2f}."
    )


def main() -> None:
    """Print the table, and write it where it belongs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the table in docs/scale.md")
    args = parser.parse_args()
    made = markdown()
    print(made)
    if args.write:
        page = DOCS / "scale.md"
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"(<!-- rates -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{made}\n{m[2]}", text, flags=re.DOTALL)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
