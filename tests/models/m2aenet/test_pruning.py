"""Pruned inference against the formula of the paper, written out with all wide features, for any mask."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import balance_mask
from torch import nn

from relo.models import create_model
from relo.models.m2aenet import pruning
from relo.models.m2aenet.pruning import find_masked, gate_where_masked


def shapes_of_masks(count, height, width):
    """Named masks (N, H, W, 1)."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    empty = torch.zeros(count, height, width, 1)
    border, one, corners, different = (empty.clone() for _ in range(4))
    border[:, 0] = border[:, -1] = 1
    border[:, :, 0] = border[:, :, -1] = 1
    one[:, height // 2, width // 3] = 1
    corners[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 1
    for n in range(count):
        different[n, n : 2 * n + 1] = 1
    return {
        "empty": empty,
        "full": torch.ones_like(empty),
        "border": border,
        "one pixel": one,
        "corners": corners,
        "different": different,
        "sparse": (torch.rand(empty.shape, generator=generator) < 0.02).float(),
        "noise": (torch.rand(empty.shape, generator=generator) < 0.5).float(),
    }


def convolutions(channels, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    conv1 = nn.Conv2d(channels, 2 * channels, 1).to(dtype).requires_grad_(False)
    conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels).to(dtype).requires_grad_(False)
    return conv1, conv2


def by_formula(x, mask, conv1, conv2):
    """m conv2(conv1(x)) + (1 - m) [x, x], then the product of the halves; (N, C, H, W) inside."""
    x, mask = x.permute(0, 3, 1, 2), mask.permute(0, 3, 1, 2).to(x.dtype)
    wide = mask * conv2(conv1(x)) + (1 - mask) * x.repeat(1, 2, 1, 1)
    half = x.shape[1]
    return (wide[:, :half] * wide[:, half:]).permute(0, 2, 3, 1)


@pytest.fixture(params=["compiled", "torch"])
def path(request, monkeypatch):
    """Both ways to compute what is pruned: the compiled loop, and what GPUs use."""
    if request.param == "torch":
        monkeypatch.setattr(pruning, "runs_compiled", lambda *_: False)
    else:
        monkeypatch.setattr(pruning, "_sum_neighbours", None)  # so that nothing else can have run
    return request.param


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("size", [(1, 1), (3, 20), (8, 8), (17, 23), (24, 16)])
@pytest.mark.parametrize("name", shapes_of_masks(1, 8, 8))
def test_pruned_equals_the_masked_formula(size, name):
    x = torch.randn(3, *size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = (
        shapes_of_masks(3, *size)[name] if size != (1, 1) or name in ("empty", "full") else torch.ones(3, 1, 1, 1)
    )
    conv1, conv2 = convolutions(4)
    found = gate_where_masked(x, conv1, conv2, find_masked(mask))
    torch.testing.assert_close(found, by_formula(x, mask, conv1, conv2), atol=1e-12, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]),
    st.integers(0, 99),
)
def test_any_size_and_mask(count, height, width, share, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, height, width, 2, dtype=torch.float64, generator=generator)
    mask = (torch.rand(count, height, width, 1, generator=generator) < share).double()
    conv1, conv2 = convolutions(2)
    found = gate_where_masked(x, conv1, conv2, find_masked(mask))
    torch.testing.assert_close(found, by_formula(x, mask, conv1, conv2), atol=1e-12, rtol=1e-12)


def test_tables_name_masked_pixels_and_their_neighbours_once():
    mask = shapes_of_masks(2, 19, 37)["sparse"]
    pixels = find_masked(mask)
    assert pixels.masked.tolist() == mask.flatten().nonzero()[:, 0].tolist()
    near = F.max_pool2d(mask.permute(0, 3, 1, 2), 3, stride=1, padding=1)
    assert pixels.gathered.tolist() == near.flatten().nonzero()[:, 0].tolist()
    assert pixels.neighbours.max() == len(pixels.gathered), "some lie outside"
    assert len(find_masked(torch.zeros(1, 9, 9, 1)).gathered) == 0


def test_only_blur_and_its_border_are_computed():
    mask = torch.zeros(1, 64, 64, 1)
    mask[0, 10:14, 10:14] = 1
    assert len(find_masked(mask).gathered) == 6 * 6


def test_threads_share_the_pixels(monkeypatch):
    x = torch.randn(1, 11, 13, 4, generator=torch.Generator().manual_seed(5))
    conv1, conv2 = convolutions(4, torch.float32)
    pixels = find_masked(shapes_of_masks(1, 11, 13)["noise"])
    one = gate_where_masked(x, conv1, conv2, pixels)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(gate_where_masked(x, conv1, conv2, pixels), one)


@pytest.mark.usefixtures("path")
def test_neighbours_off_the_frame_are_zero_and_not_the_bias():
    """The 1x1 convolution has a bias, and padding comes after it."""
    conv1, conv2 = convolutions(2)
    nn.init.constant_(conv1.bias, 5.0)
    x, mask = torch.zeros(1, 2, 2, 2, dtype=torch.float64), torch.ones(1, 2, 2, 1)
    mask[0, 0, 0] = 0  # a full mask would need no tables
    wide = F.conv2d(
        torch.full((1, 4, 2, 2), 5.0, dtype=torch.float64), conv2.weight, conv2.bias, padding=1, groups=4
    )
    expected = (wide[:, :2] * wide[:, 2:]).permute(0, 2, 3, 1)
    expected[0, 0, 0] = 0
    torch.testing.assert_close(gate_where_masked(x, conv1, conv2, find_masked(mask)), expected)


OPTIONS = {"width": 8, "enc_blocks": [1, 1, 1, 3], "local_pooling": 0}


def trained_like(dtype, **options):
    """An M2AENet whose every parameter matters."""
    torch.manual_seed(3)
    model = create_model("m2aenet", **{**OPTIONS, **options}).to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("size", [(64, 96), (70, 101), (33, 200)])
@pytest.mark.parametrize("options", [{}, {"local_pooling": 64}, {"trajectory_form": "learned"}], ids=str)
def test_pruned_network_equals_the_masked_one(dtype, tolerance, size, options):
    model = trained_like(dtype, **options)
    blur = torch.rand(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(2))
    balance_mask(model, blur)
    cells = -(-size[0] // 8), -(-size[1] // 8)
    masks = {name: mask.permute(0, 3, 1, 2) for name, mask in shapes_of_masks(2, *cells).items()}
    with torch.no_grad():
        for mask in [None, *masks.values()]:
            model.pruned = True
            pruned = model(blur, mask)
            model.pruned = False
            masked = model(blur, mask)
            scale = masked.image.abs().max()
            assert (pruned.image - masked.image).abs().max() <= tolerance * scale
            assert torch.equal(pruned.masks[-1], masked.masks[-1])
        images = [model(blur, mask).image for mask in masks.values()]
    assert not any(torch.equal(a, b) for a, b in combinations(images, 2)), "the masks matter"


def test_training_and_inference_compute_the_same():
    model = trained_like(torch.float64)
    blur = torch.rand(2, 3, 48, 64, dtype=torch.float64)
    mask = (torch.rand(2, 1, 6, 8) < 0.4).double()
    with torch.no_grad():
        pruned = model(blur, mask).image
    trained = model.train()(blur, mask).image
    assert trained.requires_grad
    torch.testing.assert_close(pruned, trained.detach(), atol=1e-10 * float(trained.detach().abs().max()), rtol=0)
