"""Photographs in and out: kinds, depth, metadata, RAW."""

import numpy as np
import pytest
import rawpy
import tifffile
from PIL import Image
from support.pictures import MAKE, ORIENTATION, SRGB, camera_exif, profile, told, write_picture

from relo.capture import RawFrame, write_dng
from relo.errors import CaptureError
from relo.images import ImageError, read_image
from relo.metadata import Metadata
from relo.postprocess import demosaic_menon, develop
from relo.training.inference.photographs import read_photograph, write_mask, write_photograph

MATRIX = np.array([[1.6, -0.5, -0.1], [-0.2, 1.5, -0.3], [0.0, -0.6, 1.6]])


def pixels(dtype=np.uint8, shape=(40, 64, 3)):
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, endpoint=True).astype(dtype)


def raw_frame(shape=(40, 64)):
    """A smooth frame, so that demosaicing leaves no doubt about which pixel is where."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    mosaic = (600 + 40 * y + 25 * x).astype(np.uint16)
    return RawFrame(mosaic, "RGGB", (512.0,) * 4, 4095.0, wb=(2.0, 1.0, 1.5), colour_matrix=MATRIX, exposure_s=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["png", "tif", "tiff"])
def test_what_is_written_is_read(kind, dtype, tmp_path):
    write_picture(tmp_path / "a.jpg", pixels(), exif=camera_exif(), icc=SRGB)
    metadata = read_photograph(tmp_path / "a.jpg").metadata
    path = tmp_path / f"b.{kind}"
    assert write_photograph(path, pixels(dtype), metadata) == ()
    again = read_photograph(path)
    assert again.image.dtype == dtype
    assert np.array_equal(again.image, pixels(dtype))
    assert again.notes == ()
    assert again.metadata.icc == SRGB
    assert sorted(again.metadata.exif.exif) == sorted(metadata.exif.exif)
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".part"] == []


def test_jpeg_has_high_quality_and_8_bits(tmp_path):
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([600 * y, 900 * x, 30000 + 0 * x], axis=-1).astype(np.uint16)
    write_photograph(tmp_path / "a.jpg", smooth, Metadata(icc=SRGB))
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.layer[1][1:3] == (1, 1), "colours at full resolution"
        assert picture.info["icc_profile"] == SRGB
    assert np.abs(read_image(tmp_path / "a.jpg").astype(float) - smooth / 257).max() < 6


def test_alpha_is_dropped_with_a_note(tmp_path):
    Image.fromarray(np.dstack([pixels(), pixels()[..., :1]])).save(tmp_path / "a.png")
    photograph = read_photograph(tmp_path / "a.png")
    assert np.array_equal(photograph.image, pixels())
    assert photograph.notes == ("alpha channel dropped",)


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_cmyk_is_refused(kind, tmp_path):
    Image.fromarray(np.dstack([pixels(), pixels()[..., :1]]), "CMYK").save(tmp_path / f"a.{kind}")
    with pytest.raises(ImageError, match=f"a.{kind}: holds CMYK colours. Convert it to RGB"):
        read_photograph(tmp_path / f"a.{kind}")


def test_floats_and_missing_files_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((8, 8, 3), np.float32), photometric="rgb")
    with pytest.raises(ImageError, match="float32"):
        read_photograph(tmp_path / "f.tif")
    with pytest.raises(ImageError, match="cannot be read"):
        read_photograph(tmp_path / "missing.png")
    (tmp_path / "a.dng").write_bytes(b"no raw file")
    with pytest.raises(CaptureError, match=r"a.dng: is no RAW file"):
        read_photograph(tmp_path / "a.dng")


def test_a_raw_file_is_developed_with_the_cameras_white_balance(tmp_path):
    frame = raw_frame()
    write_dng(tmp_path / "a.dng", frame)
    photograph = read_photograph(tmp_path / "a.dng")
    assert photograph.image.dtype == np.uint16
    # Balanced before demosaicing there, after it here: the same on a smooth frame, away from its border.
    expected = develop(demosaic_menon(frame.normalised(), frame.pattern), frame.wb, frame.colour_matrix) * 65535
    inner = np.s_[4:-4, 4:-4]
    assert np.abs(photograph.image[inner] - expected[inner]).max() < 0.01 * 65535


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_raw_file_is_turned_upright(orientation, tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, raw_frame())
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["Orientation"].overwrite(orientation)
    photograph = read_photograph(path)
    with rawpy.imread(str(path)) as raw:
        oracle = raw.postprocess(no_auto_bright=True, use_camera_wb=True)
    assert photograph.image.shape == oracle.shape
    ours, theirs = (image[4:-4, 4:-4].astype(float).mean(axis=2) for image in (photograph.image, oracle))
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
    write_photograph(tmp_path / "b.tif", photograph.image, photograph.metadata)
    assert told(tmp_path / "b.tif")["main"].get(ORIENTATION, 1) == 1
    assert np.array_equal(read_image(tmp_path / "b.tif"), photograph.image)


def test_exif_of_a_raw_file_is_kept(tmp_path):
    write_dng(tmp_path / "a.dng", raw_frame())
    photograph = read_photograph(tmp_path / "a.dng")
    write_photograph(tmp_path / "b.tif", photograph.image, photograph.metadata)
    with tifffile.TiffFile(tmp_path / "a.dng") as source, tifffile.TiffFile(tmp_path / "b.tif") as result:
        wanted, found = source.pages.first.tags, result.pages.first.tags
        assert found["Model"].value == wanted["Model"].value
        assert found["ExposureTime"].value == wanted["ExposureTime"].value == (1, 100)
    assert profile(tmp_path / "b.tif") is None


def test_a_mask_is_grey_with_8_bits(tmp_path):
    write_mask(tmp_path / "m.png", np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4))
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture).ravel(), np.rint(np.linspace(0, 255, 12)))


def test_a_grey_picture_stays_readable(tmp_path):
    exif = camera_exif()
    Image.fromarray(pixels()[..., 0]).save(tmp_path / "g.png", exif=exif)
    photograph = read_photograph(tmp_path / "g.png")
    assert np.array_equal(photograph.image, np.repeat(pixels()[..., :1], 3, axis=2))
    write_photograph(tmp_path / "h.png", photograph.image, photograph.metadata)
    assert told(tmp_path / "h.png")["main"][MAKE] == "Relo"
