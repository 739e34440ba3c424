"""ImageData: listings, groups, masks, splits, fingerprints, and the errors for bad data."""

import hashlib
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xaitune.config.settings import DataConfig
from xaitune.data.dataset import ImageData
from xaitune.data.scan import DECODE_LIMIT, scan_files
from xaitune.data.splits import SPLITS, split_groups
from xaitune.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3] / "shared"


def make_images(root, classes, side=32):
    """Random images root/<class>/<name>.png for {class: names or count}."""
    rng = np.random.default_rng(0)
    for label, names in classes.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for name in [f"{i:03}" for i in range(names)] if isinstance(names, int) else names:
            Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(root / label / f"{name}.png")
    return root


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / "data", {"crack": 10, "free": 20, "균열": 5})


def test_class_folders(root):
    (root / ".cache").mkdir()
    (root / "crack" / "notes.txt").write_text("x")
    (root / "crack" / ".hidden.png").write_text("x")
    shutil.copy(root / "crack" / "000.png", root / "loose.png")
    data = ImageData.from_folder(root, image_size=(32, 40))
    assert data.class_names == ("crack", "free", "균열")
    assert data.files[0] == "crack/000.png"
    assert len(data) == 35
    assert np.bincount(data.labels).tolist() == [10, 20, 5]
    assert data.counts().loc["crack"].tolist() == [6, 2, 2, 10, 6, 2, 2, 10]
    assert "loose" not in str(data.files)
    assert "belong to no class" in data.notes[0]
    assert data.load([0, 34]).shape == (2, 32, 40, 3)
    assert data.paths([34]) == [root / "균열" / "004.png"]
    assert not data.labels.flags.writeable
    with pytest.raises(DataError, match="split must be one of"):
        data.indices("dev")


def test_decomposed_korean_names_become_composed(tmp_path):
    name = unicodedata.normalize("NFD", "균열")
    data = ImageData.from_folder(make_images(tmp_path, {name: 3, "free": 3}))
    assert data.class_names == ("free", "균열")
    assert data.load([5]).shape == (1, 224, 224, 3)


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_ready_made_splits(tmp_path, name):
    for split, count in (("train", 6), (name, 2), ("test", 3)):
        make_images(tmp_path / split, {"a": count, "b": count})
    counts = ImageData.from_folder(tmp_path).counts()
    assert counts[list(SPLITS)].to_numpy().tolist() == [[6, 2, 3]] * 2


def test_missing_validation_is_taken_from_train(tmp_path):
    make_images(tmp_path / "train", {"a": 8, "b": 16})
    make_images(tmp_path / "test", {"a": 3, "b": 3})
    data = ImageData.from_folder(tmp_path, split=(0.6, 0.2, 0.2))
    assert data.counts()[list(SPLITS)].to_numpy().tolist() == [[6, 2, 3], [12, 4, 3]]
    assert all(f.startswith("test/") == (s == "test") for f, s in zip(data.files, data.split, strict=True))


def test_train_as_a_class_name(tmp_path):
    assert ImageData.from_folder(make_images(tmp_path, {"train": 4, "car": 4})).class_names == ("car", "train")


