"""Draw which folder of the package imports which, and fail where an import runs upward.

    python scripts/import_graph.py                # writes docs/images/architecture.png
    python scripts/import_graph.py --out x.png

The order of the folders is that of tests/test_imports.py, which enforces it.
"""

import argparse
import ast
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "xaitune"
SINGLE_FILES = {
    "doctor",
    "errors",
    "_files",
    "_machine",
    "_names",
    "_notebook",
    "_progress",
    "__main__",
    "mapscores",
    "__init__",
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")


def folder_order() -> list[str]:
    """The folders from the bottom up, as the test that enforces it names them."""
    tree = ast.parse((ROOT / "tests" / "test_imports.py").read_text(encoding="utf-8"))
    assigned = (n for n in tree.body if isinstance(n, ast.Assign))
    value = next(n.value for n in assigned if getattr(n.targets[0], "id", "") == "FOLDERS")
    return eval(ast.unparse(value), {})  # a literal text, split


def imports() -> Counter:
    """(importing folder, imported folder) -> how many import statements."""
    counts: Counter = Counter()
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "xaitune":
                names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                counts.update((own, name) for name in names if name not in (own, "__version__"))
    return counts


def first_line(folder: str) -> str:
    """What a folder is for, in its own words."""
    return (ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))) or "").split(
        "\n"
    )[0]


def draw(order: list[str], counts: Counter) -> Figure:
    """The folders from top (command line) to bottom (settings), an arrow for each folder that another imports."""
    folders = [name for name in reversed(order) if name not in SINGLE_FILES]
    figure = Figure(figsize=(13, 0.78 * len(folders) + 1.1), layout="constrained")
    ax = figure.add_subplot()
    place = {name: -i for i, name in enumerate(folders)}
    for i, name in enumerate(folders):
        ax.add_patch(
            FancyBboxPatch((0, place[name] - 0.27), 2.2, 0.54, boxstyle="round,pad=0.04", fc="#f3f3f3", ec="#444444")
        )
        modules = len([p for p in (PACKAGE / name).rglob("*.py") if p.stem != "__init__"])
        ax.text(1.1, place[name] + 0.06, name, ha="center", va="center", fontsize=12, weight="bold")
        ax.text(1.1, place[name] - 0.17, f"{modules} modules", ha="center", va="center", fontsize=8, color="#555555")
        ax.text(-0.25, place[name], first_line(name), ha="right", va="center", fontsize=9, wrap=True)
        targets = [(below, counts[name, below]) for below in folders[i + 1 :] if counts[name, below]]
        for below, count in targets:
            style = f"arc3,rad={-0.28 - 0.02 * (place[name] - place[below])}"
            start, end = (2.26, place[name] - 0.08), (2.26, place[below] + 0.08)
            look = {"color": COLOURS[i % len(COLOURS)], "lw": 0.6 + 0.16 * min(count, 15), "alpha": 0.75}
            ax.add_patch(FancyArrowPatch(start, end, connectionstyle=style, arrowstyle="-|>", mutation_scale=9, **look))
    ax.set_xlim(-9.6, 6.8)
    ax.set_ylim(-len(folders) + 0.4, 0.7)
    ax.set_axis_off()
    ax.set_title(
        f"{sum(counts.values())} imports between folders, every one downward (thicker: more of them)",
        fontsize=11,
        loc="left",
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "architecture.png")
    args = parser.parse_args()
    order, counts = folder_order(), imports()
    upward = {
        pair: n for pair, n in counts.items() if pair[0] in order and order.index(pair[1]) >= order.index(pair[0])
    }
    for (above, below), count in counts.most_common():
        print(f"{above:>11} -> {below:<11} {count}")
    if upward:
        raise SystemExit(f"Imports that run upward: {upward}")
    draw(order, Counter({pair: n for pair, n in counts.items() if not set(pair) & SINGLE_FILES})).savefig(
        args.out, dpi=110
    )
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
