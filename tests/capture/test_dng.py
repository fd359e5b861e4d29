"""DNG files, read back by LibRaw itself and by `read_raw`."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rawpy
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from relo.capture.dng import sidecar_path, write_dng
from relo.capture.frame import PATTERNS, RawFrame, channel_of_position
from relo.capture.raw_reader import read_raw
from relo.postprocess import isp

SHAPES = [(22, 22), (30, 40), (31, 40), (30, 41), (31, 43)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES)
def test_libraw_reads_what_was_written(tmp_path, make_frame, pattern, shape):
    frame = make_frame(shape, pattern=pattern)
    path = write_dng(tmp_path / "a.dng", frame)
    with rawpy.imread(str(path)) as raw:
        assert np.array_equal(raw.raw_image_visible, frame.mosaic)
        index = raw.raw_pattern.ravel()
        assert "".join(chr(raw.color_desc[i]) for i in index) == pattern
        assert tuple(raw.black_level_per_channel[i] for i in index) == frame.black
        assert raw.white_level == frame.white
        assert np.array(raw.camera_whitebalance[:3]) == pytest.approx(np.array(frame.wb), rel=1e-5)
        assert raw.color_matrix[:, :3] == pytest.approx(frame.colour_matrix, abs=1e-4)
        assert raw.other.shutter_speed == pytest.approx(frame.exposure_s, rel=1e-6)
        assert raw.sizes.flip == 0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_round_trip_through_read_raw(tmp_path, make_frame, pattern):
    frame = make_frame(
        (31, 44), pattern=pattern, black=(500.25, 501.5, 502.0, 503.75), white=16000.5, camera="B", iso=400.0,
        nd_transmittance=0.05,
    )  # fmt: skip
    again = read_raw(write_dng(tmp_path / "a.dng", frame))
    assert np.array_equal(again.mosaic, frame.mosaic)
    for name in ("pattern", "black", "white", "camera", "iso", "nd_transmittance"):
        assert getattr(again, name) == getattr(frame, name), name
    assert again.wb == pytest.approx(frame.wb, rel=1e-5)
    assert again.colour_matrix == pytest.approx(frame.colour_matrix, abs=1e-4)
    assert again.exposure_s == pytest.approx(frame.exposure_s, rel=1e-6)
    assert again.notes == ()
    assert again.normalised() == pytest.approx(frame.normalised(), abs=1e-6)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    height=st.integers(22, 50),
    width=st.integers(22, 50),
    black=st.tuples(*[st.integers(0, 4096)] * 4),
    red=st.floats(0.3, 5),
    blue=st.floats(0.3, 5),
    exposure=st.floats(1e-5, 60),
)
def test_any_levels_and_sizes(tmp_path, make_frame, height, width, black, red, blue, exposure):
    values = {"wb": (red, 1.0, blue), "exposure_s": exposure, "white": 65535.0}
    frame = make_frame((height, width), black=tuple(map(float, black)), **values)
    again = read_raw(write_dng(tmp_path / "a.dng", frame))
    assert np.array_equal(again.mosaic, frame.mosaic)
    assert again.black == frame.black
    assert again.wb == pytest.approx(frame.wb, rel=1e-5)
    assert again.exposure_s == pytest.approx(exposure, rel=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_libraw_develops_as_we_do(tmp_path, pattern):
    """LibRaw's own linear pipeline is the oracle of black, white balance and matrix."""
    rng = np.random.default_rng(3)
    shape = (90, 120)
    scene = np.stack([ndimage.gaussian_filter(rng.random(shape), 3) for _ in range(3)], axis=-1)
    scene = (scene - scene.min()) / np.ptp(scene) * [0.45, 0.9, 0.6]
    scene[30:50, 40:70] *= 1.6  # some of it clips, in the mosaic or after the white balance
    black, white = 512.0, 16383.0
    colours = np.array(channel_of_position(pattern))
    rows, columns = np.indices(shape)
    position = 2 * (rows % 2) + columns % 2
    values = np.take_along_axis(scene, colours[position][..., None], axis=-1)[..., 0]
    mosaic = np.clip(np.rint(black + values * (white - 512)), 0, white).astype(np.uint16)
    matrix = np.array([[1.62, -0.47, -0.15], [-0.21, 1.53, -0.32], [0.02, -0.48, 1.46]])
    frame = RawFrame(mosaic, pattern, (black,) * 4, white, (2.1, 1.0, 1.6), matrix)
    path = write_dng(tmp_path / "a.dng", frame)
    with rawpy.imread(str(path)) as raw:
        oracle = raw.postprocess(
            demosaic_algorithm=rawpy.DemosaicAlgorithm.LINEAR,
            use_camera_wb=True,
            no_auto_bright=True,
            gamma=(1, 1),
            output_bps=16,
        )
    kernel_green = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    kernel_other = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    normalised = np.clip(frame.normalised(), 0, 1)
    rgb = np.stack(
        [
            ndimage.convolve(normalised * (colours[position] == channel), kernel, mode="mirror")
            for channel, kernel in enumerate((kernel_other, kernel_green, kernel_other))
        ],
        axis=-1,
    )
    ours = isp.to_linear_srgb(rgb.astype(np.float32), frame.wb, frame.colour_matrix)
    difference = np.abs(ours * 65535 - oracle)[4:-4, 4:-4]
    # LibRaw interpolates integers, after the white balance; where neighbours clip the order matters.
    smooth = ~ndimage.binary_dilation(normalised.max() == normalised, iterations=3)[4:-4, 4:-4]
    balanced = rgb * np.array(frame.wb) / min(frame.wb)
    smooth &= ~ndimage.binary_dilation((balanced > 0.98).any(axis=-1), iterations=3)[4:-4, 4:-4]
    assert smooth.mean() > 0.5
    assert difference[smooth].max() <= 6


