"""The command line from init to the report, as a user drives it."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from driving import files, finish, start, xaitune
from rich.console import Console

import xaitune as xt
from xaitune.advise.advice import load_advice
from xaitune.advise.check import own_check
from xaitune.advise.recommended import recommended_model
from xaitune.cli import advise, collect, console
from xaitune.config.explain_settings import BoxOptions, ExplainOptions, LimeOptions, ScoreOptions
from xaitune.config.fields import PANELS, settings_of
from xaitune.config.settings import Config, DataConfig
from xaitune.config.toml import config_text, load_config
from xaitune.report.gather import sweep_beside

COMMANDS = ["init", "data-check", "train", "explain", "predict", "advise", "sweep-freeze", "check-advice", "collect"]
COMMANDS += ["export", "compare", "report", "studio", "runs", "track", "doctor", "demo"]
SMALL = ["--image-size", "32x32", "--weights", "slim", "--head-epochs", "2", "--epochs", "2", "--precision", "float32"]
GRID = ["--seeds", "1", "--freeze-through", "4-5", "--optimizers", "sgd,nag", "--learning-rates", "own"]


@pytest.fixture(scope="module")
def project(demo, tmp_path_factory):
    """A folder with xaitune.toml, one run, advice and a sweep, and what each command said."""
    folder, root = tmp_path_factory.mktemp("프로젝트"), Path(demo.config.path).parent
    data = [root / "images", "--masks", root / "masks", "--groups", root / "groups.csv"]
    said = {"init": xaitune(folder, "init", *data, *SMALL, "--seeds", "1")}
    said["train"] = xaitune(folder, "train", "--freeze-through", "4", "--optimizer", "nag")
    said["advise"] = xaitune(folder, "advise", "--method", "features", "--json")
    said["sweep"] = xaitune(folder, "sweep-freeze", *GRID)
    return folder, said


@pytest.fixture(scope="module")
def crack(demo):
    """Two images of cracks."""
    return [path for path in demo.paths() if path.parent.name == "crack"][:2]


def test_help_lists_all_commands_without_tensorflow(tmp_path):
    code = (
        "import sys; sys.argv = ['xaitune', '--help']\nfrom xaitune.cli.app import main\ntry:\n    main()\nexcept SystemExit"
        " as end:\n    print(end.code, [m for m in ('tensorflow', 'keras', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 []"
    for name in COMMANDS:
        assert f"\n│ {name} " in done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2]  # no description is cut off
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["init", "train", "explain", "advise", "sweep-freeze", "demo"])
def test_help_of_a_command(tmp_path, name):
    answer = xaitune(tmp_path, name, "--help")
    assert (answer.status, answer.err) == (0, "")
    assert "--json" in answer.out
    assert "--debug" in answer.out


def test_every_field_has_a_help_text():
    for table in (xt.DataConfig, xt.TrainConfig, xt.SweepConfig, ExplainOptions, LimeOptions, BoxOptions, ScoreOptions):
        assert [f.name for f in fields(table)] == list(settings_of(table))
        assert all(about.help.endswith(".") and about.panel in PANELS for about in settings_of(table).values())


def test_version_and_no_command(tmp_path):
    said = xaitune(tmp_path, "--version").out
    assert said.startswith(f"xaitune {xt.__version__}, tensorflow ")
    assert "where the precision is auto" in said
    answer = xaitune(tmp_path)
    assert answer.status == 2
    assert answer.out.strip().startswith("Usage: xaitune")
    assert answer.err == ""


def test_stderr_stays_clean_in_a_process_of_its_own(project, crack):
    folder, _ = project
    answer = finish(start(folder, "explain", "--block", "3", *crack, "--out", "elsewhere", "--json"))
    assert answer.status == 0
    assert answer.json["pictures"] == 2
    assert not any(word in answer.err for word in ("WARNING", "tensorflow", "Traceback", "cuda"))


def test_init_writes_what_the_next_commands_read(project, demo):
    folder, said = project
    assert said["init"].status == 0
    quick = next(line for line in said["init"].out.splitlines() if line.startswith("Quick"))
    assert quick.endswith(": xaitune sweep-freeze --optimizers nag --seeds 1")  # as it can be pasted
    chosen = next(line for line in said["init"].out.splitlines() if "32x32 (chosen)" in line)
    assert len(re.findall(r"\d (s|min|h)\b", chosen)) == 2  # the whole sweep and the quick one
    assert "Next: xaitune data-check" in said["init"].out
    config = load_config(folder / "xaitune.toml")
    assert config.data == demo.config
    assert (config.train.weights, config.train.epochs, config.sweep.seeds) == ("slim", 2, 1)


def test_init_keeps_a_file_unless_told(project):
    folder, _ = project
    before = (folder / "xaitune.toml").read_bytes()
    data = load_config(folder / "xaitune.toml").data.path
    answer = xaitune(folder, "init", data)
    assert answer.status == 2
    assert "--overwrite" in answer.error
    assert (folder / "xaitune.toml").read_bytes() == before


def test_data_check(project):
    folder, _ = project
    answer = xaitune(folder, "data-check", "--json")
    assert answer.status == 0
    assert answer.json["ok"] is True
    assert answer.json["image_worth"]["recall_points"] == pytest.approx(100 / 3)
    assert {Path(p).name for p in answer.json["wrote"]} >= {"counts.csv", "counts.png", "problems.csv"}
    assert all((folder / p).is_file() for p in answer.json["wrote"])
    assert pd.read_csv(folder / "runs/data-check/counts.csv")["images"].sum() == 114


def test_train_prints_and_writes(project):
    folder, said = project
    answer = said["train"]
    assert answer.status == 0
    assert answer.err == ""
    assert "Block 1-4 frozen" in answer.out
    assert "validation" in answer.out  # no column name is folded at the width of a pipe
    assert "precision_macro" in answer.out
    assert "Next: xaitune explain --model runs/freeze4-nag-seed0 IMAGES" in answer.out
    assert xt.load_run(folder / "runs/freeze4-nag-seed0").config.freeze_through == 4


@pytest.mark.parametrize(("blocks", "named"), [("all", "all blocks"), ("best", "the best block")])
def test_a_linear_head_is_announced_without_blocks_to_freeze_or_an_optimizer(project, tmp_path, blocks, named):
    options = ["--head", "blocks", "--freeze-through", "5", "--head-blocks", blocks]
    answer = xaitune(tmp_path, "train", "--config", project[0] / "xaitune.toml", *options)
    assert answer.status == 0, answer.err
    assert f"\nA linear head on the frozen features of {named}, float32" in answer.out


def test_train_again_finds_the_run(project):
    folder, _ = project
    before = (folder / "runs/freeze4-nag-seed0/result.json").stat().st_mtime_ns
    answer = xaitune(folder, "train", "--freeze-through", "4", "--optimizer", "nag", "--json")
    assert "finished already" in answer.err
    assert answer.json["run"] == "freeze4-nag-seed0"
    assert 0 <= answer.json["metrics"]["test"]["f1_macro"] <= 1
    assert (folder / "runs/freeze4-nag-seed0/result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("command", ["train", "advise"])
def test_cache_gb_bounds_what_is_kept(project, command):
    folder, _ = project
    for limit, kept in (("0", 0), ("1", 1)):
        runs_dir = f"{command}-{limit}"
        options = ["--epochs", "1", "--head-epochs", "1", "--cache-gb", limit, "--runs-dir", runs_dir]
        assert xaitune(folder, command, *options).status == 0
        assert bool(list((folder / runs_dir / "cache").rglob("*.bin"))) == kept
    refused = xaitune(folder, command, "--cache-gb", "-1")
    assert refused.status == 2
    assert "Received: -1" in refused.error


def test_a_runs_config_json_runs_it_again(project, tmp_path):
    folder, _ = project
    config = folder / "runs/freeze4-nag-seed0/config.json"
    answer = xaitune(tmp_path, "train", "--config", config, "--json")  # from another folder
    assert answer.status == 0
    runs = [xt.load_run(p / "runs/freeze4-nag-seed0") for p in (folder, tmp_path)]
    pd.testing.assert_frame_equal(runs[0].predictions, runs[1].predictions, check_exact=True)


@pytest.mark.parametrize(
    ("arguments", "blocks"),
    [
        (["--block", "3"], [3]),
        (["--block", "all"], [1, 2, 3, 4, 5]),
        (["--block", "1,5"], [1, 5]),
        ([], [1, 2, 3, 4, 5]),
    ],
)
def test_explain_gradcam(project, crack, tmp_path, arguments, blocks):
    folder, _ = project
    answer = xaitune(folder, "explain", *arguments, *crack, "--out", tmp_path, "--json")
    assert answer.status == 0
    assert "Model: runs/freeze4-nag-seed0, the newest finished run" in answer.err
    maps = xt.load_heatmaps(tmp_path)
    assert list(maps.blocks) == blocks
    assert maps.files == tuple(map(str, crack))
    for i in range(2):
        assert (tmp_path / maps.explained(i) / f"{crack[i].stem}.png").is_file()
    assert (tmp_path / "contact-sheet.png").is_file()


@pytest.mark.parametrize("method", ["cam", "lime"])
def test_explain_by_other_methods(project, crack, tmp_path, method):
    folder, _ = project
    options = ["--method", method, "--class", "crack", "--num-samples", "40", "--out", tmp_path]
    answer = xaitune(folder, "explain", *crack, *options)
    assert answer.status == 0
    assert "2 images in" in answer.out
    assert f"Each image has a picture in {tmp_path}, in a folder named after the explained class." in answer.out
    end = (
        "with --check, which says which maps can be trusted"
        if method == "cam"
        else "xaitune report runs/freeze4-nag-seed0"
    )
    assert answer.out.strip().endswith(end)
    about = json.loads((tmp_path / "explain.json").read_text(encoding="utf-8"))
    assert {row["class"] for row in about["maps"]} == {"crack"}
    assert sorted(p.name for p in (tmp_path / "crack").iterdir()) == sorted(f"{p.stem}.png" for p in crack)


def test_what_follows_heatmaps_is_their_check_and_then_the_report(project, crack):
    folder, _ = project
    said = xaitune(folder, "explain", crack[0], "--block", "5")
    assert "The maps of Block 5 have 2x2 values for 32x32 pixels" in said.out
    following = said.out.strip().splitlines()[-1]
    assert following == f"Next: xaitune explain {crack[0]} --block 5 --check"
    checked = xaitune(folder, *shlex.split(following)[2:], "--json")
    assert checked.json["next"] == "xaitune report runs/freeze4-nag-seed0"


def test_lime_says_once_that_it_uses_finer_superpixels(project, tmp_path):
    folder, _ = project
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"flat{i}.png"), np.full((40, 40, 3), 90 + i, np.uint8))
    answer = xaitune(folder, "explain", tmp_path, "--method", "lime", "--num-samples", "16", "--out", tmp_path / "out")
    assert answer.status == 0
    assert answer.err.count("quickshift finds fewer than 4 superpixels") == 1, answer.err
    assert "slic gives about 50" in answer.err


def test_explain_score_takes_masks_and_groups_of_the_file(project, crack, tmp_path):
    folder, _ = project
    options = ["--block", "3,5", "--score-images", "1", "--score-steps", "3", "--out", tmp_path]
    answer = xaitune(folder, "explain", "--score", *crack, *options)
    assert answer.status == 0
    assert "on 1 of 2 images in 3 steps" in answer.out
    assert "95 % interval over" in answer.out
    assert "Masks: 2 of 2 images have one" in answer.out
    assert "network calls in" in answer.out
    shown = {line.split("│")[1].strip() for line in answer.out.splitlines() if line.startswith("│")}
    assert {"average_precision↑", "mask_area", "gini", "deletion↓", "road↑", "stability↑"} <= shown
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table[["file", "block"]].to_numpy().tolist() == [[str(f), b] for f in crack for b in (3, 5)]
    assert table["deletion"].notna().sum() == 2
    assert "scores.png" in answer.out
    assert (tmp_path / "scores.png").is_file()
    # The notebook's function on the same maps gives the same table.
    data = xt.ImageData.from_config(load_config(folder / "xaitune.toml").data)
    rows = [data.paths().index(f) for f in crack]
    again = xt.score_maps(
        xt.load_heatmaps(tmp_path),
        masks=[data.mask(i) for i in rows],
        groups=list(data.groups[rows]),
        model=xt.load_run(folder / "runs/freeze4-nag-seed0"),
        steps=3,
        images=1,
    )
    pd.testing.assert_frame_equal(table, again, check_dtype=False, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["gradcam", "cam", "lime"])
def test_explain_score_without_masks(project, crack, tmp_path, method):
    folder, _ = project
    options = ["--method", method, "--num-samples", "40", "--out", "e", "--score-steps", "2", "--json"]
    answer = xaitune(tmp_path, "explain", "--score", *crack, "--model", folder / "runs/freeze4-nag-seed0", *options)
    assert answer.status == 0
    table = pd.read_csv(tmp_path / "e/scores.csv")
    assert not {"average_precision", "mask_area", "group"} & set(table)
    blocks = {"gradcam": [1, 2, 3, 4, 5], "cam": [5], "lime": ["superpixels"]}[method]
    assert table["block"].tolist() == blocks * 2
    assert ("stability" in table) == (method != "lime")
    told = json.loads((tmp_path / "e/scores.json").read_text(encoding="utf-8"))
    assert told["scores"] == answer.json["scores"]
    assert {row["score"] for row in told["scores"]} >= {"gini", "deletion", "insertion", "road", "average_drop"}
    asked = answer.json["scored"]["asked_of_the_model"]
    assert (asked["images"], asked["steps"], asked["fill"]) == (2, 2, "mean")
    assert asked["network_calls"] > 0
    assert answer.json["scored"]["groups"] is None
    assert (tmp_path / "e/scores.png").exists() == (method == "gradcam")


def test_explain_says_which_masks_are_missing_or_empty(project, demo, crack, tmp_path):
    folder, _ = project
    masks, none = tmp_path / "masks", next(p for p in demo.paths() if p.parent.name != "crack")
    (masks / "crack").mkdir(parents=True)
    known = demo.masks[demo.paths().index(crack[0])]
    shutil.copy(known, masks / "crack" / f"{crack[0].stem}.png")
    cv2.imwrite(str(masks / "crack" / f"{crack[1].stem}.png"), np.zeros((32, 32), np.uint8))
    call = ["explain", *crack, none, "--block", "5", "--masks", masks, "--score-steps", "2", "--out", tmp_path / "e"]
    answer = xaitune(folder, *call)
    assert answer.status == 0  # --masks asks for scores
    assert "Masks: 2 of 3 images have one, 1 of them empty and left out" in answer.out
    table = pd.read_csv(tmp_path / "e/scores.csv")
    assert table["mask_area"].isna().tolist() == [False, False, True]
    assert table["best_iou"].isna().tolist() == [False, True, True]
    shutil.rmtree(masks / "crack")
    answer = xaitune(folder, *call)
    assert (answer.status, "No mask in" in answer.error) == (2, True)
    (masks / "crack").mkdir()
    cv2.imwrite(str(masks / "crack" / f"{crack[0].stem}.png"), np.zeros((30, 32), np.uint8))
    answer = xaitune(folder, *call)
    assert (answer.status, "They must be equal" in answer.error) == (2, True)
    assert xaitune(folder, "explain", crack[0], "--score-steps", "0").status == 2


def test_explain_leaves_out_a_files_masks_that_do_not_fit(project, crack, tmp_path):
    folder, _ = project
    shutil.copy(crack[0], tmp_path / "part.png")
    answer = xaitune(folder, "explain", tmp_path / "part.png", "--score", "--score-steps", "2", "--out", tmp_path / "e")
    assert answer.status == 0
    assert "The masks of xaitune.toml do not fit these images" in answer.out
    assert "average_precision" not in answer.out
    xaitune(folder, "explain", tmp_path / "part.png", "--block", "5", "--out", tmp_path / "e")
    assert not list((tmp_path / "e").glob("scores.*"))  # they told of other maps


def test_explain_again_leaves_no_old_file(project, crack, tmp_path):
    folder, _ = project
    xaitune(folder, "explain", *crack, "--out", tmp_path)
    xaitune(folder, "explain", "--block", "2", crack[0], "--out", tmp_path)
    assert list(xt.load_heatmaps(tmp_path).blocks) == [2]
    assert not (tmp_path / "contact-sheet.png").exists()
    assert not list(tmp_path.glob(".*"))


def test_explain_without_a_single_run_takes_what_the_sweep_recommends(project, crack, tmp_path):
    folder, _ = project
    (tmp_path / "sweep").symlink_to(folder / "runs/sweep")
    answer = xaitune(tmp_path, "explain", crack[0], "--runs-dir", tmp_path, "--class", "crack", "--out", "e")
    assert answer.status == 0
    sweep = xt.load_sweep(tmp_path / "sweep")
    named = re.search(r"Model: .*/sweep/(\S+); the sweep .* recommends it: ", answer.out)[1]
    assert named == recommended_model(sweep, own_check(sweep)).run


def test_a_sweep_stands_for_the_one_model_that_it_recommends(project, crack, tmp_path):
    """Here a linear head: the page, predict and export take it; a file with heatmaps needs a trained combination."""
    runs = tmp_path / "runs"
    shutil.copytree(project[0] / "runs/sweep", runs / "sweep")
    file = runs / "sweep/frozen-all-blocks/result.json"
    result = json.loads(file.read_text())
    result["metrics"]["validation"]["f1_macro"] = 1.0
    file.write_text(json.dumps(result))
    which = (
        "Model: runs/sweep/frozen-all-blocks; the sweep runs/sweep recommends it: the linear head on all five blocks ("
    )
    following = xaitune(tmp_path, "report", "--json").json["next"]
    assert following.startswith("xaitune export runs/sweep/frozen-all-blocks --to onnx")
    assert which in xaitune(tmp_path, "predict", "runs/sweep", crack[0]).out
    made = xaitune(tmp_path, "export", "runs/sweep", "--to", "keras")
    assert which in made.out
    assert "Wrote runs/sweep/export/frozen-all-blocks.keras" in made.out
    best = xt.load_sweep(runs / "sweep").best["name"]
    made = xaitune(tmp_path, "export", "runs/sweep", "--to", "keras", "--with-heatmap")
    assert f"Model: runs/sweep/{best}-seed0; " in made.out
    assert "The sweep runs/sweep recommends the linear head on all five blocks, which gives no heatmaps in" in made.out


def test_predict(project, crack, tmp_path):
    folder, _ = project
    run = folder / "runs/freeze4-nag-seed0"
    answer = xaitune(tmp_path, "predict", run, *crack, "--csv", "out/예측.csv", "--json")
    table = pd.read_csv(tmp_path / "out/예측.csv")
    assert [row["file"] for row in answer.json["predictions"]] == list(map(str, crack)) == list(table["file"])
    probabilities = table.filter(like="p(")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert list(table["predicted"]) == [name[2:-1] for name in probabilities.idxmax(axis=1)]
    known = xt.load_run(run).predictions.set_index("file")  # as when it was trained
    kept = known.loc[[f"crack/{p.name}" for p in crack], list(probabilities)].to_numpy(float)
    np.testing.assert_allclose(probabilities, kept, atol=1e-4)
    least = table.loc[table["probability"].idxmin(), "file"]
    assert shlex.split(answer.json["next"]) == ["xaitune", "explain", least, "--model", str(run)]
    assert f"Least sure: {least}, " in answer.err


def test_predict_says_which_images_were_trained_on(project, demo, tmp_path):
    folder, _ = project
    run = folder / "runs/freeze4-nag-seed0"
    split = xt.load_run(run).predictions["split"]
    train, test = (demo.paths(np.flatnonzero(split == name)[:2]) for name in ("train", "test"))
    answer = xaitune(tmp_path, "predict", run, *train, *test)
    assert f"{run} was trained on 2 of these 4 images" in answer.err
    assert xaitune(tmp_path, "predict", run, *test).err == ""


def test_collect(project):
    folder, _ = project
    answer = xaitune(folder, "collect", "--json")
    made = json.loads(answer.out)
    assert answer.status == 0
    assert {row["class"] for row in made["classes"]} >= {"crack", "burst"}
    assert made["headline"].startswith(("Collect more images of", "No single class"))
    assert (folder / "runs/collection/classes.csv").is_file()
    assert made["next"] == "xaitune data-check"
    asked = sum(row["images"] for row in made["classes"])
    assert f"linear head on frozen features, asked about {asked} training and validation images held out" in answer.err
    assert "not the scores of your runs" in answer.err
    assert "too few groups" in answer.err  # the classes of the demo are small
    assert f"add them to {load_config(folder / 'xaitune.toml').data.path}, check them with" in answer.err


def test_collect_shows_the_largest_gain_first_in_points():
    figures = {"images": 9, "groups": 4, "f1": 0.5, "low": 0.4, "high": 0.6, "gain_low": -0.012, "gain_high": 0.056}
    classes = pd.DataFrame([figures | {"gain": gain} for gain in (0.001, np.nan, 0.022)], index=list("abc"))
    shown = collect.shown_classes(classes)
    assert list(shown.index) == ["c", "a", "b"]
    assert shown["gain [95 % interval]"].tolist() == ["+2.2 [-1.2, +5.6]", "+0.1 [-1.2, +5.6]", "too few groups"]
    assert set(shown["F1 [95 % interval]"]) == {"0.500 [0.400, 0.600]"}


def test_advise_on_other_images(project, demo, tmp_path):
    """Darker ones: compared with the run's own, and the next command is for them."""
    import cv2

    folder, _ = project
    rows = []
    for path, label, group in zip(demo.paths(), demo.labels, demo.groups, strict=True):
        file = tmp_path / "new images" / demo.class_names[label] / path.name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), cv2.imread(str(path)) // 2)
        rows.append({"file": f"{file.parent.name}/{file.name}", "group": group})
    pd.DataFrame(rows).to_csv(tmp_path / "groups.csv", index=False)
    run = folder / "runs/freeze4-nag-seed0"
    options = ["--model", run, "--image-size", "32x32", "--groups", "groups.csv", "--json"]
    made = json.loads(xaitune(tmp_path, "advise", "new images", *options).out)
    assert "differ in Block 1" in made["drift"]
    assert made["retrain"] in ("yes", "drifted")
    assert made["next"].startswith("xaitune train ")
    assert f" 'new images' --weights {shlex.quote(str(run))} --image-size 32x32 " in made["next"]
    assert made["next"].endswith(" --groups groups.csv")
    assert "look at the lighting first" in made["drift"]
    assert (tmp_path / "runs/advice/drift.csv").is_file()


