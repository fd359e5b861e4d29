"""Restoring only where it is blurred: exact elsewhere, as the whole image there, and what differs is told."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.networks import Brighten, picture
from torch import nn

from relo.errors import TrainingError
from relo.models import Restoration, create_model
from relo.training.inference.blur_masks import predict_mask, predicts_masks
from relo.training.inference.region_inference import compare, restore_regions
from relo.training.inference.regions import FEATHER, blend_weights, plan_regions
from relo.training.inference.whole_image import restore


class Dim(nn.Module):
    """Halves a 3 x 3 mean, with zeros beyond the border of what it sees, which it notes. It predicts no mask."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, blur):
        if not blur.is_meta:
            self.seen.append(tuple(blur.shape[-2:]))
        return Restoration(F.avg_pool2d(blur, 3, 1, 1) / 2, (), ())


class Bright(Dim):
    """Predicts as its mask what is bright, at half size and at full size."""

    def forward(self, blur):
        image, mask = super().forward(blur).image, blur.mean(1, keepdim=True)
        return Restoration(image, (), (mask[..., ::2, ::2], mask))


class Pooling(nn.Module):
    """Subtracts the mean of all that it sees, as channel attention can."""

    def forward(self, blur):
        return Restoration(blur - blur.mean((-2, -1), keepdim=True), (), ())


class Exploding(nn.Module):
    def forward(self, blur):
        return Restoration(blur / 0, (), ())


def patch(height=400, width=700, rows=slice(170, 200), columns=slice(490, 540)):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def test_pixels_away_from_blur_are_those_of_the_input():
    blur, mask = picture(1, 3, 400, 700), patch()
    blur[..., 0, 0] = -0.0
    copy = blur.clone()
    model = Dim()
    result = restore_regions(model, blur, mask)
    away = result.weight == 0
    assert away.float().mean() > 0.95
    assert result.image[..., away].numpy().tobytes() == blur[..., away].numpy().tobytes()
    assert torch.equal(blur, copy)
    assert model.seen == [(256, 256)], "one window, no look at the rest"
    assert result.computed == 256 * 256 / (400 * 700)
    assert torch.equal(result.mask.pixels, mask)
    assert result.mask.grid is None


def test_not_even_infinities_of_the_network_reach_them():
    blur, mask = picture(1, 3, 200, 200), patch(200, 200, slice(90, 100), slice(90, 100))
    result = restore_regions(Exploding(), blur, mask)
    assert torch.equal(result.image[..., result.weight == 0], blur[..., result.weight == 0])
    assert not torch.isfinite(result.image[..., mask]).any()


def test_blurred_pixels_are_those_of_the_whole_image_and_fade_into_the_input():
    blur, mask = picture(1, 3, 400, 700), patch()
    mask[:40, :30] = True  # a second region, in the corner
    whole = restore(Dim(), blur, tile=0).image
    result = restore_regions(Dim(), blur, mask)
    assert torch.equal(result.image[..., mask], whole[..., mask])
    weight = torch.from_numpy(blend_weights(mask.numpy()))
    assert torch.allclose(result.image, blur + weight * (whole - blur), atol=1e-6)
    assert ((weight > 0) & (weight < 1)).sum() > 2 * FEATHER * (30 + 50)


@pytest.mark.parametrize(
    ("name", "options"), [("lbag", {"num_res": 20, "width": 8}), ("mimo_unet", {"num_res": 8, "width": 8})]
)
def test_networks_of_small_reach_lose_less_than_a_thousandth(name, options):
    torch.manual_seed(1)
    model = create_model(name, **options).eval()
    blur, mask = picture(1, 3, 256, 512), patch(256, 512, slice(100, 130), slice(240, 290))
    whole = restore(model, blur, tile=0).image
    result = restore_regions(model, blur, mask)
    assert result.computed <= 0.5
    assert (whole - blur)[..., mask].abs().max() > 0.01, "the network does something"
    error = (result.image - whole)[..., mask].abs().max().item()
    assert 0 < error < 1e-3
    told = compare(model, blur, result).blurred
    assert told.maximum <= 255 * error + 1e-6  # less where values are clipped


def test_the_difference_is_told():
    blur, mask = picture(1, 3, 200, 400), patch(200, 400, slice(90, 110), slice(90, 110))
    model = Pooling()
    blur[..., 256:] *= 0.2
    result = restore_regions(model, blur, mask)
    told = compare(model, blur, result)
    error = 255 * (result.image.clamp(0, 1) - model(blur).image.clamp(0, 1)).double().numpy()
    for found, values in ((told.everywhere, error), (told.blurred, error[..., mask.numpy()])):
        rms = math.sqrt((values**2).mean())
        assert found.maximum == pytest.approx(np.abs(values).max(), rel=1e-6)
        assert found.rms == pytest.approx(rms, rel=1e-6)
        assert found.psnr == pytest.approx(20 * math.log10(255 / rms), rel=1e-6)
    assert told.blurred.maximum > 1
    equal = compare(Dim(), blur, restore_regions(Dim(), blur, torch.ones_like(mask)))
    assert equal.everywhere == equal.blurred == (0, 0, math.inf)


