"""Pixel classes from masks: every way to write them, and every way in which they can be wrong."""

import numpy as np
import pytest
from PIL import Image

from xaitune import ImageData
from xaitune.config.parse import parse_pixel_classes
from xaitune.data.mask_values import read_marked
from xaitune.data.pixel_labels import IGNORED, PixelLabels, labels_of_pixels
from xaitune.errors import ConfigError, DataError
from xaitune.evaluate.store import read_masks

SIZE = (40, 60)


def write(path, array, mode=None, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8), mode)
    if palette:
        image.putpalette(palette)
    image.save(path)


def make(folder, mask_of, count=6, classes=("crack", "hole"), flat=False):
    """`count` images of each class, each with the mask that `mask_of(class number, image number)` gives, or None."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(classes):
        for i in range(count):
            place = f"{name}{i}.png" if flat else f"{name}/{i}.png"
            write(folder / "images" / place, rng.integers(0, 255, (*SIZE, 3)))
            mask = mask_of(c, i)
            if mask is not None:
                write(folder / "masks" / place, mask)
    return folder


def box(value=255, dtype=np.uint8):
    mask = np.zeros(SIZE, dtype)
    mask[10:20, 20:50] = value
    return mask


def read(folder, pixel_classes=None, image_size=(32, 32), **options):
    return ImageData.from_folder(
        folder / "images", masks=folder / "masks", pixel_classes=pixel_classes, image_size=image_size, **options
    )


def test_marked_pixels_are_of_their_images_class(tmp_path):
    data = read(make(tmp_path, lambda c, i: box()))
    labels = labels_of_pixels(data)
    assert labels.class_names == ("background", "crack", "hole")
    assert [sorted(set(labels.read(row).ravel())) for row in (0, 11)] == [[0, 1], [0, 2]]
    assert labels.counts[0].tolist() == [SIZE[0] * SIZE[1] - 300, 300, 0]
    loaded = labels.load(range(len(data)))
    assert loaded.shape == (12, 32, 32)
    assert loaded.dtype == np.uint8
    assert loaded[0, 8:16, 11:26].min() == 1  # the box at the input's size


def test_a_class_whose_masks_mark_nothing_is_background(tmp_path):
    make(tmp_path, lambda c, i: box() if c == 0 else np.zeros(SIZE))
    assert labels_of_pixels(read(tmp_path)).class_names == ("background", "crack")


def test_a_class_without_masks_is_background(tmp_path):
    make(tmp_path, lambda c, i: box() if c == 0 else None)
    labels = labels_of_pixels(read(tmp_path))
    assert labels.class_names == ("background", "crack")
    assert labels.read(11).max() == 0


def test_one_name_for_all_marked_pixels(tmp_path):
    labels = labels_of_pixels(read(make(tmp_path, lambda c, i: box()), "defect"))
    assert labels.class_names == ("background", "defect")
    assert labels.counts[:, 1].tolist() == [300] * 12


def test_label_images_name_their_values(tmp_path):
    make(tmp_path, lambda c, i: box(c + 1) + (np.arange(SIZE[0])[:, None] > 35) * np.uint8(255))
    labels = labels_of_pixels(read(tmp_path, "0=background,2=hole,1=crack,255=ignore"))
    assert labels.class_names == ("background", "hole", "crack")
    assert labels.counts[0].tolist() == [40 * 60 - 4 * 60 - 300, 0, 300]
    assert (labels.read(0)[36:] == IGNORED).all()


def test_palette_masks_are_read_as_indices_or_as_colours(tmp_path):
    make(tmp_path, lambda c, i: None)
    for c, name in enumerate(("crack", "hole")):
        for i in range(6):
            write(tmp_path / "masks" / name / f"{i}.png", box(c + 1), "P", [0, 0, 0, 255, 0, 0, 0, 255, 0])
    indices = PixelLabels(read(tmp_path, "0=background,1=crack,2=hole"))
    colours = PixelLabels(read(tmp_path, "#000000=background,#ff0000=crack,#00ff00=hole"))
    assert (indices.counts == colours.counts).all()
    assert indices.counts[6, 2] == 300


def test_colour_masks(tmp_path):
    make(tmp_path, lambda c, i: np.stack([box() * (c == 0), box() * (c == 1), box() * 0], axis=2))
    labels = labels_of_pixels(read(tmp_path, "#000000=background,#FF0000=crack,#00ff00=hole"))
    assert labels.counts[[0, 6], [1, 2]].tolist() == [300, 300]


def test_images_directly_in_a_folder(tmp_path):
    labels = labels_of_pixels(read(make(tmp_path, lambda c, i: box(), flat=True), "defect"))
    assert labels.counts.shape == (12, 2)
    assert labels.data.class_names == ("images",)
    labels.require_trainable()


def test_padding_is_ignored(tmp_path):
    data = read(make(tmp_path, lambda c, i: box()), "defect", resize="pad")
    loaded = labels_of_pixels(data).load([0])[0]
    assert (loaded[:5] == IGNORED).all()
    assert (loaded[16] != IGNORED).all()


def test_the_digest_follows_the_masks_and_the_fingerprint_does_not(tmp_path):
    make(tmp_path, lambda c, i: box())
    one = read(tmp_path, "defect")
    before = PixelLabels(one).digest
    write(tmp_path / "masks/crack/0.png", np.roll(box(), 5, axis=0))
    two = read(tmp_path, "defect")
    assert PixelLabels(two).digest != before
    assert one.fingerprint == two.fingerprint


BAD = {
    "size": (
        lambda c, i: box()[:30] if (c, i) == (0, 1) else box(),
        None,
        r"another size .*30 x 60 for 40 x 60.*crack/1",
    ),
    "value": (lambda c, i: box(7), "0=background,1=x", r"holds 7, which --pixel-classes does not name.*and 9 more"),
    "colour": (
        lambda c, i: np.stack([box()] * 3, 2) * [1, 0, 0],
        "#000000=background,#00ff00=x",
        r"holds #ff0000, which",
    ),
    "numbers": (lambda c, i: np.stack([box()] * 3, 2) * [1, 0, 0], "0=background,1=x", r"is in colour"),
    "missing": (
        lambda c, i: None if (c, i) == (1, 2) else box(),
        None,
        r"1 image without a mask.*hole/2.*all-black mask",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_masks_that_cannot_be_used(name, tmp_path):
    mask_of, pixel_classes, message = BAD[name]
    data = read(make(tmp_path, mask_of), pixel_classes)
    with pytest.raises(DataError, match=message):
        labels_of_pixels(data)
    (problem,) = PixelLabels(data).find_problems()
    assert problem.level == "error"
    assert problem.files


def test_a_damaged_mask(tmp_path):
    make(tmp_path, lambda c, i: box())
    (tmp_path / "masks/hole/3.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1 mask that cannot be read.*hole/3.png"):
        labels_of_pixels(read(tmp_path))


def test_masks_that_teach_nothing(tmp_path):
    make(tmp_path / "a", lambda c, i: np.zeros(SIZE))
    with pytest.raises(DataError, match="All masks are background"):
        labels_of_pixels(read(tmp_path / "a", "defect")).require_trainable()
    make(tmp_path / "b", lambda c, i: box(1))
    with pytest.raises(DataError, match="The pixel class hole is in no mask"):
        labels_of_pixels(read(tmp_path / "b", "0=background,1=crack,2=hole")).require_trainable()
    data = read(tmp_path / "b")
    with pytest.raises(DataError, match="needs masks"):
        labels_of_pixels(ImageData.from_folder(data.root, image_size=(32, 32)))


def test_a_class_absent_from_a_split_is_said(tmp_path):
    make(tmp_path, lambda c, i: box(2 if (c, i) == (0, 0) else 1))
    data = read(tmp_path, "0=background,1=crack,2=hole")
    problems = labels_of_pixels(data).find_problems()
    where = data.split[0]
    kind = "pixel class absent from a split" if where == "train" else "pixel class not in train"
    assert kind in [problem.kind for problem in problems]


def test_a_mask_is_read_as_its_values_say_everywhere(tmp_path):
    def mask_of(c, i):
        mask = box(c + 1)
        mask[36:] = 255
        return mask

    data = read(make(tmp_path, mask_of), "0=background,1=crack,2=hole,255=ignore")
    assert data.mask(0).sum() == 300  # not the ignored band
    path = data.masks[0]
    assert read_marked(path, data.config.pixel_classes, "hole").sum() == 0
    assert read_marked(path, data.config.pixel_classes, "crack").sum() == 300
    assert read_masks([str(data.paths()[0])], [path], data.config.pixel_classes, ["crack"])[0].sum() == 300


def test_a_corrected_label_does_not_make_masks_missing(tmp_path):
    make(tmp_path, lambda c, i: box() if c == 0 else None)
    (tmp_path / "fixes.csv").write_text("file,action,new_class\ncrack/0.png,relabel,hole\n")
    labels = labels_of_pixels(read(tmp_path, label_fixes=tmp_path / "fixes.csv"))
    assert labels.class_names == ("background", "crack", "hole")


def test_a_class_folder_called_background(tmp_path):
    make(tmp_path, lambda c, i: box(), classes=("background", "hole"))
    with pytest.raises(DataError, match="A class folder is called background"):
        labels_of_pixels(read(tmp_path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0=background", "at least one other class"),
        ("1=a,2=b", "must name the background"),
        ("0=background,0=b", "names 0 twice"),
        ("0=background,#ff0000=b", "numbers or colours, not both"),
        ("0=background,x=b", "whole number 0..65535 or a colour"),
        ("0=background,70000=b", "whole number 0..65535"),
        ("a,b", "needs the value of each class"),
        ("background", "needs the value of each class"),
        ("", "must be a name, or VALUE=NAME"),
        (3, "must be a name, or VALUE=NAME"),
    ],
)
def test_settings_that_say_nothing(value, message):
    with pytest.raises(ConfigError, match=message):
        parse_pixel_classes(value)
