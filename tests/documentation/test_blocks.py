"""Every command and every block of Python in the README and the documentation.

Run for real, in this process, in the order of the page, in a folder of small drawn images: all `xaitune` commands of
docs/tutorials but `xaitune demo` (tests/demo runs it), `xaitune studio`, and the report on a single run (tests/report). They
have the page's own options. After `xaitune init` the settings are made small (32x32, `slim` weights, one epoch, two depths), so
that the commands need no change; `init` itself asks for no download of ImageNet's weights. In place of what `xaitune demo` would
leave, the first look finds the folder of the tutorial on freezing points.

Python blocks run, in a folder with what the page speaks of; tests/test_examples.py runs the README's ten lines.

Only parsed, by the real application up to where a command would begin its work: all other `xaitune` lines, also those within a
sentence (the options exist, their values are valid alone and together, images and models given as arguments are there), and
the benchmarks and scripts, up to where they have read their arguments. Of `pip install` the extras must exist. A line that
nobody knows how to check fails.
"""

import contextlib
import re
import shutil
import sys
import tomllib
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
from documents import PAGES, ROOT, TUTORIALS, blocks, check_command, commands, page_name, words_of
from driving import xaitune
from PIL import Image

import xaitune as xt
from xaitune.comparison import cost
from xaitune.config.settings import Config, DataConfig, SweepConfig, TrainConfig
from xaitune.config.toml import config_text
from xaitune.models.weights import load_backbone

