"""EXIF and ICC profiles from file to file: Pillow and tifffile must find the same values afterwards."""

import io
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import EXIF, MAKE, ORIENTATION, SRGB, camera_exif, profile, told, write_picture

from relo.exif import append_to_tiff, exif_block, parse_exif
from relo.images import encode_image, read_image
from relo.metadata import Metadata, embed, read_metadata

KINDS = ("jpg", "png", "tif")


def pixels(dtype=np.uint8, shape=(40, 64, 3)):
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, endpoint=True).astype(dtype)


def carried(source, target, image=None):
    """Write `image` to `target` with the metadata of `source`; return what did not fit."""
    metadata = read_metadata(source.read_bytes())
    encoded, left = embed(encode_image(target.suffix, pixels() if image is None else image), metadata)
    target.write_bytes(encoded)
    return metadata.notes + left


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_every_value_arrives(source, target, endian, tmp_path):
    source, target = tmp_path / f"a.{source}", tmp_path / f"b.{target}"
    write_picture(source, pixels(), exif=camera_exif(endian=endian), icc=SRGB)
    assert carried(source, target) == ()
    before, after = told(source), told(target)
    assert len(before["exif"]) == 8 and len(before["gps"]) == 2, "the source holds what it shall"
    assert after == before
    assert profile(target) == SRGB
    if target.suffix != ".jpg":
        assert np.array_equal(read_image(target), pixels())
        assert np.array_equal(np.asarray(Image.open(target)), pixels())


def test_deep_tiff_keeps_pixels_and_values_for_other_readers_too(tmp_path):
    image = pixels(np.uint16)
    write_picture(tmp_path / "a.jpg", pixels(), exif=camera_exif(), icc=SRGB)
    assert carried(tmp_path / "a.jpg", tmp_path / "b.tif", image) == ()
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), image)
    assert np.array_equal(read_image(tmp_path / "b.tif"), image)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        tags = file.pages.first.tags
        assert tags["Make"].value == "Relo"
        assert tags["ExifTag"].value["ExposureTime"] == (1, 125)
        assert tags["GPSTag"].value["GPSLatitudeRef"] == "N"
        assert tags["InterColorProfile"].value == SRGB
        assert len(file.pages) == 1


def test_a_deep_tiff_gives_its_tags(tmp_path):
    write_picture(tmp_path / "a.tif", pixels(np.uint16), exif=camera_exif(3), icc=SRGB)
    assert carried(tmp_path / "a.tif", tmp_path / "b.png", pixels(np.uint16)) == ()
    assert told(tmp_path / "b.png")["main"].items() >= {MAKE: "Relo", 0x110: "Splitter II", ORIENTATION: 1}.items()
    assert profile(tmp_path / "b.png") == SRGB


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_result_is_upright_by_pixels(orientation, kind, tmp_path):
    source = tmp_path / f"a.{kind}"
    write_picture(source, pixels(), exif=camera_exif(orientation))
    image = read_image(source)
    assert image.shape[:2] == ((64, 40) if orientation >= 5 else (40, 64))
    carried(source, tmp_path / "b.png", image)
    after = told(tmp_path / "b.png")
    assert after["main"][ORIENTATION] == 1
    sides = (after["exif"][0xA003], after["exif"][0xA002])
    assert sides == image.shape[:2]
    assert np.array_equal(read_image(tmp_path / "b.png"), image)


def second_directory(path):
    """Place of directory 1 in the EXIF of a file in little-endian order; 0 for none."""
    with Image.open(path) as picture:
        block = picture.info["exif"].removeprefix(b"Exif\0\0")
    (first,) = struct.unpack_from("<I", block, 4)
    (count,) = struct.unpack_from("<H", block, first)
    return struct.unpack_from("<I", block, first + 2 + 12 * count)[0]


def test_the_thumbnail_is_left_behind(tmp_path):
    exif = camera_exif()
    thumbnail = encode_image(".jpg", pixels(shape=(8, 8, 3)))
    block = exif_block(parse_exif(exif.tobytes()[6:]))
    # Directory 1 with the thumbnail at the end, as cameras write it.
    directory = struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, len(block) + 30, 0x202, 4, 1, len(thumbnail), 0)
    (first,) = struct.unpack_from("<I", block, 4)
    (count,) = struct.unpack_from("<H", block, first)
    link = first + 2 + 12 * count
    block = block[:link] + struct.pack("<I", len(block)) + block[link + 4 :] + directory + thumbnail
    Image.fromarray(pixels()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + block)
    assert second_directory(tmp_path / "a.jpg") == len(block) - len(directory) - len(thumbnail)
    assert carried(tmp_path / "a.jpg", tmp_path / "b.jpg") == ()
    assert second_directory(tmp_path / "b.jpg") == 0
    assert thumbnail not in (tmp_path / "b.jpg").read_bytes()
    assert told(tmp_path / "b.jpg") == told(tmp_path / "a.jpg")


def test_without_metadata_the_file_is_the_same(tmp_path):
    write_picture(tmp_path / "a.png", pixels())
    metadata = read_metadata((tmp_path / "a.png").read_bytes())
    assert metadata == Metadata()
    encoded = encode_image(".tif", pixels())
    assert embed(encoded, metadata) == (encoded, ())


