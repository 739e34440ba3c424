"""The report page, from results made by hand: what it shows, says of missing parts, and never does."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from reporting import (
    CLASSES,
    OPTIMIZERS,
    history,
    make_advice,
    make_check,
    make_run,
    make_sweep,
    predictions,
    write_full_report,
)

from xaitune.advise.recommended import recommended_model
from xaitune.comparison.grid import grid_runs
from xaitune.comparison.so_far import add_grid
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.errors import InputError, RunError
from xaitune.report.glossary import TERMS, mark_terms
from xaitune.report.headline import SweepBeside, checked_texts, unfinished_training
from xaitune.report.page import write_report
from xaitune.report.run_figures import per_class_rows
from xaitune.report.sections import confidence_sentence, making_section
from xaitune.stats import intervals as stats
from xaitune.stats.per_class import per_class_intervals
from xaitune.training.folder import run_name

VOID = {"meta", "link", "img", "br", "hr", "input", "source"}


class Page(html.parser.HTMLParser):
    """Parses a page, checks that tags nest, and keeps its text, tags and attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.texts = [], [], [], ""
        self.glued = False  # inside a sentence: before, in or after a word that opens its meaning
        self.feed(text)
        self.close()
        assert self.open == []
        self.texts = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.glued = ("class", "term") in attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.glued = tag == "button"

    def handle_data(self, data):
        if self.glued:
            self.words[-1] += data
        elif not {"style", "script"} & set(self.open):
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
    path = write_full_report(tmp_path_factory.mktemp("report"))
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
    assert page.all("script") == [{"type": "application/json", "id": "report-data"}, {}]
    assert not page.all("link")
    assert "@import" not in text
    assert "url(" not in text
    sources = [i["src"] for i in page.all("img")]
    assert len(sources) == 9  # verdict, classes, 3 + 1 strips, advice, cells, curves
    assert all(s.startswith("data:image/png;base64,") for s in sources)


def test_the_policy_allows_the_pages_own_script_and_style_alone(full):
    page, text, _ = full
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("img-src") == "data:"
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert set(rules.values()) == {"'none'"}
    assert "default-src" in rules
    assert not any("style" in attrs or any(name.startswith("on") for name in attrs) for _, attrs in page.tags)


def test_data_for_the_script_cannot_end_it(full):
    _, text, path = full
    data = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.S)[1]
    assert "<" not in data
    parsed = json.loads(data)
    assert parsed["viewer"]["classes"] == list(CLASSES)
    assert parsed["viewer"]["images"][0]["file"] == "균열/</script><script>alert(0)</script>.png"
    assert parsed["sweep"]["cells"]["freeze3-nag"]["run"] == "freeze3-nag-seed1"
    assert [run["seed"] for run in parsed["sweep"]["cells"]["freeze3-nag"]["runs"]] == [0, 1]
    assert path.stat().st_size < 3e6


def test_the_confusion_matrix_is_a_table(full):
    page, text, _ = full
    test = predictions().query("split == 'test'")
    table = text[text.index('id="confusion"') :].split("</table>")[0]
    cells = re.findall(r"<td[^>]*><span[^>]*>(.*?)</span>", table)
    expected = [((test["true"] == t) & (test["predicted"] == p)).sum() for t in CLASSES for p in CLASSES]
    assert [0 if cell == "·" else int(cell) for cell in cells] == expected
    assert "60 of the" not in page.texts
    assert "12 of the 30 test images of freeze3-nag-seed1 , 3 of them wrong" in page.texts


def test_cells_lead_to_doubtful_labels(full):
    page, _, _ = full
    links = {a["href"]: a["aria-label"] for a in page.all("a") if a.get("class") == "flagged"}
    assert links == {
        "#pair-1-2": "2 doubtful labels: 균열, perhaps no defect",
        "#pair-2-0": "1 doubtful label: no defect, perhaps <b>hole</b>",
    }
    assert [row["id"] for row in page.all("tr") if row.get("id")] == ["pair-1-2", "pair-2-0"]
    assert "Look at the 3 doubtful labels below" in page.texts


