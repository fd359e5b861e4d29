"""Networks that compute by a mask: it is the whole image's, whatever the windows."""

import pytest
import torch
from support.networks import Brighten, picture
from torch import nn

from relo.models import create_model
from relo.models.image_batches import enlarge
from relo.training.inference import whole_image
from relo.training.inference.memory_estimate import SHARE, WORKSPACE, peak_bytes
from relo.training.inference.own_mask import MaskedNetwork, on_grid, to_grid
from relo.training.inference.whole_image import predict_own_mask, restore


def half_dark(*shape):
    """A picture with a dark left half, where a window by itself would find other cells bright."""
    blur = picture(*shape)
    blur[..., : shape[-1] // 2] *= 0.5
    return blur


def test_what_is_such_a_network():
    assert isinstance(Brighten(), MaskedNetwork)
    assert not isinstance(create_model("lbag", num_res=1, width=4), MaskedNetwork)
    assert predict_own_mask(nn.Identity(), picture(1, 3, 8, 8)) is None


@pytest.mark.parametrize(("shape", "tile", "overlap"), [((200, 301), 128, 64), ((71, 403), 192, 64)])
def test_windows_use_the_mask_of_the_whole_image(shape, tile, overlap):
    blur = half_dark(2, 3, *shape)
    model = Brighten()
    whole, tiled = restore(model, blur, tile=0), restore(model, blur, tile=tile, overlap=overlap)
    assert 0.1 < whole.masks[-1].mean() < 0.9
    assert torch.equal(tiled.masks[-1] > 0.5, whole.masks[-1] > 0.5)
    assert torch.allclose(tiled.image, whole.image, atol=1e-6)
    grid = predict_own_mask(model, blur, tile=tile, overlap=overlap)
    assert torch.equal(grid, model.mask_of(model.mask_features(blur)))
    by_itself = model(blur[..., :128]).masks[-1]
    assert (by_itself != whole.masks[-1][..., :128]).float().mean() > 0.1, "the test can fail"


@pytest.mark.parametrize("tile", [0, 128])
def test_a_given_mask_replaces_the_predicted_one(tile):
    model, blur = Brighten(), picture(1, 3, 150, 203)
    grid = (picture(1, 1, 19, 26, seed=1) > 0.5).float()
    restored = restore(model, blur, tile=tile, overlap=64 if tile else None, mask=grid)
    marked = grid.repeat_interleave(8, -1).repeat_interleave(8, -2)[..., :150, :203]
    assert torch.allclose(restored.image, blur + 0.25 * marked, atol=1e-6)
    assert model.predictions == 0


def test_what_does_not_fit_into_memory_is_predicted_in_windows(monkeypatch):
    model, blur = Brighten(), half_dark(1, 3, 300, 500)
    whole = predict_own_mask(model, blur, tile=0)
    enough = WORKSPACE * peak_bytes(model, (1, 3, 300, 500)) / SHARE
    monkeypatch.setattr(whole_image, "memory_at_hand", lambda device: int(enough / 3))
    model.seen.clear()
    assert torch.equal(predict_own_mask(model, blur), whole)
    assert max(height * width for height, width in model.seen) < 300 * 500 / 3


@pytest.mark.parametrize(("height", "width", "stride"), [(1, 1, 8), (8, 16, 8), (21, 9, 8), (21, 9, 4)])
def test_between_pixels_and_cells(height, width, stride):
    mask = picture(1, 1, height, width)[0, 0] > 0.97
    mask[-1, -1] = True
    grid = to_grid(mask, stride)
    assert grid.shape == (1, 1, -(-height // stride), -(-width // stride))
    for y in range(grid.shape[2]):
        for x in range(grid.shape[3]):
            cell = mask[stride * y : stride * (y + 1), stride * x : stride * (x + 1)]
            assert grid[0, 0, y, x] == cell.any()
    back = enlarge(grid[0, 0], stride, height, width)
    assert back.shape == mask.shape
    for y in range(height):
        for x in range(width):
            assert back[y, x] == grid[0, 0, y // stride, x // stride]
    assert on_grid(slice(64, 131), stride) == slice(64 // stride, -(-131 // stride))


@pytest.mark.parametrize("blocks", [(1, 1, 1, 2), (1, 1, 2)])
@pytest.mark.parametrize(("scale", "agree"), [(0.0, 1.0), (0.1, 0.99)])
def test_m2aenet_in_windows_has_the_mask_of_the_whole_image(blocks, scale, agree):
    """Its blocks' scales are 0 at first; with others they pool over what they see, which changes a few cells."""
    torch.manual_seed(0)
    model = create_model("m2aenet", width=8, enc_blocks=blocks, dec_blocks=(1,) * len(blocks)).eval()
    assert isinstance(model, MaskedNetwork)
    blur = half_dark(1, 3, 208, 304)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.fill_(scale)
        for layer in model.predictor.logits[::2]:
            layer.weight.mul_(30)
        logits = model.predictor(model.mask_features(blur).permute(0, 2, 3, 1))
        model.predictor.logits[-1].bias[1] += (logits[..., 0] - logits[..., 1]).quantile(0.5)
    whole, tiled = (restore(model, blur, tile=tile).masks[-1] > 0.5 for tile in (0, 128))
    assert 0.4 < whole.float().mean() < 0.6
    assert (whole == tiled).float().mean() >= agree
    by_itself = restore(model, blur[..., :128], tile=0).masks[-1] > 0.5
    assert (by_itself != whole[..., :128]).float().mean() > 0.03, "the test can fail"
