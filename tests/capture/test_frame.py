"""`RawFrame`: levels, saturation, patterns."""

from fractions import Fraction

import numpy as np
import pytest

from relo.capture.frame import PATTERNS, RawFrame, channel_of_position, flip_pattern


@pytest.mark.parametrize("shape", [(2, 2), (5, 7), (6, 9), (7, 6)])
def test_normalised_site_by_site(make_frame, shape):
    frame = make_frame(shape, black=(500.0, 510.5, 520.0, 530.0), white=16000.0)
    result = frame.normalised()
    assert result.dtype == np.float32
    for y in range(shape[0]):
        for x in range(shape[1]):
            black = Fraction(frame.black[2 * (y % 2) + x % 2])
            exact = (int(frame.mosaic[y, x]) - black) / (16000 - 530)
            assert result[y, x] == pytest.approx(float(exact), abs=2e-7)


def test_normalised_clips_on_neither_side():
    mosaic = np.array([[0, 4095], [100, 600]], np.uint16)
    result = RawFrame(mosaic, "RGGB", (100.0,) * 4, 1100.0).normalised()
    assert result.ravel().tolist() == pytest.approx([-0.1, 3.995, 0.0, 0.5])


def test_the_mosaic_is_not_modified(make_frame):
    frame = make_frame()
    frame.mosaic.setflags(write=False)
    before = frame.mosaic.copy()
    frame.normalised()
    frame.saturated()
    assert np.array_equal(frame.mosaic, before)


def test_saturated_counts_from_the_level_on():
    mosaic = np.array([[979, 980], [981, 1000]], np.uint16)
    frame = RawFrame(mosaic, "RGGB", (0.0,) * 4, 1000.0)
    assert frame.saturated().tolist() == [[False, True], [True, True]]
    assert frame.saturated(1.0).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_channels_of_positions(pattern):
    assert "".join("RGB"[channel] for channel in channel_of_position(pattern)) == pattern


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("width", [4, 5])
def test_flipped_pattern_is_that_of_the_flipped_letters(pattern, width):
    letters = np.resize(np.array(list(pattern)).reshape(2, 2), (2, 2))
    letters = np.tile(letters, (2, 3))[:, :width]
    assert flip_pattern(pattern, (4, width)) == "".join(letters[:, ::-1][:2, :2].ravel())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "RGBG"}, "pattern"),
        ({"black": (1.0, 2.0, 3.0)}, "black needs 4"),
        ({"black": (1.0, 2.0, 3.0, 2000.0)}, "must exceed"),
        ({"white": float("nan")}, "finite"),
        ({"wb": (1.0, 0.0, 1.0)}, "positive"),
        ({"wb": (float("inf"), 1.0, 1.0)}, "finite"),
        ({"colour_matrix": np.eye(4)}, "3 x 3"),
        ({"mosaic": np.zeros((4, 4), np.float32)}, "uint16"),
        ({"mosaic": np.zeros((4, 4, 3), np.uint16)}, "uint16"),
        ({"mosaic": np.zeros((1, 4), np.uint16)}, "2 x 2"),
    ],
)
def test_nonsense_is_refused(change, message):
    values = {"mosaic": np.zeros((4, 4), np.uint16), "pattern": "RGGB", "black": (0.0,) * 4, "white": 1000.0}
    with pytest.raises(ValueError, match=message):
        RawFrame(**(values | change))
