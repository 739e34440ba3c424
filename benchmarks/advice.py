"""The battery that the freeze advice is measured on: for many tasks, how good every freezing depth really is.

    python benchmarks/advice.py WORK --data FOLDER --weights vgg16_imagenet_notop.h5 [--minutes 60] [--only NAME]
    python benchmarks/advice.py WORK --data FOLDER --weights vgg16_imagenet_notop.h5 --optimizers sgd,momentum --only NAME

FOLDER holds magnetic-tile, chest-xray and solar-cells as folders with class folders and groups.csv, and cifar10.zip. A task
is a set of training images with pretrained weights. Its truth is xaitune's own sweep: depth 0 to 5 with NAG, two learning
rates (chosen on validation, the other one stopped early) and three seeds, and the linear heads on frozen features, on the
same test images for all. Every finished task adds its rows to results/advice-truth.csv, so the battery goes on where it was
stopped, on any machine; WORK keeps the lists of images, the runs and the cached features. The second command adds the
same truth with other optimizers to results/advice-optimizers.csv.
"""

import argparse
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from xaitune.advise.decision import COST_WEIGHT
from xaitune.advise.evaluation import Evaluation
from xaitune.advise.recommend import advise_freeze
from xaitune.comparison.sweep import sweep_freeze
from xaitune.comparison.table import SweepTable
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.demo.scans import make_demo_data
from xaitune.models.backend import gpus
from xaitune.models.precision import processor_name, resolve_precision
from xaitune.stats.intervals import bootstrap_interval
from xaitune.training.features import FeatureCache

RESULTS = Path(__file__).parent / "results"
TRUTH, SIGNALS, OPTIMIZERS = "advice-truth.csv", "advice-signals.csv", "advice-optimizers.csv"
DEPTHS, SEEDS = (0, 1, 2, 3, 4, 5), 3
VALIDATION = 1 / 3  # validation images for each training image
MOST_TEST = 800
ALL = 10_000  # more training images than a source has: half of each class is used
FEW_EPOCHS = 10  # where 20, the usual number, would take too long
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
Change = Callable[[np.ndarray], np.ndarray]


def inverted(image: np.ndarray) -> np.ndarray:
    """The negative of an image."""
    return 255 - image


def blurred(image: np.ndarray) -> np.ndarray:
    """An image without its fine detail."""
    return cv2.GaussianBlur(image, (0, 0), max(image.shape) / 40)


def grey(image: np.ndarray) -> np.ndarray:
    """An image without colours."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


@dataclass(frozen=True)
class Task:
    """`images`: about so many for training, all of them if there are fewer; `side`: of the square images in pixels.

    `classes`: class -> name of the class that it becomes; those left out are not used. None keeps all as they are.
    """

    source: str
    weights: str
    images: int
    side: int = 64
    classes: dict[str, str] | None = None
    what: str = ""
    change: Change | None = None

    @property
    def name(self) -> str:
        """The task in one word."""
        images = "all" if self.images == ALL else str(self.images)
        return "-".join(filter(None, (self.source, self.what, self.weights, images, str(self.side))))


ALL_CIFAR = ("airplane", "automobile", "ship", "truck", *ANIMALS)
KINDS = {c: "animal" if c in ANIMALS else "vehicle" for c in ALL_CIFAR}
SPECIES = {c: c for c in ANIMALS}
# The cheap ones first. None has CIFAR-10 with 'slim', which was trained on it.
TASKS = (
    Task("scans", "slim", 150),
    Task("solar-cells", "slim", 150),
    Task("cifar10", "imagenet", 60, 32, KINDS, "kinds"),
    Task("chest-xray", "slim", 150, 48),
    Task("cifar10", "imagenet", 150, 32),
    Task("magnetic-tile", "slim", 150, 48),
    Task("chest-xray", "imagenet", 150, 32),
    Task("scans", "slim", 400, 48),
    Task("solar-cells", "imagenet", 150, 32),
    Task("cifar10", "random", 150, 32, KINDS, "kinds"),
    Task("scans", "imagenet", 150, 32),
    Task("chest-xray", "slim", 60),
    Task("cifar10", "imagenet", 150, 32, SPECIES, "species-inverted", inverted),
    Task("magnetic-tile", "imagenet", 150, 32),
    Task("solar-cells", "random", 150, 32),
    Task("cifar10", "imagenet", 400, 32, SPECIES, "species-grey", grey),
    Task("scans", "slim", 400, 48, None, "blurred", blurred),
    Task("solar-cells", "imagenet", 60, 48),
    Task("magnetic-tile", "slim", 400),
    Task("scans", "random", 400),
    Task("chest-xray", "imagenet", 400, 48),
    Task("solar-cells", "imagenet", 400, 48),
    Task("magnetic-tile", "imagenet", 400),
    Task("chest-xray", "imagenet", 400),
    Task("chest-xray", "imagenet", ALL, 96),
    Task("solar-cells", "imagenet", ALL, 96),
    Task("magnetic-tile", "imagenet", ALL, 96),
    Task("cifar10", "imagenet", 2000, 32),
)


def main() -> None:
    """Do the tasks that the table lacks, one after another, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for lists, runs and features")
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--weights", required=True, help="ImageNet's VGG16 without its head (.h5)")
    parser.add_argument("--minutes", type=float, default=300, help="no task begins after this time")
    parser.add_argument("--only", help="only tasks whose name contains this text")
    parser.add_argument("--signals", action="store_true", help="compute the signals of the known tasks again")
    parser.add_argument("--cache-gb", type=float, default=8)
    parser.add_argument("--optimizers", default="", help="the truth with these instead of NAG, without signals")
    parser.add_argument("--precision", default="auto", help="float32, bfloat16 or auto")
    parser.add_argument("--workers", type=int, default=2, help="processes that train in parallel")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    args = parser.parse_args()
    optimizers = tuple(filter(None, args.optimizers.split(",")))
    truth = args.results / (OPTIMIZERS if optimizers else TRUTH)
    if args.signals:
        known = pd.read_csv(truth)["task"].tolist()
        rows = [signals_of(t, data_of(t, args.work, args.data), args) for t in TASKS if t.name in known]
        table = pd.DataFrame([row for part in rows for row in part])
        table.to_csv(args.results / SIGNALS, index=False, float_format="%.5g")
        return
    start = time.monotonic()
    for task in TASKS:
        known = pd.read_csv(truth)["task"].tolist() if truth.is_file() else []
        if task.name in known or (args.only and args.only not in task.name):
            continue
        if time.monotonic() - start > 60 * args.minutes:
            break
        data = data_of(task, args.work, args.data)
        if optimizers:
            rows = truth_of(task, data, args, optimizers)
        else:
            signals = signals_of(task, data, args)
            rows = truth_of(task, data, args)
            append(args.results / SIGNALS, signals)
        append(truth, rows)
        shown = pd.DataFrame(rows).groupby("depth")["test"].agg(["mean", "min", "max"]).round(3)
        print(f"{task.name}\n{shown.to_string()}", flush=True)


