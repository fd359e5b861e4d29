"""Losses against numpy written from the formulas."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

from relo.models import Restoration
from relo.training import losses
from relo.training.loss_weights import LossWeights


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    target = rng.random((2, 3, 20, 24))
    return np.clip(target + rng.normal(size=target.shape) * 0.1, 0, 1), target


def both(pair, dtype=torch.float64):
    return (torch.from_numpy(image).to(dtype) for image in pair)


def test_l1(pair):
    np.testing.assert_allclose(losses.l1(*both(pair)), np.abs(pair[0] - pair[1]).mean((1, 2, 3)))


def test_charbonnier(pair):
    expected = np.sqrt((pair[0] - pair[1]) ** 2 + 1e-6).mean((1, 2, 3))
    np.testing.assert_allclose(losses.charbonnier(*both(pair)), expected, rtol=1e-12)


def laplacian(plane):
    """x - G(up(G(x))) of one (H, W) plane, with scipy's correlation and border."""
    taps = [0.05, 0.25, 0.4, 0.25, 0.05]

    def smooth(x):
        return correlate1d(correlate1d(x, taps, 0, mode="nearest"), taps, 1, mode="nearest")

    up = np.zeros_like(plane)
    up[::2, ::2] = 4 * smooth(plane)[::2, ::2]
    return plane - smooth(up)


@pytest.mark.parametrize("size", [(20, 24), (13, 9), (1, 2)])
def test_edge_is_charbonnier_between_laplacians(size):
    images = np.random.default_rng(5).random((2, 2, 3, *size))
    bands = np.stack([laplacian(plane) for plane in images.reshape(-1, *size)]).reshape(images.shape)
    expected = np.sqrt((bands[0] - bands[1]) ** 2 + 1e-6).mean((1, 2, 3))
    np.testing.assert_allclose(losses.edge(*map(torch.from_numpy, images)), expected, rtol=1e-12)


def test_ssim_is_skimages_over_the_valid_window(pair):
    value = losses.ssim(*both(pair))
    for image in range(2):
        _, full = structural_similarity(
            *(x[image].transpose(1, 2, 0) for x in pair),
            win_size=11, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1, channel_axis=2, full=True,
        )  # fmt: skip
        assert value[image] == pytest.approx(-full[5:-5, 5:-5].mean(), abs=1e-6)


def test_ssim_of_equal_images_is_minus_one_and_small_images_are_refused(pair):
    same = torch.from_numpy(pair[0])
    torch.testing.assert_close(losses.ssim(same, same), -torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 11"):
        losses.ssim(torch.zeros(1, 3, 10, 30), torch.zeros(1, 3, 10, 30))


def test_both_forms_of_the_frequency_loss(pair):
    difference = pair[0] - pair[1]
    one = np.abs(np.fft.rfft2(difference)).mean((1, 2, 3))
    np.testing.assert_allclose(losses.msfr(*both(pair)), one, rtol=1e-5)
    two = np.fft.fft2(difference)
    expected = np.stack([two.real, two.imag]).__abs__().mean((0, 2, 3, 4))
    np.testing.assert_allclose(losses.msfr_real_imag(*both(pair)), expected, rtol=1e-5)
    assert 1.4 < (one / expected).mean() < 1.75


def test_frequency_losses_of_blurdm(pair):
    """Over the whole plane, and column by column with the definition of the transform."""
    difference = pair[0] - pair[1]
    two = np.fft.fft2(difference)
    expected = np.sqrt(np.stack([two.real, two.imag]) ** 2 + 1e-6).mean((0, 2, 3, 4))
    np.testing.assert_allclose(losses.msfr_charbonnier(*both(pair)), expected, rtol=1e-10)
    step = np.arange(20)
    one = np.einsum("fy,ncyx->ncfx", np.exp(-2j * np.pi * np.outer(step, step) / 20), difference)
    expected = np.sqrt(np.stack([one.real, one.imag]) ** 2 + 1e-6).mean((0, 2, 3, 4))
    np.testing.assert_allclose(losses.msfr_charbonnier_height(*both(pair)), expected, rtol=1e-10)


@pytest.mark.parametrize("size", [(24, 40), (23, 31), (8, 9)])
def test_the_windows_of_the_frequency_loss(size):
    rng = np.random.default_rng(2)
    pred, target = rng.random((2, 2, 3, *size))
    height, width = size[0] // 8, size[1] // 8
    values = np.zeros((2, 49))
    for window in range(49):
        y, x = window // 7 * height, window % 7 * width
        amplitudes = []
        for image in (pred, target):
            spectrum = np.fft.fft2(image[:, :, y : y + 2 * height, x : x + 2 * width])
            amplitudes.append(np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-8))
        values[:, window] = np.abs(amplitudes[0] - amplitudes[1]).mean((1, 2, 3))
    found = losses.msfr_windows(torch.from_numpy(pred), torch.from_numpy(target))
    np.testing.assert_allclose(found, values.mean(1), rtol=1e-10)


