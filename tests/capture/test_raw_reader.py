"""Every container that `read_raw` takes, and every way a file can be wrong."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from relo.capture.dng import write_dng
from relo.capture.frame import PATTERNS, channel_of_position
from relo.capture.raw_reader import CameraSettings, read_raw, unpack_12_bit
from relo.errors import CaptureError

RNG_MOSAIC = np.random.default_rng(1).integers(0, 4096, (30, 42)).astype(np.uint16)


def pack_12_bit(samples: np.ndarray) -> bytes:
    """Pack by way of one big integer: sample i stands at bit 12 i."""
    whole = sum(int(sample) << (12 * i) for i, sample in enumerate(samples.ravel()))
    return whole.to_bytes(samples.size * 3 // 2, "little")


def write_tiff(path: Path, mosaic: np.ndarray, *, pattern: str | None = "RGGB", extra: tuple = ()) -> Path:
    """Write a bare CFA TIFF, which LibRaw takes for a DNG; without pattern the CFAPattern tag is missing."""
    tags = [
        (33421, 3, 2, (2, 2), True),
        (50706, 1, 4, bytes((1, 4, 0, 0)), True),
        (50708, 2, 0, "test camera", True),
        *extra,
    ]
    if pattern:
        tags.append((33422, 1, 4, bytes("RGB".index(letter) for letter in pattern), True))
    with tifffile.TiffWriter(path) as writer:
        photometric = 32803 if mosaic.ndim == 2 else 34892
        writer.write(mosaic, photometric=photometric, subfiletype=0, metadata=None, software=False,
                     extratags=sorted(tags))  # fmt: skip
    return path


def test_12_bit_by_hand():
    # samples 0x123 and 0xABC: low byte, high nibble | low nibble << 4, high byte
    assert unpack_12_bit(np.array([0x23, 0xC1, 0xAB], np.uint8)).tolist() == [0x123, 0xABC]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 4095)), min_size=1, max_size=40))
def test_12_bit_round_trip(pairs):
    samples = np.array(pairs, np.uint16).ravel()
    packed = np.frombuffer(pack_12_bit(samples), np.uint8)
    result = unpack_12_bit(packed)
    assert result.dtype == np.uint16
    assert np.array_equal(result, samples)


@pytest.mark.parametrize("header", [0, 37])
@pytest.mark.parametrize("container", ["packed", "16 bit"])
def test_headerless(tmp_path, header, container):
    path = tmp_path / "a.raw"
    data = pack_12_bit(RNG_MOSAIC) if container == "packed" else RNG_MOSAIC.astype("<u2").tobytes()
    path.write_bytes(b"\xee" * header + data)
    camera = CameraSettings(
        pattern="GBRG", width=42, height=30, header_bytes=header, bits=12, black=64, exposure_s=0.02,
        white_balance=(3.0, 1.5, 2.25), colour_matrix=((1.5, -0.5, 0), (0, 1, 0), (0, -0.5, 1.5)),
    )  # fmt: skip
    frame = read_raw(path, camera, camera="S")
    assert np.array_equal(frame.mosaic, RNG_MOSAIC)
    assert frame.pattern == "GBRG"
    assert frame.black == (64.0,) * 4
    assert frame.white == 4095
    assert frame.wb == (2.0, 1.0, 1.5)
    assert frame.colour_matrix.tolist() == [[1.5, -0.5, 0], [0, 1, 0], [0, -0.5, 1.5]]
    assert frame.exposure_s == 0.02
    assert frame.camera == "S"
    assert frame.notes == ()


def test_what_had_to_be_assumed_is_noted(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(RNG_MOSAIC.tobytes())
    frame = read_raw(path, CameraSettings(pattern="RGGB", width=42, height=30))
    assert frame.white == 65535
    assert frame.exposure_s is None
    notes = " ".join(frame.notes)
    for word in ("white balance", "colour matrix", "white level", "black level"):
        assert word in notes
    path.write_bytes(pack_12_bit(RNG_MOSAIC))
    frame = read_raw(path, CameraSettings(pattern="RGGB", width=42, height=30))
    assert frame.white == 4095
    assert "white level" not in " ".join(frame.notes)


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".png", ".TIF"])
def test_mosaic_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        cv2.imwrite(str(path), RNG_MOSAIC)
    else:
        tifffile.imwrite(path, RNG_MOSAIC)
    frame = read_raw(path, CameraSettings(pattern="BGGR", black=(1, 2, 3, 4), white=4000))
    assert np.array_equal(frame.mosaic, RNG_MOSAIC)
    assert (frame.pattern, frame.black, frame.white) == ("BGGR", (1.0, 2.0, 3.0, 4.0), 4000.0)


@pytest.mark.parametrize("suffix", [".tif", ".raw"])
def test_files_without_metadata_need_a_pattern(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, RNG_MOSAIC)
    else:
        path.write_bytes(RNG_MOSAIC.tobytes())
    with pytest.raises(CaptureError, match="pattern"):
        read_raw(path, CameraSettings(width=42, height=30))


def test_settings_win_over_the_file(tmp_path, make_frame):
    path = write_dng(tmp_path / "a.dng", make_frame(camera="B", nd_transmittance=0.05))
    plain = read_raw(path)
    camera = CameraSettings(
        pattern="GRBG", black=7, white=9000, exposure_s=0.5, nd_transmittance=0.1, white_balance=(1, 1, 2)
    )
    frame = read_raw(path, camera, camera="S")
    assert (frame.pattern, frame.black, frame.white) == ("GRBG", (7.0,) * 4, 9000.0)
    assert (frame.exposure_s, frame.nd_transmittance, frame.wb) == (0.5, 0.1, (1.0, 1.0, 2.0))
    assert frame.camera == "S"
    assert np.array_equal(frame.mosaic, plain.mosaic)
    assert np.array_equal(frame.colour_matrix, plain.colour_matrix)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("width", [40, 41])
def test_a_mirrored_camera_is_flipped_with_its_pattern_and_levels(tmp_path, make_frame, pattern, width):
    frame = make_frame((30, width), pattern=pattern)
    path = write_dng(tmp_path / "a.dng", frame)
    flipped = read_raw(path, CameraSettings(mirrored=True))
    assert np.array_equal(flipped.mosaic, frame.mosaic[:, ::-1])
    assert np.array_equal(flipped.normalised(), frame.normalised()[:, ::-1])
    rows, columns = np.indices(frame.shape)
    position = 2 * (rows % 2) + columns % 2
    colours = np.array(channel_of_position(frame.pattern))[position]
    assert np.array_equal(np.array(channel_of_position(flipped.pattern))[position], colours[:, ::-1])


def test_settings_of_a_mirrored_camera_describe_the_file(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RNG_MOSAIC)
    frame = read_raw(path, CameraSettings(pattern="RGGB", black=(1, 2, 3, 4), mirrored=True))
    assert (frame.pattern, frame.black) == ("GRBG", (2.0, 1.0, 4.0, 3.0))


def test_active_area(tmp_path):
    path = write_tiff(tmp_path / "a.dng", RNG_MOSAIC, pattern="GRBG", extra=((50829, 4, 4, (2, 4, 28, 38), True),))
    frame = read_raw(path)
    assert np.array_equal(frame.mosaic, RNG_MOSAIC[2:28, 4:38])
    assert frame.pattern == "GRBG"


def test_missing_tags_are_noted_and_settings_silence_the_notes(tmp_path):
    path = write_tiff(tmp_path / "a.dng", RNG_MOSAIC)
    frame = read_raw(path)
    assert frame.wb == (1.0, 1.0, 1.0)
    assert np.array_equal(frame.colour_matrix, np.eye(3))
    assert frame.exposure_s is None
    assert len(frame.notes) == 2
    camera = CameraSettings(white_balance=(2, 1, 2), colour_matrix=((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert read_raw(path, camera).notes == ()


def test_a_missing_pattern_can_be_given(tmp_path):
    path = write_tiff(tmp_path / "a.dng", RNG_MOSAIC, pattern=None)
    with pytest.raises(CaptureError, match="Bayer") as caught:
        read_raw(path)
    assert str(path) in str(caught.value)
    frame = read_raw(path, CameraSettings(pattern="GBRG", black=5))
    assert np.array_equal(frame.mosaic, RNG_MOSAIC)
    assert (frame.pattern, frame.black) == ("GBRG", (5.0,) * 4)


def test_a_developed_dng_is_no_mosaic(tmp_path):
    path = write_tiff(tmp_path / "a.dng", np.dstack([RNG_MOSAIC] * 3))
    with pytest.raises(CaptureError, match="undeveloped") as caught:
        read_raw(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".dng", ".tif", ".png", ".raw"])
def test_truncated_files_are_refused_by_name(tmp_path, make_frame, suffix, share):
    path = tmp_path / f"cut{suffix}"
    frame = make_frame((300, 400))
    if suffix == ".dng":
        write_dng(path, frame)
    elif suffix == ".tif":
        tifffile.imwrite(path, frame.mosaic)
    elif suffix == ".png":
        cv2.imwrite(str(path), frame.mosaic)
    else:
        path.write_bytes(frame.mosaic.tobytes())
    camera = CameraSettings(pattern="RGGB", width=400, height=300)
    read_raw(path, camera)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CaptureError) as caught:
        read_raw(path, camera)
    assert caught.value.file == path


@pytest.mark.parametrize("suffix", [".dng", ".nef", ".tif", ".png", ".raw"])
def test_empty_text_missing_and_folder(tmp_path, suffix):
    camera = CameraSettings(pattern="RGGB", width=42, height=30)
    empty, text, folder = (tmp_path / f"{name}{suffix}" for name in ("empty", "text", "folder"))
    empty.touch()
    text.write_text("no picture, just words\n" * 20)
    folder.mkdir()
    for path, message in (
        (empty, "0 bytes"),
        (text, r"is no|needs"),
        (folder, r"damaged|is no|needs|directory"),
        (tmp_path / f"none{suffix}", "No such file"),
    ):
        with pytest.raises(CaptureError, match=message) as caught:
            read_raw(path, camera)
        assert caught.value.file == path
        assert caught.value.advice
        assert "\n" not in str(caught.value)


def test_wrong_headerless_size_tells_the_right_ones(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(b"\0" * 1000)
    with pytest.raises(CaptureError, match=r"1000 bytes .* 24000000 \(16 bit\) or 18000000 \(12 bit packed\)"):
        read_raw(path, CameraSettings(pattern="RGGB", width=4000, height=3000))
    with pytest.raises(CaptureError, match="width and height"):
        read_raw(path, CameraSettings(pattern="RGGB"))


@pytest.mark.parametrize(
    "image", [RNG_MOSAIC.astype(np.uint8), np.dstack([RNG_MOSAIC] * 3), RNG_MOSAIC.astype(np.float32)]
)
def test_other_tiffs_are_no_mosaics(tmp_path, image):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack")
    with pytest.raises(CaptureError, match="16-bit"):
        read_raw(path, CameraSettings(pattern="RGGB"))


@pytest.mark.parametrize("content", ["{", '{"colour": 1}', "[1]", '{"black": [1, 2]}', '{"white": 1e999}'])
def test_a_broken_sidecar_is_named(tmp_path, make_frame, content):
    path = write_dng(tmp_path / "a.dng", make_frame())
    sidecar = tmp_path / "a.json"
    sidecar.write_text(content)
    with pytest.raises(CaptureError) as caught:
        read_raw(path)
    assert caught.value.file == sidecar
    assert "Mend" in str(caught.value)


def test_levels_that_contradict_each_other(tmp_path, make_frame):
    path = write_dng(tmp_path / "a.dng", make_frame())
    (tmp_path / "a.json").write_text(json.dumps({"white": 100.0}))
    with pytest.raises(CaptureError, match="must exceed"):
        read_raw(path)


@pytest.mark.parametrize(
    "values",
    [
        {"pattern": "RGBG"},
        {"white_balance": (1, 0, 1)},
        {"colour_matrix": ((1, 0, 0), (0, 1, 0))},
        {"nd_transmittance": 1.5},
        {"bits": 20},
        {"exposure": 1},
    ],
)
def test_settings_are_checked(values):
    with pytest.raises(ValidationError):
        CameraSettings(**values)
