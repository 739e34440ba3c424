"""The README's code blocks and the scripts in examples/, run as a reader would run them."""

import importlib.util
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_are_the_known_ones():
    assert [p.name for p in EXAMPLES] == [
        *("freezing_study.py", "imbalance_study.py", "loss_study.py", "xray_loss_study.py"),
    ]


@pytest.fixture
def small_data(monkeypatch, tmp_path):
    """Makes the demo's data small; the current folder is a new one, which is returned."""
    import xaitune
    from xaitune.demo import scans

    def make_small_data(path, **options):
        return scans.make_demo_data(path, **{"scale": 0.2, "image_size": (32, 32), **options})

    monkeypatch.setitem(xaitune.__dict__, "make_demo_data", make_small_data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_loss_study_example(small_data, capsys):
    sentence = _load(ROOT / "examples" / "loss_study.py").main(epochs=1, seeds=2)
    assert sentence.startswith("Best on validation:")
    printed = capsys.readouterr().out
    assert "Loss per class and repeat, test" in printed
    assert printed.count("crack") >= 6  # three losses, on validation and on test


def test_freezing_study_example(small_data, capsys):
    models = ("lenet5-tanh-sgd", "vgg16-features", "vgg16-block3-final")
    sentence = _load(ROOT / "examples" / "freezing_study.py").main(epochs=1, seeds=1, models=models, depths="4-5")
    assert sentence.startswith("Best on validation:")
    printed = capsys.readouterr().out
    rows = printed[printed.index("tables 5 to 8") :].splitlines()[3:6]
    assert [row.split()[0] for row in rows] == list(models)
    assert all(len(row.split()) == 6 for row in rows)  # loss, three accuracies and weighted F1
    assert "table 9" in printed
    assert (small_data / "example-runs" / "comparison" / "curves.png").is_file()


def test_xray_loss_study_example(small_data, capsys):
    sentence = _load(ROOT / "examples" / "xray_loss_study.py").main(epochs=1, seeds=2)
    assert "No difference beyond the noise" in sentence
    printed = capsys.readouterr().out
    assert printed.count("test accuracy") == 2
    assert "cannot tell" in printed


def test_imbalance_study_example(small_data, capsys):
    study = _load(ROOT / "examples" / "imbalance_study.py")
    sentences = study.main(epochs=1, seeds=1, optimizers=("sgdp", "radam"))
    assert [sentence.startswith("Best on validation:") for sentence in sentences] == [True] * 4
    printed = capsys.readouterr().out
    assert "balance_by_augmentation" in printed
    assert printed.count("Confusion matrix") == 4


def test_readme_python_runs(small_data):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line and not line.startswith("import")]) <= 10
    script = small_data / "readme.py"
    script.write_text(blocks[0], encoding="utf-8")
    names = runpy.run_path(str(script))
    assert names["advice"].freeze_through in range(6)
    assert (small_data / "runs" / "sweep" / "report.html").is_file()