def test_csv(root):
    rows = [f"{c}/00{i}.png,{c},{s},g{i}" for c in ("crack", "균열") for i, s in enumerate(("train", "val", "test"))]
    (root / "d.csv").write_text("file,label,split,group\n" + "\n".join(rows), encoding="utf-8-sig")
    data = ImageData.from_csv(root / "d.csv")
    assert data.class_names == ("crack", "균열")
    assert data.split.tolist() == ["train", "validation", "test"] * 2
    assert data.groups.tolist() == ["g0", "g1", "g2"] * 2
    again = ImageData.from_config(data.config)
    assert again.fingerprint == data.fingerprint
    (root / "e.csv").write_text("file,label\ncrack\\001.png,b\n./crack/000.png,a\nfree/000.png,a\nfree/001.png,b\n")
    data = ImageData.from_csv(root / "e.csv")
    assert data.files == ("crack/000.png", "crack/001.png", "free/000.png", "free/001.png")
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert data.groups.tolist() == list(data.files)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("name,label\na,b\n", "lacks the column 'file'"),
        ("file,label\n", "no rows"),
        ("file,label\ncrack/000.png,\n", "row 2 has no label"),
        ("file,label\ncrack/000.png,a\ncrack/000.png,b\n", "twice"),
        ("file,label,split\ncrack/000.png,a,spare\n", "must be train, validation or test. Received: 'spare'"),
        ("file,label,split\ncrack/000.png,a,test\n", "no training images"),
        ("file,label\ncrack/absent.png,a\n", "1 of 1 images .* cannot be read"),
    ],
)
def test_bad_csv(root, text, message):
    (root / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        ImageData.from_csv(root / "bad.csv")


def test_bad_folders(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    make_images(tmp_path / "deep" / "images", {"a": 1, "b": 1})
    make_images(tmp_path / "flat", {".": 2})
    for path, message in (
        ("absent", "No image folder at"),
        ("empty", "No images in the class folders"),
        ("deep", r"Did you mean .*deep/images\?"),
        ("flat", "one folder per class"),
        ("flat/000.png", "is a file, but a folder"),
    ):
        with pytest.raises(DataError, match=message):
            ImageData.from_folder(tmp_path / path)
    with pytest.raises(DataError, match="No data set was given"):
        ImageData.from_config(DataConfig())
    with pytest.raises(DataError, match="No CSV at"):
        ImageData.from_config(DataConfig(path=str(tmp_path / "x.csv")))
    with pytest.raises(ConfigError, match="sum to 1"):
        ImageData.from_folder(tmp_path, split=(0.5, 0.2, 0.2))

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"Cannot list .*Permission denied"):
        ImageData.from_folder(tmp_path / "deep")


def test_groups_from_a_pattern_and_from_a_csv(tmp_path):
    root = make_images(tmp_path / "d", {"a": ["p1_x", "p1_y", "p2_x"], "b": ["p3_x", "p4_x", "p5_x"]})
    data = ImageData.from_folder(root, groups=r"^(p\d+)_")
    assert data.groups.tolist() == ["p1", "p1", "p2", "p3", "p4", "p5"]
    rows = "\n".join(f"{f},{g}" for f, g in zip(data.files, data.groups, strict=True))
    (tmp_path / "g.csv").write_text(f"file,group\n{rows}\nother.png,z\n")
    assert ImageData.from_folder(root, groups=tmp_path / "g.csv").groups.tolist() == data.groups.tolist()
    (tmp_path / "few.csv").write_text("file,group\na/p1_x.png,p1\n")
    (tmp_path / "two.csv").write_text("file,group\na/p1_x.png,p1\na/p1_x.png,p2\n")
    for rule, message in (
        ("(p", "neither a CSV nor a regular expression"),
        (r"p\d", "needs a capture group in parentheses"),
        (r"(p[123])_", "does not match b/p4_x.png"),
        (tmp_path / "few.csv", "no group for 5 of 6 images, the first is a/p1_y.png"),
        (tmp_path / "two.csv", "assigns two groups to a/p1_x.png"),
        (tmp_path / "none.csv", "No CSV at"),
    ):
        with pytest.raises(DataError, match=message):
            ImageData.from_folder(root, groups=rule)


def test_masks(root, tmp_path):
    masks = tmp_path / "masks"
    (masks / "crack").mkdir(parents=True)
    drawn = np.zeros((32, 32), np.uint8)
    drawn[:16] = 255
    Image.fromarray(drawn).save(masks / "crack" / "000.bmp")
    Image.fromarray(drawn[:20]).save(masks / "crack" / "001.png")
    data = ImageData.from_folder(root, masks=masks, image_size=(64, 64))
    assert data.masks[0] == masks / "crack" / "000.bmp"
    assert data.masks[2] is None
    first, without_mask = data.load_masks([0, 2])
    assert without_mask is None
    assert first[:32].all()
    assert not first[32:].any()
    assert data.mask(0).shape == (32, 32)
    with pytest.raises(DataError, match="20 x 32 pixels"):
        data.mask(1)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="fits an image"):
        ImageData.from_folder(root, masks=tmp_path / "other")
    with pytest.raises(DataError, match="No mask folder"):
        ImageData.from_folder(root, masks=tmp_path / "absent")


