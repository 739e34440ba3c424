"""What users bring: grey values. Each test builds one situation; its first line says what xaitune does with it.

Expected values are written out from the formats' definitions; TIFF files are made by tifffile, DICOM files by pydicom.
"""

import dataclasses
import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from driving import xaitune
from PIL import Image

from xaitune.config.settings import DataConfig
from xaitune.data.dataset import ImageData
from xaitune.data.images import check_pixels, image_header, read_image
from xaitune.errors import ConfigError, DataError, ImageError
from xaitune.explain.classifier import open_classifier
from xaitune.explain.gradcam import gradcam_blocks

RNG = np.random.default_rng(0)
TWELVE = RNG.integers(0, 4096, (20, 30), dtype=np.uint16)
TWELVE[0, :2] = 0, 4095


def twelve_bit_set(root, count=9, top=4095):
    """Two classes of 16-bit PNGs that use 12 bits: one darker than the other."""
    for label, high in (("dark", top // 2), ("light", top)):
        (root / label).mkdir(parents=True)
        for i in range(count):
            values = RNG.integers(0, high, (32, 32), dtype=np.uint16, endpoint=True)
            values[0, 0] = high
            Image.fromarray(values).save(root / label / f"{i}.png")
    return root


# ---- 12 bits in 16


def test_twelve_bits_in_sixteen_are_found(tmp_path):
    """16-bit files that use 12 bits -> a warning with the range and the option that scales them."""
    root = twelve_bit_set(tmp_path / "d")
    data = ImageData.from_folder(root, image_size=(32, 32))
    assert data.values_used[1] == 4095
    problem = data.check().problems.set_index("kind").loc["grey values"]
    assert problem["level"] == "warning"
    assert "to 4095 of 0 to 65535, so they are read as nearly black: give --bit-depth 12" in problem["message"]
    assert data.load().max() == pytest.approx(4095 / 257)
    answer = xaitune(tmp_path, "data-check", "d", "--image-size", "32")
    assert answer.err.count("give --bit-depth 12") == 1


def test_bit_depth_scales_the_whole_set(tmp_path):
    """--bit-depth 12 -> 4095 becomes white, in every image; another fingerprint and other cached features."""
    root = twelve_bit_set(tmp_path / "d")
    plain = ImageData.from_folder(root, image_size=(32, 32))
    data = ImageData.from_folder(root, image_size=(32, 32), bit_depth=12)
    assert np.allclose(data.load(), plain.load() * (65535 / 4095), atol=1e-3)
    raw = cv2.imread(str(root / data.files[0]), cv2.IMREAD_UNCHANGED)
    assert np.allclose(data.load([0])[0, ..., 1], raw / 4095 * 255, atol=1e-3)
    assert data.fingerprint != plain.fingerprint
    assert not set(data.digests) & set(plain.digests)
    assert data.config.bit_depth == ImageData.from_config(data.config).config.bit_depth == 12
    assert "bit_depth 12 makes 4095 white" in " ".join(data.check().problems["message"])
    assert data.check().problems.set_index("kind").loc["grey values", "level"] == "note"


def test_bit_depth_changes_nothing_else(tmp_path):
    """--bit-depth with 8-bit images, or 16 -> the same pixels, and the same identity."""
    root = twelve_bit_set(tmp_path / "deep")
    assert ImageData.from_folder(root, bit_depth=16).fingerprint == ImageData.from_folder(root).fingerprint
    for label in "ab":
        (tmp_path / "d" / label).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(RNG.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / "d" / label / f"{i}.png")
    data = ImageData.from_folder(tmp_path / "d")
    assert ImageData.from_folder(tmp_path / "d", bit_depth=12).fingerprint == data.fingerprint
    assert data.values_used is None
    assert "grey values" not in set(data.check().problems["kind"])


def test_bit_depth_of_a_run_holds_for_its_explanations(tmp_path, run):
    """A run trained with --bit-depth -> explain and predict read images alike, and show them so."""
    root = twelve_bit_set(tmp_path)
    data = ImageData.from_folder(root, bit_depth=12, image_size=(32, 32))
    classifier = dataclasses.replace(open_classifier(run), bit_depth=12)
    array, _ = classifier.read(data.paths([0, 1]))
    np.testing.assert_array_equal(array, data.load([0, 1]))
    maps = gradcam_blocks(classifier, data.paths([0, 1]))
    shown = maps.panels(0)[0][1]
    assert shown.max() > 100  # nearly black without it


def test_a_full_sixteen_bit_set_is_not_warned_of(tmp_path):
    """16-bit files that use their 16 bits -> no warning."""
    data = ImageData.from_folder(twelve_bit_set(tmp_path, top=65535))
    assert "grey values" not in set(data.check().problems["kind"])


def test_values_above_the_bit_depth(tmp_path):
    """--bit-depth 10 for 12-bit files -> refused with the value, instead of clipped."""
    root = twelve_bit_set(tmp_path)
    with pytest.raises(
        DataError, match=r"18 of 18 images .* has the value \d+, above 1023, the largest of bit depth 10"
    ):
        ImageData.from_folder(root, bit_depth=10)
    with pytest.raises(ImageError, match=r"0\.png has the value 4095, above 1023"):
        read_image(root / "light" / "0.png", bit_depth=10)


@pytest.mark.parametrize("value", [8, 17, 12.0, "12", True])
def test_bit_depths_that_are_none(value):
    """--bit-depth 8 or 17 -> refused."""
    with pytest.raises(ConfigError, match="bit_depth must be a whole number of at least 9 and at most 16"):
        DataConfig(bit_depth=value)


def test_the_option_and_the_file(tmp_path):
    """--bit-depth in init -> kept in xaitune.toml, so that later commands read the images alike."""
    twelve_bit_set(tmp_path / "d")
    answer = xaitune(tmp_path, "init", "d", "--weights", "slim", "--image-size", "32", "--bit-depth", "12")
    assert answer.status == 0, answer.err
    assert "bit_depth = 12" in (tmp_path / "xaitune.toml").read_text()
    assert "nearly black" not in xaitune(tmp_path, "data-check").err


# ---- TIFF


def tiff(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero(tmp_path, compression, bits):
    """A TIFF in which 0 is white -> inverted, in 8 and in 16 bits."""
    values = (TWELVE * 16).astype(np.uint16) if bits == 16 else (TWELVE // 16).astype(np.uint8)
    path = tiff(tmp_path / "a.tif", values, photometric="miniswhite", compression=compression)
    expected = 255 - values / (257 if bits == 16 else 1)
    assert np.abs(read_image(path)[..., 0] - expected).max() < 0.01


def test_white_is_zero_with_a_bit_depth(tmp_path):
    """A TIFF of 12 bits in 16 in which 0 is white -> nearly white, with the warning; right under --bit-depth 12."""
    path = tiff(tmp_path / "a.tif", TWELVE, photometric="miniswhite")
    assert np.abs(read_image(path, bit_depth=12)[..., 0] - (4095 - TWELVE.astype(int)) / 4095 * 255).max() < 0.01
    for label in "ab":
        (tmp_path / "d" / label).mkdir(parents=True)
        for i in range(3):
            tiff(tmp_path / "d" / label / f"{i}.tif", TWELVE, photometric="miniswhite")
    table = ImageData.from_folder(tmp_path / "d").check().problems.set_index("kind")
    assert "values 0 to 4095 of 0 to 65535, so they are read as nearly white" in table.loc["grey values", "message"]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_values(tmp_path, compression, order):
    """A signed TIFF, in either byte order -> read if no value is negative, else refused with its range."""
    unsigned = tiff(tmp_path / "u.tif", TWELVE, compression=compression, byteorder=order)
    assert np.abs(read_image(unsigned)[..., 0] - TWELVE / 257).max() < 0.01
    path = tiff(tmp_path / "a.tif", TWELVE.astype(np.int16), compression=compression, byteorder=order)
    assert np.abs(read_image(path)[..., 0] - TWELVE / 257).max() < 0.01
    assert np.abs(read_image(path, bit_depth=12)[..., 0] - TWELVE / 4095 * 255).max() < 0.01
    path = tiff(tmp_path / "b.tif", TWELVE.astype(np.int16) - 1000, compression=compression, byteorder=order)
    for read in (read_image, lambda p: check_pixels(p.read_bytes(), p)):
        with pytest.raises(ImageError, match=r"b\.tif has signed values from -1000 to 3095.*unsigned"):
            read(path)


def test_signed_bytes(tmp_path):
    """A signed 8-bit TIFF -> read if no value is negative, else refused."""
    values = (TWELVE // 64).astype(np.int8)  # 0..63
    assert np.array_equal(read_image(tiff(tmp_path / "a.tif", values))[..., 0], values)
    path = tiff(tmp_path / "b.tif", values - 10)
    for read in (read_image, lambda p: check_pixels(p.read_bytes(), p)):
        with pytest.raises(ImageError, match="has signed values from -10 to 53"):
            read(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes(tmp_path, compression):
    """A TIFF with its colours in separate planes -> read right in 8 bits, refused in 16."""
    colours = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    planes = np.moveaxis(colours, 2, 0).copy()
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": compression}
    assert np.array_equal(read_image(tiff(tmp_path / "a.tif", planes, **options)), colours)
    path = tiff(tmp_path / "b.tif", planes.astype(np.uint16) * 257, **options)
    with pytest.raises(ImageError, match=r"b\.tif has its 16-bit channels in separate planes"):
        read_image(path)
    deep = colours.astype(np.uint16) * 257
    path = tiff(tmp_path / "c.tif", deep, photometric="rgb", compression=compression)
    assert np.abs(read_image(path) - colours).max() < 0.01


def test_colours_of_16_bits_that_are_not_rgb(tmp_path, capfd):
    """A 16-bit CMYK TIFF -> refused in one line."""
    values = RNG.integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    path = tiff(tmp_path / "a.tif", values, photometric="separated")
    with pytest.raises(ImageError, match=r"a\.tif has 16-bit colours that are not RGB"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint32", "int32"])
def test_floats_and_32_bits(tmp_path, dtype):
    """Float and 32-bit TIFFs -> refused, with what to save instead."""
    path = tiff(tmp_path / "a.tif", TWELVE.astype(dtype))
    with pytest.raises(ImageError, match=r"a\.tif .*8 (or|and) 16 bits|a\.tif .*8 or 16"):
        read_image(path)


def _packed_12_bits(values):
    """An uncompressed little-endian TIFF of packed 12-bit grey, written by hand."""
    height, width = values.shape
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    pixels = packed.astype(np.uint8).tobytes()
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(pixels)))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def test_declared_twelve_bits(tmp_path):
    """A TIFF whose header says 12 bits -> 4095 is white, with no option and no warning."""
    (tmp_path / "a.tif").write_bytes(_packed_12_bits(TWELVE))
    assert np.abs(read_image(tmp_path / "a.tif")[..., 0] - TWELVE / 4095 * 255).max() < 0.01
    assert image_header(tmp_path / "a.tif").bits == 16
    assert check_pixels((tmp_path / "a.tif").read_bytes(), "a.tif") is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_deep_tiffs(tmp_path, orientation):
    """A turned TIFF of 16 bits, grey, signed or in colour -> turned upright as one of 8 bits is."""
    small = RNG.integers(0, 200, (20, 30, 3), dtype=np.uint8)
    tag = [(274, "H", 1, orientation, True)]
    expected = read_image(tiff(tmp_path / "a.tif", small, photometric="rgb", extratags=tag))
    grey = read_image(tiff(tmp_path / "g.tif", small[..., 0] * np.uint16(257), extratags=tag))
    signed = read_image(tiff(tmp_path / "s.tif", small[..., 0].astype(np.int16) * 100, extratags=tag))
    deep = read_image(tiff(tmp_path / "c.tif", small * np.uint16(257), photometric="rgb", extratags=tag))
    assert np.abs(grey[..., 0] - expected[..., 0]).max() < 0.01
    assert np.abs(deep - expected).max() < 0.01
    assert np.abs(signed[..., 0] * 2.57 - expected[..., 0]).max() < 0.01


def test_jp2_of_16_bits(tmp_path):
    """A JPEG 2000 of 16 bits -> value / 257, scaled by --bit-depth as a PNG is."""
    Image.fromarray(TWELVE).save(tmp_path / "a.jp2", irreversible=False)
    assert np.abs(read_image(tmp_path / "a.jp2")[..., 0] - TWELVE / 257).max() < 0.01
    assert np.abs(read_image(tmp_path / "a.jp2", bit_depth=12)[..., 0] - TWELVE / 4095 * 255).max() < 0.01


# ---- DICOM


def dicom(path, values, photometric="MONOCHROME2", bits=12, **elements):
    """A DICOM file of uncompressed grey or RGB."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns = values.shape[-2:] if photometric.startswith("M") else values.shape[:2]
    ds.SamplesPerPixel = 3 if photometric == "RGB" else 1
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    if values.ndim == 3 and ds.SamplesPerPixel == 1:
        ds.NumberOfFrames = len(values)
    ds.PhotometricInterpretation = photometric
    ds.BitsAllocated = values.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    ds.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(ds, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    return path


def test_dicom_without_a_window(tmp_path):
    """A DICOM file without a window -> the whole range of its stored bits; header and pixels agree."""
    path = dicom(tmp_path / "a.dcm", TWELVE)
    assert np.abs(read_image(path)[..., 0] - TWELVE / 4095 * 255).max() < 0.01
    header = image_header(path)
    assert (header.height, header.width, header.format, header.bits) == (20, 30, "DICOM", 16)


def test_dicom_monochrome1(tmp_path):
    """A DICOM file in which 0 is white (MONOCHROME1), as X-rays are stored -> inverted."""
    path = dicom(tmp_path / "a.dcm", TWELVE, "MONOCHROME1")
    assert np.abs(read_image(path)[..., 0] - (255 - TWELVE / 4095 * 255)).max() < 0.01
    path = dicom(tmp_path / "b.dcm", (TWELVE >> 4).astype(np.uint8), "MONOCHROME1", bits=8)
    assert read_image(path).dtype == np.uint8
    assert np.array_equal(read_image(path)[..., 0], 255 - (TWELVE >> 4))


def test_dicom_window_and_rescale(tmp_path):
    """A DICOM file with slope, intercept and window (CT) -> shown through its window, by DICOM's own formula."""
    values = (TWELVE.astype(np.int16) - 100).astype(np.int16)
    elements = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": ["40", "500"]}
    path = dicom(tmp_path / "a.dcm", values, bits=16, WindowWidth=["401", "1500"], **elements)
    units = values * 2.0 - 1000
    expected = np.clip(((units - 39.5) / 400 + 0.5) * 255, 0, 255)  # PS3.3 C.11.2.1.2: centre - 0.5, width - 1
    assert np.abs(read_image(path)[..., 0] - expected).max() < 0.01
    path = dicom(
        tmp_path / "b.dcm", values, bits=16, WindowWidth=["400", "1"], VOILUTFunction="LINEAR_EXACT", **elements
    )
    assert np.abs(read_image(path)[..., 0] - np.clip(((units - 40) / 400 + 0.5) * 255, 0, 255)).max() < 0.01
    path = dicom(tmp_path / "c.dcm", values, bits=16, WindowWidth=["400", "1"], VOILUTFunction="SIGMOID", **elements)
    assert np.abs(read_image(path)[..., 0] - 255 / (1 + np.exp(-4 * (units - 40) / 400))).max() < 0.01


def test_dicom_colours_and_frames(tmp_path):
    """A DICOM file in RGB, or of several frames -> its colours; its first frame."""
    colours = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(read_image(dicom(tmp_path / "a.dcm", colours, "RGB", bits=8)), colours)
    frames = np.stack([TWELVE, TWELVE[::-1]])
    assert np.abs(read_image(dicom(tmp_path / "b.dcm", frames))[..., 0] - TWELVE / 4095 * 255).max() < 0.01


def test_dicom_folders(tmp_path):
    """Class folders of DICOM files -> a data set like any other."""
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            dicom(tmp_path / label / f"{i}.dcm", np.roll(TWELVE, i))
    data = ImageData.from_folder(tmp_path, image_size=(32, 32))
    assert len(data) == 8
    assert data.load().dtype == np.float32
    assert data.load().max() > 200
    assert "grey values" not in set(data.check().problems["kind"])


def test_dicom_without_pydicom(tmp_path, monkeypatch):
    """DICOM files without pydicom installed -> one line with the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(3):
            (tmp_path / label / f"{i}.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
    with pytest.raises(DataError, match=r"6 of 6 images .* needs pydicom: pip install 'xaitune\[dicom\]'"):
        ImageData.from_folder(tmp_path)


def test_a_dicom_file_that_holds_no_image(tmp_path):
    """A DICOM report, or a text named .dcm -> named as unreadable."""
    pytest.importorskip("pydicom")
    (tmp_path / "a.dcm").write_text("this is no image " * 30)
    with pytest.raises(ImageError, match=r"a\.dcm is .*DICOM file"):
        read_image(tmp_path / "a.dcm")
    path = dicom(tmp_path / "b.dcm", TWELVE)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ImageError, match=r"The pixels of .*b\.dcm cannot be decoded"):
        read_image(path)
