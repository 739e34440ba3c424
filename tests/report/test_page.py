"""The report page, from results made by hand: what it shows, says of missing parts, and never does."""

import dataclasses
import html.parser
import json
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck
from xaitune.comparison.table import SweepTable
from xaitune.config.settings import DataConfig, TrainConfig
from xaitune.errors import InputError, RunError
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.lime.result import Superpixels
from xaitune.report.headline import checked_section
from xaitune.report.page import write_report
from xaitune.report.run_figures import per_class_rows
from xaitune.stats import intervals as stats
from xaitune.stats.comparisons import Difference
from xaitune.stats.per_class import per_class_intervals
from xaitune.training.run import Run

CLASSES = ("<b>hole</b>", "균열", "no defect")
VOID = {"meta", "link", "img", "br", "hr", "input", "source"}
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
    return pd.DataFrame({**frame, "true": names[true], "predicted": names[predicted]})


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


class Page(html.parser.HTMLParser):
    """Parses a page, checks that tags nest, and keeps its text, tags and attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.texts = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.texts = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(*args, **kwargs):
    path = write_report(*args, **kwargs)
    text = path.read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The page with every part, as (Page, text, path)."""
    sweep = make_sweep(tmp_path_factory.mktemp("report") / "sweep")
    check = pd.DataFrame({"level": ["warning"], "kind": ["leak"], "message": ["2 images stand in <both> splits."]})
    parts = {"advice": make_advice(), "check": make_check(), "data": make_data(), "data_check": check}
    path = write_report(sweep, heatmaps=[make_heatmaps(), make_superpixels()], **parts)
    text = path.read_text(encoding="utf-8")
    return Page(text), text, path


def test_default_path_and_nothing_left_behind(full):
    _, _, path = full
    assert path.name == "report.html"
    assert [p.name for p in path.parent.iterdir() if p.is_file()] == ["report.html"]
    assert plt.get_fignums() == []


def test_page_asks_no_network(full):
    page, text, _ = full
    assert "http://" not in text
    assert "https://" not in text
    assert all("src" not in script for script in page.all("script"))
    assert not page.all("link")
    assert "@import" not in text
    assert "url(" not in text
    sources = [i["src"] for i in page.all("img")]
    assert len(sources) == 9  # verdict, classes, 3 + 1 strips, advice, cells, curves
    assert all(s.startswith("data:image/png;base64,") for s in sources)


def test_every_picture_has_a_text_and_every_id_is_there(full):
    page, _, _ = full
    assert all(len(i["alt"]) > 20 for i in page.all("img"))
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for a in page.all("a")} <= ids
    assert page.all("html") == [{"lang": "en"}]


def test_names_are_escaped(full):
    page, text, _ = full
    assert "<b>hole</b>" in page.texts
    assert "<i>bad</i>.png" in page.texts
    assert "2 images stand in <both> splits." in page.texts
    assert not page.all("b")
    assert not page.all("i")
    assert "&lt;b&gt;hole&lt;/b&gt;" in text
    assert {"scope": "row", "lang": "ko"} in page.all("th")


def test_the_verdict_comes_first_and_says_what_to_do(full):
    page, _, _ = full
    assert "Freeze Block 1-3: the sweep confirms the advice." in page.texts
    assert all(text in page.texts for _, text in make_check().paragraphs)
    assert "xaitune train --freeze-through 3 --optimizer nag" in page.texts
    headings = [re.sub(r"\s+", " ", h) for h in re.findall(r"<h2>(.*?)</h2>", full[1], re.S)]
    assert headings[0].startswith("Freeze Block 1-3")
    assert headings[1:] == [
        *("The data", "What the blocks see", "The advice", "The sweep", "Class by class: freeze3-nag-seed1"),
        "How it was made",
    ]


def test_figures_of_the_sweep(full):
    page, _, _ = full
    sweep = make_sweep(full[2].parent)
    best = sweep.best
    assert best["name"] == "freeze3-nag"
    for cell in sweep.cells.to_dict("records"):
        assert f"{cell['test']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" in page.texts
    for run in sweep.runs.to_dict("records"):
        assert run["name"] in page.texts
        assert f"{run['test']:.3f}" in page.texts
    marked = (
        f"{best['test']:.3f} [{best['low']:.3f}, {best['high']:.3f}] validation 0.760, 2.5 min ★ best on validation"
    )
    assert marked in page.texts
    assert page.texts.count("≈ not told apart") == int(sweep.cells["equals"].sum()) - 1
    assert sweep.enough["name"] == "freeze4-nag"
    assert (
        "The cheapest cell that is shown to be within 1 point of all the others is freeze4-nag (100 s against 2.5 min)"
        in page.texts
    )
    assert "30 test images in 15 groups" in page.texts