def test_words_are_explained_where_a_section_uses_them_first(full):
    page, text, _ = full
    targets = {button["popovertarget"] for button in page.all("button") if button.get("class") == "term"}
    assert {"term-f1", "term-interval", "term-group", "term-frozen", "term-validation"} <= targets
    assert {div["id"] for div in page.all("div") if "popover" in div} == {f"term-{key}" for key in TERMS}
    for section in re.findall(r"<section.*?</section>", text, re.S):
        in_section = re.findall(r'popovertarget="([\w-]+)"', section)
        assert len(in_section) == len(set(in_section))
    marked = mark_terms(Markup('<p title="NAG">a &lt;group&gt; <code>nag</code> freeze3-nag, nag and nag</p>'))
    assert re.findall(r">([^<]+)</button>", marked) == ["group", "nag"]
    assert 'title="NAG"' in marked
    assert marked.endswith(" and nag</p>")


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
    headings = [re.sub(r"\s+", " ", h) for h in re.findall(r"<h2[^>]*>(.*?)</h2>", full[1], re.S)]
    assert headings[0].startswith("Freeze Block 1-3")
    assert headings[1:] == [
        *(
            "What to do next",
            "Classes",
            "Labels to look at",
            "Images, and what the blocks see",
            "Sweep",
            "Advice",
            "Details",
        ),
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
    figures = f"{best['test']:.3f} [{best['low']:.3f}, {best['high']:.3f}]"
    assert f"{figures} validation 0.760, 2.5 min ★ best combination on validation" in page.texts
    assert page.texts.count("≈ not told apart") == int(sweep.cells["equals"].sum()) - 1
    assert sweep.enough["name"] == "freeze4-nag"
    assert (
        "The cheapest combination that is shown to be within 1 point of all the others is Block 1-4 frozen with nag "
        "(100 s against 2.5 min)" in page.texts
    )
    assert "30 test images in 15 groups" in page.texts


def test_figures_of_the_advice_and_the_data(full):
    page, _, _ = full
    for text in (
        "0.710 [0.660, 0.770]",
        "62 %",
        "0.932",
        "average precision against the masks",
        "40 validation images",
    ):
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


def test_how_sure_the_advice_is():
    said = confidence_sentence(make_advice())
    assert said == (
        "How sure is the advice? Not very; another depth may well be better. 62 % of the resamples of the validation images "
        "choose this depth; with 5 depths to choose from, chance alone would be 20 %."
    )
    said = confidence_sentence(dataclasses.replace(make_advice(), method="features", confidence=0.93))
    assert said == (
        "How sure is the advice? Very. With Block 1-3 frozen, the chance of being within 1 point of the best depth is "
        "estimated at 93 %."
    )


def test_a_training_that_was_still_improving_is_said(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    page, _ = page_of(sweep)
    assert (
        "The best combination, Block 1-3 frozen with nag, was still improving at the last epoch in 2 of its 2 trainings"
        in page.texts
    )
    assert (
        "xaitune train --freeze-through 3 --optimizer nag --epochs N" in page.texts
    )  # it is not known how many there were
    for seed in range(2):
        worse = history().assign(val_f1_macro=lambda table: table["val_f1_macro"].to_numpy()[::-1])
        worse.to_csv(sweep.path / f"freeze3-nag-seed{seed}" / "history.csv", index=False)
    assert unfinished_training(sweep, 20) is None
    run = make_run(tmp_path / "r")
    assert unfinished_training(run, 20)[1][1] == f"xaitune train --config {run.path / 'config.json'} --epochs 40"
    object.__setattr__(run, "history", run.history[::-1])
    assert unfinished_training(run, 20) is None


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
            "cannot tell whether freezing Block 1-3 or freezing Block 1-2 is better",
            "--freeze-through 4 --optimizer nag",
        ),
    ],
)
def test_other_verdicts(tmp_path, verdict, headline, command):
    shown = checked_texts(make_check(verdict), make_sweep(tmp_path / "s"))
    assert headline in shown["headline"]
    assert any(command in c for _, c in shown["todo"])
    assert shown["tone"] == {"contradicted": "bad", "cannot tell": "open"}[verdict]


