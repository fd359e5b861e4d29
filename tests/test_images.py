"""Image files: values, depth, channel order, orientation; damaged files."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from relo.images import ImageError, encode_image, outline, read_image, write_image


def noise(dtype, shape=(13, 17, 3)):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_what_is_written_is_read(name, dtype, tmp_path):
    image = noise(dtype)
    write_image(tmp_path / name, image)
    read = read_image(tmp_path / name)
    assert read.dtype == dtype
    assert np.array_equal(read, image)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_channels_are_red_green_blue_for_others_too(tmp_path):
    image = noise(np.uint8)
    write_image(tmp_path / "a.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    Image.fromarray(image).save(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png"), image)
    deep = noise(np.uint16)
    write_image(tmp_path / "c.tiff", deep)
    assert np.array_equal(tifffile.imread(tmp_path / "c.tiff"), deep)
    tifffile.imwrite(tmp_path / "d.tiff", deep, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "d.tiff"), deep)


def test_jpeg_is_read_upright(tmp_path):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = (250, 20, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95, exif=exif)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == (32, 16, 3)
    assert np.abs(read[:14].astype(int) - (250, 20, 20)).max() < 12
    assert read[20:].max() < 12


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_becomes_three_equal_channels(dtype, tmp_path):
    grey = noise(dtype, (9, 11))
    cv2.imwrite(str(tmp_path / "g.png"), grey)
    tifffile.imwrite(tmp_path / "g.tif", grey)
    for name in ("g.png", "g.tif"):
        assert np.array_equal(read_image(tmp_path / name), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_dropped_not_blended(dtype, tmp_path):
    rgba = noise(dtype, (9, 11, 4))
    cv2.imwrite(str(tmp_path / "a.png"), rgba[..., [2, 1, 0, 3]])
    assert np.array_equal(read_image(tmp_path / "a.png"), rgba[..., :3])


def test_floating_point_tiff_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((8, 8, 3), np.float32), photometric="rgb")
    with pytest.raises(ImageError, match="float32 values"):
        read_image(tmp_path / "f.tif")


def smooth(shape=(120, 90)):
    """A picture that compresses, so that a truncated file still holds most of its lines."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.stack([x + y, x * 2 % 256, y * 2 % 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(name, share, tmp_path):
    Image.fromarray(smooth()).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=name) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "a.png")


def test_a_thumbnail_does_not_hide_a_truncated_jpeg(tmp_path):
    thumbnail = io.BytesIO()
    Image.fromarray(smooth((16, 16))).save(thumbnail, "jpeg")
    picture = io.BytesIO()
    Image.fromarray(smooth()).save(picture, "jpeg")
    data = picture.getvalue()
    segment = b"\xff\xe3" + struct.pack(">H", len(thumbnail.getvalue()) + 2) + thumbnail.getvalue()
    whole = data[:2] + segment + data[2:]
    (tmp_path / "whole.jpg").write_bytes(whole + b"trailing bytes")
    assert read_image(tmp_path / "whole.jpg").shape == (120, 90, 3)
    (tmp_path / "cut.jpg").write_bytes(whole[:-200])
    with pytest.raises(ImageError, match="truncated"):
        read_image(tmp_path / "cut.jpg")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    for path in (tmp_path / "a.png", tmp_path / "missing.png", tmp_path):
        with pytest.raises(ImageError, match=str(path)):
            read_image(path)


def test_writing_refuses_other_endings_and_arrays(tmp_path):
    with pytest.raises(ImageError, match=r"a.jpg: has none of the endings .png"):
        write_image(tmp_path / "a.jpg", noise(np.uint8))
    for wrong in (noise(np.uint8, (4, 4)), noise(np.uint8, (4, 4, 4)), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match="expected"):
            write_image(tmp_path / "a.png", wrong)
    assert not list(tmp_path.iterdir())


def test_encoded_jpeg_keeps_fine_colours():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, ::2] = (255, 0, 0)
    image[:, 1::2] = (0, 0, 255)
    read = np.asarray(Image.open(io.BytesIO(encode_image(".JPG", image))))
    assert np.abs(read.astype(int) - image).max() < 40  # with colours at half resolution it is more than 100
    for wrong in (noise(np.uint16), noise(np.uint8, (4, 4))):
        with pytest.raises(ValueError, match="expected"):
            encode_image(".jpg", wrong)


def test_outline_is_the_inner_edge_and_not_the_frame():
    mask = np.zeros((6, 6), np.uint8)
    mask[2:, 2:] = 255
    edge = outline(mask)
    assert edge[2, 2:].all() and edge[2:, 2].all()
    assert not edge[3:, 3:].any()