@pytest.mark.parametrize("given", [True, False])
def test_without_blur_nothing_is_computed(given):
    blur, model = 0.1 * picture(1, 3, 100, 130), Bright()
    result = restore_regions(model, blur, torch.zeros(100, 130, dtype=torch.bool) if given else None)
    assert torch.equal(result.image, blur)
    assert result.computed == 0
    assert model.seen == ([] if given else [(25, 33)])
    assert compare(model, blur, result).blurred is None


def test_blur_everywhere_is_the_whole_image():
    blur = picture(1, 3, 100, 130)
    result = restore_regions(Dim(), blur, torch.ones(100, 130, dtype=torch.bool))
    assert torch.equal(result.image, restore(Dim(), blur, tile=0).image)
    assert result.computed == 1


def test_a_look_at_the_small_image_finds_blur():
    blur = 0.2 * picture(1, 3, 401, 703)
    bright = patch(401, 703)
    blur[..., bright] += 0.75
    blur[..., 300, 100] = 1  # less than the small image shows
    model = Bright()
    result = restore_regions(model, blur)
    assert model.seen[0] == (101, 176)
    found = result.mask.pixels
    widest = F.max_pool2d(bright[None, None].float(), 25, 1, 12)[0, 0] > 0
    assert torch.all(found[bright])
    assert not found[~widest].any()
    assert model.seen[1:] == [(256, 256)]
    whole = restore(model, blur, tile=0).image
    assert torch.equal(result.image[..., bright], whole[..., bright])


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (5, 3)])
def test_images_of_any_size(size):
    blur = torch.ones(1, 3, *size)
    for model in (Bright(), Brighten()):
        mask = predict_mask(model, blur)
        assert mask.pixels.shape == size
        result = restore_regions(model, blur, torch.ones(size, dtype=torch.bool))
        assert result.image.shape == blur.shape
    assert predict_mask(Bright(), blur).pixels.all()


def test_a_network_with_a_mask_of_its_own_uses_that_of_the_whole_image():
    blur = 0.1 * picture(1, 3, 400, 700)
    blur[..., 152:192, 504:560] += 0.8
    model = Brighten()
    result = restore_regions(model, blur)
    whole = model(blur)
    assert torch.equal(result.mask.pixels, whole.masks[-1][0, 0] > 0)
    sure = result.mask.pixels
    assert 40 * 56 <= sure.sum() < 0.6 * sure.numel()
    assert torch.allclose(result.image[..., sure], whole.image[..., sure], atol=1e-6)
    assert compare(model, blur, result).blurred.maximum < 1e-3


def test_a_given_mask_is_what_such_a_network_computes_by():
    blur, mask = picture(1, 3, 400, 700), patch()
    model = Brighten()
    result = restore_regions(model, blur, mask)
    assert model.predictions == 0
    assert torch.allclose(result.image[..., mask], blur[..., mask] + 0.25, atol=1e-6)
    # Rows 168 to 199 and columns 488 to 543 are the cells it touches; beyond them the network changes nothing.
    cells = patch(rows=slice(168, 200), columns=slice(488, 544))
    assert torch.allclose(result.image[..., ~cells], blur[..., ~cells], atol=1e-7)
    assert compare(model, blur, result).blurred.maximum < 1e-3
    assert model.predictions == 0, "the whole image is restored by the same mask"


def test_large_windows_are_tiled():
    blur, mask = picture(1, 3, 400, 700), patch(columns=slice(150, 540))
    model = Dim()
    whole = restore_regions(Dim(), blur, mask, tile=0).image
    result = restore_regions(model, blur, mask, tile=192, overlap=64)
    assert len(model.seen) > 1
    assert all(height <= 192 and width <= 192 for height, width in model.seen)
    assert torch.allclose(result.image, whole, atol=1e-6)
    assert torch.equal(result.image[..., result.weight == 0], blur[..., result.weight == 0])


def test_the_share_that_is_computed_is_that_of_the_windows():
    blur, mask = picture(1, 3, 400, 1400), patch(400, 1400)
    mask[100:110, 1200:1210] = True
    model = Dim()
    result = restore_regions(model, blur, mask)
    areas = [region.weight.size for region in plan_regions(blend_weights(mask.numpy()))]
    assert result.computed == sum(areas) / mask.numel() == sum(h * w for h, w in model.seen) / mask.numel()
    assert len(areas) == 2


def test_a_network_without_masks_needs_one():
    assert not predicts_masks(Dim())
    assert predicts_masks(Bright())
    assert predicts_masks(Brighten())
    with pytest.raises(TrainingError, match=r"predicts no blur mask.*--mask-from"):
        restore_regions(Dim(), picture(1, 3, 40, 40))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(40, 41\)"):
        restore_regions(Dim(), picture(1, 3, 40, 40), torch.ones(40, 41, dtype=torch.bool))