@pytest.mark.parametrize(
    ("verdict", "chosen"),
    [("confirmed", "freeze3-nag"), ("contradicted", "freeze2-sgd"), ("cannot tell", "freeze3-nag")],
)
def test_the_recommended_model_can_be_exported_and_used(tmp_path, verdict, chosen):
    sweep = make_sweep(tmp_path / "s")
    todo = checked_texts(make_check(verdict), sweep)["todo"]
    commands = [command for _, command in todo]
    path = sweep.path / f"{chosen}-seed1"  # its better seed
    assert f"xaitune export {path} --to onnx" in commands
    assert f"xaitune predict {path} IMAGES" in commands
    assert not any("--head gap" in command for command in commands)


def sweep_with_head(path, **values):
    """A sweep with a linear head that leads on validation images."""
    head = {"name": "frozen-all-blocks", "blocks": (1, 2, 3, 4, 5), "validation": 0.8, "test": 0.8, "seconds": 1.0}
    head |= {"low": 0.7, "high": 0.9, "difference": 0.05, "diff_low": -0.01, "diff_high": 0.11, "diff_few": ""}
    sweep, head = make_sweep(path), head | {"verdict": "cannot tell"} | values
    (path / head["name"]).mkdir()
    predictions(seed=7).to_csv(path / head["name"] / "predictions.csv", index=False)
    return dataclasses.replace(sweep, heads=pd.DataFrame([head]))


def test_a_recommended_linear_head_is_exported_and_a_gap_head_gives_the_heatmap(tmp_path):
    sweep = sweep_with_head(tmp_path / "s")
    todo = checked_texts(make_check("cannot tell"), sweep)["todo"]
    text = "Export the recommended model, the linear head on all five blocks, which the sweep has trained already:"
    assert todo[0] == (text, f"xaitune export {sweep.path / 'frozen-all-blocks'} --to onnx")
    gap = "A file that also gives heatmaps needs a gap head, which Block 1-3 frozen with nag has:"
    assert dict(todo)[gap] == f"xaitune export {sweep.path / 'freeze3-nag-seed1'} --to onnx --with-heatmap"
    (sweep.path / "config.json").write_text('{"train": {"head": "fc"}}')
    todo = dict(checked_texts(make_check("cannot tell"), sweep)["todo"])
    gap = "A file that also gives heatmaps needs a model with a gap head. Train one:"
    assert todo[gap] == "xaitune train --freeze-through 3 --optimizer nag --head gap"


@pytest.mark.parametrize("verdict", ["confirmed", "contradicted", "cannot tell"])
def test_what_the_sweep_has_trained_is_trained_again_only_with_more_images(tmp_path, verdict):
    for sweep in (make_sweep(tmp_path / "a"), sweep_with_head(tmp_path / "b")):
        todo = checked_texts(make_check(verdict), sweep)["todo"]
        first = next(i for i, (_, command) in enumerate(todo) if command.startswith("xaitune train"))
        assert todo[first][0] == "When you have more images, train the recommended model again:"
        assert all(text.startswith("Where training time matters then") for text, _ in todo[first + 1 :])
    page, _ = page_of(sweep, check=make_check(verdict))
    assert page.texts.count("Do this first.") == 1
    assert f"What to do next Do this first. {todo[0][0]} {todo[0][1]}" in page.texts


@pytest.mark.parametrize(
    ("verdict", "name", "title", "why"),
    [
        ("confirmed", "freeze3-nag-seed1", "Block 1-3 frozen with nag", "as advised, and the sweep confirms it"),
        ("contradicted", "freeze2-sgd-seed1", "Block 1-2 frozen with sgd", "it scored better than the advised depth"),
        ("cannot tell", "freeze3-nag-seed1", "Block 1-3 frozen with nag", "the best combination on validation"),
    ],
)
def test_classes_are_those_of_the_recommended_combination(tmp_path, verdict, name, title, why):
    sweep = make_sweep(tmp_path / "s")
    chosen = recommended_model(sweep, make_check(verdict))
    assert chosen.run == name
    page, _ = page_of(sweep, check=make_check(verdict))
    assert (
        f"Classes The figures here are those of {name} : {title}, the model that the sweep recommends ({why})."
        in page.texts
    )