def test_large_profiles_are_split_in_a_jpeg_and_joined_again(tmp_path):
    body = np.random.default_rng(0).integers(0, 256, 150_000).astype(np.uint8).tobytes()
    icc = (len(body) + 128).to_bytes(4, "big") + SRGB[4:128] + body
    write_picture(tmp_path / "a.png", pixels(), icc=icc)
    assert carried(tmp_path / "a.png", tmp_path / "b.jpg") == ()
    assert carried(tmp_path / "b.jpg", tmp_path / "c.tif") == ()
    assert profile(tmp_path / "b.jpg") == icc
    assert profile(tmp_path / "c.tif") == icc
    data = (tmp_path / "b.jpg").read_bytes()
    # One of the three parts is missing.
    second = data.index(b"ICC_PROFILE\0\x02") - 4
    length = int.from_bytes(data[second + 2 : second + 4], "big")
    metadata = read_metadata(data[:second] + data[second + 2 + length :])
    assert metadata.icc is None
    assert metadata.notes == ("ICC profile not kept: parts of it are missing",)


def test_exif_too_long_for_a_jpeg_is_named():
    exif = camera_exif()
    exif.get_ifd(EXIF)[0x927C] = bytes(70_000)
    metadata = Metadata(exif=parse_exif(exif.tobytes()[6:]))
    encoded = encode_image(".jpg", pixels())
    same, left = embed(encoded, metadata)
    assert same == encoded
    assert "too long for a JPEG" in left[0]
    assert parse_exif(exif_block(metadata.exif)) == metadata.exif


@pytest.mark.parametrize(
    ("icc", "reason"),
    [
        (b"not a profile", "it is damaged"),
        (SRGB[:-1], "it is damaged"),
        (SRGB[:16] + b"GRAY" + SRGB[20:], "it is for GRAY pixels"),
        (SRGB[:16] + b"CMYK" + SRGB[20:], "it is for CMYK pixels"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_that_does_not_fit_is_left_out(icc, reason, kind, tmp_path):
    write_picture(tmp_path / f"a.{kind}", pixels(), icc=icc, exif=camera_exif())
    metadata = read_metadata((tmp_path / f"a.{kind}").read_bytes())
    assert metadata.icc is None
    assert metadata.exif is not None
    assert len(metadata.notes) == 1 and reason in metadata.notes[0]


@pytest.mark.parametrize(
    "block",
    [b"", b"II*\0", b"XX*\0\x08\0\0\0", b"II*\0\xff\xff\0\0", b"II*\0\x08\0\0\0\xff\xff",
     b"II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\xff\xff\xff\x1a\0\0\0\0\0\0\0"],
)  # fmt: skip
def test_damaged_exif_costs_the_exif_only(block, tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + block, icc_profile=SRGB)
    metadata = read_metadata((tmp_path / "a.jpg").read_bytes())
    assert metadata.exif is None
    assert metadata.icc == SRGB
    assert len(metadata.notes) == 1 and metadata.notes[0].startswith("EXIF not kept: ")


GOOD = camera_exif().tobytes()[6:]


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(GOOD))
)
def test_any_block_is_read_or_refused(changes, length):
    block = bytearray(GOOD)
    for place, value in changes:
        block[place] = value
    try:
        exif = parse_exif(bytes(block[:length]))
    except ValueError:
        return
    again = parse_exif(exif_block(exif))
    assert (sorted(again.main), sorted(again.exif), sorted(again.gps)) == (
        sorted(exif.main),
        sorted(exif.exif),
        sorted(exif.gps),
    )
    data, _ = embed(encode_image(".tif", pixels(shape=(4, 5, 3))), Metadata(exif=exif, icc=SRGB))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (5, 4)


def test_entries_that_share_bytes_cannot_exhaust_memory():
    count, size = 4000, 100_000
    entries = b"".join(struct.pack("<HHII", tag, 7, size, 8) for tag in range(count))
    block = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, EXIF, 4, 1, 26, 0) + struct.pack("<H", count) + entries
    with pytest.raises(ValueError, match="far too long"):
        parse_exif(block + bytes(size))


def test_a_profile_cannot_unpack_to_more_than_memory(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "a.png", icc_profile=bytes(20_000_000))
    metadata = read_metadata((tmp_path / "a.png").read_bytes())
    assert metadata.icc is None
    assert "far too long" in metadata.notes[0]


def test_alpha_and_foreign_colours_are_seen(tmp_path):
    rgba = np.dstack([pixels(), pixels()[..., 0]])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba).save(tmp_path / "a.tif")
    Image.fromarray(rgba[..., 2:]).convert("LA").save(tmp_path / "grey.png")
    Image.fromarray(pixels()).quantize(16).save(tmp_path / "index.png", transparency=3)
    for name in ("a.png", "a.tif", "grey.png", "index.png"):
        assert read_metadata((tmp_path / name).read_bytes()).alpha, name
    Image.fromarray(rgba, "CMYK").save(tmp_path / "c.jpg")
    Image.fromarray(rgba, "CMYK").save(tmp_path / "c.tif")
    Image.fromarray(pixels(), "LAB").save(tmp_path / "l.tif")
    found = [read_metadata((tmp_path / name).read_bytes()) for name in ("c.jpg", "c.tif", "l.tif")]
    assert [(entry.colours, entry.alpha) for entry in found] == [("CMYK", False), ("CMYK", False), ("Lab", False)]
    for kind in KINDS:
        Image.fromarray(pixels()).save(tmp_path / f"plain.{kind}")
        plain = read_metadata((tmp_path / f"plain.{kind}").read_bytes())
        assert (plain.colours, plain.alpha) == ("RGB", False)


def test_big_tiff_says_that_nothing_is_kept(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels(), photometric="rgb", bigtiff=True)
    assert "BigTIFF" in read_metadata((tmp_path / "a.tif").read_bytes()).notes[0]
    with pytest.raises(ValueError, match="TIFF header"):
        append_to_tiff((tmp_path / "a.tif").read_bytes(), None, SRGB)


def test_other_files_have_no_metadata():
    for data in (b"", b"II", b"something else altogether"):
        assert read_metadata(data) == Metadata()