def test_advise_on_images_without_labels(project, demo, tmp_path):
    """Images directly in a folder: drift, what the model predicts and what to label; options that need labels are refused."""
    folder, _ = project
    (tmp_path / "new images").mkdir()
    for number, path in enumerate(demo.paths()):
        cv2.imwrite(str(tmp_path / f"new images/part{number // 2}_{number % 2}.png"), cv2.imread(str(path)) // 2)
    run = folder / "runs/freeze4-nag-seed0"
    command = ["advise", "new images", "--model", run]
    said = xaitune(tmp_path, *command).out
    assert f"{len(demo)} images without labels, {len(demo)} groups" in said
    assert "no depth is advised" in said
    assert "Give --groups if a thing was photographed several times" in said
    made = json.loads(xaitune(tmp_path, *command, "--groups", r"(part\d+)", "--json").out)
    assert made["retrain"] == "drifted"
    assert made["p"] <= 0.05
    assert len(made["to_label"]) == (len(demo) + 1) // 2
    assert sum(row["new"] for row in made["predicted"]) == pytest.approx(1)
    assert made["next"] == f"xaitune advise LABELLED --model {shlex.quote(str(run))} --image-size 32x32"
    assert (tmp_path / "runs/drift-2/to_label.csv").is_file()
    kinds = json.loads(xaitune(tmp_path, "runs", "--json").out)["runs"]
    assert {(row["kind"], row["state"], row["about"]) for row in kinds} == {("drift", "finished", made["headline"])}
    needs = {"--method": "race", "--split-seed": "3", "--weights": "slim", "--cost-weight": "-5", "--cache-gb": "1"}
    for option, value in needs.items():
        refused = xaitune(tmp_path, *command, option, value)
        assert (refused.status, f"{option} needs labels, and new images holds" in refused.err) == (2, True)


def test_advise_on_images_too_few_to_be_split(project, demo, tmp_path):
    """Two labelled images of a class allow no training: all are compared, and only the depth is left out."""
    folder, _ = project
    for path, label in zip(demo.paths(), demo.labels, strict=True):
        file = tmp_path / "labelled" / demo.class_names[label] / path.name
        file.parent.mkdir(parents=True, exist_ok=True)
        if len(list(file.parent.iterdir())) < 2:
            cv2.imwrite(str(file), cv2.imread(str(path)) // 2)
    command = ["advise", "labelled", "--model", folder / "runs/freeze4-nag-seed0", "--image-size", "32x32"]
    found = xaitune(tmp_path, *command, "--json")
    made = json.loads(found.out)
    assert (
        found.err.count(
            "No depth is advised, since the images cannot be split for a training. Class blowhole has fewer"
        )
        == 1
    )
    assert f"and {2 * len(demo.class_names)} new images" in made["drift"]
    assert re.search(r"The balanced accuracy is .* points \[", made["drift"])
    assert "freeze_through" not in made
    assert (made["next"], json.loads((tmp_path / "runs/drift/drift.json").read_text())["retrain"]) == (
        "",
        made["retrain"],
    )
    refused = xaitune(tmp_path, *command, "--method", "features")
    assert (refused.status, "has fewer groups (2) than there are splits" in refused.err) == (2, True)


def test_compare(project):
    """Two losses: a table, pictures, and the same command again trains nothing."""
    folder, _ = project
    command = ["compare", "--factor", "loss", "--values", "categorical_crossentropy,focal", "--seeds", "1"]
    command += ["--learning-rates", "own", "--freeze-through", "5"]
    answer = xaitune(folder, *command)
    assert answer.status == 0
    assert "Best on validation:" in answer.out
    files = {path.name for path in (folder / "runs/comparison").iterdir()}
    assert {"comparison.csv", "comparison.png", "curves.png", "comparison.json"} <= files
    assert (folder / "runs/comparison/loss=focal/freeze5-nag-seed0").is_dir()
    assert "0 of 2 runs to do" in xaitune(folder, *command, "--dry-run").out
    refused = xaitune(folder, *command, "--loss", "focal")
    assert (refused.status, "loss is a factor" in refused.err) == (2, True)
    for option, factor, message in (
        ("--loss", ("loss", "focal"), "loss is a factor, so --loss has no meaning"),
        ("--learning-rates", ("learning_rate", "1e-3"), "so --learning-rates has no meaning"),
        (
            "--freeze-through",
            ("architecture", "vgg16-features"),
            "Every value of the factor architecture sets freeze_through",
        ),
    ):
        value = {"--loss": "focal", "--learning-rates": "1e-3", "--freeze-through": "2"}[option]
        refused = xaitune(folder, "compare", "--factor", factor[0], "--values", factor[1], option, value)
        assert (refused.status, message in refused.error) == (2, True), refused.error
    repeats = xaitune(folder, "compare", "--factor", "none", "--seeds", "2", "--dry-run", "--json")
    assert (repeats.status, repeats.json["runs"]) == (0, 2)
    unknown = xaitune(folder, "compare", "--factor", "los", "--values", "focal")
    assert (unknown.status, "Did you mean 'loss'" in unknown.err) == (2, True)


def test_advise(project):
    folder, said = project
    answer = said["advise"]
    assert answer.status == 0
    assert answer.json["freeze_through"] in range(6)
    assert sum(answer.json["votes"].values()) == pytest.approx(1)
    assert "Block" in answer.json["reasons"]
    assert "model_calls" in answer.json
    advice = xt.load_advice(folder / "runs/advice")
    assert advice.freeze_through == answer.json["freeze_through"]


def test_dry_run_starts_nothing(project):
    folder, _ = project
    before = files(folder / "runs")
    grid = ["--freeze-through", "1-5", "--seeds", "2"]
    answer = xaitune(folder, "sweep-freeze", "--dry-run", *grid, "--learning-rates", "own", "--json")
    assert (answer.json["runs"], answer.json["missing"]) == (32, 26)  # four of seed 0 are there, and two linear heads
    assert answer.json["seconds"] > 0
    assert answer.json["disk_bytes"] > 0
    more = xaitune(folder, "sweep-freeze", "--dry-run", *grid, "--json")  # each cell tries two rates
    assert (more.json["runs"], more.json["missing"]) == (32, 30)
    assert more.json["seconds"] > answer.json["seconds"]
    assert files(folder / "runs") == before


def test_known_advice_is_in_the_plan_before_it_is_priced(project, tmp_path):
    folder, _ = project
    shutil.copytree(folder / "runs/advice", tmp_path / "runs/advice")
    values = json.loads((tmp_path / "runs/advice/advice.json").read_text())
    (tmp_path / "runs/advice/advice.json").write_text(json.dumps(values | {"freeze_through": 0}))
    command = ["sweep-freeze", "--config", folder / "xaitune.toml", "--dry-run", "--seeds", "1"]
    known = xaitune(tmp_path, *command, "--runs-dir", tmp_path / "runs")
    assert (
        "The advice is to freeze nothing, which is added to the grid (depth 0).\n20 runs: 6 depths x 3 optimizers x 1 seed"
        in known.out
    )  # 6 x 3 and two linear heads
    given = xaitune(tmp_path, *command, "--freeze-through", "1-5", "--runs-dir", tmp_path / "runs")
    assert "and 2 linear heads.\n17 of them to do" in given.out
    assert "cannot check the advice" in given.err
    none = xaitune(tmp_path, *command, "--runs-dir", tmp_path / "other")
    assert "17 of them to do" in none.out
    assert "it is made first. If it advises a depth that this grid lacks" in none.out


def test_what_follows_the_advice_names_its_cost(project, monkeypatch):
    folder, said = project
    following = [line for line in said["advise"].err.splitlines() if line.startswith(("A sweep checks", "Next: "))]
    assert re.fullmatch(r"A sweep checks this advice, in \d+ (s|min|h) at most\.", following[0])
    assert following[1] == "Next: xaitune sweep-freeze"
    monkeypatch.setattr(advise, "LONG", 0)  # a cheap step first
    long = xaitune(folder, "advise", "--method", "features")
    assert ": xaitune sweep-freeze --optimizers nag --seeds 1\n" in long.out
    assert "Next: xaitune train --" in long.out
    headed = "Train no block" in long.out
    assert ("Next: xaitune train --head blocks --freeze-through 5" in long.out) == headed
    assert ("for 'xaitune export --with-heatmap', train with --head gap" in long.out) == headed
    for words in load_advice(folder / "runs/advice").meanings.split("; "):  # the page's own
        assert words in " ".join(long.out.split())


def test_following_commands_take_the_images_and_options_of_the_call(demo, tmp_path, monkeypatch):
    """Without xaitune.toml: as printed, each reads the same images and settings."""
    root = Path(demo.config.path).parent
    shutil.copytree(root / "images", tmp_path / "my images")
    data = ["my images", "--groups", root / "groups.csv", "--image-size", "32x32"]
    options = [*data, "--weights", "slim", "--precision", "float32", "--epochs", "2", "--runs-dir", "made"]
    made = xaitune(tmp_path, "advise", *options, "--method", "features", "--json")
    following = shlex.split(made.json["next"])[1:]
    assert following[:2] == ["sweep-freeze", "my images"]
    plan = xaitune(tmp_path, *following, "--dry-run")
    assert "Advice: made/advice, made " in plan.out
    monkeypatch.setattr(advise, "LONG", 0)
    long = xaitune(tmp_path, "advise", *options, "--method", "features").out.splitlines()
    train = shlex.split(long[-1].removeprefix("Next: "))[1:]
    assert train[:2] == ["train", "my images"]
    assert xaitune(tmp_path, *train, "--head-epochs", "1", "--name", "a b").status == 0
    assert xt.load_run(tmp_path / "made/a b").config.weights.endswith("slim")
    quick = next(line for line in long if line.startswith("With one optimizer"))
    words = shlex.split(quick.partition(": ")[2])[1:]
    assert words[:6] == ["sweep-freeze", "my images", "--optimizers", "nag", "--seeds", "1"]
    assert "Advice: made/advice, made " in xaitune(tmp_path, *words, "--dry-run").out
    checked = xaitune(tmp_path, "data-check", *data, "--runs-dir", "made", "--json").json["next"]
    assert shlex.split(checked) == list(map(str, ["xaitune", "advise", *data, "--runs-dir", "made"]))
    collected = xaitune(tmp_path, "collect", *options[:-4], "--runs-dir", "made", "--json").json["next"]
    assert shlex.split(collected) == list(map(str, ["xaitune", "data-check", *data, "--runs-dir", "made"]))
    assert (
        xaitune(tmp_path, *shlex.split(collected)[1:]).status == 0
    )  # without --weights, which it takes only with --labels


def test_advice_does_not_plan_the_folds_of_a_sweep(project, tmp_path, monkeypatch):
    """More folds than the groups allow: the sweep refuses them, the advice from features has nothing to do with them."""
    folder, _ = project
    text = (folder / "xaitune.toml").read_text().replace("[sweep]", "[sweep]\nfolds = 60")
    (tmp_path / "xaitune.toml").write_text(text)
    assert xaitune(tmp_path, "sweep-freeze", "--dry-run").status == 2
    made = xaitune(tmp_path, "advise", "--method", "features", "--json")
    assert (made.status, made.json["next"]) == (0, "xaitune sweep-freeze")


def test_sweep_table_and_verdict(project):
    folder, said = project
    answer = said["sweep"]
    assert answer.status == 0
    lines = [line for line in answer.out.splitlines() if "Block 1-" in line]
    assert "Block 1-5" in lines[0] or "Advice" in answer.out
    header = next(line for line in answer.out.splitlines() if "frozen" in line and "sgd" in line)
    assert header.index("sgd") < header.index("nag")
    assert "Test macro F1, one seed [95 % interval over " in answer.out
    assert answer.out.count("]*") == 1
    assert "* best combination on validation, where it scores 0." in answer.out
    assert "= not told apart from the best combination by these test images" in answer.out
    assert "validation" in next(line for line in answer.out.splitlines() if "features of" in line)
    advised = xt.load_advice(folder / "runs/advice").freeze_through
    if advised in (4, 5):
        assert (folder / "runs/sweep/check.json").is_file()
    else:  # the grid cannot check it: said before, and no work is lost
        assert "cannot check the advice" in answer.err


def test_the_same_sweep_again_trains_nothing(project):
    folder, _ = project
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs/sweep").glob("*/result.json")}
    answer = xaitune(folder, "sweep-freeze", *GRID, "--json")
    assert answer.status == 0
    assert "6 of 6 runs are already finished" in answer.err
    assert re.search(r"This call took [\d.]+ s. All its trainings together, .*, took [\d.]+ s\.", answer.err)
    assert len(answer.json["cells"]) == 4
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_check_advice_report_and_runs(project):
    folder, _ = project
    advised = xt.load_advice(folder / "runs/advice").freeze_through
    grown = xaitune(folder, "sweep-freeze", "--freeze-through", f"{advised},4,5", *GRID[4:], "--json")
    assert grown.json["verdict"] in ("confirmed", "contradicted", "cannot tell")
    checked = xaitune(folder, "check-advice", "--json")
    assert f"\n{checked.json['headline']}\n" in checked.err
    assert checked.json["verdict"] == grown.json["verdict"]
    assert checked.json["sentence"] in json.loads((folder / "runs/sweep/check.json").read_text())["sentence"]
    page = xaitune(folder, "report", "--json").json["report"]
    text = re.sub(r"<[^>]+>", "", (folder / page).read_text(encoding="utf-8"))  # without the glossary's marks
    assert checked.json["sentence"].split(":")[0] in text
    assert checked.json["headline"] in text  # the page and the terminal give the same answer
    page = xaitune(folder, "report", "runs/freeze4-nag-seed0", "--json").json["report"]
    text = re.sub(r"<[^>]+>", "", (folder / page).read_text(encoding="utf-8"))
    assert f"What the sweep runs/sweep found on the same images: {checked.json['headline']}" in text
    config = folder / "runs/sweep/config.json"
    kept = config.read_text()
    other = json.loads(kept)
    other["identity"]["weights"] = "others"
    config.write_text(json.dumps(other))  # a sweep from other weights says nothing of this run
    assert sweep_beside(xt.load_run(folder / "runs/freeze4-nag-seed0"), folder / "runs") is None
    config.write_text(kept)
    listed = xaitune(folder, "runs", "--json").json["runs"]
    kinds = {row["name"]: row["kind"] for row in listed}
    made = {"advice": "advice", "freeze4-nag-seed0": "run", "sweep": "sweep"}
    assert {name: kinds[name] for name in made} == made
    assert all(row["state"] != "unfinished" for row in listed)


def test_the_commands_that_a_verdict_names_can_be_pasted_anywhere(project, tmp_path):
    runs = project[0] / "runs"
    answer = xaitune(tmp_path, "check-advice", runs / "sweep")
    assert answer.status == 0
    where = f"--runs-dir {shlex.quote(str(runs))}"
    assert answer.out.endswith(f"Next: xaitune report {where}\n")
    (command,) = re.findall(r": (xaitune export .*)\n", answer.out.replace("\n/", " /"))
    assert command.endswith(f" --to onnx {where}")
    assert (Path(shlex.split(command)[2]) / "model.keras").is_file()


def test_a_sweep_without_a_finished_run_names_the_command_that_goes_on(project, tmp_path):
    """It was interrupted after the linear heads."""
    runs, made = project[0] / "runs", tmp_path / "made"
    shutil.copytree(runs / "sweep", made / "sweep", ignore=shutil.ignore_patterns("freeze*"))
    shutil.copytree(runs / "advice", made / "advice")
    for words in (["report"], ["check-advice"], ["export", "made/sweep"]):
        answer = xaitune(tmp_path, *words, "--runs-dir", "made")
        assert answer.status == 1
        assert "No depth of made/sweep has been trained to its end yet: so far 2 of " in answer.error
    command = shlex.split(answer.error.partition("goes on with it: ")[2])
    plan = xaitune(tmp_path, *command[1:], "--dry-run")
    whole, left = re.search(r"\n(\d+) runs: .*\n(\d+) of them to do.* in made/sweep\n", plan.out).groups()
    assert int(left) == int(whole) - 2  # the heads are there: it is the same sweep


@pytest.mark.parametrize("command", ["report", "check-advice"])
def test_where_nothing_was_trained_the_call_must_be_fixed(tmp_path, command):
    answer = xaitune(tmp_path, command)
    assert answer.status == 2
    assert "'xaitune sweep-freeze'" in answer.error


def test_runs_where_there_is_none(tmp_path):
    answer = xaitune(tmp_path, "runs")
    assert (answer.status, answer.out.splitlines()) == (0, ["No runs in runs yet.", "Next: xaitune init IMAGES"])
    (tmp_path / "xaitune.toml").write_text(config_text(Config(DataConfig("images"))))
    assert xaitune(tmp_path, "runs").out.splitlines()[-1] == "Next: xaitune train"


def test_flag_beats_file_beats_default(project, tmp_path):
    folder, _ = project
    config = folder / "xaitune.toml"
    answer = xaitune(tmp_path, "train", "--config", config, "--seed", "3", "--epochs", "1", "--freeze-through", "5")
    assert answer.status == 0
    made = json.loads((tmp_path / "runs/freeze5-nag-seed3/config.json").read_text())["train"]
    assert made["epochs"] == 1  # the flag, not the file's 2
    assert made["head_epochs"] == 2  # the file's, not the default 5
    assert made["patience"] == 5  # the default


def test_paths_in_the_file_are_relative_to_it(demo, tmp_path):
    root = Path(demo.config.path).parent
    (tmp_path / "project").mkdir()
    (tmp_path / "data").symlink_to(root)
    text = '[data]\npath = "../data/images"\nmasks = "../data/masks"\ngroups = "../data/groups.csv"\nimage_size = 32\n'
    (tmp_path / "project/xaitune.toml").write_text(text)
    answer = xaitune(tmp_path, "data-check", "--config", "project/xaitune.toml", "--json")
    assert answer.status == 0
    assert "33 groups" in answer.err


def test_other_data_on_the_command_line_drops_the_files_masks_and_groups(project, demo, tmp_path):
    folder, _ = project
    (tmp_path / "other").symlink_to(demo.config.path)
    answer = xaitune(tmp_path, "data-check", "other", "--config", folder / "xaitune.toml")
    assert "33 groups" in answer.out  # the same folder: nothing is dropped
    shutil.copytree(demo.config.path, tmp_path / "copy")
    answer = xaitune(tmp_path, "data-check", "copy", "--config", folder / "xaitune.toml")
    assert "114 groups" in answer.out
    assert "Proposed groups" in answer.out or "near" in answer.out + answer.err


def test_proposed_groups_are_taken_with_all_else_that_the_file_says(demo, tmp_path):
    shutil.copytree(demo.config.path, tmp_path / "images")
    first = next(path for path in sorted((tmp_path / "images").rglob("*.png")))
    shutil.copy(first, first.with_name("again.png"))  # the same thing, which no group says
    (tmp_path / "xaitune.toml").write_text(
        '[data]\npath = "images"\nimage_size = 32\n[train]\nweights = "slim"\nepochs = 7\n'
    )
    command = xaitune(tmp_path, "data-check", "--json").json["next"]
    assert (
        command
        == f"xaitune init {tmp_path}/images --groups runs/data-check/groups.csv --config xaitune.toml --overwrite"
    )
    assert xaitune(tmp_path, *command.split()[1:]).status == 0
    assert "epochs = 7" in (tmp_path / "xaitune.toml").read_text()
    assert 'groups = "runs/data-check/groups.csv"' in (tmp_path / "xaitune.toml").read_text()


def test_a_reader_that_leaves_is_no_error(project):
    folder, _ = project
    command = f"{sys.executable} -m xaitune runs | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=folder, check=True)
    assert done.stdout.strip() == "0"
    assert done.stderr == ""


def test_progress_says_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0)
    clock = iter([0.0, 0.0, 10.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with console.Ui().progress("sweeping") as report:
        report(0, 100, "a")
        report(25, 100, "b")
        report(50, 100, "c")
    assert capsys.readouterr().err.splitlines()[1:] == [
        "sweeping: 25%, about 30 s left (b)",
        "sweeping: 50%, about 20 s left (c)",
    ]


def test_a_bar_says_once_what_is_counted(capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0)
    shown = io.StringIO()
    ui = console.Ui()
    with ui.progress("comparing images", "images") as report:
        report(1, 1124, "images")
    ui.errors = Console(file=shown, force_terminal=True, width=100)
    with ui.progress("comparing images", "images") as report:
        report(164, 1124, "images")
        report.bar.refresh()
    assert capsys.readouterr().err == "comparing images: 1 of 1124 images\n"
    assert "164 of 1124 images" in shown.getvalue()
    assert "images, images" not in shown.getvalue()


def test_a_terminal_shows_a_bar_for_each_part_under_way():
    shown = io.StringIO()
    ui = console.Ui()
    ui.errors = Console(file=shown, force_terminal=True, width=100)
    with ui.progress("sweeping") as report:
        report(100, 1000, "1 done, best freeze4-nag-seed0")
        report.part("freeze3-nag-seed0", 1, 8, "fine-tune 1/8")
        report.part("freeze3-sgd-seed0", 2, 8, "fine-tune 2/8")
        report.part("freeze3-sgd-seed0", 1, 1, "done")
        assert [task.description.strip() for task in report.bar.tasks] == ["sweeping", "freeze3-nag-seed0"]
        report.bar.refresh()
    assert "best freeze4-nag-seed0" in shown.getvalue()
    assert "fine-tune 1/8" in shown.getvalue()