@pytest.mark.parametrize(("head", "why"), [("cannot tell", "the best on validation"), ("confirmed", "good enough")])
def test_classes_are_those_of_a_linear_head_that_leads(tmp_path, head, why):
    """Whatever the check says of the depths: the headline and the figures are those of one model."""
    sweep = sweep_with_head(tmp_path / "s", verdict=head)
    test = predictions(seed=7).query("split == 'test'")
    right = int((test["true"] == test["predicted"]).sum())
    for check in (None, make_check(), make_check("contradicted"), make_check("cannot tell")):
        page, _ = page_of(sweep, check=check)
        assert "For now, take the linear head, " in page.texts
        title = "the linear head on all five blocks, the model that the sweep recommends"
        assert f"The figures here are those of frozen-all-blocks : {title} ({why}" in page.texts
        assert f"Of 30 test images {right / 30:.0%}".replace("%", " %") in page.texts
    assert recommended_model(sweep, trained=True).run == "freeze3-nag-seed1"
    lost = sweep_with_head(tmp_path / "t", verdict="contradicted")
    assert recommended_model(lost).run == "freeze3-nag-seed1"


@pytest.mark.parametrize(
    ("validation", "difference", "headline"),
    [
        (0.99, -0.05, "For now, take the linear head, the best on validation."),
        (0.01, 0.05, "For now, freeze Block 1-3:"),
    ],
)
def test_a_linear_head_is_chosen_on_validation_not_on_test(tmp_path, validation, difference, headline):
    sweep = sweep_with_head(tmp_path / "s", validation=validation, difference=difference, diff_low=-0.2, diff_high=0.2)
    assert checked_texts(make_check("cannot tell"), sweep)["headline"].startswith(headline)


def test_a_run_beside_a_finished_sweep_says_what_that_found(tmp_path):
    answer = "Freeze Block 1-3: the sweep confirms the advice."
    folder = tmp_path / "sweep"
    run, advice = make_run(tmp_path / "freeze3-nag-seed1"), make_advice()
    page, _ = page_of(run, advice=advice, beside=SweepBeside(folder, answer, checked=True))
    assert f"What the sweep {folder} found on the same images: {answer}" in page.texts
    assert f"Do this first. See how the freezing points compare: xaitune report {folder}" in page.texts
    assert f"A sweep on these images has a page of its own: xaitune report {folder}" in page.texts
    for wrong in ("No other freezing point", "xaitune sweep-freeze", "not been checked by a sweep"):
        assert wrong not in page.texts
    page, _ = page_of(run, advice=advice, beside=SweepBeside(folder, answer, checked=False))
    assert "not been checked by a sweep" in page.texts


