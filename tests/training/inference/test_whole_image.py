"""Whole images: windows leave no trace, memory decides, errors tell what to do."""

import pytest
import torch
from torch import nn

from relo.errors import ConfigError, TrainingError
from relo.models import Restoration, create_model
from relo.training.inference import whole_image
from relo.training.inference.memory_estimate import SHARE, WORKSPACE, peak_bytes
from relo.training.inference.whole_image import OVERLAP, restore


class LocalMean(nn.Module):
    """3 x 3 mean with zeros beyond the border, so that window borders would show; the mask is the red channel's."""

    def forward(self, blur):
        image = nn.functional.avg_pool2d(blur, 3, 1, 1)
        return Restoration(image, (image,), (image[:, :1, ::2, ::2], image[:, :1]))


class Phase(nn.Module):
    """Adds a pattern that repeats every 64 px: windows at another phase would be seen."""

    def forward(self, blur):
        height, width = blur.shape[-2:]
        pattern = (torch.arange(height)[:, None] * 3 + torch.arange(width)) % 64 / 64
        return Restoration(blur + pattern, (), ())


class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, _blur):
        raise self.error


class Greedy(nn.Module):
    def forward(self, blur):
        return Restoration(blur + torch.empty(1 << 60, dtype=torch.uint8)[0], (), ())


def picture(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def with_larger_kernels(model, factor):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.mul_(factor)
    return model


@pytest.mark.parametrize("model", [LocalMean(), Phase()])
@pytest.mark.parametrize(
    ("shape", "tile", "overlap"), [((200, 301), 128, 9), ((70, 400), 192, 64), ((65, 65), 128, 0)]
)
def test_windows_leave_no_trace(model, shape, tile, overlap):
    blur = picture(2, 3, *shape)
    whole, tiled = restore(model, blur, tile=0), restore(model, blur, tile=tile, overlap=overlap)
    assert torch.allclose(tiled.image, whole.image, atol=1e-6)
    if whole.masks:
        assert torch.allclose(tiled.masks[-1], whole.masks[-1], atol=1e-6)


# Larger kernels reach further; by 1.15 the deep networks add more than 0.5 to values in [0, 1].
@pytest.mark.parametrize("factor", [1.0, 1.15])
@pytest.mark.parametrize(
    ("name", "options"), [("lbag", {"num_res": 20, "width": 8}), ("mimo_unet", {"num_res": 8, "width": 8})]
)
def test_the_default_overlap_is_enough_for_the_networks(name, options, factor):
    torch.manual_seed(1)
    model = with_larger_kernels(create_model(name, **options).eval(), factor)
    blur = picture(1, 3, 64, 640)
    whole, tiled = restore(model, blur, tile=0), restore(model, blur, tile=2 * OVERLAP)
    assert (whole.image - blur).abs().max() > 0.01, "the network does something"
    assert (tiled.image - whole.image).abs().max() < 1e-3
    for wanted, found in zip(whole.masks[-1:], tiled.masks, strict=True):
        assert (found - wanted).abs().max() < 1e-3


def test_without_overlap_the_seams_would_show():
    """The test above can fail."""
    torch.manual_seed(1)
    model = create_model("lbag", num_res=20, width=8).eval()
    blur = picture(1, 3, 64, 450)
    difference = restore(model, blur, tile=384, overlap=0).image - restore(model, blur, tile=0).image
    assert difference.abs().max() > 1e-3


def test_what_is_at_hand_decides(monkeypatch):
    model, blur = create_model("lbag", num_res=1, width=4).eval(), picture(1, 3, 300, 500)
    enough = int(WORKSPACE * peak_bytes(model, (1, 3, 300, 500)) / SHARE) + 1
    monkeypatch.setattr(whole_image, "memory_at_hand", lambda device: enough)
    whole = restore(model, blur)
    assert len(whole.scales) == 3
    monkeypatch.setattr(whole_image, "memory_at_hand", lambda device: enough // 3)
    sizes = []
    model.register_forward_pre_hook(
        lambda module, arguments: None if arguments[0].is_meta else sizes.append(arguments[0].shape[-2:])
    )
    tiled = restore(model, blur)
    assert len(sizes) > 1
    assert max(height * width for height, width in sizes) < 300 * 500 / 3
    assert tiled.scales == ()
    assert (tiled.image - whole.image).abs().max() < 1e-3
    monkeypatch.setattr(whole_image, "memory_at_hand", lambda device: 1000)
    with pytest.raises(TrainingError, match="window of 128 px"):
        restore(model, blur)
    assert torch.equal(restore(model, blur, tile=0).image, whole.image), "who asks for the whole image gets it"


@pytest.mark.parametrize("tile", [0, 128])
def test_the_callers_tensor_is_left_alone(tile):
    blur = picture(1, 3, 60, 300)
    copy = blur.clone()
    restored = restore(Phase(), blur, tile=tile).image
    restored += 1
    assert torch.equal(blur, copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": -128}, "must be positive"),
        ({"tile": 128, "overlap": 65}, "half of the tile size"),
        ({"tile": 128, "overlap": -1}, "half of the tile size"),
        ({"overlap": 64}, "needs a tile size"),
        ({"tile": 0, "overlap": 64}, "needs a tile size"),
    ],
)
def test_windows_that_cannot_be_laid_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        restore(LocalMean(), picture(1, 3, 8, 8), **options)


@pytest.mark.parametrize("model", [Failing(torch.OutOfMemoryError("CUDA out of memory")), Greedy()])
@pytest.mark.parametrize("tile", [0, 128])
def test_a_lack_of_memory_names_the_option(model, tile):
    with pytest.raises(TrainingError, match=r"memory does not suffice.*--tile"):
        restore(model, picture(1, 3, 200, 200), tile=tile)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        restore(Failing(RuntimeError("a shape is wrong")), picture(1, 3, 8, 8), tile=0)
