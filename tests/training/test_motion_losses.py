"""M2AENet's losses against loops over pixels."""

import numpy as np
import pytest
import torch

from relo.models import Restoration
from relo.models.restoration import MotionRestoration
from relo.training.loss_weights import LossWeights
from relo.training.losses import total_loss
from relo.training.motion_losses import mask_cross_entropy, motion_terms, reblur, reduced, total_variation

SIZES = [(32, 40), (19, 30)]


def blocks(image, block=8):
    """(N, C, H, W) to means of blocks, pixel by pixel."""
    height, width = (-(-side // block) for side in image.shape[-2:])
    result = np.zeros((*image.shape[:2], height, width))
    for y in range(height):
        for x in range(width):
            part = image[..., y * block : (y + 1) * block, x * block : (x + 1) * block]
            result[..., y, x] = part.mean((-2, -1))
    return result


def land(image, offsets):
    """Sum and weight of what lands where, when pixels of (C, H, W) are carried by (2, H, W), dy and dx."""
    total, weight = np.zeros_like(image), np.zeros(image.shape[1:])
    height, width = image.shape[1:]
    for y in range(height):
        for x in range(width):
            ty, tx = y + offsets[0, y, x], x + offsets[1, y, x]
            for row in (int(np.floor(ty)), int(np.floor(ty)) + 1):
                for column in (int(np.floor(tx)), int(np.floor(tx)) + 1):
                    share = (1 - abs(ty - row)) * (1 - abs(tx - column))
                    if 0 <= row < height and 0 <= column < width:
                        total[:, row, column] += share * image[:, y, x]
                        weight[row, column] += share
    return total, weight


def moments_of(offsets, form):
    """(N, 4, h, w) begin and end to nine moments (9, N, 2, h, w)."""
    begin, end = offsets[:, :2], offsets[:, 2:]
    times = [2 * n / 8 - 1 for n in range(9)]
    if form == "linear":
        return np.stack([-t * begin if t < 0 else t * end for t in times])
    return np.stack([(begin + end) / 2 * t**2 + (end - begin) / 2 * t for t in times])


def draw(size, seed=0, images=2):
    rng = np.random.default_rng(seed)
    sharp, blur = rng.random((2, images, 3, *size))
    mask = (rng.random((images, 1, *size)) < 0.5).astype(float)
    grid = [-(-side // 8) for side in size]
    logits = rng.normal(size=(images, 2, *grid))
    offsets = rng.normal(size=(images, 4, *grid)) * 1.5
    return sharp, blur, mask, logits, offsets


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["half", "any"])
def test_the_cross_entropy_of_the_mask(form, size):
    _, _, mask, logits, _ = draw(size)
    mask[0, 0, :8, :8] = 0
    mask[0, 0, 3, 3] = 1  # blurred for "any" alone
    mask[1, 0, :8, :8] = np.arange(64).reshape(8, 8) % 2  # exactly half
    share = blocks(mask)[:, 0]
    blurred = share > 0 if form == "any" else share >= 0.5
    assert blurred[1, 0, 0] and blurred[0, 0, 0] == (form == "any")
    value = 0.0
    for index in np.ndindex(blurred.shape):
        image, y, x = index
        chosen = logits[image, 0 if blurred[index] else 1, y, x]
        value += np.log(np.exp(logits[image, :, y, x]).sum()) - chosen
    found = mask_cross_entropy(torch.from_numpy(logits), torch.from_numpy(mask), form)
    assert found.item() == pytest.approx(value / blurred.size, rel=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("trajectory_form", ["quadratic", "linear"])
@pytest.mark.parametrize("form", ["mean", "pooled"])
def test_reblur_and_total_variation(form, trajectory_form, size):
    sharp, blur, _, _, offsets = draw(size)
    motion = moments_of(offsets, trajectory_form)
    small = blocks(sharp)
    made, variation = np.zeros_like(small), 0.0
    for image in range(2):
        landed = [land(small[image], motion[n, image]) for n in range(9)]
        if form == "pooled":
            total, weight = (sum(parts) for parts in zip(*landed, strict=True))
            made[image] = total / np.maximum(weight, 1e-7)
        else:
            made[image] = sum(total / np.maximum(weight, 1e-7) for total, weight in landed) / 9
    for n in range(9):
        variation += np.abs(motion[n, :, :, 1:] - motion[n, :, :, :-1]).mean()
        variation += np.abs(motion[n, :, :, :, 1:] - motion[n, :, :, :, :-1]).mean()
    restored = MotionRestoration(None, (), (), None, torch.from_numpy(offsets))
    weights = LossWeights(reblur=1, reblur_form=form, tv=1)
    images = (torch.from_numpy(sharp), None, weights, torch.from_numpy(blur))
    terms = motion_terms(restored, *images, trajectory_form)
    assert terms.keys() == {"reblur", "tv"}
    assert terms["reblur"].item() == pytest.approx(((made - blocks(blur)) ** 2).mean(), rel=1e-7)
    assert terms["tv"].item() == pytest.approx(variation, rel=1e-10)


def test_learned_offsets_are_the_motion_itself():
    offsets = torch.randn(2, 18, 4, 5, dtype=torch.float64)
    weights = LossWeights(tv=1)
    found = motion_terms(MotionRestoration(None, (), (), None, offsets), None, None, weights, None, "learned")
    expected = total_variation(torch.stack([offsets[:, 2 * n : 2 * n + 2] for n in range(9)]))
    assert found["tv"].item() == pytest.approx(expected.item())


def test_the_motion_that_made_the_blur_has_no_error_but_for_the_holes():
    """A picture that is the same along x, moved along x, is its own blur; holes at its sides are pooled away."""
    rows = torch.tensor([0.9, 0.3, 0.6, 0.2, 1.0], dtype=torch.float64).repeat_interleave(8)
    sharp = rows.view(1, 1, -1, 1).expand(1, 3, -1, 48)
    motion = torch.zeros(9, 1, 2, 5, 6, dtype=torch.float64)
    motion[:, :, 1] = torch.linspace(-1, 1, 9)[:, None, None, None]
    assert reblur(motion, sharp, sharp, "pooled").item() < 1e-12
    assert reblur(motion, sharp, sharp, "mean").item() > 1e-3
    motion[:, :, 0] = motion[:, :, 1]
    assert reblur(motion, sharp, sharp, "pooled").item() > 1e-4


def test_gradients_reach_the_offsets_and_the_logits():
    sharp, blur, mask, logits, offsets = (torch.from_numpy(array) for array in draw((24, 24), images=1))

    def loss(logits, offsets):
        restored = MotionRestoration(sharp, (), (), logits, offsets)
        return sum(
            motion_terms(restored, sharp, mask, LossWeights(mask_ce=1, reblur=1, tv=1), blur).values(),
            torch.zeros(()),
        )

    inputs = logits.requires_grad_(), offsets.requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    for gradient in torch.autograd.grad(loss(*inputs), inputs):
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("size", [(1, 1), (8, 16), (9, 8)])
def test_a_grid_of_one_row_or_column_is_a_number(size):
    motion = torch.randn(9, 1, 2, -(-size[0] // 8), -(-size[1] // 8))
    assert torch.isfinite(total_variation(motion))
    assert torch.isfinite(reblur(motion, torch.rand(1, 3, *size), torch.rand(1, 3, *size)))


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_the_block_follows_from_the_grid(block):
    image = np.random.default_rng(0).random((1, 2, 37, 50))
    expected = blocks(image, block)
    np.testing.assert_allclose(reduced(torch.from_numpy(image), torch.from_numpy(expected)), expected)


def test_a_grid_that_no_block_gives_is_refused():
    with pytest.raises(ValueError, match="no blocks reduce"):
        reduced(torch.zeros(1, 1, 32, 32), torch.zeros(4, 5))


def test_the_total_has_the_terms_that_are_asked_for_and_given():
    sharp, blur, mask, logits, offsets = (torch.from_numpy(array) for array in draw((48, 48)))
    restored = MotionRestoration(blur, (), (), logits, offsets)
    weights = LossWeights(ssim=0, msfr=0, mask=0, shift_invariant=False, mask_ce=0.1, reblur=2, tv=3)
    terms = total_loss(restored, sharp, mask, weights, blur)
    assert set(terms) == {"l1", "mask_ce", "reblur", "tv", "total"}
    expected = terms["l1"] + 0.1 * terms["mask_ce"] + 2 * terms["reblur"] + 3 * terms["tv"]
    assert terms["total"].item() == pytest.approx(expected.item(), rel=1e-12)
    plain = total_loss(Restoration(blur, (), ()), sharp, mask, weights, blur)
    assert set(plain) == {"l1", "total"}
    without = LossWeights(ssim=0, msfr=0, mask=0)
    assert set(total_loss(restored, sharp, mask, without, blur)) == {"l1", "total"}
    with pytest.raises(ValueError, match="blurred image"):
        total_loss(restored, sharp, mask, weights)