def append(file: Path, rows: list[dict]) -> None:
    """Add rows to a CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    old = pd.read_csv(file) if file.is_file() else pd.DataFrame()
    pd.concat([old, pd.DataFrame(rows)], ignore_index=True).to_csv(file, index=False, float_format="%.5g")


def training(task: Task, args: argparse.Namespace) -> TrainConfig:
    """The training that all depths of a task share."""
    weights = args.weights if task.weights == "imagenet" else task.weights
    return TrainConfig(
        weights=weights, precision=args.precision, epochs=FEW_EPOCHS if task.images > 150 else TrainConfig().epochs
    )


def signals_of(task: Task, data: ImageData, args: argparse.Namespace) -> list[dict]:
    """What the advice sees of a task, for each candidate, and what advice from heatmaps alone would be."""
    train, folders = training(task, args), {"cache_dir": args.work / "cache", "cache_gb": args.cache_gb}
    cache, runs = FeatureCache(*folders.values()), args.work / task.name
    table = Evaluation(data, train, SweepConfig(workers=args.workers), runs, cache, COST_WEIGHT).evidence()
    heat = advise_freeze(data, train, method="heatmap", runs_dir=runs, **folders)
    table["heatmap"] = table.index.map(heat.evidence["score"].rename(index=str))
    about = {"task": task.name, "heatmap_advice": heat.freeze_through}
    return [about | row for row in table.reset_index().to_dict("records")]


def truth_of(
    task: Task, data: ImageData, args: argparse.Namespace, optimizers: tuple[str, ...] = ("nag",)
) -> list[dict]:
    """The rows of a task: one for each run of its sweep that was trained to its end, and for each linear head."""
    started = time.monotonic()
    table = sweep_freeze(
        data,
        SweepConfig(freeze_through=DEPTHS, optimizers=optimizers, seeds=SEEDS, workers=args.workers),
        train=training(task, args),
        runs_dir=args.work / task.name,
        cache_dir=args.work / "cache",
        cache_gb=args.cache_gb,
    )
    about = {
        "task": task.name,
        "source": task.source,
        "weights": task.weights,
        "side": task.side,
        "classes": len(data.class_names),
        **{f"{split} images": len(data.indices(split)) for split in ("train", "validation", "test")},
        "processor": f"{processor_name()}, {gpus()} GPU" if gpus() else processor_name(),
        "precision": resolve_precision(args.precision)[0],
        "sweep_seconds": time.monotonic() - started,
    }
    names = [
        name
        for cell in table.cells.to_dict("records")
        for name in table.cell_runs(cell["freeze_through"], cell["optimizer"])["name"]
    ]
    runs = table.runs.set_index("name").loc[names].reset_index()
    if optimizers != ("nag",):
        return [about | {"optimizer": row["optimizer"]} | run_row(table, row) for row in runs.to_dict("records")]
    rows = [*runs.to_dict("records"), *table.heads.to_dict("records")]
    return [about | run_row(table, row) for row in rows]


def run_row(table: SweepTable, run: dict) -> dict:
    """What is kept of a run: its scores, and its validation score after each epoch of fine-tuning."""
    tests = table.predictions(run["name"]).query("split == 'test'")
    number = {name: i for i, name in enumerate(table.class_names)}
    true, predicted = (tests[column].map(number).to_numpy() for column in ("true", "predicted"))
    interval = bootstrap_interval(true, predicted, tests["group"].to_numpy(str))
    history = table.history(run["name"])
    tuned = history.loc[history["stage"] == "fine-tune", f"val_{table.metric}"]
    head = history.loc[history["stage"] == "head", f"val_{table.metric}"].iloc[-1]
    linear = "freeze_through" not in run or run["name"].startswith("frozen")
    return {
        "depth": run["name"] if linear else str(run["freeze_through"]),
        "seed": 0 if linear else run["seed"],
        "learning_rate": 0 if linear else run["learning_rate"],
        "validation": run["validation"],
        "test": run["test"],
        "low": interval.low,
        "high": interval.high,
        "groups": interval.groups,
        "seconds": run["seconds"],
        "epoch 0": head,
        **{f"epoch {n}": score for n, score in enumerate(tuned, 1)},
    }


# ---- data


def data_of(task: Task, work: Path, root: Path) -> ImageData:
    """The images of a task: training, validation and test images in a CSV, whole groups in each."""
    file = work / "lists" / f"{task.name}.csv"
    if not file.is_file():
        table = source_table(task, work, root)
        if task.classes is not None:
            table = table[table["label"].isin(list(task.classes))]
            table = table.assign(label=table["label"].map(task.classes))
        table = with_splits(table.reset_index(drop=True), task.images)
        if task.change is not None:
            table["file"] = [changed(path, task, work) for path in table["file"]]
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(file, index=False)
    return ImageData.from_csv(file, image_size=(task.side, task.side))


def source_table(task: Task, work: Path, root: Path) -> pd.DataFrame:
    """file, label and group of all images of a source; test images that it comes with have split 'test'."""
    if task.source == "cifar10":
        folder = work / "cifar10"
        if not folder.is_dir():
            with zipfile.ZipFile(root / "cifar10.zip") as archive:
                archive.extractall(work)
        files = sorted(folder.glob("*/*/*.jpg"))
        split = ["test" if path.parts[-3] == "test" else "" for path in files]
        return pd.DataFrame(
            {"file": map(str, files), "label": [p.parent.name for p in files], "group": map(str, files), "split": split}
        )
    if task.source == "scans":
        data = make_demo_data(work / "scans", scale=3.0, image_size=(64, 64), seed=11)
    else:
        images = root / task.source / "images" if (root / task.source / "images").is_dir() else root / task.source
        groups = root / task.source / "groups.csv"
        data = ImageData.from_folder(images, groups=groups if groups.is_file() else None)
    rows = np.arange(len(data))
    names = np.array(data.class_names)[data.labels]
    return pd.DataFrame({"file": map(str, data.paths(rows)), "label": names, "group": data.groups, "split": ""})


def with_splits(table: pd.DataFrame, images: int) -> pd.DataFrame:
    """`table` with about so many training images, a third of that for validation, and at most MOST_TEST for testing.

    Groups are drawn at random and never divided; in turn from all classes for training and validation, so that small
    classes have their share, but at most half of a class for training and a sixth for validation.
    """
    rng = np.random.default_rng(5)
    group = table.groupby("group").agg(label=("label", "first"), size=("label", "size"), split=("split", "first"))
    group = group.sample(frac=1, random_state=int(rng.integers(1 << 31)))
    totals = table.groupby("label").size()
    share = images / (totals * (1 - (table["split"] == "test").mean())).sum()
    wanted = {label: max(share * total, 4.0) for label, total in totals.items()}  # training images per class
    taken = {(label, split): 0 for label in wanted for split in ("train", "validation")}
    for name, row in group.iterrows():
        if row["split"] == "test":
            continue
        limit = totals[row["label"]] / 2
        for split, target in (("train", wanted[row["label"]]), ("validation", wanted[row["label"]] * VALIDATION)):
            used = taken[row["label"], split]
            if used < min(target, limit * (1 if split == "train" else VALIDATION)):
                group.loc[name, "split"] = split
                taken[row["label"], split] += row["size"]
                break
    given = (table["split"] == "test").any()
    if not given:
        group.loc[group["split"] == "", "split"] = "test"
    tests = group[group["split"] == "test"]
    group.loc[tests.index[tests["size"].cumsum() > MOST_TEST], "split"] = ""
    table = table.assign(split=table["group"].map(group["split"]))
    return table[table["split"] != ""].reset_index(drop=True)


def changed(path: str, task: Task, work: Path) -> str:
    """The path of a changed copy of an image."""
    assert task.change is not None
    copy = (
        work / "changed" / task.name / f"{Path(path).parent.parent.name}-{Path(path).parent.name}-{Path(path).stem}.png"
    )
    copy.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(copy), task.change(cv2.imread(path)))
    return str(copy)


if __name__ == "__main__":
    main()
