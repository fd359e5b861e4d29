"""Metrics against numpy and scikit-image, under every protocol."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from relo.training import metrics
from relo.training.protocols import PROTOCOLS

ROUNDED = ("reloblur", "paper", "realblur", "exprdiff")
FLOOR = (1 / 255) ** 2 / 12


def draw(seed, size=(24, 30), count=2):
    """(pred, target, mask) of float32: pred leaves [0, 1] and meets target in some pixels, the mask is grey."""
    rng = np.random.default_rng(seed)
    target = rng.random((count, 3, *size)).astype(np.float32)
    noise = rng.normal(size=target.shape) * 0.2 * (rng.random((count, 1, *size)) > 0.3)
    mask = rng.random((count, 1, *size)) * (rng.random((count, 1, *size)) > 0.5)
    mask[:, :, size[0] // 2, size[1] // 2] = 0.5  # never empty
    return (target + noise).astype(np.float32), target, mask.astype(np.float32)


@pytest.fixture
def images():
    return draw(0)


def tensors(images):
    return [torch.from_numpy(image) for image in images]


def prepared(image, protocol):
    """Clamped and, if the protocol says so, rounded to 8 bits, halves to even: by numpy."""
    image = np.clip(image.astype(np.float64), 0, 1)
    return np.rint(image * 255) / 255 if protocol in ROUNDED else image


def weight_of(mask, protocol):
    return mask.astype(np.float64) if protocol == "lmdvit" else (mask > 0).astype(np.float64)


def similarity_map(pred, target):
    _, full = structural_similarity(
        pred.transpose(1, 2, 0), target.transpose(1, 2, 0),
        win_size=11, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1, channel_axis=2, full=True,
    )  # fmt: skip
    return full[5:-5, 5:-5].transpose(2, 0, 1)


def psnr_by_hand(pred, target, protocol):
    error = np.mean((prepared(pred, protocol) - prepared(target, protocol)) ** 2)
    error += 1e-8 if protocol == "lmdvit" else 0
    return 10 * math.log10(1 / error) if error else math.inf


def weighted_psnr_by_hand(pred, target, mask, protocol):
    """A loop over the pixels."""
    squared = (prepared(pred, protocol) - prepared(target, protocol)) ** 2
    weight = weight_of(mask, protocol)[0]
    total = 0.0
    for y in range(weight.shape[0]):
        for x in range(weight.shape[1]):
            error = squared[:, y, x].sum() / 3
            if protocol == "paper":
                error = 10 * math.log10(1 / max(error, FLOOR))
            total += weight[y, x] * error
    mean = total / weight.sum()
    return mean if protocol == "paper" else 10 * math.log10(1 / mean)


# Strips of one row, of a few, and one that holds the whole image.
@pytest.mark.parametrize("strip_pixels", [1, 130, 10**6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_metric_equals_its_formula(images, protocol, strip_pixels, monkeypatch):
    monkeypatch.setattr(metrics, "STRIP_PIXELS", strip_pixels)
    pred, target, mask = images
    expected = [psnr_by_hand(pred[i], target[i], protocol) for i in range(2)]
    np.testing.assert_allclose(metrics.psnr(*tensors(images)[:2], protocol), expected, rtol=1e-12)
    expected = [weighted_psnr_by_hand(pred[i], target[i], mask[i], protocol) for i in range(2)]
    np.testing.assert_allclose(metrics.weighted_psnr(*tensors(images), protocol), expected, rtol=1e-12)
    maps = [similarity_map(prepared(pred[i], protocol), prepared(target[i], protocol)) for i in range(2)]
    expected = [one.mean() for one in maps]
    np.testing.assert_allclose(metrics.ssim(*tensors(images)[:2], protocol), expected, atol=1e-9)
    weight = weight_of(mask, protocol)[:, :, 5:-5, 5:-5]
    expected = [(maps[i] * weight[i]).sum() / weight[i].sum() / 3 for i in range(2)]
    np.testing.assert_allclose(metrics.weighted_ssim(*tensors(images), protocol), expected, atol=1e-9)
    outside = np.broadcast_to(mask == 0, pred.shape)
    squared = (prepared(pred, protocol) - prepared(target, protocol)) ** 2
    added = 1e-8 if protocol == "lmdvit" else 0
    expected = [-10 * math.log10(squared[i][outside[i]].mean() + added) for i in range(2)]
    np.testing.assert_allclose(metrics.static_psnr(*tensors(images), protocol), expected, rtol=1e-12)


@given(
    st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.sampled_from(list(PROTOCOLS))
)
@settings(deadline=None, max_examples=30)
def test_psnr_of_any_size_and_batch(seed, height, width, count, protocol):
    pred, target, _ = draw(seed, (height, width), count)
    expected = [psnr_by_hand(pred[i], target[i], protocol) for i in range(count)]
    np.testing.assert_allclose(metrics.psnr(*tensors((pred, target)), protocol), expected, rtol=1e-12)


@pytest.mark.parametrize(("protocol", "value"), [("reloblur", math.inf), ("mimo", math.inf), ("lmdvit", 80)])
def test_equal_images(images, protocol, value):
    target = torch.from_numpy(images[1])
    assert metrics.psnr(target, target, protocol).tolist() == pytest.approx([value, value])


def test_no_images_give_no_values():
    none = torch.zeros(0, 3, 12, 12)
    assert metrics.psnr(none, none).shape == metrics.ssim(none, none).shape == (0,)


def test_halves_round_to_even():
    # 0.5 / 255 and 2.5 / 255 are halfway between two 8-bit values; they go to 0 and 2.
    pred = torch.full((1, 3, 12, 12), 0.5 / 255, dtype=torch.float64)
    assert metrics.psnr(pred, torch.zeros_like(pred)).item() == math.inf
    assert metrics.psnr(5 * pred, torch.full_like(pred, 2 / 255)).item() == math.inf
    assert metrics.psnr(pred, torch.zeros_like(pred), protocol="mimo").item() == pytest.approx(
        -20 * math.log10(0.5 / 255)
    )


def test_equal_pixels_count_with_the_floor_under_paper():
    # One pixel without error, one with an error of 1: the mean of the floor's decibels and of 0 dB.
    pred, target = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    target[..., 1] = 1
    value = metrics.weighted_psnr(pred, target, torch.ones(1, 1, 1, 2), "paper").item()
    assert value == pytest.approx(-10 * math.log10(FLOOR) / 2)
    assert -10 * math.log10(FLOOR) == pytest.approx(58.92, abs=0.005)
    # The least error that three 8-bit channels can have is above the floor, so only equal pixels meet it.
    assert FLOOR < (1 / 255) ** 2 / 3


def test_masks_count_wherever_they_are_above_zero_but_not_under_lmdvit(images):
    pred, target, mask = tensors(images)
    dim = torch.where(torch.arange(30) < 15, 0.1, 1.0) * (mask > 0)
    assert torch.equal(metrics.weighted_psnr(pred, target, dim), metrics.weighted_psnr(pred, target, mask))
    dimmed, full = (metrics.weighted_psnr(pred, target, m, "lmdvit") for m in (dim, (dim > 0).float()))
    assert (dimmed != full).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_full_mask_gives_the_plain_metric(images, protocol):
    pred, target, _ = tensors(images)
    ones = torch.ones(2, 1, 24, 30)
    torch.testing.assert_close(
        metrics.weighted_ssim(pred, target, ones, protocol), metrics.ssim(pred, target, protocol)
    )
    if protocol not in ("paper", "lmdvit"):  # there the two are different formulas
        torch.testing.assert_close(
            metrics.weighted_psnr(pred, target, ones, protocol), metrics.psnr(pred, target, protocol)
        )
    assert torch.isnan(metrics.static_psnr(pred, target, ones, protocol)).all()
    torch.testing.assert_close(
        metrics.static_psnr(pred, target, 0 * ones, protocol), metrics.psnr(pred, target, protocol)
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_empty_masks_are_nan_and_left_out_of_means(images, protocol):
    pred, target, mask = tensors(images)
    mask[0] = 0
    for metric in (metrics.weighted_psnr, metrics.weighted_ssim):
        values = metric(pred, target, mask, protocol).tolist()
        assert math.isnan(values[0])
        assert metrics.mean_and_excluded(values) == (values[1], 1)
    mean, excluded = metrics.mean_and_excluded([math.nan])
    assert math.isnan(mean)
    assert excluded == 1


def test_an_infinite_value_makes_the_mean_infinite():
    assert metrics.mean_and_excluded([30.0, math.inf, math.nan]) == (math.inf, 1)


def test_a_mask_within_the_border_counts_for_psnr_but_not_for_ssim(images):
    pred, target, mask = tensors(images)
    mask[:] = 0
    mask[..., 2, 3:6] = 1
    assert torch.isfinite(metrics.weighted_psnr(pred, target, mask, "mimo")).all()
    assert torch.isnan(metrics.weighted_ssim(pred, target, mask)).all()


def test_overlap_of_masks():
    true = torch.zeros(3, 1, 4, 4)
    true[:2, :, :2] = 1  # 8 pixels
    predicted = torch.full((3, 1, 4, 4), 0.5)  # not above the threshold
    predicted[0, :, 1:, :3] = 0.51  # 9 pixels, 3 of them true
    assert metrics.mask_iou(predicted, true)[:2].tolist() == pytest.approx([3 / 14, 0])
    assert torch.isnan(metrics.mask_iou(predicted, true)[2])
    assert metrics.mask_iou(predicted, true, threshold=0.4)[2].item() == 0
    with pytest.raises(ValueError, match="equal size"):
        metrics.mask_iou(predicted[..., :3], true)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t, m: (p[..., :-1], t, m), r"two \(N, 3, H, W\) images"),
        (lambda p, t, m: (p[:1], t, m), "two"),
        (lambda p, t, m: (p[:, :1], t[:, :1], m), "two"),
        (lambda p, t, m: (p[0], t[0], m), "two"),
        (lambda p, t, m: ((p * 255).byte(), (t * 255).byte(), m), "floating-point"),
        (lambda p, t, m: (p, t, m.repeat(1, 3, 1, 1)), r"mask of shape \(2, 1, 24, 30\)"),
        (lambda p, t, m: (p, t, m[..., :-1]), "mask"),
    ],
)
def test_what_does_not_fit_is_refused(images, change, message):
    pred, target, mask = change(*tensors(images))
    for metric in (metrics.weighted_psnr, metrics.weighted_ssim, metrics.static_psnr):
        with pytest.raises(ValueError, match=message):
            metric(pred, target, mask)
    if "mask" not in message:
        for plain in (metrics.psnr, metrics.ssim, metrics.aligned_psnr):
            with pytest.raises(ValueError, match=message):
                plain(pred, target)


def test_ssim_needs_eleven_pixels():
    small, mask = torch.rand(1, 3, 10, 40), torch.ones(1, 1, 10, 40)
    for metric in (lambda: metrics.ssim(small, small), lambda: metrics.weighted_ssim(small, small, mask)):
        with pytest.raises(ValueError, match="at least 11 px are needed, got 10 x 40"):
            metric()
    least = torch.rand(1, 3, 11, 11)
    assert metrics.ssim(least, least).item() == pytest.approx(1, abs=1e-12)


def test_unknown_protocols_are_refused(images):
    with pytest.raises(ValueError, match="reloblur, paper, realblur, lmdvit, mimo"):
        metrics.psnr(*tensors(images)[:2], protocol="gopro")


def test_inputs_are_not_changed(images):
    pred, target, mask = tensors(images)
    copies = [image.clone() for image in (pred, target, mask)]
    for protocol in PROTOCOLS:
        metrics.weighted_psnr(pred, target, mask, protocol)
        metrics.weighted_ssim(pred, target, mask, protocol)
        metrics.aligned_psnr(pred, target, protocol)
    assert all(torch.equal(a, b) for a, b in zip((pred, target, mask), copies, strict=True))


def test_other_floating_point_types_and_layouts_give_the_same(images):
    pred, target, mask = tensors(images)
    expected = metrics.weighted_ssim(pred, target, mask)
    torch.testing.assert_close(metrics.weighted_ssim(pred.double(), target.double(), mask.double()), expected)
    last = [image.contiguous(memory_format=torch.channels_last) for image in (pred, target, mask)]
    torch.testing.assert_close(metrics.weighted_ssim(*last), expected)
    assert expected.dtype == torch.float64
