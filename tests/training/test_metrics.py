"""Metrics against numpy and scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from relo.training import metrics


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    target = rng.random((2, 3, 24, 30)).astype(np.float32)
    pred = (target + rng.normal(size=target.shape) * 0.2).astype(np.float32)  # leaves [0, 1]
    mask = (rng.random((2, 1, 24, 30)) > 0.7).astype(np.float32)
    return pred, target, mask


def rounded(image):
    """8-bit rounding of the protocol, halves to even, from numpy."""
    return np.rint(np.clip(image.astype(np.float64), 0, 1) * 255) / 255


def tensors(images):
    return [torch.from_numpy(image) for image in images]


def similarity_map(pred, target):
    _, full = structural_similarity(
        pred.transpose(1, 2, 0), target.transpose(1, 2, 0),
        win_size=11, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1, channel_axis=2, full=True,
    )  # fmt: skip
    return full[5:-5, 5:-5].transpose(2, 0, 1)


def test_psnr_and_weighted_psnr(images):
    pred, target, mask = rounded(images[0]), rounded(images[1]), images[2]
    squared = (pred - target) ** 2
    expected = [10 * math.log10(1 / squared[i].mean()) for i in range(2)]
    np.testing.assert_allclose(metrics.psnr(*tensors(images)[:2]), expected, rtol=1e-12)
    expected = [10 * math.log10(1 / ((squared[i] * mask[i]).sum() / mask[i].sum() / 3)) for i in range(2)]
    np.testing.assert_allclose(metrics.weighted_psnr(*tensors(images)), expected, rtol=1e-12)


def test_ssim_and_weighted_ssim(images):
    maps = [similarity_map(rounded(images[0][i]), rounded(images[1][i])) for i in range(2)]
    np.testing.assert_allclose(metrics.ssim(*tensors(images)[:2]), [m.mean() for m in maps], atol=1e-9)
    weights = images[2][:, :, 5:-5, 5:-5]
    expected = [(maps[i] * weights[i]).sum() / weights[i].sum() / 3 for i in range(2)]
    np.testing.assert_allclose(metrics.weighted_ssim(*tensors(images)), expected, atol=1e-9)


def test_halves_round_to_even():
    # 0.5 / 255 and 2.5 / 255 are halfway between two 8-bit values; they go to 0 and 2.
    pred = torch.full((1, 3, 12, 12), 0.5 / 255, dtype=torch.float64)
    assert metrics.psnr(pred, torch.zeros_like(pred)).item() == math.inf
    assert metrics.psnr(5 * pred, torch.full_like(pred, 2 / 255)).item() == math.inf
    assert metrics.psnr(pred, torch.zeros_like(pred), protocol="float").item() == pytest.approx(
        -20 * math.log10(0.5 / 255)
    )


def test_masks_count_wherever_they_are_above_zero(images):
    pred, target, mask = tensors(images)
    assert torch.equal(
        metrics.weighted_psnr(pred, target, mask * 0.2), metrics.weighted_psnr(pred, target, mask * 255)
    )


def test_a_full_mask_gives_the_plain_metric(images):
    pred, target, _ = tensors(images)
    ones = torch.ones(2, 1, 24, 30)
    torch.testing.assert_close(metrics.weighted_psnr(pred, target, ones), metrics.psnr(pred, target))
    torch.testing.assert_close(metrics.weighted_ssim(pred, target, ones), metrics.ssim(pred, target))


def test_empty_masks_are_nan_and_left_out_of_means(images):
    pred, target, mask = tensors(images)
    mask[0] = 0
    for metric in (metrics.weighted_psnr, metrics.weighted_ssim):
        values = metric(pred, target, mask).tolist()
        assert math.isnan(values[0])
        assert metrics.mean_and_excluded(values) == (values[1], 1)
    mean, excluded = metrics.mean_and_excluded([math.nan])
    assert math.isnan(mean)
    assert excluded == 1


def test_a_mask_within_the_border_counts_for_psnr_but_not_for_ssim(images):
    pred, target, mask = tensors(images)
    mask[:] = 0
    mask[..., 2, 2] = 1
    assert torch.isfinite(metrics.weighted_psnr(pred, target, mask)).all()
    assert torch.isnan(metrics.weighted_ssim(pred, target, mask)).all()


def test_unknown_protocols_are_refused(images):
    with pytest.raises(ValueError, match="protocol"):
        metrics.psnr(*tensors(images)[:2], protocol="gopro")


def test_inputs_are_not_changed(images):
    pred, target, mask = tensors(images)
    copies = [image.clone() for image in (pred, target, mask)]
    metrics.weighted_ssim(pred, target, mask)
    assert all(torch.equal(a, b) for a, b in zip((pred, target, mask), copies, strict=True))