def test_trials_of_a_race_are_no_row_of_the_sweep(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    trial = sweep.runs.iloc[[0]].assign(name="freeze0-sgd-seed0", freeze_through=0, state="stopped")
    page, _ = page_of(dataclasses.replace(sweep, runs=pd.concat([sweep.runs, trial], ignore_index=True)))
    assert "not run" not in page.texts
    assert "freeze0-sgd-seed0" in page.texts  # among all runs


def test_an_unfinished_sweep_is_said_to_be_one(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    grid = SweepConfig(optimizers=OPTIMIZERS, seeds=3, learning_rates="own")
    (sweep.path / "config.json").write_text(json.dumps({"grids": add_grid([], grid), "train": {"weights": "slim"}}))
    for run in grid_runs(dataclasses.replace(grid, seeds=2), TrainConfig(weights="slim")):
        folder = sweep.path / run_name(run)
        (folder / "config.json").write_text(json.dumps({"identity": {"learning_rate": run.rate}}))
        (folder / "result.json").write_text('{"state": "finished"}')
    said = "so far 20 of 32 runs have ended"  # two linear heads are lacking too
    page, _ = page_of(sweep)
    assert "Best combination on validation so far: Block 1-3 frozen with nag." in page.texts
    assert (
        page.texts.count(f"The sweep is not finished: {said}.") == 2
    )  # beside the headline and in the sweep's section
    command = "xaitune sweep-freeze --freeze-through 1,2,3,4,5 --optimizers sgd,nag --seeds 3 --learning-rates own"
    assert f"Finish the sweep: {command} --name s" in page.texts  # not another one, of the usual name
    shown = {
        v: checked_texts(dataclasses.replace(make_check(v), so_far=said), sweep) for v in ("confirmed", "contradicted")
    }
    assert shown["confirmed"]["headline"] == "So far the sweep confirms the advice to freeze Block 1-3."
    assert shown["contradicted"]["headline"] == (
        "So far the sweep contradicts the advice to freeze Block 1-3: with Block 1-2 frozen the score is better."
    )
    for section in shown.values():
        assert section["tone"] == "open"
        assert section["todo"][0][0] == "Finish the sweep:"
        assert not any("export" in command for _, command in section["todo"])
        assert any(said in text for _, text in section["paragraphs"])


def test_one_seed_is_no_mean(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    assert "Test macro F1 (mean over 2 seeds, 95 %" in page_of(sweep)[0].texts
    one = dataclasses.replace(
        sweep, runs=sweep.runs[sweep.runs["seed"] == 1], cells=sweep.cells.assign(seeds=1), path=sweep.path
    )
    page, _ = page_of(one)
    assert "Test macro F1 (one seed, 95 %" in page.texts
    assert "mean over 2 seeds" not in page.texts
    assert re.search(r"[a-z]\.[A-Z]", page.texts) is None  # sentences have a blank between them


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
    failed = failed.assign(freeze_through=[1, 4], optimizer=["sgd", "nag"], seed=[0, 1])
    failed = pd.concat([failed, pd.DataFrame({"name": ["frozen-all-blocks"], "state": "failed: out of memory"})])
    runs = pd.concat([runs, failed], ignore_index=True)
    cells = cells[cells["name"] != "freeze1-sgd"]
    page, _ = page_of(dataclasses.replace(sweep, runs=runs, cells=cells))
    assert "validation 0.700, 4.2 min ↗ still improving in 2 of 2 failed Block 1-2" in page.texts
    assert "≈ not told apart ↗ still improving in 2 of 2 diverged Block 1-3" in page.texts
    assert "validation 0.710, 100 s ↗ still improving 1 of 2 seeds not finished" in page.texts
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
    (sweep.path / "sweep.json").unlink()
    grids = [SweepConfig("4,5", "nag", learning_rates="own", seeds=1), SweepConfig("4", "sgd", learning_rates="1e-4")]
    (sweep.path / "config.json").write_text(json.dumps({"grids": add_grid(grids[:1], grids[1])}))
    assert making_section(sweep, sweep, {"name": "", "metadata": {}})["commands"][:2] == [
        "xaitune sweep-freeze --freeze-through 4,5 --optimizers nag --seeds 1 --learning-rates own --name s",
        "xaitune sweep-freeze --freeze-through 4 --optimizers sgd --seeds 3 --learning-rates 0.0001 --name s",
    ]
    assert page.texts.count("learning rate 0.001, chosen of 2 tried") == 10
    assert "Test macro F1 of freeze3-nag-lr0.001-seed1 :" in page.texts
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
    page, text = page_of(dataclasses.replace(sweep, cells=cells.assign(few="3 groups with a mistake")))
    assert 'popovertarget="term-mistake">groups with a mistake<' in text
    page, _ = page_of(dataclasses.replace(sweep, cells=cells.assign(few="")))
    assert "rest on too little" not in page.texts.partition("Best on validation:")[2].partition("No advice yet")[0]


def test_parts_of_other_data_are_named(tmp_path):
    page, _ = page_of(make_run(tmp_path / "r"), advice=make_advice("another"))
    assert "The advice given here is about other images" in page.texts
    assert "confidence 62 %" in page.texts


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