def test_the_sidecar_holds_only_what_a_dng_cannot(tmp_path, make_frame):
    path = tmp_path / "0000_B.dng"
    write_dng(path, make_frame(camera="B", nd_transmittance=0.05, iso=100.0))
    assert sidecar_path(path).name == "0000_B.json"
    assert json.loads(sidecar_path(path).read_text()) == {"camera": "B", "iso": 100.0, "nd_transmittance": 0.05}
    write_dng(path, make_frame())
    assert [file.name for file in tmp_path.iterdir()] == ["0000_B.dng"]


def test_written_bytes_repeat(tmp_path, make_frame):
    frame = make_frame()
    assert write_dng(tmp_path / "a.dng", frame).read_bytes() == write_dng(tmp_path / "b.dng", frame).read_bytes()


def test_tags_that_other_readers_need(tmp_path, make_frame):
    path = write_dng(tmp_path / "a.dng", make_frame(pattern="GBRG"))
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        assert tags["DNGVersion"].value[0] == 1
        assert tags["CFAPattern"].value == bytes([1, 2, 0, 1])
        assert tags["Orientation"].value == 1
        assert tags["CalibrationIlluminant1"].value == 21
        assert tags["UniqueCameraModel"].value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour_matrix": np.eye(3) * 1.1}, "sum to 1"),
        ({"colour_matrix": np.full((3, 3), 1 / 3)}, "invertible"),
        ({"white": 70000.0}, "65535"),
        ({"black": (-1.0, 0.0, 0.0, 0.0)}, "65535"),
        ({"mosaic": np.zeros((21, 30), np.uint16)}, "22 x 22"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, make_frame, change, message):
    with pytest.raises(ValueError, match=message):
        write_dng(tmp_path / "a.dng", replace(make_frame(), **change))
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused(tmp_path, make_frame):
    with pytest.raises(ValueError, match=r"\.dng"):
        write_dng(tmp_path / "a.tif", make_frame())
