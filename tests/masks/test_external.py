from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from relo.masks.external import MaskFileError, read_mask

SIZE = (20, 30)
WANTED = np.zeros(SIZE, np.uint8)
WANTED[4:15, 6:22] = 255
ON = WANTED > 0


def save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def png(path: Path, *, colour_type: int, depth: int, rows: list[bytes], extra: bytes = b"") -> Path:
    """A PNG of a kind that OpenCV does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return path


def chunk_palette(colours: list[tuple[int, int, int]]) -> bytes:
    body = bytes(value for colour in colours for value in colour)
    return struct.pack(">I", len(body)) + b"PLTE" + body + struct.pack(">I", zlib.crc32(b"PLTE" + body))


def agrees(path: Path) -> tuple[str, ...]:
    """The file must give `WANTED`; returns the notes."""
    found = read_mask(path, SIZE)
    assert found.mask.dtype == np.uint8
    np.testing.assert_array_equal(found.mask, WANTED)
    return found.notes


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("top", [255, 1, 128])
def test_two_values_are_a_mask_whatever_the_upper_one_is(tmp_path, suffix, top):
    assert agrees(save(tmp_path / f"m{suffix}", np.where(ON, top, 0).astype(np.uint8))) == ()


@pytest.mark.parametrize("top", [65535, 257, 255, 1])
def test_16_bits(tmp_path, top):
    assert agrees(save(tmp_path / "m.png", np.where(ON, top, 0).astype(np.uint16))) == ()


def test_1_bit_png(tmp_path):
    rows = [np.packbits(row).tobytes() for row in ON]
    assert agrees(png(tmp_path / "m.png", colour_type=0, depth=1, rows=rows)) == ()


def test_1_bit_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", ON, photometric="minisblack")
    assert agrees(tmp_path / "m.tif") == ()


@pytest.mark.parametrize(("colour", "notes"), [((255, 255, 255), 0), ((128, 0, 0), 1)])
def test_palette(tmp_path, colour, notes):
    palette = chunk_palette([(0, 0, 0), colour])
    rows = [row.astype(np.uint8).tobytes() for row in ON]
    found = agrees(png(tmp_path / "m.png", colour_type=3, depth=8, rows=rows, extra=palette))
    assert len(found) == notes


def test_grey_values_are_cut_at_half_and_told(tmp_path):
    image = WANTED.copy()
    image[4, 6:22] = 200  # a soft edge inside
    image[3, 6:22] = 90  # and outside: the shadow label of a background model, say
    (note,) = agrees(save(tmp_path / "m.png", image))
    assert "32 pixels" in note and "255" in note


def test_jpeg(tmp_path):
    path = tmp_path / "m.jpg"
    cv2.imwrite(str(path), WANTED, [cv2.IMWRITE_JPEG_QUALITY, 95])
    agrees(path)


def test_noise_of_an_empty_jpeg_is_no_mask(tmp_path):
    path = save(tmp_path / "m.jpg", np.random.default_rng(0).integers(0, 4, SIZE).astype(np.uint8))
    found = read_mask(path, SIZE)
    assert not found.mask.any()
    assert "the mask is empty" in found.notes


def test_rgb_of_equal_channels_is_grey(tmp_path):
    assert agrees(save(tmp_path / "m.png", np.repeat(WANTED[..., None], 3, axis=-1))) == ()


def test_a_red_mask_on_black(tmp_path):
    image = np.zeros((*SIZE, 3), np.uint8)
    image[ON] = (0, 0, 255)
    (note,) = agrees(save(tmp_path / "m.png", image))
    assert "luma" in note


def test_alpha_is_the_mask_where_the_colour_is_constant(tmp_path):
    image = np.full((*SIZE, 4), 255, np.uint8)
    image[..., 3] = WANTED
    (note,) = agrees(save(tmp_path / "m.png", image))
    assert "alpha was taken" in note


def test_constant_alpha_says_nothing(tmp_path):
    image = np.repeat(WANTED[..., None], 4, axis=-1)
    image[..., 3] = 255
    assert agrees(save(tmp_path / "m.png", image)) == ()


def test_alpha_beside_colours_is_ignored(tmp_path):
    image = np.repeat(WANTED[..., None], 4, axis=-1)
    image[..., 3] = np.arange(SIZE[1])
    (note,) = agrees(save(tmp_path / "m.png", image))
    assert "alpha was ignored" in note


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_black_is_an_empty_mask(tmp_path, channels):
    image = np.zeros((*SIZE, channels), np.uint8)
    image[..., 3:] = 255
    found = read_mask(save(tmp_path / "m.png", image), SIZE)
    assert not found.mask.any()
    assert found.notes == ("the mask is empty",)


def test_white_is_a_full_mask(tmp_path):
    assert read_mask(save(tmp_path / "m.png", np.full(SIZE, 255, np.uint8)), SIZE).mask.all()


def refused(path: Path, *words: str) -> None:
    with pytest.raises(MaskFileError) as caught:
        read_mask(path, SIZE)
    assert caught.value.file == path
    assert caught.value.advice
    for word in words:
        assert word in str(caught.value)


def test_missing(tmp_path):
    refused(tmp_path / "m.png", "missing")


def test_a_folder(tmp_path):
    refused(tmp_path, "missing")


def test_no_bytes(tmp_path):
    (tmp_path / "m.png").touch()
    refused(tmp_path / "m.png", "0 bytes")


def test_no_image(tmp_path):
    (tmp_path / "m.png").write_text("<html>quota exceeded</html>")
    refused(tmp_path / "m.png", "no readable")


def test_truncated(tmp_path):
    path = save(tmp_path / "m.png", WANTED)
    path.write_bytes(path.read_bytes()[:-20])
    refused(path, "truncated")


def test_wrong_size(tmp_path):
    refused(save(tmp_path / "m.png", WANTED.T), "20x30", "30x20")


def test_floating_point(tmp_path):
    refused(save(tmp_path / "m.tif", WANTED.astype(np.float32)))
