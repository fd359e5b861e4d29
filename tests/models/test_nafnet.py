"""NAFNet: published names and counts, values against a second implementation, local pooling by brute force."""

import pytest
import torch
import torch.nn.functional as F
from support.named_weights import named_weights

from relo.models import create_model, load_weights, model_info
from relo.models.nafnet import NAFBlock, NAFNet, local_mean, pooling_window

SMALL = {"width": 4, "enc_blocks": [1, 0, 2], "middle_blocks": 1, "dec_blocks": [1, 2, 1]}


def block_shapes(c):
    wide = 2 * c
    shapes = {"beta": (1, c, 1, 1), "gamma": (1, c, 1, 1), "conv2.weight": (wide, 1, 3, 3), "conv2.bias": (wide,)}
    for name, outputs in (("conv1", wide), ("conv3", c), ("sca.1", c), ("conv4", wide), ("conv5", c)):
        shapes |= {f"{name}.weight": (outputs, c, 1, 1), f"{name}.bias": (outputs,)}
    return shapes | {f"norm{k}.{kind}": (c,) for k in (1, 2) for kind in ("weight", "bias")}


def published_shapes(width, enc, middle, dec):
    shapes = {"intro.weight": (width, 3, 3, 3), "intro.bias": (width,)}
    shapes |= {"ending.weight": (3, width, 3, 3), "ending.bias": (3,)}
    channels = width
    stages = [(f"encoders.{stage}", width << stage, count) for stage, count in enumerate(enc)]
    for stage in range(len(enc)):
        shapes |= {f"downs.{stage}.weight": (2 * channels, channels, 2, 2), f"downs.{stage}.bias": (2 * channels,)}
        channels *= 2
    stages.append(("middle_blks", channels, middle))
    for stage, count in enumerate(dec):
        shapes[f"ups.{stage}.0.weight"] = (2 * channels, channels, 1, 1)
        channels //= 2
        stages.append((f"decoders.{stage}", channels, count))
    for name, c, count in stages:
        for i in range(count):
            shapes |= {f"{name}.{i}.{key}": shape for key, shape in block_shapes(c).items()}
    return shapes


