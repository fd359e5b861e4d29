"""FFTformer: published names and counts, values against a second implementation, convolution in circles, prior."""

import pytest
import torch
import torch.nn.functional as F
from support.named_weights import named_weights

from relo.models import create_model, load_weights
from relo.models.fftformer import FFTformer, circular_convolution

SMALL = {"dim": 6, "blocks": [1, 2, 1], "refinement_blocks": 1, "expansion": 2.5}
PRIOR = 16

LEVELS = {  # channels and blocks of the published network
    "encoder_level1": (48, 6), "encoder_level2": (96, 6), "encoder_level3": (192, 12),
    "decoder_level3": (192, 12), "decoder_level2": (96, 6), "decoder_level1": (48, 6), "refinement": (48, 4),
}  # fmt: skip


def feed_forward_shapes(block, channels, hidden):
    return {
        f"{block}.norm2.body.weight": (channels,),
        f"{block}.norm2.body.bias": (channels,),
        f"{block}.ffn.fft": (2 * hidden, 1, 1, 8, 5),
        f"{block}.ffn.project_in.weight": (2 * hidden, channels, 1, 1),
        f"{block}.ffn.dwconv.weight": (2 * hidden, 1, 3, 3),
        f"{block}.ffn.project_out.weight": (channels, hidden, 1, 1),
    }


def published_shapes(prior):
    """Every name and shape, written from the published layout."""
    shapes = {
        "patch_embed.proj.weight": (48, 3, 3, 3),
        "down1_2.body.1.weight": (96, 48, 3, 3),
        "down2_3.body.1.weight": (192, 96, 3, 3),
        "up3_2.body.1.weight": (96, 192, 3, 3),
        "up2_1.body.1.weight": (48, 96, 3, 3),
        "reduce_chan_level2.weight": (96, 192, 1, 1),
        "output.weight": (3, 48, 3, 3),
    }
    for name, channels, hidden in (("fuse2", 192, 510), ("fuse1", 96, 255)):
        shapes |= feed_forward_shapes(f"{name}.att_channel", channels, hidden)
        for conv in ("conv", "conv2"):
            shapes |= {f"{name}.{conv}.weight": (channels, channels, 1, 1), f"{name}.{conv}.bias": (channels,)}
    for level, (channels, blocks) in LEVELS.items():
        for i in range(blocks):
            block = f"{level}.{i}"
            shapes |= feed_forward_shapes(block, channels, 3 * channels)
            if level.startswith("encoder"):
                continue
            shapes |= {
                f"{block}.norm1.body.weight": (channels,),
                f"{block}.norm1.body.bias": (channels,),
                f"{block}.attn.to_hidden.weight": (6 * channels, channels, 1, 1),
                f"{block}.attn.to_hidden_dw.weight": (6 * channels, 1, 3, 3),
                f"{block}.attn.project_out.weight": (channels, 2 * channels, 1, 1),
                f"{block}.attn.norm.body.weight": (2 * channels,),
                f"{block}.attn.norm.body.bias": (2 * channels,),
            }
            if prior:
                shapes[f"{block}.attn.kv.weight"] = (2 * channels, prior)
    return shapes


def reference(state, image, prior=None):
    """FFTformer as it was published: fast Fourier transforms of every hidden channel, NCHW throughout."""

    def conv(name, x, depthwise=False):
        weight = state[f"{name}.weight"]
        groups = weight.shape[0] if depthwise else 1
        return F.conv2d(x, weight, state.get(f"{name}.bias"), 1, weight.shape[-1] // 2, 1, groups)

    def norm(name, x):
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        weight, bias = (state[f"{name}.body.{kind}"].view(1, -1, 1, 1) for kind in ("weight", "bias"))
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def squares(x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)

    def whole(x):
        n, c, h, w = x.shape[:4]
        return x.transpose(3, 4).reshape(n, c, 8 * h, 8 * w)

    def attention(name, x):
        if prior is not None:
            k, v = (prior @ state[f"{name}.kv.weight"].T)[:, :, None, None].chunk(2, dim=1)
            x = x * k + v
        q, k, v = conv(f"{name}.to_hidden_dw", conv(f"{name}.to_hidden", x), depthwise=True).chunk(3, dim=1)
        product = torch.fft.rfft2(squares(q)) * torch.fft.rfft2(squares(k))
        return conv(f"{name}.project_out", v * norm(f"{name}.norm", whole(torch.fft.irfft2(product, s=(8, 8)))))

    def block(name, x):
        if f"{name}.norm1.body.weight" in state:
            x = x + attention(f"{name}.attn", norm(f"{name}.norm1", x))
        hidden = squares(conv(f"{name}.ffn.project_in", norm(f"{name}.norm2", x)))
        filtered = whole(torch.fft.irfft2(torch.fft.rfft2(hidden) * state[f"{name}.ffn.fft"], s=(8, 8)))
        a, b = conv(f"{name}.ffn.dwconv", filtered, depthwise=True).chunk(2, dim=1)
        return x + conv(f"{name}.ffn.project_out", F.gelu(a) * b)

    def level(name, x):
        for i in range(len({key.split(".")[1] for key in state if key.startswith(f"{name}.")})):
            x = block(f"{name}.{i}", x)
        return x

    def scaled(name, x, scale):
        return conv(f"{name}.body.1", F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False))

    def fuse(name, x, skip):
        x = block(f"{name}.att_channel", conv(f"{name}.conv", torch.cat([x, skip], 1)))
        return sum(conv(f"{name}.conv2", x).chunk(2, dim=1))

    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 32, 0, -height % 32), mode="reflect")
    one = level("encoder_level1", conv("patch_embed.proj", padded))
    two = level("encoder_level2", scaled("down1_2", one, 0.5))
    x = level("decoder_level3", level("encoder_level3", scaled("down2_3", two, 0.5)))
    x = level("decoder_level2", fuse("fuse2", scaled("up3_2", x, 2), two))
    x = level("decoder_level1", fuse("fuse1", scaled("up2_1", x, 2), one))
    return (conv("output", level("refinement", x)) + padded)[..., :height, :width]


