"""RAW files that nobody vouches for: headers that claim too much, and damage at random."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from support.fuzzing import fuzz, mutation
from support.program import relo

from relo.capture import read_raw
from relo.capture.dng import write_dng
from relo.capture.mosaic_file import MAX_PIXELS, check_claim
from relo.capture.raw_reader import CameraSettings
from relo.errors import CaptureError

SETTINGS = CameraSettings(pattern="RGGB", width=400, height=300)
MOSAIC = np.random.default_rng(3).integers(0, 16384, (300, 400)).astype(np.uint16)

WIDTH, HEIGHT, STRIP_ROWS, SAMPLES = 256, 257, 278, 277  # TIFF tags


def set_tag(path: Path, tag: int, value: int) -> None:
    """Change the value of a SHORT or LONG tag of the first directory of a little-endian TIFF."""
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        found, _, length = struct.unpack_from("<HHI", data, entry)
        if found == tag and length == 1:
            struct.pack_into("<HHII", data, entry, tag, 4, 1, value)  # as LONG
    path.write_bytes(data)


def refused(path: Path, words: str, settings: CameraSettings = SETTINGS) -> None:
    with pytest.raises(CaptureError, match=words) as caught:
        read_raw(path, settings)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.advice


@pytest.mark.parametrize("width, height", [(65_535, 65_535), (60_000, 60_000), (400, 60_000), (2**31, 2), (0, 0)])
def test_a_dng_that_claims_too_much(tmp_path: Path, make_frame, width: int, height: int):
    path = write_dng(tmp_path / "a.dng", make_frame((300, 400)))
    set_tag(path, WIDTH, width)
    set_tag(path, HEIGHT, height)
    refused(path, "claims|damaged", CameraSettings())


def test_a_dng_whose_pattern_is_none(tmp_path: Path, make_frame):
    """LibRaw's wrapper raises NotImplementedError for a pattern of no known size."""
    path = write_dng(tmp_path / "a.dng", make_frame((300, 400)))
    data = path.read_bytes()
    entry = data.index(struct.pack("<HHI", 33421, 3, 2))  # CFARepeatPatternDim
    found = set()
    for rows in range(1, 9):
        for columns in range(1, 9):
            path.write_bytes(data[: entry + 8] + struct.pack("<HH", rows, columns) + data[entry + 12 :])
            try:
                read_raw(path)
            except CaptureError as error:
                found.add(error.reason[:12])
    assert "has no 2 x 2" in found


@pytest.mark.parametrize("tag, value", [(WIDTH, 2**31), (HEIGHT, 2**31), (HEIGHT, 30_000_000), (SAMPLES, 60_000)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_that_claims_too_much(tmp_path: Path, tag: int, value: int, compression: str | None):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, MOSAIC, compression=compression, metadata=None)
    set_tag(path, tag, value)
    refused(path, "no readable TIFF|16-bit channel")


def test_a_tiff_of_several_pages(tmp_path: Path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([MOSAIC, MOSAIC]), photometric="minisblack")
    refused(path, r"is \(2, 300, 400\) uint16")


@pytest.mark.parametrize(
    "width, height, bits, colour, words",
    [
        (2**31 - 1, 2**31 - 1, 16, 0, "claims"),
        (30_000, 30_000, 16, 0, "claims"),
        (15_000, 15_000, 16, 0, "claims"),  # more than the file can hold, however well packed
        (400, 300, 8, 0, "8 bits a channel"),
        (400, 300, 16, 6, "colour type 6"),
        (0, 0, 16, 0, "claims"),
    ],
)
def test_a_png_that_claims_too_much(tmp_path: Path, width: int, height: int, bits: int, colour: int, words: str):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), MOSAIC)
    data = bytearray(path.read_bytes())
    data[16:26] = struct.pack(">IIBB", width, height, bits, colour)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    refused(path, words)


def test_a_headerless_file_of_an_absurd_size(tmp_path: Path):
    path = tmp_path / "a.raw"
    path.write_bytes(b"\0" * 100)
    refused(path, "more than any sensor", CameraSettings(pattern="RGGB", width=10**9, height=10**9))
    refused(path, "needs 240000", SETTINGS)


def test_what_sensors_have_is_allowed():
    check_claim(14_204, 10_652, 150_000_000, 16)  # the largest on sale, packed
    with pytest.raises(ValueError, match="claims"):
        check_claim(MAX_PIXELS + 2, 1, 10**9, 16)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"iso": 1e999}',
        '{"iso": -3}',
        '{"nd_transmittance": 2}',
        "1" * 5000,
        " " * 2_000_000,
        "\udcff",
    ],
    ids=["deep", "infinite", "negative", "bright", "long number", "long", "no text"],
)
def test_a_sidecar_that_nobody_wrote(tmp_path: Path, make_frame, content: str):
    path = write_dng(tmp_path / "a.dng", make_frame())
    sidecar = tmp_path / "a.json"
    sidecar.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CaptureError) as caught:
        read_raw(path)
    assert caught.value.file == sidecar and "\n" not in str(caught.value)


def test_check_names_damaged_files_and_goes_on(small_session: Path, tmp_path: Path):
    import shutil

    root = tmp_path / "session"
    shutil.copytree(small_session, root)
    frames = sorted((root / "scenes").glob("*/000*_B.dng"))
    set_tag(frames[0], WIDTH, 65_000)
    set_tag(frames[1], HEIGHT, 65_000)
    frames[2].with_suffix(".json").write_text("[" * 100_000)
    answer = relo("check", root, "--json")
    assert answer.code == 3 and "Traceback" not in answer.err
    problems = json.loads(answer.out)["problems"]
    for path in frames[:3]:
        assert any(str(path.with_suffix("")) in problem for problem in problems)


# Damage at random


def test_random_damage_to_dng_headers(tmp_path: Path, make_frame):
    path = write_dng(tmp_path / "a.dng", make_frame((300, 400)))
    outcome = fuzz("raw", [("a.dng", mutation(path.read_bytes(), [(0, 600)], 0.95))], 600, 1, tmp_path)
    assert outcome.failures == []
    assert 100 < outcome.counts["read"] < 500
    assert outcome.peak_bytes < 1e9


def test_random_damage_to_mosaics(tmp_path: Path):
    for name, compression in (("a.tif", None), ("b.tif", "zlib")):
        tifffile.imwrite(tmp_path / name, MOSAIC, compression=compression)
    cv2.imwrite(str(tmp_path / "a.png"), MOSAIC)
    sources = [
        (name, mutation((tmp_path / name).read_bytes(), [(0, 300)], 0.95)) for name in ("a.tif", "b.tif", "a.png")
    ]
    outcome = fuzz("raw", sources, 450, 2, tmp_path)
    assert outcome.failures == []
    assert 50 < outcome.counts["read"] < 400