def test_masks_inside_the_root_are_not_a_class(root):
    make_images(root / "masks", {"crack": ["000"]})
    assert ImageData.from_folder(root, masks=root / "masks").class_names == ("crack", "free", "균열")


def test_few_unreadable_images_are_skipped_but_many_are_refused(root):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    image.save(root / "crack" / "cut.jpg")
    whole = (root / "crack" / "cut.jpg").read_bytes()
    (root / "crack" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "crack" / "zero.png").write_bytes(b"")
    (root / "free" / "text.png").write_text("not an image")
    data = ImageData.from_folder(root)
    assert [f for f, _ in data.skipped] == ["crack/cut.jpg", "crack/zero.png", "free/text.png"]
    assert "cut short" in data.skipped[0][1]
    assert len(data) == len(data.headers) == len(data.digests) == len(data.load()) == 35
    (root / "free" / "text2.png").write_text("not an image")
    with pytest.raises(DataError, match=r"4 of 39 images .* cannot be read. The first: .*cut\.jpg"):
        ImageData.from_folder(root)


def test_large_sets_recognise_truncated_files_by_their_end(root, monkeypatch):
    data = (root / "crack" / "000.png").read_bytes()
    (root / "crack" / "cut.png").write_bytes(data[:-200])
    monkeypatch.setattr("xaitune.data.scan.DECODE_LIMIT", 0)
    assert [bool(s.reason) for s in scan_files(root, ["crack/000.png", "crack/cut.png"])] == [False, True]
    assert DECODE_LIMIT > 1000


def test_sixteen_bit_sets_load_as_float(root):
    assert ImageData.from_folder(root).load([0]).dtype == np.uint8
    Image.fromarray(np.full((32, 32), 1000, np.uint16)).save(root / "crack" / "deep.png")
    data = ImageData.from_folder(root)
    assert data.load([0]).dtype == np.float32
    assert np.allclose(data.load([data.files.index("crack/deep.png")]), 1000 / 257)


def test_progress_is_called_in_order(root):
    seen = []
    ImageData.from_folder(root, image_size=(32, 32)).load(progress=lambda done, count, what: seen.append((done, count)))
    assert seen == [(i, 35) for i in range(1, 36)]


def test_fingerprint_follows_content_labels_groups_split_and_size(root, tmp_path):
    first = ImageData.from_folder(root).fingerprint
    assert len(first) == 16
    assert int(first, 16) >= 0
    shutil.copytree(root, tmp_path / "copy")
    assert ImageData.from_folder(tmp_path / "copy").fingerprint == first
    others = [
        ImageData.from_folder(root, split_seed=1).fingerprint,
        ImageData.from_folder(root, image_size=(64, 64)).fingerprint,
        ImageData.from_folder(root, resize="pad").fingerprint,
        ImageData.from_folder(root, groups=r"(\d\d)").fingerprint,
    ]
    file = root / "crack" / "000.png"
    content = file.read_bytes()
    file.write_bytes(content + b"\0")  # a byte after the end changes no pixel
    others.append(ImageData.from_folder(root).fingerprint)
    file.write_bytes(content)
    (root / "crack").rename(root / "riss")
    others.append(ImageData.from_folder(root).fingerprint)
    assert len({first, *others}) == 7


