"""What users bring: masks among the images. Each test builds one situation; its first line says what xaitune does."""

import numpy as np
import pytest
from driving import xaitune
from PIL import Image

from xaitune.data.dataset import ImageData
from xaitune.errors import DataError

RNG = np.random.default_rng(0)
SIDE = 16


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(path)


def mask(path, row=4, values=(0, 255)):
    """White from a row on; `values`: of outside and inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.full((SIDE, SIDE), values[0], np.uint8)
    drawn[row:] = values[1]
    Image.fromarray(drawn).save(path)


def rows_marked(data, file):
    """How many rows of a file's mask are marked."""
    found = data.mask(data.files.index(file))
    return int(found.any(axis=1).sum())


@pytest.fixture
def root(tmp_path):
    for label in "ab":
        for i in range(4):
            picture(tmp_path / "data" / label / f"{i}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("ending", ["_mask", "-mask", "_seg", "_GT", "_gt", "_label", "_Mask", "_mask_1"])
def test_masks_beside_the_images_by_name(root, ending):
    """x_mask.png (-mask, _seg, _GT, _label) beside x.png -> left out of the images, with a note."""
    for i in range(4):
        mask(root / "a" / f"{i}{ending}.png", row=i + 1)
    data = ImageData.from_folder(root)
    assert len(data) == 8
    assert "4 masks among the images were left out (the first: a/0" in data.notes[0]
    assert "--masks" in data.notes[0]
    data = ImageData.from_folder(root, masks=root)
    assert len(data) == 8
    assert [rows_marked(data, f"a/{i}.png") for i in range(4)] == [15, 14, 13, 12]
    assert data.masks[4:] == (None,) * 4


def test_photographs_named_like_masks(root):
    """x_label.png or x_gt.png that is a photograph -> an image like any other."""
    for i in range(4):
        picture(root / "a" / f"{i}_label.png")
    assert len(ImageData.from_folder(root)) == 12


def test_masks_beside_the_images_by_content(tmp_path):
    """x.png with two values beside x.jpg -> a mask, left out; also an empty one, and one drawn in 0 and 1."""
    for i, values in enumerate([(0, 255), (0, 1), (0, 0), (7, 200)]):
        picture(tmp_path / "MT_Crack/Imgs" / f"{i}.jpg")
        mask(tmp_path / "MT_Crack/Imgs" / f"{i}.png", values=values)
        picture(tmp_path / "MT_Free/Imgs" / f"{i}.jpg")
    picture(tmp_path / "MT_Free/Imgs/3.png")  # a second photograph, not a mask
    data = ImageData.from_folder(tmp_path)
    assert len(data) == 9
    assert all(file.endswith(".jpg") or file == "MT_Free/Imgs/3.png" for file in data.files)
    assert "4 masks among the images" in " ".join(data.notes)
    data = ImageData.from_folder(tmp_path, masks=tmp_path)
    assert [rows_marked(data, f"MT_Crack/Imgs/{i}.jpg") for i in range(4)] == [12, 12, 0, 12]


def test_drawings_in_two_values_are_images(tmp_path):
    """Images that have only two values themselves, in two formats -> kept: neither is a mask of the other."""
    for label in "ab":
        for i in range(4):
            mask(tmp_path / label / f"{i}.png", row=i + 1)
            mask(tmp_path / label / f"{i}.bmp", row=i + 1)
    assert len(ImageData.from_folder(tmp_path)) == 16


def test_a_name_that_ends_like_a_mask_without_its_image(root):
    """x_mask.png without an x -> an image like any other."""
    picture(root / "a" / "part_mask.png")
    data = ImageData.from_folder(root)
    assert len(data) == 9
    assert data.notes == ()


@pytest.mark.parametrize("ending", ["", "_mask", "_seg", "_GT"])
def test_endings_in_a_mask_folder(root, tmp_path, ending):
    """A mask folder whose files are named x_mask.png, x_seg.png or x_GT.png -> they are the masks of x."""
    for i in range(4):
        mask(tmp_path / "masks" / "a" / f"{i}{ending}.png", row=i + 1)
    data = ImageData.from_folder(root, masks=tmp_path / "masks")
    assert [rows_marked(data, f"a/{i}.png") for i in range(4)] == [15, 14, 13, 12]
    assert data.masks[4:] == (None,) * 4


def test_the_image_folder_as_mask_folder_without_masks(root):
    """--masks with the image folder itself, which holds no masks -> refused, instead of each image as its own mask."""
    with pytest.raises(DataError, match=r"is the folder of the images, and no masks are beside them.*0_mask\.png"):
        ImageData.from_folder(root, masks=root)


def test_masks_that_are_left_out_are_said_once(root):
    """data-check and train on images with masks among them -> the note is printed, and data-check has no other images."""
    mask(root / "a" / "0_mask.png")
    answer = xaitune(root.parent, "data-check", "data", "--image-size", "32")
    assert (answer.out + answer.err).count("1 mask among the images was left out") == 1
    assert "8 images, 2 classes" in answer.out


def test_mask_folders_in_class_folders(tmp_path):
    """<class>/images beside <class>/masks -> the images are read, the masks passed over with a note, and found by --masks."""
    for label in "ab":
        for i in range(4):
            picture(tmp_path / label / "images" / f"{i}.png")
            mask(tmp_path / label / "masks" / f"{i}.png", row=i + 1)
    data = ImageData.from_folder(tmp_path)
    assert len(data) == 8
    assert all("/images/" in file for file in data.files)
    assert "8 files passed over in mask folders of class folders (a/masks, b/masks)" in " ".join(data.notes)
    for recursive in (False, True):
        data = ImageData.from_folder(tmp_path, masks=tmp_path, recursive=recursive)
        assert len(data) == 8
        assert [rows_marked(data, f"a/images/{i}.png") for i in range(4)] == [15, 14, 13, 12]
        assert None not in data.masks


@pytest.mark.parametrize("inner", ["", "a/"])
def test_a_mask_folder_beside_the_class_folders(root, inner):
    """A folder masks beside the class folders, without --masks -> its masks are no class; photographs in it stay one."""
    for i in range(4):
        mask(root / "masks" / f"{inner}{i}.png", row=i + 1)
    if inner:
        mask(root / "masks" / "b" / "0.png")
    data = ImageData.from_folder(root, recursive=bool(inner))
    assert data.class_names == ("a", "b")
    assert len(data) == 8
    assert "masks among the images were left out (the first: masks/" in data.notes[0]
    if inner:
        plain = ImageData.from_folder(root)
        assert plain.class_names == ("a", "b")
        assert "The folder masks (5 images) was taken for one of masks and is no class" in plain.notes[0]
    assert rows_marked(ImageData.from_folder(root, masks=root / "masks"), "a/3.png") == 12
    for i in range(4):
        picture(root / "label" / f"{i}.png")  # labels of bottles, say
    assert "label" in ImageData.from_folder(root, recursive=bool(inner)).class_names


@pytest.mark.parametrize("top", [1, 255, 4095, 65535])
def test_masks_of_16_bits(root, tmp_path, top):
    """A 16-bit mask that uses few of its bits -> read by half of its largest value, not as empty."""
    drawn = np.zeros((SIDE, SIDE), np.uint16)
    drawn[4:] = top
    (tmp_path / "masks" / "a").mkdir(parents=True)
    Image.fromarray(drawn).save(tmp_path / "masks" / "a" / "0.png")
    assert rows_marked(ImageData.from_folder(root, masks=tmp_path / "masks"), "a/0.png") == 12