def test_figures_of_the_advice_and_the_data(full):
    page, _, _ = full
    for text in ("0.710 [0.660, 0.770]", "62%", "0.932", "average precision against the masks", "40 validation images"):
        assert text in page.texts
    for text in ("2,150 images of 3 classes in 215 groups", "2 files could not be read", "truncated", "2,000"):
        assert text in page.texts
    for text in ("Test CPU", "float32", "f1ngerpr1nt", "--freeze-through 1,2,3,4,5 --optimizers sgd,nag --seeds 2"):
        assert text in page.texts


def test_figures_of_each_class(full):
    page, _, _ = full
    test = predictions().query("split == 'test'")
    for name in CLASSES:
        hit = ((test["true"] == name) & (test["predicted"] == name)).sum()
        assert f"{hit / (test['true'] == name).sum():.3f} [" in page.texts
        assert f"{hit / (test['predicted'] == name).sum():.3f} [" in page.texts


def test_class_intervals_never_claim_certainty():
    true = np.repeat([0, 1], 5)
    rows = per_class_rows(per_class_intervals(true, true, np.arange(10), 2), ["a", "b"])
    low, high = stats.wilson_interval(5, 5)
    assert rows[0]["figures"][1] == ("1.000", f"[{low:.3f}, {high:.3f}]")
    empty = per_class_rows(per_class_intervals(np.zeros(4, int), np.zeros(4, int), np.arange(4), 2), ["a", "b"])[1]
    assert empty["images"] == 0
    assert empty["figures"][0] == ("–", "[no interval]")


@pytest.mark.parametrize(
    ("verdict", "headline", "command"),
    [
        ("contradicted", "with Block 1-2 frozen the score is better than with", "--freeze-through 2 --optimizer sgd"),
        (
            "cannot tell",
            "cannot tell whether Block 1-3 frozen or Block 1-2 frozen",
            "--freeze-through 4 --optimizer nag",
        ),
    ],
)
def test_other_verdicts(verdict, headline, command):
    shown = checked_section(make_check(verdict), None)
    assert headline in shown["headline"]
    assert any(command in c for _, c in shown["todo"])
    assert shown["tone"] == {"contradicted": "bad", "cannot tell": "open"}[verdict]


def test_a_single_run_says_what_is_missing(tmp_path):
    page, _ = page_of(make_run(tmp_path / "freeze3-nag-seed1"), tmp_path / "out" / "페이지.html")
    test = predictions().query("split == 'test'")
    codes = {name: i for i, name in enumerate(CLASSES)}
    true, predicted = (test[c].map(codes).to_numpy() for c in ("true", "predicted"))
    score = stats.bootstrap_interval(true, predicted, test["group"].to_numpy())
    assert f"test macro F1 {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" in page.texts
    for command in ("xaitune sweep-freeze", "xaitune advise", "xaitune explain --block all"):
        assert command in page.texts
    assert "No sweep yet" in page.texts
    assert "No advice yet" in page.texts
    assert "60 images of 3 classes in 30 groups" in page.texts  # from the predictions
    assert "1 file could not be read and was left out" in page.texts
    assert "keras 3.9, numpy 2.1" in page.texts


def test_a_diverged_run_and_a_diverged_sweep(tmp_path):
    page, _ = page_of(make_run(tmp_path / "r", "diverged"))
    assert "The run r diverged." in page.texts
    page, _ = page_of(make_sweep(tmp_path / "a", diverged={(2, "sgd")}))
    assert page.texts.count("diverged") >= 3
    grid = {(k, o) for k in range(1, 6) for o in OPTIMIZERS}
    page, _ = page_of(make_sweep(tmp_path / "b", diverged=grid))
    assert "No run of this sweep finished." in page.texts
    assert "nan" not in page.texts.lower().replace("nanumgothic", "")


