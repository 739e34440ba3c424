"""Reading and resizing of images, against generated files and numbers computed by hand."""

import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from xaitune.data.images import MAX_PIXELS, check_pixels, expand_images, image_header, read_image, read_mask
from xaitune.data.resize import map_to_image, resize_image, resize_mask
from xaitune.errors import ImageError


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_grey_is_copied_to_three_channels(tmp_path, rgb):
    Image.fromarray(rgb[..., 0]).save(tmp_path / "g.png")
    image = read_image(tmp_path / "g.png")
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.repeat(rgb[..., :1], 3, axis=2))


def test_black_and_white_is_0_and_255(tmp_path, rgb):
    Image.fromarray(rgb[..., 0] > 127).save(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png")[..., 1], np.where(rgb[..., 0] > 127, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_rgb_is_exact_in_lossless_formats(tmp_path, rgb, suffix):
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), rgb)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_fractions(tmp_path, suffix):
    values = np.random.default_rng(1).integers(0, 65536, (12, 16, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"g.{suffix}"), values[..., 0])
    cv2.imwrite(str(tmp_path / f"c.{suffix}"), values)
    grey, colour = read_image(tmp_path / f"g.{suffix}"), read_image(tmp_path / f"c.{suffix}")
    assert grey.dtype == colour.dtype == np.float32
    assert np.allclose(grey, values[..., :1] / 257, atol=1e-4)
    assert np.allclose(colour, values[..., ::-1] / 257, atol=1e-4)
    assert image_header(tmp_path / f"c.{suffix}").bits == 16


def test_transparency_is_composited_on_white_and_in_masks_on_black(tmp_path):
    rgba = np.zeros((10, 10, 4), np.uint8)
    rgba[:, :5] = (200, 100, 50, 255)
    rgba[:, 5:, 3] = 51  # black at one fifth: 255 * 4 / 5 = 204
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[0, 0].tolist() == [200, 100, 50]
    assert image[0, 9].tolist() == [204, 204, 204]
    assert read_mask(tmp_path / "a.png").tolist() == [[True] * 5 + [False] * 5] * 10


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.repeat([[0] * 5 + [1] * 5], 10, axis=0).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert read_image(tmp_path / "opaque.png")[0, [0, 9]].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert read_image(tmp_path / "clear.png")[0, [0, 9]].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    assert image_header(tmp_path / "c.jpg").mode == "CMYK"
    assert np.allclose(read_image(tmp_path / "c.jpg")[8, 8], [250, 10, 10], atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, rgb, orientation, suffix):
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    image.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    image.save(tmp_path / "truth.png", exif=exif)
    with Image.open(tmp_path / "truth.png") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), expected)
    header = image_header(tmp_path / f"a.{suffix}")
    assert (header.height, header.width) == expected.shape[:2]


def test_only_the_first_page_is_read(tmp_path, rgb):
    pages = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_image(tmp_path / "m.tif"), rgb)