def test_the_fingerprint_is_the_same_in_every_version(tmp_path):
    """Written out by hand: a run of an older version must find its data again."""
    make_images(tmp_path, {"a": 3, "b": 3})
    data = ImageData.from_folder(tmp_path, image_size=(32, 40))
    parts = ["(32, 40) stretch", "a", "b", ""]
    for file, split in zip(data.files, data.split, strict=True):
        content = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()[:32]
        parts += [file, content, file[0], file, split]
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little") + part.encode())
    assert data.fingerprint == sha.hexdigest()[:16]


def test_the_listing_order_of_the_disk_does_not_matter(root, monkeypatch):
    first = ImageData.from_folder(root)
    entries = __import__("xaitune.data.class_folders").data.class_folders._entries
    monkeypatch.setattr("xaitune.data.class_folders._entries", lambda folder: entries(folder)[::-1])
    again = ImageData.from_folder(root)
    assert again.files == first.files
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("seed", range(8))
def test_split_properties(seed):
    rng = np.random.default_rng(seed)
    group_class = np.repeat([0, 1, 2, 3], [3, 7, 40, 100])
    sizes = rng.integers(1, 8, len(group_class))
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    labels = np.repeat(group_class, sizes)
    mixed = rng.random(len(labels)) < 0.02  # some groups have images of two classes
    labels[mixed] = 3
    shares = np.array([0.6, 0.2, 0.2])
    split = split_groups(labels, groups, shares, seed)
    for group in np.unique(groups):
        assert len(set(split[groups == group])) == 1
    for c in range(4):
        inside = split[labels == c]
        if len(np.unique(groups[labels == c])) >= 3:
            assert set(inside) == {0, 1, 2}
    for c in (2, 3):
        parts = np.bincount(split[labels == c], minlength=3) / (labels == c).sum()
        assert np.abs(parts - shares).max() < 0.04
    order = rng.permutation(len(labels))
    assert np.array_equal(split_groups(labels[order], groups[order], shares, seed), split[order])
    assert not np.array_equal(split_groups(labels, groups, shares, seed + 1), split)


def test_split_shares_one_group_between_rare_classes():
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    groups = np.array(list("abcdefadg"))  # class 2 shares a with class 0 and d with class 1
    split = split_groups(labels, groups, np.array([0.6, 0.2, 0.2]), 0)
    assert all(set(split[labels == c]) == {0, 1, 2} for c in range(3))


def test_require_trainable(tmp_path):
    data = ImageData.from_folder(make_images(tmp_path, {"a": 2, "b": 9}))
    with pytest.raises(DataError, match=r"meaningless. Class a has fewer groups \(2\) than there are splits"):
        data.require_trainable()
    make_images(tmp_path, {"a": 9})
    ImageData.from_folder(tmp_path).require_trainable()
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="Class c has no images"):
        ImageData.from_folder(tmp_path).require_trainable()


def test_notebook_display(root):
    data = ImageData.from_folder(root)
    assert "35 images, 3 classes" in repr(data)
    assert "균열" in data._repr_html_()
    table = data.to_dataframe()
    assert table.shape == (35, 8)
    assert table["class"].tolist()[-1] == "균열"


@pytest.mark.skipif(not (SHARED / "data/magnetic-tile").is_dir(), reason="the shared data sets are missing")
def test_magnetic_tile():
    folder = SHARED / "data/magnetic-tile"
    data = ImageData.from_folder(folder / "images", masks=folder / "masks", groups=folder / "groups.csv")
    counts = data.counts()
    assert data.class_names == ("blowhole", "break", "crack", "fray", "free", "uneven")
    assert counts["images"].tolist() == [115, 85, 57, 32, 952, 103]
    shares = counts[list(SPLITS)].div(counts["images"], axis=0)
    assert np.abs(shares - [0.6, 0.2, 0.2]).to_numpy().max() < 0.05
    assert (counts[["train_groups", "validation_groups", "test_groups"]] >= 1).all(axis=None)
    assert all(len(set(data.split[data.groups == g])) == 1 for g in set(data.groups))
    assert None not in data.masks
