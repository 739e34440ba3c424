"""Corrections of labels from a CSV: what they change, what they leave, and the error for each bad row."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xaitune.config.settings import DataConfig
from xaitune.config.toml import load_config
from xaitune.data.dataset import ImageData
from xaitune.data.label_fixes import may_hold_actions
from xaitune.errors import DataError


@pytest.fixture
def root(tmp_path):
    """Ten images each of crack, free and 균열, with masks of the cracks."""
    rng = np.random.default_rng(0)
    for label in ("crack", "free", "균열"):
        for number in range(10):
            file = tmp_path / "data" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(file)
    (tmp_path / "masks" / "crack").mkdir(parents=True)
    for number in range(10):
        mask = np.zeros((16, 16), np.uint8)
        mask[:2] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / "crack" / f"{number}.png")
    return tmp_path / "data"


def fixed(root, *rows, header="file,action,new_class", **options):
    file = root.parent / "fixes.csv"
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return ImageData.from_folder(root, image_size=(32, 32), label_fixes=file, **options)


def labels_of(data):
    return {file: data.class_names[label] for file, label in zip(data.files, data.labels, strict=True)}


def test_images_get_another_class_or_are_left_out(root):
    before = sorted(p.relative_to(root) for p in root.rglob("*.png"))
    plain = ImageData.from_folder(root, image_size=(32, 32))
    decomposed = unicodedata.normalize("NFD", "균열")
    rows = [f"crack/3.png,Relabel,{decomposed}", ".\\free\\4.png, drop ,", "free/5.png,keep,crack", "free/6.png,,crack"]
    data = fixed(root, *rows, masks=root.parent / "masks")
    expected = labels_of(plain) | {"crack/3.png": "균열"}
    del expected["free/4.png"]
    assert labels_of(data) == expected
    assert f"Label fixes: 1 image relabelled, 1 left out ({root.parent / 'fixes.csv'})." in data.notes
    assert data.counts()["images"].tolist() == [9, 9, 11]
    assert data.fingerprint != plain.fingerprint
    mask = dict(zip(data.files, data.masks, strict=True))
    assert mask["crack/3.png"] == root.parent / "masks" / "crack" / "3.png"  # of the folder that it lies in
    assert mask["free/5.png"] is None
    assert sorted(p.relative_to(root) for p in root.rglob("*.png")) == before
    assert ImageData.from_config(data.config).fingerprint == data.fingerprint


def test_every_class_is_divided_after_the_fixes(root):
    """Six cracks become free: both classes are stratified as they are now."""
    data = fixed(root, *(f"crack/{i}.png,relabel,free" for i in range(5)))
    assert data.counts().loc["crack", ["train", "validation", "test"]].tolist() == [3, 1, 1]
    assert data.counts().loc["free", ["train", "validation", "test"]].tolist() == [9, 3, 3]


def test_fixes_without_effect_leave_the_fingerprint(root):
    plain = ImageData.from_folder(root, image_size=(32, 32))
    for rows in (["crack/1.png,keep,"], ["crack/1.png,,"], ["crack/1.png,relabel,crack", "crack/1.png,relabel,crack"]):
        data = fixed(root, *rows)
        assert data.fingerprint == plain.fingerprint
        assert "0 images relabelled, 0 left out" in data.notes[-1]


def test_a_csv_is_corrected_too(root):
    table = root / "list.csv"
    table.write_text("file,label\n" + "".join(f"{c}/{i}.png,{c}\n" for c in ("crack", "free") for i in range(10)))
    (root / "fixes.csv").write_text("file,action,new_class\ncrack/0.png,relabel,free\nfree/1.png,drop,\n")
    data = ImageData.from_csv(table, image_size=(32, 32), label_fixes=root / "fixes.csv")
    assert data.counts()["images"].tolist() == [9, 10]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["crack/1.png,delete,"], r"row 2 \(crack/1.png\): action must be keep, relabel, drop, or empty. Received: 'delete'"),
        (["crack/1.png,relable,free"], "Did you mean 'relabel'"),
        (["crack/99.png,drop,"], r"row 2 \(crack/99.png\): no such image in the data. Did you mean .*relative to "),
        (["crack/1.png,relabel,fre"], r"must be a class of the data \(crack, free, 균열\). Received: 'fre'. Did you mean 'free'"),
        (["crack/1.png,relabel,"], "new_class must be a class of the data .* Received: ''"),
        (["crack/1.png,drop,", "crack/1.png,keep,"], "row 3 .* two different actions, drop and keep. Keep one row"),
        (["crack/1.png,relabel,free", "crack/1.png,relabel,균열"], "relabel free and relabel 균열"),
        ([f"{c}/{i}.png,drop," for c in ("crack", "free", "균열") for i in range(10)], "drops all 30 images"),
    ],
)  # fmt: skip
def test_bad_rows(root, rows, message):
    with pytest.raises(DataError, match=message):
        fixed(root, *rows)


def test_bad_files(root):
    with pytest.raises(DataError, match="lacks the column 'action'"):
        fixed(root, "crack/1.png", header="file")
    with pytest.raises(DataError, match="new_class must be a class"):
        fixed(root, "crack/1.png,relabel", header="file,action")
    with pytest.raises(DataError, match="No CSV at"):
        ImageData.from_folder(root, label_fixes=root / "none.csv")


def test_a_path_in_the_settings_is_relative_to_their_file(root, monkeypatch):
    fixed(root, "crack/1.png,drop,")
    file = root.parent / "xaitune.toml"
    file.write_text('[data]\npath = "data"\nlabel_fixes = "fixes.csv"\nimage_size = [32, 32]\n')
    monkeypatch.chdir(Path("/"))
    config = load_config(file).data
    assert config.label_fixes == str(root.parent / "fixes.csv")
    assert len(ImageData.from_config(config)) == 29
    assert DataConfig().label_fixes is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("file,action\na.png,\n", False),
        ("file,action\n", False),
        ("file,action\na.png,\nb.png,drop\n", True),
        ("file;action\na.png;drop\n", True),  # saved with semicolons: it may hold actions
        ("", True),
    ],
)
def test_filled_in_files_are_known(tmp_path, content, expected):
    file = tmp_path / "labels.csv"
    assert not may_hold_actions(file)
    file.write_text(content)
    assert may_hold_actions(file) == expected


def test_a_file_in_another_encoding_may_hold_actions(tmp_path):
    (tmp_path / "labels.csv").write_bytes("file,action,new_class\na.png,drop,균열\n".encode("cp949"))
    assert may_hold_actions(tmp_path / "labels.csv")