SMALL = TrainConfig(weights="slim", head_epochs=1, epochs=1, precision="float32")
GRID = SweepConfig(freeze_through=(4, 5), optimizers=("nag",), seeds=1, learning_rates="own", workers=1)
# What the pages name as images, models and tables of their own: folders, files, and the last parts of a model's path.
FOLDERS = ("images", "masks", "photos", "new-images", "xrays", "solar-cells", "IMAGES", "MASKS", "data/images/crack")
FOLDERS += ("images/crack", "magnetic-tile/images")
FILES = (
    "part.png",
    "data/images/crack/part001_scan1.png",
    "pets.keras",
    "groups.csv",
    "new-groups.csv",
    "fixes.csv",
    "explain.json",
    "runs/export/freeze3-nag-seed0.onnx",
)
RUNS = ("freeze3-nag-seed0", "freeze4-nag-seed0", "sweep", "comparison")
NOT_RUN = {"first-look": ("demo",), "images-to-report": ("report", "studio"), "freezing-point": ("studio",)}
LINES = [
    (block, line)
    for page in PAGES
    for block in blocks(page)
    if block.kind == "commands"
    for line in commands(block.text)
]
SPAN = re.compile(r"(?<!`)`((?:[A-Z_]+=\S+ )?(?:xaitune|python) [^`]+)`(?!`)", re.DOTALL)
PLACEHOLDERS = re.compile(r"\b(COMMAND|RUN|DATA|NEW_DATA|FILE|FOLDER|HEAD|PORT|SWEEP)\b|\.\.\.")


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory):
    """A folder with an xaitune.toml and all that the pages name, empty: for parsing."""
    folder = tmp_path_factory.mktemp("anywhere")
    for name in (*FOLDERS, *(f"runs/{run}" for run in RUNS)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    settings = Config(DataConfig("images", masks="masks", groups="groups.csv"), TrainConfig(), SweepConfig())
    (folder / "xaitune.toml").write_text(config_text(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("block", "line"), LINES, ids=lambda value: str(value)[:70])
def test_a_command_is_one_that_exists(anywhere, block, line):
    check_command(line, anywhere)


def test_commands_within_sentences_exist(anywhere):
    """In code spans; those with a placeholder, such as `xaitune COMMAND --help`, are not commands yet."""
    spans = {(page_name(p), " ".join(s.split())) for p in PAGES for s in SPAN.findall(p.read_text(encoding="utf-8"))}
    lines = sorted((page, line) for page, line in spans if not PLACEHOLDERS.search(line))
    assert len(lines) > 20
    for page, line in lines:
        if words_of(line)[1] == "-m":
            continue
        bare = line.startswith("xaitune") and len(words_of(line)) == 2  # the command's name, without its arguments
        try:
            check_command(f"{line} --help" if bare else line, anywhere)
        except (AssertionError, pytest.fail.Exception) as error:
            raise AssertionError(f"{page}: `{line}`: {error}") from error


@pytest.mark.parametrize(
    "line",
    [
        "xaitune train --freeze-trough 3",
        "xaitune train --freeze-through 7",
        "xaitune trian",
        "xaitune train --head-blocks best --freeze-through 3",  # each exists, but not together
        "xaitune explain nowhere.png",
        "xaitune compare --factor optimiser --values nag,adam",
        "pip install 'xaitune[fats]'",
        "python benchmarks/atlas.py --folder x",
        "python benchmarks/nothing.py",
        "scripts/check --mend",
        "make docs",
    ],
)
def test_a_wrong_command_fails(anywhere, line):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_command(line, anywhere)


# ---- tutorials


def small_images(folder: Path, demo) -> None:
    """images, masks and groups.csv, with one image of each group; and xrays, where one image is there twice, in two groups."""
    root = Path(demo.config.path).parent
    first = [demo.files[i] for i in np.unique(demo.groups, return_index=True)[1]]
    for name, source in (("images", "images"), ("masks", "masks"), ("xrays", "images")):
        for file in first:
            if (root / source / file).is_file():
                (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / source / file, folder / name / file)
    for name in ("groups.csv", "patients.csv"):
        shutil.copy(root / "groups.csv", folder / name)
    again = (folder / "xrays" / first[0]).with_name("again.png")
    shutil.copy(folder / "xrays" / first[0], again)
    with (folder / "patients.csv").open("a", encoding="utf-8") as file:
        file.write(f"{again.parent.name}/again.png,another\n")


def make_small(file: Path) -> None:
    """Give an xaitune.toml settings that take seconds; the images and groups stay."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))["data"] | {"image_size": [32, 32]}
    settings = Config(DataConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}), SMALL, GRID)
    file.write_text(config_text(settings), encoding="utf-8")


def follow(name: str, folder: Path) -> list[str]:
    """Run the commands and then the Python of a tutorial, beginning in `folder`; returns the commands that ran."""
    page, ran = blocks(ROOT / "docs" / "tutorials" / f"{name}.md"), []
    lines = [(block, line) for block in page if block.kind == "commands" for line in commands(block.text)]
    for block, line in lines:
        words = words_of(line)
        if words[0] == "cd":
            folder = folder / words[1]
        if words[0] != "xaitune" or words[1] in NOT_RUN[name]:
            check_command(line, folder)
            continue
        with mock.patch.object(cost, "load_backbone", return_value=load_backbone("slim")):
            answer = xaitune(folder, *words[1:])
        assert answer.status == 0, f"{block}: {line}\n{answer.err}"
        for path in re.findall(r"^Wrote (.+)$", answer.out, re.M):
            assert (folder / path).exists(), f"{block}: {line} did not write {path}"
        if words[1] == "init":
            make_small(folder / "xaitune.toml")
        ran.append(words[1])
    with contextlib.chdir(folder):
        for block in page:
            if block.kind == "python":
                exec(compile(block.text, str(block), "exec"), {})
    return ran


@pytest.fixture(scope="module")
def freezing_point(demo, tmp_path_factory):
    """The folder of the tutorial on freezing points after its last line, and the commands that ran."""
    folder = tmp_path_factory.mktemp("freezing-point")
    small_images(folder, demo)
    return folder, follow("freezing-point", folder)


def test_tutorial_on_freezing_points(freezing_point):
    folder, ran = freezing_point
    assert {"init", "data-check", "advise", "sweep-freeze", "report"} <= set(ran)
    assert xt.load_sweep(folder / "runs/sweep").complete["name"].tolist()
    assert (folder / "runs/sweep/check.json").is_file()


def test_first_look(freezing_point, tmp_path):
    """The commands that follow `xaitune demo`."""
    left = tmp_path / "xaitune-demo"
    shutil.copytree(freezing_point[0], left, ignore=shutil.ignore_patterns("cache", "masks"))
    (left / "data").mkdir()
    shutil.move(left / "images", left / "data" / "images")
    ran = follow("first-look", tmp_path)
    assert {"runs", "explain", "check-advice"} <= set(ran)


def test_tutorial_from_images_to_the_report(demo, tmp_path):
    small_images(tmp_path, demo)
    ran = follow("images-to-report", tmp_path)
    assert {"init", "data-check", "train", "explain", "predict", "collect"} <= set(ran)
    pictures = {path.name for path in (tmp_path / "runs/explain").glob("*/*.png")}  # below the class that was answered
    assert pictures == {path.name for path in (tmp_path / "images/crack").iterdir()}
    assert "predicted" in (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()[0]


# ---- Python


@pytest.fixture
def prepared(request, tmp_path, monkeypatch):
    """Page -> the names that its Python begins with, in a folder with what it reads."""

    def prepare(page: str) -> dict:
        monkeypatch.chdir(tmp_path)
        names: dict = {"xt": xt, "np": np}
        if page == "docs/segmentation.md":
            segmented = request.getfixturevalue("segmented")
            shutil.copytree(segmented.path, tmp_path / "runs/freeze4-nag-seed0")
            config = tmp_path / "runs/freeze4-nag-seed0/config.json"
            config.write_text(config.read_text(encoding="utf-8").replace('"square"', '"defect"'), encoding="utf-8")
            shutil.copytree(sorted(Path(segmented.data_config.path).iterdir())[0], tmp_path / "photos")
            region = np.zeros((32, 32), bool)
            region[8:16, 8:16] = True
            return names | {"region": region}
        if page == "docs/export.md":
            run, demo = request.getfixturevalue("run"), request.getfixturevalue("demo")
            shutil.copytree(run.path, tmp_path / "runs/freeze3-nag-seed0")
            shutil.copyfile(demo.paths()[0], tmp_path / "part.png")
            monkeypatch.setattr(
                sys, "argv", ["draw.py", "runs/export/freeze3-nag-seed0.onnx", "part.png", "heatmap.png"]
            )
            monkeypatch.setenv("MPLBACKEND", "agg")
            return names
        if page in ("docs/boxes.md", "docs/faq.md"):
            run, demo = request.getfixturevalue("run"), request.getfixturevalue("demo")
            shutil.copytree(run.path, tmp_path / "runs/freeze3-nag-seed0")
            small_images(tmp_path, demo)
            index = [i for i, mask in enumerate(demo.masks) if mask is not None][:4]
            masks = [np.asarray(Image.open(demo.masks[i])) > 127 for i in index]
            names |= {"run": run, "maps": xt.gradcam_blocks(run, demo.paths(index))}
            return names | {"masks": masks, "groups": [demo.groups[i] for i in index]}
        if page == "docs/atlas.md":
            shutil.copytree(request.getfixturevalue("freezing_point")[0] / "runs/sweep", tmp_path / "runs/sweep")
        return names

    return prepare


WITH_PYTHON = sorted(
    {block.page for page in PAGES for block in blocks(page) if block.kind == "python"}
    - {"README.md", *(f"docs/tutorials/{name}.md" for name in TUTORIALS)}
)


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_of_a_page_runs(page, prepared):
    names = prepared(page)
    for block in blocks(ROOT / page):
        if block.kind == "python":
            exec(compile(block.text, str(block), "exec"), names)
    plt.close("all")  # of a block that draws by pyplot