def brute_force_mean(x, window):
    """Mean of the nearest window that lies inside, pixel by pixel."""
    height, width = x.shape[-2:]
    tall, broad = min(window, height), min(window, width)
    result = torch.empty_like(x)
    for i in range(height):
        top = min(max(i - (tall - 1) // 2, 0), height - tall)
        for j in range(width):
            left = min(max(j - (broad - 1) // 2, 0), width - broad)
            result[..., i, j] = x[..., top : top + tall, left : left + broad].mean((-2, -1))
    return result


def reference(state, image, stages, train_size=0):
    """NAFNet as it was published: NCHW throughout, layer normalisation written out, pooled to one pixel."""

    def conv(name, x, stride=1, padding=0, groups=1):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding, 1, groups)

    def norm(name, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        normal = (x - mean) / (variance + 1e-6).sqrt()
        return state[f"{name}.weight"].view(1, -1, 1, 1) * normal + state[f"{name}.bias"].view(1, -1, 1, 1)

    def halves(x):
        first, second = x.chunk(2, dim=1)
        return first * second

    def pooled(x, level):
        if train_size:
            base = int(1.5 * train_size)
            window = (train_size // 2**level) * base // train_size
            if window < max(x.shape[-2:]):
                return brute_force_mean(x, window)
        return F.adaptive_avg_pool2d(x, 1)

    def block(name, x, level):
        u = conv(f"{name}.conv1", norm(f"{name}.norm1", x))
        u = halves(conv(f"{name}.conv2", u, padding=1, groups=u.shape[1]))
        u = u * conv(f"{name}.sca.1", pooled(u, level))
        y = x + conv(f"{name}.conv3", u) * state[f"{name}.beta"]
        v = halves(conv(f"{name}.conv4", norm(f"{name}.norm2", y)))
        return y + conv(f"{name}.conv5", v) * state[f"{name}.gamma"]

    def blocks(name, x, level):
        count = len({key.removeprefix(f"{name}.").split(".")[0] for key in state if key.startswith(f"{name}.")})
        for i in range(count):
            x = block(f"{name}.{i}", x, level)
        return x

    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 2**stages, 0, -height % 2**stages))
    x, skips = conv("intro", padded, padding=1), []
    for stage in range(stages):
        x = blocks(f"encoders.{stage}", x, stage)
        skips.append(x)
        x = conv(f"downs.{stage}", x, stride=2)
    x = blocks("middle_blks", x, stages)
    for stage in range(stages):
        level = stages - 1 - stage
        x = F.pixel_shuffle(conv(f"ups.{stage}.0", x), 2) + skips[level]
        x = blocks(f"decoders.{stage}", x, level)
    return (conv("ending", x, padding=1) + padded)[..., :height, :width]


@pytest.mark.parametrize(
    ("options", "parameters", "tensors"),
    [
        ({}, 17_111_907, 664),
        ({"width": 64}, 67_888_835, 664),
        ({"enc_blocks": [2, 2, 4, 8], "middle_blocks": 12, "dec_blocks": [2, 2, 2, 2]}, 29_159_715, 664),
    ],
)
def test_parameters_are_the_published_ones(options, parameters, tensors):
    with torch.device("meta"):
        state = create_model("nafnet", **options).state_dict()
    whole = {"width": 32, "enc_blocks": [1, 1, 1, 28], "middle_blocks": 1, "dec_blocks": [1, 1, 1, 1]} | options
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_shapes(*whole.values())
    assert (sum(tensor.numel() for tensor in state.values()), len(state)) == (parameters, tensors)
    assert options or model_info("nafnet").parameters == parameters


@pytest.mark.parametrize(("scale", "size"), [(0.5, (2, 16, 24)), (2.0, (1, 17, 29)), (0.5, (3, 5, 11))])
def test_it_equals_the_published_formulation(scale, size):
    model = NAFNet(**SMALL).double().eval()
    state = named_weights(model.state_dict(), scale)
    load_weights(model, {"params": state})
    batch, height, width = size
    image = torch.rand(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        restored, expected = model(image), reference(state, image, 3)
    assert (restored.scales, restored.masks) == ((), ())
    assert (expected - image).std() > 0.05, "the network must do something"
    torch.testing.assert_close(restored.image, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("scale", "tolerance"), [(0.3, 1e-5), (1.0, 1e-3)])
def test_the_published_width_equals_it_in_float32(scale, tolerance):
    model = NAFNet(enc_blocks=[1, 1, 1, 3]).eval()
    state = named_weights(model.state_dict(), scale, torch.float32)
    load_weights(model, state)
    image = torch.rand(1, 3, 19, 26, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        restored, expected = model(image).image, reference(state, image, 4)
    assert (expected - image).abs().max() > 0.1
    size = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(restored / size, expected / size, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("height", [1, 7, 8, 9, 16, 41])
@pytest.mark.parametrize("window", [0, 6])
def test_strips_of_rows_change_nothing(height, window):
    """Inference goes over the image in strips; with gradients a block is computed at once."""
    torch.manual_seed(1)
    block = NAFBlock(4, window).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, height, 13, 4, dtype=torch.float64)
    at_once = block(x)
    assert at_once.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(block(x), at_once.detach(), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_published_formulation():
    model = NAFNet(**SMALL).double()
    load_weights(model, named_weights(model.state_dict(), 0.5))
    image = torch.rand(2, 3, 8, 16, dtype=torch.float64)
    model(image).image.square().sum().backward()
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    reference(state, image, 3).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-8, atol=1e-8, msg=name)


def test_it_starts_without_what_its_blocks_add():
    model = NAFNet(**SMALL)
    assert all(not tensor.any() for name, tensor in model.named_parameters() if name.endswith((".beta", ".gamma")))


def test_published_windows_of_local_pooling():
    assert [pooling_window(256, level) for level in range(5)] == [384, 192, 96, 48, 24]
    assert [pooling_window(0, level) for level in range(5)] == [0] * 5


@pytest.mark.parametrize("window", [1, 2, 3, 6, 7, 50])
def test_local_mean_is_that_of_the_nearest_window_inside(window):
    x = torch.rand(2, 3, 7, 11, dtype=torch.float64)
    found = local_mean(x.permute(0, 2, 3, 1), window).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, brute_force_mean(x, window), rtol=1e-12, atol=1e-12)


def test_local_mean_is_exact_far_from_the_origin_of_its_sums():
    x = 1000 + torch.rand(1, 400, 300, 1)
    corner = x[:, -3:, -3:].double().mean()
    torch.testing.assert_close(local_mean(x, 3)[0, -1, -1, 0].double(), corner, rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [(1, 40, 24), (2, 8, 60), (1, 21, 13), (1, 8, 8)])
def test_local_pooling_equals_brute_force(size):
    """With patches of 8 px the windows are 12, 6, 3 and 1 px: larger and smaller than these images."""
    model = NAFNet(**SMALL, local_pooling=8).double().eval()
    state = named_weights(model.state_dict(), 1.0)
    load_weights(model, state)
    batch, height, width = size
    image = torch.rand(batch, 3, height, width, dtype=torch.float64)
    with torch.inference_mode():
        found, expected = model(image).image, reference(state, image, 3, train_size=8)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    if max(size) > 12:
        assert (expected - reference(state, image, 3)).abs().max() > 1e-3


def test_local_pooling_changes_nothing_at_the_size_of_the_patches():
    plain, local = NAFNet(**SMALL).eval(), NAFNet(**SMALL, local_pooling=32).eval()
    for model in (plain, local):
        load_weights(model, named_weights(plain.state_dict(), 0.5, torch.float32))
    blur = torch.rand(1, 3, 32, 32)
    assert torch.equal(plain(blur).image, local(blur).image)
