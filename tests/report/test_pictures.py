from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest

from relo.report import pictures


def test_sixteen_bits_become_eight_exactly():
    image = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    np.testing.assert_array_equal(pictures.to_uint8(image), np.arange(256).reshape(16, 16))
    assert pictures.to_uint8(np.array([[128, 129]], np.uint16)).tolist() == [[0, 1]]


def test_floats_are_refused():
    with pytest.raises(TypeError, match="uint8 or uint16"):
        pictures.to_uint8(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("shape", "expected"), [((480, 640), (480, 640)), ((100, 200), (100, 200)), ((1436, 2152), (427, 640))]
)
def test_box_keeps_the_aspect_and_enlarges_nothing(shape, expected):
    assert pictures.fit(shape, 640, 480) == expected


def test_portrait_fits_the_height():
    assert pictures.fit((2152, 1436), 640, 480) == (480, 320)


def test_thumbnail_averages_areas():
    image = np.array([[0, 100], [100, 200]], np.uint8)
    assert pictures.thumbnail(image, 1, 1).tolist() == [[100]]


def test_overlay_tints_the_mask_and_darkens_the_invalid_only():
    image = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    valid = np.full((40, 40), 255, np.uint8)
    valid[:, :4] = 0
    before = image.copy()
    picture = pictures.mask_overlay(image, mask, valid, 40, 40, alpha=0.5)
    assert picture[20, 20].tolist() == [165, 65, 110]
    assert picture[10, 20].tolist() == list(pictures.MASK_COLOUR)
    assert picture[35, 35].tolist() == [100, 100, 100]
    assert picture[20, 1].tolist() == [30, 30, 30]
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_difference_is_dark_where_equal_and_brighter_where_not(dtype):
    top = np.iinfo(dtype).max
    blur = np.full((20, 20, 3), top // 2, dtype)
    sharp = blur.copy()
    sharp[:, 10:] += dtype(top // 5)
    picture = pictures.difference_map(blur, sharp, np.zeros((20, 20), np.uint8), 20, 20, gain=4)
    assert picture[:, :10].max() < 10
    assert picture[:, 10:].astype(int).sum(axis=-1).min() > 300


def test_difference_of_both_depths_looks_the_same():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, (2, 16, 16, 3), np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    eight = pictures.difference_map(*frames, mask, 16, 16)
    sixteen = pictures.difference_map(*(frames.astype(np.uint16) * 257), mask, 16, 16)
    np.testing.assert_array_equal(eight, sixteen)


def test_flow_picture_tells_its_range_and_greys_the_invalid():
    flow = np.zeros((20, 30, 2), np.float32)
    flow[..., 0] = np.linspace(0, 3, 30)
    flow[..., 1] = 4
    valid = np.full((10, 15), 255, np.uint8)
    valid[:, 0] = 0
    picture, low, high = pictures.flow_picture(flow, valid, 30, 20)
    assert (low, high) == pytest.approx((4, 5))
    assert picture.shape == (20, 30, 3)
    assert picture[5, 0].tolist() == [128, 128, 128]
    assert picture[5, 29].tolist() != picture[5, 5].tolist()


def test_uniform_flow_is_one_colour():
    picture, low, high = pictures.flow_picture(np.ones((4, 4, 2), np.float32), np.full((4, 4), 255, np.uint8), 4, 4)
    assert low == high
    assert np.ptp(picture.reshape(-1, 3), axis=0).max() == 0


def test_jpeg_keeps_to_its_limit():
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    assert len(pictures.jpeg(noise, 60_000)) <= 60_000
    assert len(pictures.jpeg(noise, 10**9)) > 200_000


def test_data_uri_decodes_to_the_same_colours():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = (200, 30, 60)
    prefix, _, data = pictures.data_uri(image).partition(",")
    assert prefix == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - image).max() < 6


def test_png_is_lossless():
    image = np.random.default_rng(2).integers(0, 255, (5, 7, 3), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(pictures.png(image), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decoded, image)
