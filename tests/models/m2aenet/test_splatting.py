"""Forward warping against a loop over pixels; holes, borders, values that are not finite, gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.models.m2aenet import splat

MODES = ("sum", "average", "linear", "softmax")


def by_loop(image, flow, mode, metric=None, divide="floor"):
    """Every pixel, one after the other, in Python."""
    count, _, height, width = image.shape
    total, weights = np.zeros_like(image), np.zeros((count, 1, height, width))
    for n in range(count):
        for y in range(height):
            for x in range(width):
                dx, dy = flow[n, :, y, x]
                if not (math.isfinite(dx) and math.isfinite(dy)):
                    continue
                importance = 1.0
                if mode == "linear":
                    importance = metric[n, 0, y, x]
                elif mode == "softmax":
                    importance = math.exp(metric[n, 0, y, x] - metric[n].max())
                left, top = math.floor(x + dx), math.floor(y + dy)
                for row in (top, top + 1):
                    for column in (left, left + 1):
                        if 0 <= row < height and 0 <= column < width:
                            share = (1 - abs(x + dx - column)) * (1 - abs(y + dy - row)) * importance
                            total[n, :, row, column] += share * image[n, :, y, x]
                            weights[n, 0, row, column] += share
    if mode == "sum":
        return total
    return total / (np.maximum(weights, 1e-7) if divide == "floor" else weights + 1e-7)


def example(seed, shape=(2, 3, 6, 7), reach=2.5):
    rng = np.random.default_rng(seed)
    count, _, height, width = shape
    flow = rng.uniform(-reach, reach, (count, 2, height, width))
    flow[rng.random(flow.shape) < 0.2] = rng.integers(-2, 3)  # whole numbers too
    return rng.random(shape), flow, rng.uniform(0, 3, (count, 1, height, width))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("divide", ["floor", "add"])
def test_splat_equals_a_loop_over_pixels(mode, divide):
    for seed in range(4):
        image, flow, metric = example(seed)
        metric = metric if mode in ("linear", "softmax") else None
        tensors = [None if array is None else torch.from_numpy(array) for array in (image, flow, metric)]
        found = splat(tensors[0], tensors[1], mode, tensors[2], divide=divide)
        np.testing.assert_allclose(found.numpy(), by_loop(image, flow, mode, metric, divide), atol=1e-9, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 20.0]))
def test_any_size_and_reach(height, width, seed, reach):
    image, flow, _ = example(seed, (1, 2, height, width), reach)
    found = splat(torch.from_numpy(image), torch.from_numpy(flow), "sum")
    np.testing.assert_allclose(found.numpy(), by_loop(image, flow, "sum"), atol=1e-9)


def test_no_motion_is_the_identity_and_one_pixel_a_shift():
    image = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    still = torch.zeros(1, 2, 5, 6, dtype=torch.float64)
    for mode in ("sum", "average"):
        assert torch.equal(splat(image, still, mode), image)
    right = still.clone()
    right[:, 0] = 1
    moved = splat(image, right)
    assert torch.equal(moved[..., 1:], image[..., :-1])
    assert torch.equal(moved[..., 0], torch.zeros(1, 3, 5, dtype=torch.float64)), "a hole is 0"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_flow_that_leads_nowhere_drops_its_pixel_alone(mode, bad):
    image, flow, metric = (torch.from_numpy(array) for array in example(1))
    metric = metric if mode in ("linear", "softmax") else None
    flow[0, 0, 2, 3] = bad
    image.requires_grad_()
    flow.requires_grad_()
    found = splat(image, flow, mode, metric)
    expected = by_loop(
        image.detach().numpy(), flow.detach().numpy(), mode, None if metric is None else metric.numpy()
    )
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-9)
    found.square().sum().backward()
    assert torch.isfinite(image.grad).all() and torch.isfinite(flow.grad).all()
    assert not image.grad[0, :, 2, 3].any() and not flow.grad[0, :, 2, 3].any()


def test_pixels_and_metrics_that_are_not_finite_are_dropped():
    image, flow, metric = (torch.from_numpy(array) for array in example(2))
    image[0, 1, 0, 0], metric[1, 0, 3, 3] = float("nan"), float("nan")
    found = splat(image, flow, "softmax", metric)
    assert torch.isfinite(found).all()
    without = flow.clone()
    without[0, :, 0, 0] = without[1, :, 3, 3] = float("nan")
    clean, lowest = image.nan_to_num(), metric.nan_to_num(nan=0)
    assert torch.allclose(found, splat(clean, without, "softmax", lowest))


def test_large_metrics_do_not_overflow():
    image, flow, metric = (torch.from_numpy(array) for array in example(3))
    assert torch.isfinite(splat(image, flow, "softmax", metric + 1e4)).all()
    assert torch.allclose(splat(image, flow, "softmax", metric + 1e4), splat(image, flow, "softmax", metric))


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode):
    rng = np.random.default_rng(5)
    image = torch.from_numpy(rng.random((1, 2, 4, 4))).requires_grad_()
    # Away from whole numbers, where the weights have a kink.
    flow = torch.from_numpy(
        rng.integers(-1, 2, (1, 2, 4, 4)) + rng.uniform(0.2, 0.8, (1, 2, 4, 4))
    ).requires_grad_()
    metric = None
    if mode in ("linear", "softmax"):
        metric = torch.from_numpy(rng.uniform(0.5, 1, (1, 1, 4, 4))).requires_grad_()
    # Where next to nothing lands a mean changes too fast for finite differences.
    weight = by_loop(np.ones((1, 1, 4, 4)), flow.detach().numpy(), "sum")[0, 0] > 0.05

    def solid(*tensors):
        return splat(tensors[0], tensors[1], mode, *tensors[2:])[..., torch.from_numpy(weight)]

    assert torch.autograd.gradcheck(solid, (image, flow) if metric is None else (image, flow, metric))


def test_gradient_at_rest_is_that_of_a_step_to_larger_flow():
    """Offsets start at zero, exactly on the kink: the gradient there must not be zero or twice the right one."""
    image = torch.rand(1, 1, 3, 5, dtype=torch.float64)
    flow = torch.zeros(1, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 1, 3, 5, dtype=torch.float64)
    (splat(image, flow, "sum") * target).sum().backward()
    step = 1e-6
    for place in ((0, 0, 1, 2), (0, 1, 1, 3)):
        moved = torch.zeros_like(flow)
        moved[place] = step
        slope = ((splat(image, moved, "sum") - splat(image, torch.zeros_like(flow), "sum")) * target).sum() / step
        assert flow.grad[place].item() == pytest.approx(slope.item(), abs=1e-6)


def test_half_precision_is_summed_in_single():
    image, flow, _ = (torch.from_numpy(array) for array in example(4))
    found = splat(image.bfloat16(), flow.bfloat16())
    assert found.dtype == torch.float32
    assert torch.allclose(found, splat(image.bfloat16().float(), flow.bfloat16().float()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 5, 4)), "does not fit"),
        ((torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), "mean"), "no mode"),
        ((torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), "softmax"), "needs a metric"),
        ((torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), "average", torch.zeros(1, 1, 4, 5)), "takes no metric"),
        ((torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), "linear", torch.zeros(1, 2, 4, 5)), "does not fit"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        splat(*arguments)