def test_korean_path(tmp_path, rgb):
    folder = tmp_path / "균열"
    folder.mkdir()
    Image.fromarray(rgb).save(folder / "결함 1.png")
    assert np.array_equal(read_image(folder / "결함 1.png"), rgb)


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 100)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [10_001, 30_000])
def test_a_huge_header_is_refused_before_decoding(tmp_path, side):
    (tmp_path / "huge.png").write_bytes(_png(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"huge\.png is too large.*100,000,000"):
            read_image(tmp_path / "huge.png")
    assert side**2 > MAX_PIXELS


def _jpeg(path, rgb):
    Image.fromarray(np.tile(rgb, (8, 8, 1))).save(path, quality=95)
    return path.read_bytes()


def bad_files(tmp_path, rgb):
    whole = _jpeg(tmp_path / "whole.jpg", rgb)
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("this is not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("L", (1, 1)).save(tmp_path / "one.png")
    Image.fromarray(np.ones((10, 10), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "folder.png").mkdir()
    return {
        "cut.jpg": "damaged or cut short",
        "text.png": "not an image in a known format",
        "empty.png": r"empty \(0 bytes\)",
        "one.png": "too small: 1 x 1",
        "float.tif": "32 bits per channel",
        "folder.png": "is a folder",
        "absent.png": "No image at",
    }


def test_bad_files_are_named_in_at_most_two_lines(tmp_path, rgb, capfd):
    for name, message in bad_files(tmp_path, rgb).items():
        with pytest.raises(ImageError, match=message) as caught:
            read_image(tmp_path / name)
        text = str(caught.value)
        assert name in text
        assert text.count("\n") <= 1
    assert capfd.readouterr() == ("", "")


def test_check_pixels_detects_a_truncated_jpeg_with_a_good_header(tmp_path, rgb):
    data = _jpeg(tmp_path / "a.jpg", rgb)
    check_pixels(data, "a.jpg")
    (tmp_path / "cut.jpg").write_bytes(data[:-2000])
    assert image_header(tmp_path / "cut.jpg").format == "JPEG"
    with pytest.raises(ImageError, match="cut short"):
        check_pixels(data[:-2000], "a.jpg")


def test_mask_values(tmp_path):
    for name, low, high in (("half", 127, 128), ("binary", 0, 1)):
        Image.fromarray(np.array([[low, high] * 5] * 10, np.uint8)).save(tmp_path / f"{name}.png")
        assert read_mask(tmp_path / f"{name}.png").tolist() == [[False, True] * 5] * 10
    Image.new("L", (10, 12)).save(tmp_path / "black.png")
    assert read_mask(tmp_path / "black.png").shape == (12, 10)
    assert not read_mask(tmp_path / "black.png").any()


def test_resize_averages_areas_when_shrinking():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 2:] = [[[100], [200]], [[100], [200]]]
    assert resize_image(image, (1, 2))[..., 0].tolist() == [[0, 150]]
    assert resize_image(image.astype(np.float32), (1, 2)).dtype == np.float32


def test_pad_keeps_the_aspect_ratio_centred_on_black():
    image = np.full((10, 20, 3), 200, np.uint8)
    out = resize_image(image, (20, 20), "pad")
    assert (out[5:15] == 200).all()
    assert (out[:5] == 0).all()
    assert (out[15:] == 0).all()
    mask = resize_mask(np.ones((10, 20), bool), (20, 20), "pad")
    assert np.array_equal(mask, out[..., 0] == 200)
    with pytest.raises(ImageError, match="resize must be one of"):
        resize_image(image, (20, 20), "crop")


def test_map_is_bilinear_with_half_pixel_centres():
    out = map_to_image(np.array([[0.0, 1.0]]), (1, 4), (32, 32))
    assert out.tolist() == [[0, 0.25, 0.75, 1]]
    ramp = np.random.default_rng(0).random((7, 9), dtype=np.float32)
    assert np.allclose(map_to_image(ramp, (50, 61), (32, 32)), cv2.resize(ramp, (61, 50)), atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (64, 64), (33, 97)])
def test_map_undoes_the_padding(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    ramp = (x / shape[1] * 200 + y / shape[0] * 50).astype(np.float32)
    seen = resize_image(np.repeat(ramp[..., None], 3, axis=2), (256, 256), "pad")[..., 0]
    back = map_to_image(seen, shape, (256, 256), "pad")
    assert back.shape == shape
    assert np.abs(back - ramp)[3:-3, 3:-3].max() < 2
    labels = resize_mask(ramp > 125, (256, 256), "pad").astype(np.int32)
    restored = map_to_image(labels, shape, (256, 256), "pad", nearest=True)
    assert restored.dtype == np.int32
    assert np.array_equal(restored.astype(bool), ramp > 125)


def test_expand_images(tmp_path, rgb):
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    for name in ("z.png", "b/a.JPG", "b/.hidden/c.png", ".d.png", "e.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert expand_images(tmp_path) == [tmp_path / "b/a.JPG", tmp_path / "z.png"]
    assert expand_images([tmp_path / "z.png", str(tmp_path / "e.txt")]) == [tmp_path / "z.png", tmp_path / "e.txt"]
    (tmp_path / "none").mkdir()
    for given, message in (
        (tmp_path / "none", "No images in"),
        (tmp_path / "x.png", "No image at"),
        ([], "were given"),
    ):
        with pytest.raises(ImageError, match=message):
            expand_images(given)


def test_masks_that_hold_numbers_of_classes(tmp_path):
    mask = np.zeros((20, 20), np.uint8)
    mask[:5], mask[5:8] = 1, 2
    Image.fromarray(mask).save(tmp_path / "labels.png")
    assert read_mask(tmp_path / "labels.png").sum() == 160
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(tmp_path / "dark.png")
    assert not read_mask(tmp_path / "dark.png").any()  # a dark photograph