def test_windows_need_eight_pixels():
    with pytest.raises(ValueError, match="at least 8"):
        losses.msfr_windows(torch.zeros(1, 3, 7, 30), torch.zeros(1, 3, 7, 30))


def test_psnr_is_nafnets(pair):
    """(10 / ln 10) times the mean over the images of ln(MSE + 1e-8)."""
    expected = 10 / np.log(10) * np.log(((pair[0] - pair[1]) ** 2).mean((1, 2, 3)) + 1e-8)
    assert (expected < 0).all()
    np.testing.assert_allclose(losses.psnr(*both(pair)), expected, rtol=1e-12)
    same = torch.from_numpy(pair[0])
    np.testing.assert_allclose(losses.psnr(same, same), -80)


def shifted(image, dy, dx):
    height, width = image.shape[-2:]

    def index(n, d):
        i = np.arange(n) - d
        i = np.where(i < 0, -i, i)
        return np.where(i > n - 1, 2 * (n - 1) - i, i)

    return image[..., index(height, dy), :][..., index(width, dx)]


@pytest.mark.parametrize("name", ["l1", "ssim", "msfr"])
def test_shift_invariant_is_the_least_of_nine_per_image(name, pair):
    loss = getattr(losses, name)
    pred, target = pair
    target = np.stack([shifted(pred[0], 1, -1) * 0.9, shifted(pred[1], 0, 1)])  # another best shift each
    values = np.array(
        [
            loss(torch.from_numpy(pred), torch.from_numpy(shifted(target, dy, dx))).numpy()
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
    )
    assert values.argmin(0)[0] != values.argmin(0)[1]
    result = losses.shift_invariant(loss, torch.from_numpy(pred), torch.from_numpy(target))
    assert result.item() == pytest.approx(values.min(0).mean(), rel=1e-6)


def test_shift_invariant_gradient_is_that_of_the_best_shift():
    rng = np.random.default_rng(3)
    target = rng.random((1, 3, 8, 8))
    pred = torch.from_numpy(shifted(target, 1, 0) + 0.01).requires_grad_()
    losses.shift_invariant(losses.l1, pred, torch.from_numpy(target)).backward()
    np.testing.assert_allclose(pred.grad.numpy(), np.full(pred.shape, 1 / pred.numel()))


def test_scale_targets_are_block_means_and_central_means():
    sharp = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    quarter, half, full = losses.scale_targets(sharp)
    assert full is sharp
    interpolate = torch.nn.functional.interpolate
    torch.testing.assert_close(half, interpolate(sharp, scale_factor=0.5, mode="bilinear", align_corners=False))
    torch.testing.assert_close(quarter, interpolate(sharp, scale_factor=0.25, mode="bilinear", align_corners=False))


def test_scale_targets_fit_the_outputs_at_odd_sizes():
    quarter, half, full = losses.scale_targets(torch.rand(1, 3, 9, 14))
    assert (quarter.shape[-2:], half.shape[-2:], full.shape[-2:]) == ((3, 4), (5, 7), (9, 14))


def test_mask_loss_sums_the_scales():
    rng = np.random.default_rng(1)
    mask = (rng.random((2, 1, 8, 8)) > 0.5).astype(np.float64)
    gates = [rng.random((2, 1, 8 // s, 8 // s)) for s in (4, 2, 1)]
    expected = sum(((gate - mask[..., ::s, ::s]) ** 2).mean() for gate, s in zip(gates, (4, 2, 1), strict=True))
    tensors = tuple(map(torch.from_numpy, gates))
    assert losses.mask_loss(tensors, torch.from_numpy(mask)).item() == pytest.approx(expected)
    full = ((gates[2] - mask) ** 2).mean()
    assert losses.mask_loss(tensors[2:], torch.from_numpy(mask)).item() == pytest.approx(full)


def test_total_is_the_weighted_sum_of_the_papers_terms():
    torch.manual_seed(0)
    sharp, mask = torch.rand(2, 3, 48, 44), (torch.rand(2, 1, 48, 44) > 0.5).float()
    scales = tuple(torch.rand(2, 3, 48 // s, 44 // s) for s in (4, 2, 1))
    masks = tuple(torch.rand(2, 1, 48 // s, 44 // s) for s in (4, 2, 1))
    terms = losses.total_loss(Restoration(scales[-1], scales, masks), sharp, mask, LossWeights())
    total = 0.0
    for scale, target in zip(scales, losses.scale_targets(sharp), strict=True):
        for loss, weight in ((losses.l1, 1.0), (losses.ssim, 1.0), (losses.msfr, 0.1)):
            total += weight * losses.shift_invariant(loss, scale, target).item()
    total += 0.1 * losses.mask_loss(masks, mask).item()
    assert set(terms) == {"l1", "ssim", "msfr", "mask", "total"}
    assert terms["total"].item() == pytest.approx(total, rel=1e-5)


def test_total_without_scales_masks_and_shifts():
    sharp, image = torch.rand(1, 3, 7, 5), torch.rand(1, 3, 7, 5)
    weights = LossWeights(ssim=0, msfr=0, shift_invariant=False)
    terms = losses.total_loss(Restoration(image, (), ()), sharp, torch.zeros(1, 1, 7, 5), weights)
    assert set(terms) == {"l1", "total"}
    assert terms["total"].item() == pytest.approx((image - sharp).abs().mean().item())


def test_every_form_of_the_frequency_term_and_psnr_are_weighed():
    sharp, image = torch.rand(2, 2, 3, 32, 36)
    for form, loss in (
        ("modulus", losses.msfr),
        ("real_imag", losses.msfr_real_imag),
        ("windows", losses.msfr_windows),
        ("charbonnier", losses.msfr_charbonnier),
        ("charbonnier_height", losses.msfr_charbonnier_height),
    ):
        weights = LossWeights(l1=0, ssim=0, msfr=0.5, msfr_form=form, psnr=0.25, shift_invariant=False)
        terms = losses.total_loss(Restoration(image, (), ()), sharp, torch.zeros(2, 1, 32, 36), weights)
        frequency, quality = loss(image, sharp).mean().item(), losses.psnr(image, sharp).mean().item()
        assert terms["msfr"].item() == pytest.approx(frequency, rel=1e-6)
        assert terms["total"].item() == pytest.approx(0.5 * frequency + 0.25 * quality, rel=1e-6)


def test_stripformers_terms_are_weighed():
    sharp, image, blur = torch.rand(3, 2, 3, 32, 36)
    weights = LossWeights(
        l1=0, ssim=0, msfr=0, shift_invariant=False, charbonnier=1, edge=0.05, contrastive=0.0005, vgg="vgg.pth"
    )
    restored, mask = Restoration(image, (), ()), torch.zeros(2, 1, 32, 36)

    def contrastive(*images):
        assert [id(given) for given in images] == [id(image), id(sharp), id(blur)]
        return torch.tensor(3.0)

    terms = losses.total_loss(restored, sharp, mask, weights, blur, contrastive=contrastive)
    assert set(terms) == {"charbonnier", "edge", "contrastive", "total"}
    plain, edges = (loss(image, sharp).mean().item() for loss in (losses.charbonnier, losses.edge))
    assert terms["total"].item() == pytest.approx(plain + 0.05 * edges + 0.0005 * 3, rel=1e-6)
    for missing in ({"blur": blur}, {"contrastive": contrastive}):
        with pytest.raises(ValueError, match="contrastive loss needs"):
            losses.total_loss(restored, sharp, mask, weights, **missing)


def test_a_contrastive_term_needs_weights_of_vgg():
    with pytest.raises(ValueError, match=r"needs loss\.vgg"):
        LossWeights(contrastive=0.1)


def test_outputs_are_clipped_if_asked_for():
    sharp, mask = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    scales = tuple(3 * torch.rand(1, 3, 16 // s, 16 // s) - 1 for s in (4, 2, 1))
    clipped = tuple(scale.clamp(0, 1) for scale in scales)
    values = {}
    for name, outputs, clip in (("raw", scales, False), ("asked", scales, True), ("before", clipped, False)):
        weights = LossWeights(ssim=0, clip_output=clip, charbonnier=1)
        terms = losses.total_loss(Restoration(outputs[-1], outputs, ()), sharp, mask, weights)
        values[name] = terms["total"].item()
    assert values["asked"] == values["before"] != values["raw"]


FREQUENCY_LOSSES = tuple(losses.FREQUENCY_FORMS.values())


@pytest.mark.parametrize(
    "loss", [losses.l1, losses.charbonnier, losses.edge, losses.ssim, losses.psnr, *FREQUENCY_LOSSES]
)
def test_double_precision_is_kept_and_gradients_are_right(loss):
    torch.manual_seed(0)
    pred = torch.rand(2, 3, 12, 13, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 3, 12, 13, dtype=torch.float64)
    assert loss(pred, target).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda image: loss(image, target), (pred,), fast_mode=True)


@pytest.mark.parametrize("loss", FREQUENCY_LOSSES)
def test_half_precision_is_widened(loss):
    pred, target = torch.rand(2, 1, 3, 16, 16).bfloat16()
    assert loss(pred, target).dtype == torch.float32
