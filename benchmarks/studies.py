"""The studies that xaitune comes from, in reduced form on other images: every table of docs/studies.md.

    python benchmarks/studies.py WORK --data FOLDER --weights vgg16_imagenet_notop.h5 [--only NAME] [--write]

FOLDER holds magnetic-tile, chest-xray and solar-cells, as class folders and groups.csv where there is one. Each study is a
comparison in WORK/runs, which goes on where it was stopped; what it found is put into results/studies.csv and
results/studies-losses.csv. With --write the tables of docs/studies.md and its pictures are made from them.
"""

import argparse
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import xaitune as xt
from xaitune._progress import Progress
from xaitune.comparison.factors import value_name
from xaitune.stats.comparisons import Difference

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[1]
CELLS, LOSSES = HERE / "results" / "studies.csv", HERE / "results" / "studies-losses.csv"
PAGE, PICTURES = ROOT / "docs" / "studies.md", ROOT / "docs" / "images"
ENTROPIES = ["categorical_crossentropy", "sparse_categorical_crossentropy"]
OPTIMIZERS = ["sgd", "momentum", "nag", "adagrad", "rmsprop", "adadelta", "adam", "nadam", "sgdp", "adamp", "radam"]


@dataclasses.dataclass(frozen=True)
class Study:
    """A comparison: its images and their side in pixels, the training that all cells share, and what is compared."""

    images: str
    side: int
    train: dict[str, Any]
    factors: dict[str, list[Any]]
    seeds: int
    learning_rates: str | None = "own"
    pictures: tuple[str, ...] = ()  # of curves.png and comparison.png


def _tiles(epochs: int, factors: dict[str, list[Any]], seeds: int, **others: Any) -> Study:
    own = {"learning_rates", "pictures"}
    train = {"epochs": epochs, "patience": epochs, **{k: v for k, v in others.items() if k not in own}}
    return Study("magnetic-tile", 32, train, factors, seeds, **{k: v for k, v in others.items() if k in own})


STUDIES = {
    "freezing": _tiles(
        8,
        {
            "architecture": [
                *("lenet5-tanh-sgd", "lenet5-relu-adam", "vgg16-features"),
                *("vgg16-block3", "vgg16-block3-final", "vgg16-random"),
            ]
        },
        1,
        pictures=("curves.png",),
    ),
    "optimizers": _tiles(
        6,
        {"optimizer": OPTIMIZERS, "learning_rate": ["own", "keras"]},
        2,
        freeze_through=4,
        learning_rates=None,
        pictures=("comparison.png",),
    ),
    "scaffold-loss": Study(
        "solar-cells", 32, {"epochs": 6, "patience": 6, "freeze_through": 4}, {"loss": ENTROPIES}, 5
    ),
    "xray-loss": Study(
        "chest-xray",
        48,
        {"architecture": "xray-cnn", "optimizer": "adam", "learning_rate": "keras", "epochs": 8, "patience": 8},
        {"loss": ENTROPIES},
        5,
        learning_rates=None,
    ),
    "imbalance": _tiles(
        6,
        {"loss": ["categorical_crossentropy", "focal"], "class_weight": [None, "share", "balanced"]},
        3,
        freeze_through=4,
    ),
    "augmentation": _tiles(
        6,
        {"balance_by_augmentation": [False, True]},
        2,
        freeze_through=4,
        augmentation="flip,rotation,brightness",
    ),
    "blocks": _tiles(3, {"trained_blocks": ["1", "2", "3", "4", "5", "4-5", "1-5"]}, 1),
}


def run_study(name: str, study: Study, work: Path, data_folder: Path, weights: str, progress: Progress) -> None:
    """Make a study's comparison, and put what it found into the files of results."""
    folder = data_folder / study.images
    groups = folder / "groups.csv"
    images = folder / "images" if (folder / "images").is_dir() else folder
    data = xt.ImageData.from_config(
        xt.DataConfig(
            path=str(images), groups=str(groups) if groups.is_file() else None, image_size=(study.side, study.side)
        )
    )
    train = xt.TrainConfig(**{**({} if "architecture" in study.train else {"weights": weights}), **study.train})
    table = xt.compare(
        data,
        train,
        factor=study.factors,
        seeds=study.seeds,
        learning_rates=study.learning_rates,
        name=name,
        runs_dir=work / "runs",
        progress=progress,
        notes=print,
    )
    cells = table.cells.merge(table.scores().add_prefix("mean_"), left_on="name", right_index=True)
    cells["values"] = [
        ", ".join(value_name(f, value) for f, value in zip(table.factors, row, strict=True))
        for row in cells[list(table.factors)].itertuples(index=False)
    ]
    columns = ["values", "rate", "seeds", "validation", "test", "low", "high", "difference", "diff_low"]
    columns += ["diff_high", "equals", "converged", "seconds", *(c for c in cells if c.startswith("mean_"))]
    about = {"study": name, "images": table.images, "groups": table.groups, "metric": table.metric}
    _replace(CELLS, name, cells[columns].assign(**about, diverged=", ".join(table.diverged)).round(5))
    if "loss" in study.factors:
        losses = [table.losses(split).reset_index().assign(study=name, split=split) for split in ("validation", "test")]
        pair: Difference = table.difference(*[str(n) for n in table.cells["name"][:2]])
        print(f"{name}: first minus second {pair.difference:+.5f} [{pair.low:+.4f}, {pair.high:+.4f}]")
        _replace(LOSSES, name, pd.concat(losses).round(5))
    for picture in study.pictures:
        shutil.copyfile(table.path / picture, PICTURES / f"study-{name}.png")
    print(table.sentence())


