"""Both paths of the deformable convolution against a loop over pixels, and without motion against torch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.models.m2aenet.deformable import (
    convolve_by_sampling,
    convolve_compiled,
    deformable_depthwise_conv,
    runs_compiled,
    sampling_places,
)


def by_loop(x, taps, weight, bias):
    """Every pixel, tap and corner, one after the other, in Python."""
    count, _, height, width = x.shape
    out = np.zeros_like(x)
    for n in range(count):
        for row in range(height):
            for column in range(width):
                for tap in range(9):
                    y = row + tap // 3 - 1 + taps[tap, n, 0, row, column]
                    x_ = column + tap % 3 - 1 + taps[tap, n, 1, row, column]
                    top, left = math.floor(y), math.floor(x_)
                    for r in (top, top + 1):
                        for c in (left, left + 1):
                            if 0 <= r < height and 0 <= c < width:
                                share = (1 - abs(y - r)) * (1 - abs(x_ - c))
                                out[n, :, row, column] += weight[:, 0, tap // 3, tap % 3] * share * x[n, :, r, c]
    return out + bias[:, None, None]


def example(seed, count=2, channels=6, height=5, width=7, reach=2.0):
    rng = np.random.default_rng(seed)
    taps = rng.uniform(-reach, reach, (9, count, 2, height, width))
    taps[rng.random(taps.shape) < 0.2] = rng.integers(-2, 3)
    return (
        rng.normal(size=(count, channels, height, width)),
        taps,
        rng.normal(size=(channels, 1, 3, 3)),
        rng.normal(size=channels),
    )


def tensors(arrays, dtype=torch.float64):
    return [torch.from_numpy(array).to(dtype) for array in arrays]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.7, 30.0]),
)
def test_both_paths_equal_a_loop_over_pixels(count, height, width, seed, reach):
    arrays = example(seed, count, 3, height, width, reach)
    expected = by_loop(*arrays)
    x, taps, weight, bias = tensors(arrays)
    sampled = convolve_by_sampling(x, sampling_places(taps), weight, bias)
    compiled = convolve_compiled(x.permute(0, 2, 3, 1), taps, weight, bias).permute(0, 3, 1, 2)
    np.testing.assert_allclose(sampled.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(compiled.numpy(), expected, atol=1e-9)


def test_single_precision():
    arrays = example(1, 2, 32, 12, 15)
    x, taps, weight, bias = tensors(arrays, torch.float32)
    expected = by_loop(*arrays)
    for found in (
        convolve_by_sampling(x, sampling_places(taps), weight, bias),
        convolve_compiled(x.permute(0, 2, 3, 1), taps, weight, bias).permute(0, 3, 1, 2),
    ):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


def test_gated_is_the_product_of_the_halves():
    x, taps, weight, bias = tensors(example(2))
    plain = convolve_compiled(x.permute(0, 2, 3, 1), taps, weight, bias)
    gated = convolve_compiled(x.permute(0, 2, 3, 1), taps, weight, bias, gated=True)
    assert torch.allclose(gated, plain[..., :3] * plain[..., 3:], rtol=1e-14)


@pytest.mark.parametrize("gradient", [False, True])
def test_without_motion_it_is_the_padded_convolution(gradient):
    x, taps, weight, bias = tensors(example(3))
    weight.requires_grad_(gradient)
    assert runs_compiled(x, taps, weight) is not gradient
    found = deformable_depthwise_conv(x, torch.zeros_like(taps), weight, bias)
    assert torch.allclose(found, F.conv2d(x, weight, bias, padding=1, groups=6), atol=1e-12)


def test_one_tap_alone_moved():
    """Tap 5 reads (0, +1); moved by (+1, -2) it reads (+1, -1): where tap 6 reads."""
    x, taps, _, _ = tensors(example(4))
    taps.zero_()
    taps[5, :, 0], taps[5, :, 1] = 1, -2
    five, six = torch.zeros(6, 1, 3, 3, dtype=torch.float64), torch.zeros(6, 1, 3, 3, dtype=torch.float64)
    five[:, 0, 1, 2] = six[:, 0, 2, 0] = 1
    found = deformable_depthwise_conv(x, taps, five)
    expected = F.conv2d(x, six, padding=1, groups=6)
    # In the first column tap 6 leaves the image in both; nothing else differs.
    assert torch.allclose(found, expected)


def test_gradients():
    x, taps, weight, bias = tensors(example(5, 1, 2, 3, 3))
    # grid_sample has a kink at whole numbers.
    taps = (taps.floor() + 0.2 + 0.6 * torch.rand(taps.shape, dtype=torch.float64)).requires_grad_()
    inputs = (x.requires_grad_(), taps, weight.requires_grad_(), bias.requires_grad_())
    assert torch.autograd.gradcheck(deformable_depthwise_conv, inputs)


def test_threads_change_nothing():
    x, taps, weight, bias = tensors(example(6, 3, 4, 7, 5), torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(convolve_compiled(x.permute(0, 2, 3, 1), taps, weight, bias))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_what_cannot_be_compiled_is_sampled():
    x, taps, weight, bias = tensors(example(7))
    assert runs_compiled(x, taps, weight)
    assert not runs_compiled(x.bfloat16(), taps, weight)
    assert not runs_compiled(*(tensor.to("meta") for tensor in (x, taps, weight)))
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs_compiled(x, taps, weight)
    with torch.no_grad():
        assert runs_compiled(x, taps, weight.requires_grad_())
    found = deformable_depthwise_conv(*(tensor.detach().to("meta") for tensor in (x, taps, weight, bias)))
    assert found.shape == x.shape


def test_wrong_arguments():
    x, taps, weight, bias = tensors(example(8))
    with pytest.raises(ValueError, match="taps"):
        deformable_depthwise_conv(x, taps[:8], weight, bias)
    with pytest.raises(ValueError, match="taps"):
        deformable_depthwise_conv(x[..., 1:], taps, weight, bias)
    with pytest.raises(ValueError, match="kernel"):
        deformable_depthwise_conv(x, taps, weight[1:], bias)
