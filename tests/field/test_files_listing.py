"""What users bring: folders. Each test builds one situation; its first line says what xaitune does with it."""

import os
import sys

import cv2
import numpy as np
import pytest
from driving import xaitune
from PIL import Image
from rich.console import Console

from xaitune.cli.console import Ui
from xaitune.data.dataset import ImageData
from xaitune.data.images import expand_images, read_image
from xaitune.errors import DataError, ImageError

RNG = np.random.default_rng(0)


def image(path, side=16, value=None):
    """A file of random grey, or of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (
        RNG.integers(0, 256, (side, side), dtype=np.uint8) if value is None else np.full((side, side), value, np.uint8)
    )
    Image.fromarray(pixels).save(path)
    return path


def images(root, classes, suffix=".png"):
    """root/<class>/<n><suffix> for {class: count}."""
    for label, count in classes.items():
        for i in range(count):
            image(root / label / f"{i}{suffix}")
    return root


def messages(data, kind):
    table = data.check().problems
    return " ".join(table[table["kind"] == kind]["message"])


# ---- endings


@pytest.mark.parametrize("suffix", [".jfif", ".gif", ".ppm", ".pgm", ".jp2", ".JPG"])
def test_other_endings_are_read(tmp_path, suffix):
    """Images as .jfif, .gif, .ppm, .pgm or .jp2 -> read as any other image."""
    colours = np.zeros((16, 24, 3), np.uint8)
    colours[:, :8], colours[:, 8:16], colours[:, 16:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    for label in "ab":
        images(tmp_path, {label: 3})
        grey = suffix == ".pgm"
        picture = Image.fromarray(colours[..., 0] if grey else colours)
        jpeg = {"format": "JPEG", "quality": 95, "subsampling": 0}
        options = {".jfif": jpeg, ".JPG": jpeg, ".jp2": {"irreversible": False}}
        picture.save(tmp_path / label / f"new{suffix}", **options.get(suffix, {}))
    data = ImageData.from_folder(tmp_path)
    assert len(data) == 8
    assert data.notes == ()
    read = read_image(tmp_path / "a" / f"new{suffix}")
    expected = np.repeat(colours[..., :1], 3, axis=2) if suffix == ".pgm" else colours
    assert np.abs(read[8, [3, 12, 20]].astype(int) - expected[8, [3, 12, 20]]).max() <= (
        3 if "j" in suffix.lower() else 0
    )


def test_the_first_frame_of_a_gif(tmp_path):
    """An animated GIF -> its first frame."""
    frames = [Image.new("L", (12, 10), value) for value in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == 40).all()


def test_pgm_of_16_bits_follows_its_own_largest_value(tmp_path):
    """A PGM whose header says that 4095 is white -> 4095 is 255, with no option."""
    values = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    (tmp_path / "a.pgm").write_bytes(b"P5\n# from a camera\n16 16\n4095\n" + values.astype(">u2").tobytes())
    assert np.abs(read_image(tmp_path / "a.pgm")[..., 0] - values / 4095 * 255).max() < 0.01
    assert np.abs(read_image(tmp_path / "a.pgm", bit_depth=10)[..., 0] - values / 4095 * 255).max() < 0.01
    (tmp_path / "b.pgm").write_bytes(b"P5 16 16 65535\n" + values.astype(">u2").tobytes())
    assert np.abs(read_image(tmp_path / "b.pgm", bit_depth=12)[..., 0] - values / 4095 * 255).max() < 0.01


def test_unread_endings_are_counted(tmp_path):
    """Files with endings that are not read -> passed over, counted by ending in a note of data-check and train."""
    images(tmp_path / "d", {"a": 3, "b": 3})
    for name in ("a/1.heic", "a/2.HEIC", "b/3.heic", "b/notes.txt", "b/IM0001", "b/Thumbs.db", "b/.hidden"):
        (tmp_path / "d" / name).write_bytes(b"x")
    data = ImageData.from_folder(tmp_path / "d")
    assert len(data) == 6
    assert "5 files passed over in class folders" in data.notes[0]
    assert "3 .heic, 1 without an ending, 1 .txt" in data.notes[0]
    answer = xaitune(tmp_path, "data-check", "d", "--image-size", "32")
    assert (answer.out + answer.err).count("3 .heic") == 1


def test_a_class_of_unread_files_is_not_called_empty(tmp_path):
    """A class that holds only files that are not read -> an error that says what it holds, not 'fill its folder'."""
    images(tmp_path, {"a": 9, "b": 9})
    (tmp_path / "c").mkdir()
    for i in range(4):
        (tmp_path / "c" / f"{i}.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"Class c has no images that are read, but files of other kinds \(4 \.heic\)"):
        ImageData.from_folder(tmp_path).require_trainable()
    (tmp_path / "d").mkdir()
    assert "Class d has no images: fill its folder" in messages(ImageData.from_folder(tmp_path), "empty class")


def test_no_readable_image_at_all(tmp_path):
    """No class has an image that is read -> the error counts what is there."""
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"It holds 2 \.heic"):
        ImageData.from_folder(tmp_path)
    with pytest.raises(ImageError, match=r"It holds 2 \.heic"):
        expand_images(tmp_path)


# ---- depth


def test_images_in_the_only_subfolder_of_a_class(tmp_path):
    """<class>/Imgs/*.jpg, as some data sets are published -> read from there, with a note."""
    images(tmp_path, {"MT_Crack/Imgs": 4, "MT_Free/Imgs": 5}, ".jpg")
    data = ImageData.from_folder(tmp_path)
    assert data.class_names == ("MT_Crack", "MT_Free")
    assert len(data) == 9
    assert data.files[0] == "MT_Crack/Imgs/0.jpg"
    assert "2 classes were read from the only subfolder: MT_Crack/Imgs, MT_Free/Imgs" in data.notes[0]


def test_images_in_subfolders_are_counted_and_recursive_reads_them(tmp_path):
    """Some images of a class in subfolders -> counted in a note; --recursive reads them."""
    images(tmp_path, {"a": 3, "a/old": 2, "a/old/older": 1, "b": 3, "c/one": 2, "c/two": 2})
    data = ImageData.from_folder(tmp_path)
    assert np.bincount(data.labels, minlength=3).tolist() == [3, 3, 0]
    assert "7 images passed over in subfolders of class folders (a/old, c/one, c/two and 1 more)" in data.notes[0]
    assert "--recursive" in data.notes[0]
    assert "4 images in subfolders (--recursive reads them)" in messages(data, "empty class")
    data = ImageData.from_folder(tmp_path, recursive=True)
    assert np.bincount(data.labels).tolist() == [6, 3, 4]
    assert data.notes == ()
    assert ImageData.from_config(data.config).fingerprint == data.fingerprint
    answer = xaitune(tmp_path, "init", tmp_path, "--recursive", "--weights", "slim", "--image-size", "32", "--json")
    assert answer.json["images"] == 13
    assert "recursive = true" in (tmp_path / "xaitune.toml").read_text()


# ---- splits and hints


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("Training", "Validation", "Testing"), ("train_set", "val_set", "test_set"), ("TRAIN", "dev", "test"),
     ("train", "eval", "testing"), ("training-set", "evaluation", "Test data")],
)  # fmt: skip
def test_usual_names_of_splits(tmp_path, train, validation, test):
    """Training/Testing, train_set/test_set, dev, eval ... -> taken as the splits that they name."""
    for folder, count in ((train, 5), (validation, 3), (test, 2)):
        images(tmp_path / folder, {"a": count, "b": count})
    data = ImageData.from_folder(tmp_path)
    assert data.class_names == ("a", "b")
    assert data.counts()[["train", "validation", "test"]].to_numpy().tolist() == [[5, 3, 2]] * 2


def test_two_folders_named_after_one_split(tmp_path):
    """val and dev beside train -> refused: which of them is for validation is the user's choice."""
    for folder in ("train", "val", "dev"):
        images(tmp_path / folder, {"a": 3, "b": 3})
    with pytest.raises(DataError, match=r"dev and val of .* are all named after the split validation"):
        ImageData.from_folder(tmp_path)


def test_a_test_split_without_a_training_split(tmp_path):
    """Testing and unknown folders but no training folder -> the error never points at the test images alone."""
    for folder in ("Testing", "part1"):
        images(tmp_path / folder, {"a": 3, "b": 3})
    with pytest.raises(DataError, match=r"holds splits .Testing., but none for training") as caught:
        ImageData.from_folder(tmp_path)
    assert "Did you mean" not in str(caught.value)


def test_splits_without_classes(tmp_path):
    """train/*.png and test/*.png without class folders -> refused, instead of learning to tell train from test."""
    images(tmp_path, {"train": 4, "test": 4})
    with pytest.raises(
        DataError, match=r"The folders test and train of .* are splits, but hold images without classes"
    ):
        ImageData.from_folder(tmp_path)
    images(tmp_path, {"car": 4})
    assert ImageData.from_folder(tmp_path).class_names == ("car", "test", "train")


def test_the_folder_of_images_and_masks(tmp_path):
    """The folder that holds images/<class> and masks/<class> -> the hint names images."""
    images(tmp_path / "images", {"a": 2, "b": 2})
    images(tmp_path / "masks", {"a": 2, "b": 2})
    with pytest.raises(DataError, match=r"Did you mean .*images\?"):
        ImageData.from_folder(tmp_path)


def test_a_hint_leaves_no_image_behind(tmp_path):
    """Class folders one level too deep -> a folder is only suggested if it holds all images."""
    images(tmp_path / "one/set/images", {"a": 2, "b": 2})
    with pytest.raises(DataError, match=r"Did you mean .*one/set/images\?"):
        ImageData.from_folder(tmp_path / "one")
    images(tmp_path / "zip/archive/train", {"a": 2, "b": 2})
    images(tmp_path / "zip/archive/test", {"a": 2, "b": 2})
    with pytest.raises(DataError, match=r"Did you mean .*zip/archive\?"):
        ImageData.from_folder(tmp_path / "zip")
    images(tmp_path / "two", {"a/x": 2, "a/y": 2, "b/x": 2, "b/y": 2})
    with pytest.raises(DataError, match=r"further down \(a/x, a/y, b/x and 1 more\): .*--recursive") as caught:
        ImageData.from_folder(tmp_path / "two")
    assert "Did you mean" not in str(caught.value)
    assert np.bincount(ImageData.from_folder(tmp_path / "two", recursive=True).labels).tolist() == [4, 4]


def test_an_unknown_folder_beside_train(tmp_path):
    """A folder beside train that is no known split -> ignored with a note that counts its images."""
    for folder in ("train", "holdout"):
        images(tmp_path / folder, {"a": 4, "b": 4})
    assert (
        "The folder holdout (8 images) is next to train but is not a split" in ImageData.from_folder(tmp_path).notes[0]
    )


# ---- names


def _undecodable(folder, name):
    """A path with a name in CP949, as a Korean zip leaves it on Linux."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = os.path.join(os.fsencode(folder), name.encode("cp949"))
        with open(path, "wb"):
            return os.fsdecode(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")


def test_names_that_are_not_utf8_are_refused_at_once(tmp_path):
    """File names in CP949 (a Korean zip unpacked on Linux) -> refused by name before any image is read."""
    images(tmp_path / "data", {"a": 3, "b": 3})
    path = _undecodable(tmp_path / "data" / "a", "균열.png")
    for find in (ImageData.from_folder, lambda p: expand_images(p), lambda p: expand_images([path])):
        with pytest.raises(
            (DataError, ImageError), match=r"\\xb1\\xd5\\xbf\\xad\.png is not UTF-8\. .*convmv.*cp949"
        ) as caught:
            find(tmp_path / "data")
        assert str(caught.value).encode("utf-8")
        assert "\n" not in str(caught.value)
    answer = xaitune(tmp_path, "explain", "data")
    assert answer.status == 2
    assert "is not UTF-8" in answer.err
    os.unlink(path)
    assert len(ImageData.from_folder(tmp_path / "data")) == 6


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes UTF-8 only")
def test_folder_names_that_are_not_utf8_are_refused_too(tmp_path):
    """A class folder, or a folder above, whose name is not UTF-8 -> refused by name."""
    images(tmp_path / "data", {"a": 3, "b": 3})
    inner = os.path.join(os.fsencode(tmp_path / "data"), "균열".encode("cp949"))
    os.mkdir(inner)
    with pytest.raises(DataError, match=r"\\xb1\\xd5\\xbf\\xad is not UTF-8"):
        ImageData.from_folder(tmp_path / "data")
    outer = os.fsdecode(os.path.join(os.fsencode(tmp_path), "자료".encode("cp949")))
    os.rename(tmp_path / "data", outer)
    os.rmdir(os.path.join(os.fsencode(outer), "균열".encode("cp949")))
    with pytest.raises(DataError, match="is not UTF-8"):
        ImageData.from_folder(outer)


def test_square_brackets_stay_in_tables(capsys, monkeypatch):
    """Names with square brackets, or that look like an emoji code -> shown as they are."""
    import pandas as pd

    monkeypatch.setenv("COLUMNS", "200")
    ui = Ui()
    frame = pd.DataFrame(
        {"[red]score[/red]": [0.5]},
        index=pd.Index(
            [
                "part[1] [bold]x.png",
            ],
            name="file [old]",
        ),
    )
    ui.table(frame, "Scores [of all]")
    ui.say("Wrote [green]a:smile:.png")
    ui.warn("[/] in a name")
    shown = capsys.readouterr()
    for text in ("part[1] [bold]x.png", "[red]score[/red]", "file [old]", "Scores [of all]", "[green]a:smile:.png"):
        assert text in shown.out
    assert "[/] in a name" in shown.err
    assert isinstance(ui.console, Console)


# ---- links


def test_linked_class_folders(tmp_path):
    """Class folders that are links -> followed, by train, explain and predict alike."""
    images(tmp_path / "disk", {"a": 3, "b": 3})
    (tmp_path / "data").mkdir()
    for label in "ab":
        (tmp_path / "data" / label).symlink_to(tmp_path / "disk" / label)
    data = ImageData.from_folder(tmp_path / "data")
    assert len(data) == 6
    assert expand_images(tmp_path / "data") == data.paths()


def test_links_in_a_circle(tmp_path):
    """A link to a folder above it -> not followed, so that no listing runs in a circle or takes in other classes."""
    images(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    (tmp_path / "again").symlink_to(tmp_path)
    for recursive in (False, True):
        data = ImageData.from_folder(tmp_path, recursive=recursive)
        assert data.class_names == ("a", "b")
        assert len(data) == 6
        assert data.notes == ()
    assert expand_images(tmp_path) == data.paths()


def test_links_that_lead_nowhere(tmp_path):
    """An image that is a link to a missing file -> named among the unreadable ones."""
    images(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = ImageData.from_folder(tmp_path)
    assert [file for file, _ in data.skipped] == ["a/gone.png"]
    assert "No image at" in data.skipped[0][1]


def test_opencv_and_pillow_agree_on_new_formats(tmp_path):
    """A PPM in colour -> the colours that OpenCV reads too."""
    pixels = RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.ppm"), pixels[..., ::-1])
    assert np.array_equal(read_image(tmp_path / "a.ppm"), pixels)