def test_cells_that_did_not_end_are_said(tmp_path):
    sweep = make_sweep(tmp_path / "s", diverged={(2, "sgd")})
    cells = sweep.cells[sweep.cells["validation"].notna()]  # as load_sweep makes it: without diverged cells
    runs = sweep.runs[~sweep.runs["name"].isin(["freeze1-sgd-seed0", "freeze1-sgd-seed1", "freeze4-nag-seed1"])]
    failed = pd.DataFrame({"name": ["freeze1-sgd-seed0", "freeze4-nag-seed1"], "state": "failed: out of memory"})
    runs = pd.concat([runs, failed], ignore_index=True)
    cells = cells[cells["name"] != "freeze1-sgd"]
    page, _ = page_of(dataclasses.replace(sweep, runs=runs, cells=cells))
    assert "validation 0.700, 4.2 min failed Block 1-2" in page.texts
    assert "≈ not told apart diverged Block 1-3" in page.texts
    assert "validation 0.710, 100 s 1 of 2 seeds not finished" in page.texts
    assert "freeze4-nag-seed1 1 failed: out of memory" in page.texts
    assert "--freeze-through 1,2,3,4,5 --optimizers nag,sgd --seeds 2" in page.texts


def test_the_learning_rate_that_a_cell_kept(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    runs = pd.concat([sweep.runs.assign(learning_rate=rate) for rate in (0.01, 0.001)], ignore_index=True)
    runs["name"] = [
        n.replace("-seed", f"-lr{r:g}-seed") for n, r in zip(runs["name"], runs["learning_rate"], strict=True)
    ]
    for name in runs["name"]:
        (sweep.path / name).mkdir(exist_ok=True)
        predictions().to_csv(sweep.path / name / "predictions.csv", index=False)
        history().to_csv(sweep.path / name / "history.csv", index=False)
    runs.loc[runs["learning_rate"] == 0.01, "validation"] = 0.99  # of one seed alone it would be the best
    cells = sweep.cells.assign(learning_rate=0.001, rates=2)
    (sweep.path / "sweep.json").write_text(json.dumps({"grid": {"learning_rates": [0.001, 0.01]}}))
    page, _ = page_of(dataclasses.replace(sweep, runs=runs, cells=cells), check=make_check())
    assert page.texts.count("learning rate 0.001, best of 2") == 10
    assert "Class by class: freeze3-nag-lr0.001-seed1" in page.texts
    assert "--seeds 2 --learning-rates 0.001,0.01" in page.texts
    page, _ = page_of(dataclasses.replace(sweep, runs=runs, cells=cells))
    assert "xaitune train --freeze-through 3 --optimizer nag --learning-rate 0.001" in page.texts


def test_mcnemar_within_each_seed_with_its_meaning(tmp_path):
    rows = ({"seed": 0, "advised_only": 7, "rival_only": 2, "p": 0.1797}, {"seed": 1, "advised_only": 0})
    check = dataclasses.replace(make_check(), mcnemar=(rows[0], rows[1] | {"rival_only": 3, "p": 0.25}))
    page, _ = page_of(make_sweep(tmp_path / "s"), check=check)
    assert (
        "correct only with Block 1-3 frozen correct only with Block 1-2 frozen p 0 7 2 0.180 1 0 3 0.250" in page.texts
    )
    assert (
        "p is the probability of two counts at least this far apart if both models were correct equally often"
        in page.texts
    )
    page, _ = page_of(make_sweep(tmp_path / "t"), check=make_check())
    assert "McNemar" not in page.texts


def test_intervals_that_rest_on_too_little_say_so(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    cells = sweep.cells.assign(few=["", "4 groups in the smallest class"] * 5)
    page, _ = page_of(dataclasses.replace(sweep, cells=cells))
    assert "rest on too little data to be reliable: 4 groups in the smallest class." in page.texts
    page, _ = page_of(dataclasses.replace(sweep, cells=cells.assign(few="")))
    assert "rest on too little" not in page.texts.partition("The sweep")[2].partition("Class by class")[0]


def test_parts_of_other_data_are_named(tmp_path):
    page, _ = page_of(make_run(tmp_path / "r"), advice=make_advice("another"))
    assert "The advice given here is about other images" in page.texts
    assert "confidence 62%" in page.texts


def test_sweep_without_a_best_cell_missing_files_or_predictions(tmp_path):
    sweep = make_sweep(tmp_path / "s")

    def lost(name):
        raise RunError(f"{name}/predictions.csv is missing")

    object.__setattr__(sweep, "predictions", lost)
    page, _ = page_of(sweep)
    assert "freeze3-nag-seed1/predictions.csv is missing" in page.texts


def test_wrong_result_is_refused(tmp_path):
    with pytest.raises(InputError, match="Received: str"):
        write_report("runs/x", tmp_path / "r.html")
