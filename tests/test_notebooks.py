"""The notebooks in examples/: kept without outputs, and run on small data as a reader would run them."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

import xaitune

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
TINY = {"SCALE": 0.01, "IMAGE_SIZE": (32, 32)}
SMALL = {  # what the settings of a notebook are replaced by, so that it runs in seconds
    "1_first_look": {**TINY, "EPOCHS": 1},
    "2_freezing_point": {**TINY, "EPOCHS": 1, "SEEDS": 1, "DEPTHS": [5]},
    "3_trust_in_heatmaps": {**TINY, "EPOCHS": 1, "PER_CLASS": 1, "SAMPLES": 60},
    "4_losses_and_optimizers": {
        **{**TINY, "EPOCHS": 1, "SEEDS": 2},
        "LOSSES": ["categorical_crossentropy", "sparse_categorical_crossentropy"],
    },
    "5_segmentation": {**TINY, "HEAD_EPOCHS": 2, "EPOCHS": 1, "LOSSES": ["dice"]},
}
PICTURE, PAGE = "image/png", "text/html"
BAR, TABLE, VIEW = '<progress value="1.000"', "<table", 'class="xaitune-maps"'
# Cell -> what its output holds: a picture, or parts of its HTML or its text.
SHOWN = {
    "1_first_look": {
        "check": [BAR, TABLE, "blowhole"],
        "train": [BAR, TABLE, "Test macro F1"],
        "curves": [PICTURE],
        "good": ["has an accuracy of"],
        "confusion": [PICTURE],
        "hardest": [TABLE],
        "maps": [VIEW],
        "maps-picture": [PICTURE],
        "labels": [BAR, "labels"],
        "report": ["report.html"],
    },
    "2_freezing_point": {
        "advice": [BAR, TABLE, "confidence"],
        "advice-picture": [PICTURE],
        "sweep": [BAR, TABLE, "Block 1-5", "linear head"],
        "sweep-picture": [PICTURE],
        "curves": [PICTURE],
        "check": ["The sweep", "How sure that is"],
        "check-picture": [PICTURE],
        "cost": [TABLE],
        "decide": ["of 5 blocks frozen"],
        "report": ["report.html"],
    },
    "3_trust_in_heatmaps": {
        "maps": [VIEW],
        "random": [TABLE, "Spearman", "head to Block 1"],
        "checks": [BAR, TABLE, "55 maps"],
        "checks-show": [VIEW],
        "masks": [TABLE, "pointing_game"],
        "masks-conclusion": ["Highest average precision: Block", PICTURE],
        "doubt": [TABLE],
        "lime": [BAR, PICTURE],
        "lime-weights": [PICTURE],
        "lime-reading": [TABLE, "clear"],
        "verdict": ["of 11 images are classified wrongly", "LIME weights"],
    },
    "4_losses_and_optimizers": {
        "compare": [BAR, TABLE, "Best on validation"],
        "picture": [PICTURE],
        "chance": ["Between its 2 seeds"],
        "control": [TABLE, "cannot tell"],
        "control-conclusion": ["0 of 2 of these pairs were called different."],
        "pairs-conclusion": ["0 of 1 pairs are told apart."],
        "curves": [PICTURE],
        "classes": [TABLE, "blowhole", "test_images"],
        "decide": ["The fastest here: "],
    },
    "5_segmentation": {
        "area": ["of the test pixels are defect"],
        "train": [BAR, TABLE, "mean IoU"],
        "floor": [TABLE, "all background"],
        "best": [TABLE, "a model that marks nothing scores"],
        "look": [PICTURE],
        "size-conclusion": ["defects are missed entirely"],
        "size-picture": [PICTURE],
        "masks": [TABLE, "Mask and prediction disagree"],
        "masks-picture": [PICTURE],
        "maps": [VIEW],
        "maps-checks": [BAR, "20 maps"],
    },
}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def settings(notebook):
    """The one cell whose values a test, or papermill, replaces."""
    (cell,) = (cell for cell in code(notebook) if "parameters" in cell["metadata"].get("tags", []))
    return cell


def test_the_notebooks_are_the_known_ones():
    assert [path.stem for path in NOTEBOOKS] == list(SMALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_in_the_form_that_jupyter_writes(path):
    notebook = read(path)
    for cell in code(notebook):
        assert cell["outputs"] == [], cell["id"]
        assert cell["execution_count"] is None, cell["id"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"] == {"kernelspec": kernel, "language_info": {"name": "python"}}
    as_jupyter_writes = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    assert path.read_text(encoding="utf-8") == as_jupyter_writes, "clear it: see docs/notebooks.md"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_needs_nothing_but_the_public_names(path):
    notebook = read(path)
    tree = ast.parse("\n".join(source(cell) for cell in code(notebook)))
    modules = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert set(modules) <= {"xaitune", "pathlib"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "xt"
    }
    assert used
    assert used <= set(xaitune.__all__)
    values = {node.targets[0].id for node in ast.parse(source(settings(notebook))).body if isinstance(node, ast.Assign)}
    assert set(SMALL[path.stem]) < values


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_links_of_a_notebook_lead_somewhere(path):
    for cell in read(path)["cells"]:
        for link in re.findall(r"\]\(([^)#]+)", source(cell)):
            assert (path.parent / link).is_file(), link


@pytest.fixture(scope="module")
def execute(tmp_path_factory):
    """Runs a notebook in the one kernel of all, which loads TensorFlow once, and the folder in which they share images."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    from jupyter_client import AsyncKernelManager
    from jupyter_core.utils import run_sync

    kernel = AsyncKernelManager(kernel_name="python3")
    place = {"metadata": {"path": tmp_path_factory.mktemp("notebooks")}}

    def execute(notebook):
        client = nbclient.NotebookClient(notebook, km=kernel, timeout=300, resources=place)
        client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})  # raises where a cell does

    yield execute
    run_sync(kernel.shutdown_kernel)(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_speaks_of(path, execute):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    if path.stem == "1_first_look":
        pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    notebook = nbformat.read(path, as_version=4)
    settings(notebook)["source"] += "".join(f"\n{name} = {value!r}" for name, value in SMALL[path.stem].items())
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # without the names of the notebook before
    execute(notebook)

    outputs = {cell["id"]: cell["outputs"] for cell in code(notebook)}
    assert [(name, o["text"]) for name, made in outputs.items() for o in made if o.get("name") == "stderr"] == []
    for name, expected in SHOWN[path.stem].items():
        data = [output.get("data", {}) for output in outputs[name]]
        text = "".join(d.get(PAGE, "") or d.get("text/plain", "") for d in data)
        text += "".join(output.get("text", "") for output in outputs[name])
        for part in expected:
            assert part in text or any(part in d for d in data), (name, part)
        assert text.count("<progress") == expected.count(BAR), name  # one bar, which is drawn over, or none