def network(scale, dtype=torch.float64, **options):
    """A network with weights told by their names, filters of frequencies around 1 included; and the weights."""
    model = FFTformer(**(SMALL | options)).to(dtype).eval()
    state = named_weights(model.state_dict(), scale, dtype)
    for name in state:
        if name.endswith("ffn.fft"):
            state[name] = 1 + 3 * state[name]
    load_weights(model, state)
    return model, state


def batch(size, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(size[0], 3, *size[1:], dtype=dtype, generator=generator)
    return image, torch.randn(size[0], PRIOR, dtype=dtype, generator=generator)


@pytest.mark.parametrize(("prior", "count"), [(0, 16_560_474), (256, 18_280_794)])
def test_parameters_are_the_published_ones(prior, count):
    with torch.device("meta"):
        state = create_model("fftformer", prior=prior).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_shapes(prior)
    assert sum(tensor.numel() for tensor in state.values()) == count


@pytest.mark.parametrize("scale", [0.7, 2.0])
@pytest.mark.parametrize("size", [(2, 32, 64), (1, 41, 29), (3, 20, 18)])
@pytest.mark.parametrize("prior", [0, PRIOR])
def test_it_equals_the_published_formulation(scale, size, prior):
    model, state = network(scale, prior=prior)
    image, vector = batch(size)
    vector = vector if prior else None
    with torch.inference_mode():
        restored = model(image, vector)
        expected = reference(state, image, vector)
    assert (restored.scales, restored.masks) == ((), ())
    assert (expected - image).std() > 0.05, "the network must do something"
    largest = float(expected.abs().max())
    torch.testing.assert_close(restored.image, expected, rtol=0, atol=1e-10 * max(largest, 1))


def test_the_published_width_equals_it_in_float32():
    model, state = network(0.7, torch.float32, dim=48, blocks=[1, 1, 1], expansion=3.0, prior=PRIOR)
    image, prior = batch((1, 37, 61), torch.float32)
    with torch.inference_mode():
        restored, expected = model(image, prior).image, reference(state, image, prior)
    assert (expected - image).abs().max() > 0.1
    torch.testing.assert_close(restored, expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_published_formulation():
    model, state = network(1.0, prior=PRIOR)
    image, prior = batch((2, 32, 32))
    with torch.inference_mode():
        model(image, prior)  # what is kept of it must not stand in the way of gradients
    model.train()(image, prior).image.square().sum().backward()
    expected = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    reference(expected, image, prior).square().sum().backward()
    for name, parameter in model.named_parameters():
        if name == "reduce_chan_level2.weight":
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-8, atol=1e-8, msg=name)


def test_squares_are_convolved_in_circles():
    first, second = torch.randn(2, 3, 64, 5, dtype=torch.float64)
    expected = torch.zeros(3, 8, 8, 5, dtype=torch.float64)
    kernel = second.unflatten(1, (8, 8))
    for row in range(8):
        for column in range(8):
            shifted = torch.roll(first.unflatten(1, (8, 8)), (row, column), (1, 2))
            expected += kernel[:, row, column, None, None] * shifted
    torch.testing.assert_close(circular_convolution(first, second), expected.flatten(1, 2))


def test_a_prior_that_changes_nothing_gives_the_plain_network():
    model, state = network(1.0, prior=PRIOR)
    for name, tensor in state.items():
        if name.endswith("kv.weight"):
            channels = len(tensor) // 2
            state[name] = torch.zeros_like(tensor)
            state[name][:channels, 0] = 1.0
    load_weights(model, state)
    image, prior = batch((2, 24, 40))
    prior[:, 0] = 1.0
    with torch.inference_mode():
        torch.testing.assert_close(model(image, prior).image, model(image).image, rtol=1e-12, atol=1e-12)


def test_spectra_are_computed_in_float32_under_autocast():
    first, second = torch.randn(2, 4, 64, 8)
    exact = circular_convolution(first.double(), second.double()).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(circular_convolution(first, second), exact, rtol=1e-5, atol=1e-4)
