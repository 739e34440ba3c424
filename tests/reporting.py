"""Results made by hand, of which a report page can be written in seconds."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd

from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck
from xaitune.comparison.table import SweepTable
from xaitune.config.settings import DataConfig, TrainConfig
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.lime.result import Superpixels
from xaitune.report.page import write_report
from xaitune.report.viewer import Viewed, ViewedImage, map_sheet, mask_outline, picture_uri
from xaitune.stats.comparisons import Difference
from xaitune.training.run import Run

RULES = ("gradcam", "layercam")
CLASSES = ("<b>hole</b>", "균열", "no defect")
OPTIMIZERS = ("sgd", "nag")


def predictions(seed=0, images=60):
    rng = np.random.default_rng(seed)
    true = np.arange(images) % 3
    predicted = np.where(rng.random(images) < 0.75, true, rng.integers(0, 3, images))
    names, split = np.array(CLASSES), np.where(np.arange(images) < images // 3, "train", "test").astype(object)
    split[images // 3 : images // 2] = "validation"
    frame = {
        "file": [f"i{i}.png" for i in range(images)],
        "group": [f"g{i // 2}" for i in range(images)],
        "split": split,
    }
    shares = 0.5 * rng.dirichlet(np.ones(3), images) + 0.5 * np.eye(3)[predicted]
    columns = dict(zip((f"p({name})" for name in CLASSES), shares.T, strict=True))
    return pd.DataFrame({**frame, "true": names[true], "predicted": names[predicted], **columns})


def history(seed=0, epochs=8):
    rise = np.linspace(0.2, 0.8, epochs) + np.random.default_rng(seed).normal(0, 0.02, epochs)
    stage = ["head"] * 3 + ["fine-tune"] * (epochs - 3)
    columns = {"stage": stage, "epoch": range(1, epochs + 1), "train_loss": 2 - rise, "val_loss": 2.2 - rise}
    return pd.DataFrame({**columns, "val_f1_macro": rise, "seconds": 2.0})


def make_run(path, state="finished"):
    table = predictions() if state == "finished" else pd.DataFrame()
    metadata = {"python": "3.11.9", "versions": {"keras": "3.9", "numpy": "2.1"}, "processor": "Test CPU"}
    metadata |= {"precision": "float32", "skipped": [["bad.png", "not an image"]]}
    config, data = TrainConfig(weights="slim", freeze_through=3), DataConfig(path="images")
    shown = history() if state == "finished" else pd.DataFrame()
    return Run(path, config, data, "f1ngerpr1nt", CLASSES, state, shown, {}, table, metadata)


def make_sweep(path, diverged=()):
    runs, cells = [], []
    for k in range(1, 6):
        for o in OPTIMIZERS:
            score = 0.6 + 0.03 * k - 0.02 * k * (k > 3) + 0.02 * (o == "nag")
            lost = (k, o) in diverged
            for seed in range(2):
                row = {"name": f"freeze{k}-{o}-seed{seed}", "freeze_through": k, "optimizer": o, "seed": seed}
                row |= {"state": "diverged" if lost else "finished", "seconds": 300.0 - 50 * k}
                runs.append(row | dict.fromkeys(("validation", "test"), np.nan if lost else score + 0.01 * seed))
            cell = {
                "name": f"freeze{k}-{o}",
                "freeze_through": k,
                "optimizer": o,
                "seeds": 2,
                "seconds": 300.0 - 50 * k,
            }
            cell |= {"validation": score + 0.05, "test": score, "low": score - 0.061, "high": score + 0.052}
            cell |= {"difference": score - 0.71, "diff_low": score - 0.76, "diff_high": score - 0.66, "diff_few": ""}
            cell |= {"lowest": -0.008 if (k, o) == (4, "nag") else -0.05}
            if lost:
                columns = ("validation", "test", "low", "high", "difference", "diff_low", "diff_high", "lowest")
                cell |= dict.fromkeys(columns, np.nan)
            cells.append(cell | {"scores": [] if lost else [score, score + 0.01], "equals": not lost and score > 0.66})
    about = {"python": "3.11.9", "processor": "Test CPU", "precision": "float32"}
    folder = path / "freeze3-nag-seed1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps({"train": {"batch_size": 32}, "data": {"image_size": [64, 64]}}))
    tables = (pd.DataFrame(runs), pd.DataFrame(cells))
    for number, name in enumerate(tables[0]["name"]):
        (path / name).mkdir(exist_ok=True)
        predictions().to_csv(path / name / "predictions.csv", index=False)
        history(number).to_csv(path / name / "history.csv", index=False)
    ends = (CLASSES, "f1ngerpr1nt", "slim", 15, 30)
    return SweepTable(path, "f1_macro", *tables, *ends)


def make_advice(fingerprint="f1ngerpr1nt"):
    score = [0.21, 0.44, 0.71, 0.66, 0.4]
    table = {"score": score, "low": [s - 0.05 for s in score], "high": [s + 0.06 for s in score], "stability": 0.9321}
    evidence = pd.DataFrame(table, index=pd.Index(range(1, 6), name="block"))
    reasons = "Up to Block 3 the maps lie on the defect.\nFrom Block 4 they wander off."
    measure = "average precision against the masks"
    ends = (fingerprint, "slim", (64, 64), 40, 20, 123, "2025-01-02 03:04")
    return FreezeAdvice(3, 0.62, evidence, {3: 0.62, 4: 0.38}, reasons, "heatmap", measure, *ends)


def make_check(verdict="confirmed"):
    difference = {"confirmed": (0.013, -0.004, 0.03), "contradicted": (-0.06, -0.11, -0.02)}.get(
        verdict, (0.0, -0.05, 0.06)
    )
    best = {"name": "freeze3-nag", "freeze_through": 3, "optimizer": "nag"}
    enough = {"name": "freeze4-nag", "freeze_through": 4, "optimizer": "nag"}
    needed = 480 if verdict == "cannot tell" else None
    names = {3: "nag", 2: "sgd"}
    return AdviceCheck(
        verdict,
        3,
        2,
        names,
        Difference(*difference, 15, 30, seeds=2),
        {2: -0.006},
        0.01,
        "f1_macro",
        best,
        enough,
        needed,
    )


def make_heatmaps(images=3):
    rng = np.random.default_rng(0)
    raw = {
        b: rng.random((images, s, s)).astype(np.float32) for b, s in zip(range(1, 6), (32, 16, 8, 4, 4), strict=True)
    }
    raw[5][0] = 0
    pictures = rng.integers(60, 160, (images, 64, 64, 3)).astype(np.uint8)
    files, share = tuple(f"균열/{i}.png" for i in range(images)), np.full((images, 3), 1 / 3)
    return BlockHeatmaps("gradcam", raw, pictures, files, np.arange(images) % 3, CLASSES, share)


def make_superpixels():
    segments = np.arange(64 * 64).reshape(64, 64) // (64 * 16)
    weights = np.array([[1.0, -2.0, 0.5, 0.0]] * 3)
    image = np.full((1, 64, 64, 3), 90, np.uint8)
    scores, stability = np.full((1, 3), 0.8), np.full((1, 3, 2), 0.95)
    ends = ((segments,), (weights,), (np.zeros((3, 4, 2)),), scores, stability, np.array([100]))
    return Superpixels(image, ("x.png",), np.array([1]), CLASSES, np.full((1, 3), 1 / 3), *ends)


def make_data():
    counts = pd.DataFrame({"train": [60, 30, 1200], "validation": [20, 10, 400], "test": [20, 10, 400]}, index=CLASSES)
    counts["images"], counts["groups"] = counts.sum(axis=1), [10, 5, 200]
    files, groups = tuple(map(str, range(2150))), np.repeat(np.arange(215), 10)
    skipped = (("<i>bad</i>.png", "a text file"), ("cut.jpg", "truncated"))
    return SimpleNamespace(
        counts=lambda: counts,
        skipped=skipped,
        fingerprint="f1ngerpr1nt",
        files=files,
        groups=groups,
        class_names=CLASSES,
    )


def make_viewed(images=12):
    """Every fourth image is wrong; maps are 1 everywhere at Block 1, and said to be empty at Block 5 of the first image."""
    rng, made = np.random.default_rng(0), []
    for i in range(images):
        true = i % 3
        predicted = (true + 1) % 3 if i % 4 == 0 else true
        maps = rng.random((5, 8, 8)).astype(np.float32)
        maps[0] = 1
        sheets = {
            rule: map_sheet(list(maps**power), (40, 30), (8, 8), "stretch") for power, rule in enumerate(RULES, 1)
        }
        mask = np.zeros((30, 40), bool)
        mask[8:20, 10:25] = True
        about = {
            "file": f"균열/</script><script>alert({i})</script>.png",
            "true": true,
            "predicted": predicted,
            "explained": predicted,
            "shares": ((predicted, 0.95 - 0.05 * i), (true, 0.03)),
            "iou": None,
            "size": (40, 30),
            "picture": picture_uri(rng.integers(60, 160, (30, 40, 3)).astype(np.uint8)),
            "maps": sheets,
            "empty": dict.fromkeys(RULES, (5,) * (i == 0)),
            "outline": mask_outline(mask, (40, 30)),
            "true_maps": {
                rule: map_sheet(list(1 - maps), (40, 30), (8, 8), "stretch") for rule in RULES if true != predicted
            },
            "true_empty": {rule: (1,) for rule in RULES if true != predicted},
            "fold": "2" if i == 1 else "",
        }
        made.append(ViewedImage(**about))
    return Viewed("freeze3-nag-seed1", CLASSES, (1, 2, 3, 4, 5), tuple(made), 30)


def write_full_report(folder):
    """The page with every part."""
    check = pd.DataFrame({"level": ["warning"], "kind": ["leak"], "message": ["2 images stand in <both> splits."]})
    parts = {"advice": make_advice(), "check": make_check(), "data": make_data(), "data_check": check}
    heatmaps = [make_heatmaps(), make_superpixels()]
    doubtful = {"file": ["0", "1", "2"], "split": "train", "class": [CLASSES[1], CLASSES[1], CLASSES[2]]}
    doubtful |= {"suggested": [CLASSES[2], CLASSES[2], CLASSES[0]], "probability": 0.1, "suggested_probability": 0.7}
    (folder / "data-check").mkdir()
    pd.DataFrame(doubtful).to_csv(folder / "data-check" / "labels.csv", index=False)
    return write_report(make_sweep(folder / "sweep"), heatmaps=heatmaps, viewed=make_viewed(), **parts)