def _replace(file: Path, study: str, rows: pd.DataFrame) -> None:
    """Put the rows of a study into a file in place of its old ones."""
    old = pd.read_csv(file, keep_default_na=False) if file.is_file() else pd.DataFrame(columns=["study"])
    pd.concat([old[old["study"] != study], rows]).to_csv(file, index=False)


# ---- the tables of docs/studies.md


def _score_rows(cells: pd.DataFrame) -> list[list[str]]:
    rows = []
    for cell in cells.to_dict("records"):
        figures = [cell[f"mean_{c}"] for c in ("loss", "train", "validation", "test", "f1_weighted")]
        rows.append([f"`{cell['values']}`", *(f"{figure:.3f}" for figure in figures), _interval(cell)])
    return rows


def _cell_rows(cells: pd.DataFrame) -> list[list[str]]:
    return [
        [
            f"`{cell['values']}`",
            _interval(cell),
            f"{cell['difference']:+.3f} [{cell['diff_low']:+.3f}, {cell['diff_high']:+.3f}]",
            f"{cell['validation']:.3f}",
            f"{cell['rate']:g}",
            "yes"
            if cell["converged"] == 1
            else f"in {round(cell['converged'] * cell['seeds'])} of {int(cell['seeds'])} seeds",
            f"{cell['seconds']:.0f}",
        ]
        for cell in cells.to_dict("records")
    ]


def _interval(cell: dict[str, Any]) -> str:
    return f"{cell['test']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scores_table(study: str) -> str:
    header = ["model", "loss (validation)", "train", "validation", "test", "weighted F1", "macro F1 (test)"]
    return markdown_table(header, _score_rows(_read(CELLS, study)))


def _cells_table(study: str) -> str:
    header = [
        "values",
        "macro F1 (test)",
        "minus the best on validation",
        "validation",
        "rate",
        "converged",
        "seconds a run",
    ]
    return markdown_table(header, _cell_rows(_read(CELLS, study)))


def _losses_table(study: str) -> str:
    losses = _read(LOSSES, study)
    seeds = [column for column in losses if column.startswith("seed ")]
    rows = [
        [f"`{row['cell']}`", row["class"], row["split"], *(f"{100 * float(row[c]):.1f}" for c in [*seeds, "mean"])]
        for row in losses.to_dict("records")
    ]
    return markdown_table(["loss", "class", "split", *(f"repeat {i + 1}" for i in range(len(seeds))), "average"], rows)


def _accuracy_table(study: str) -> str:
    cells, losses = _read(CELLS, study), _read(LOSSES, study)
    test = losses[losses["split"] == "test"].groupby("cell")["mean"].mean()
    rows = [
        [f"`{c['values']}`", f"{c['mean_test']:.3f}", f"{test[c['values']]:.3f}", f"{c['seconds']:.0f}"]
        for c in cells.to_dict("records")
    ]
    return markdown_table(["loss", "test accuracy", "test loss, mean of the classes", "seconds a run"], rows)


def _read(file: Path, study: str) -> pd.DataFrame:
    table = pd.read_csv(file, keep_default_na=False)
    return table[table["study"] == study]


TABLES: dict[str, Callable[[], str]] = {
    "freezing": lambda: _scores_table("freezing"),
    "optimizers": lambda: _cells_table("optimizers"),
    "scaffold-loss": lambda: _losses_table("scaffold-loss"),
    "xray-loss": lambda: _accuracy_table("xray-loss"),
    "imbalance": lambda: _cells_table("imbalance"),
    "augmentation": lambda: _cells_table("augmentation"),
    "blocks": lambda: _cells_table("blocks"),
}


def write_page() -> None:
    """Replace every table of docs/studies.md whose study is known, between its two comments."""
    known = set(pd.read_csv(CELLS)["study"])
    fill_tables(PAGE, {name: table() for name, table in TABLES.items() if name in known})


def fill_tables(page: Path, tables: dict[str, str]) -> None:
    """Replace the named tables of a page, each between its two comments."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        before, start, rest = text.partition(f"<!-- table {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        text = before + start + table + "\n" + end + after
    page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder for runs and features")
    parser.add_argument("--data", type=Path, help="folder with the data sets")
    parser.add_argument("--weights", help="ImageNet's VGG16 without its head (.h5)")
    parser.add_argument("--only", choices=tuple(STUDIES), action="append", help="only these studies")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/studies.md")
    args = parser.parse_args()
    last = {"shown": -1}

    def show(done: int, total: int, what: str) -> None:
        if (percent := 100 * done // total) != last["shown"]:
            last["shown"] = percent
            print(f"{percent} %: {what}", flush=True)

    for name in args.only or (tuple(STUDIES) if args.work else ()):
        run_study(name, STUDIES[name], args.work, args.data, args.weights, show)
    if args.write:
        write_page()


if __name__ == "__main__":
    main()
