"""Restormer: published names and counts, values against a second implementation, precision."""

import pytest
import torch
import torch.nn.functional as F
from support.named_weights import named_weights

from relo.models import create_model, load_weights, model_info
from relo.models.restormer import Restormer

SMALL = {"dim": 8, "blocks": [1, 2, 1, 1], "refinement_blocks": 2, "heads": [1, 2, 2, 4]}

LEVELS = {  # channels and blocks of the published network
    "encoder_level1": (48, 4), "encoder_level2": (96, 6), "encoder_level3": (192, 6), "latent": (384, 8),
    "decoder_level3": (192, 6), "decoder_level2": (96, 6), "decoder_level1": (96, 4), "refinement": (96, 4),
}  # fmt: skip
HEADS = {48: 1, 96: 2, 192: 4, 384: 8}
HIDDEN = {48: 127, 96: 255, 192: 510, 384: 1021}


def published_shapes():
    """Every name and shape, written from the published layout."""
    shapes = {
        "patch_embed.proj.weight": (48, 3, 3, 3),
        "output.weight": (3, 96, 3, 3),
        "reduce_chan_level3.weight": (192, 384, 1, 1),
        "reduce_chan_level2.weight": (96, 192, 1, 1),
    }
    shapes |= {f"down{i}_{i + 1}.body.0.weight": (24 << (i - 1), 48 << (i - 1), 3, 3) for i in (1, 2, 3)}
    shapes |= {f"up{i + 1}_{i}.body.0.weight": (192 << (i - 1), 96 << (i - 1), 3, 3) for i in (1, 2, 3)}
    for level, (channels, blocks) in LEVELS.items():
        hidden = HIDDEN[channels]
        heads = 1 if level in ("decoder_level1", "refinement") else HEADS[channels]
        for i in range(blocks):
            block = f"{level}.{i}"
            shapes |= {f"{block}.norm{k}.body.{kind}": (channels,) for k in (1, 2) for kind in ("weight", "bias")}
            shapes |= {
                f"{block}.attn.temperature": (heads, 1, 1),
                f"{block}.attn.qkv.weight": (3 * channels, channels, 1, 1),
                f"{block}.attn.qkv_dwconv.weight": (3 * channels, 1, 3, 3),
                f"{block}.attn.project_out.weight": (channels, channels, 1, 1),
                f"{block}.ffn.project_in.weight": (2 * hidden, channels, 1, 1),
                f"{block}.ffn.dwconv.weight": (2 * hidden, 1, 3, 3),
                f"{block}.ffn.project_out.weight": (channels, hidden, 1, 1),
            }
    return shapes


def reference(state, image, heads):
    """Restormer as it was published: normalised queries and keys, whole feed-forward parts, NCHW throughout."""

    def conv(name, x, depthwise=False):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, None, 1, weight.shape[-1] // 2, 1, weight.shape[0] if depthwise else 1)

    def norm(name, x):
        weight, bias = state[f"{name}.body.weight"], state.get(f"{name}.body.bias")
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        if bias is None:
            return x / torch.sqrt(variance + 1e-5) * weight.view(1, -1, 1, 1)
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    def attention(name, x, count):
        batch, channels, height, width = x.shape
        q, k, v = conv(f"{name}.qkv_dwconv", conv(f"{name}.qkv", x), depthwise=True).chunk(3, dim=1)
        q, k, v = (part.reshape(batch, count, channels // count, height * width) for part in (q, k, v))
        q, k = F.normalize(q, dim=-1, eps=1e-12), F.normalize(k, dim=-1, eps=1e-12)
        weights = torch.softmax(q @ k.transpose(-2, -1) * state[f"{name}.temperature"], dim=-1)
        return conv(f"{name}.project_out", (weights @ v).reshape(x.shape))

    def feed_forward(name, x):
        a, b = conv(f"{name}.dwconv", conv(f"{name}.project_in", x), depthwise=True).chunk(2, dim=1)
        return conv(f"{name}.project_out", F.gelu(a) * b)

    def level(name, x, count):
        for i in range(len({key.split(".")[1] for key in state if key.startswith(f"{name}.")})):
            x = x + attention(f"{name}.{i}.attn", norm(f"{name}.{i}.norm1", x), count)
            x = x + feed_forward(f"{name}.{i}.ffn", norm(f"{name}.{i}.norm2", x))
        return x

    def down(name, x):
        return F.pixel_unshuffle(conv(f"{name}.body.0", x), 2)

    def up(name, x):
        return F.pixel_shuffle(conv(f"{name}.body.0", x), 2)

    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 8, 0, -height % 8), mode="reflect")
    one = level("encoder_level1", conv("patch_embed.proj", padded), heads[0])
    two = level("encoder_level2", down("down1_2", one), heads[1])
    three = level("encoder_level3", down("down2_3", two), heads[2])
    x = level("latent", down("down3_4", three), heads[3])
    x = conv("reduce_chan_level3", torch.cat([up("up4_3", x), three], 1))
    x = conv("reduce_chan_level2", torch.cat([up("up3_2", level("decoder_level3", x, heads[2])), two], 1))
    x = torch.cat([up("up2_1", level("decoder_level2", x, heads[1])), one], 1)
    x = level("refinement", level("decoder_level1", x, heads[0]), heads[0])
    return (conv("output", x) + padded)[..., :height, :width]


def test_parameters_are_the_published_ones():
    with torch.device("meta"):
        state = create_model("restormer").state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_shapes()
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (494, 26_126_644)
    assert model_info("restormer").parameters == 26_126_644
    order = list(dict.fromkeys(name.split(".")[0] for name in state))
    assert order[:3] == ["patch_embed", "encoder_level1", "down1_2"]


def test_denoising_checkpoints_have_norms_without_bias():
    with torch.device("meta"):
        names = set(create_model("restormer", bias_free_norm=True).state_dict())
    assert names == {name for name in published_shapes() if not name.endswith("body.bias")}


@pytest.mark.parametrize(("scale", "size"), [(0.5, (2, 16, 24)), (3.0, (1, 17, 29)), (0.5, (3, 9, 15))])
@pytest.mark.parametrize("bias_free", [False, True])
def test_it_equals_the_published_formulation(scale, size, bias_free):
    model = Restormer(**SMALL, bias_free_norm=bias_free).double().eval()
    state = named_weights(model.state_dict(), scale)
    load_weights(model, {"params": state})
    batch, height, width = size
    image = torch.rand(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        restored = model(image)
        expected = reference(state, image, SMALL["heads"])
    assert (restored.scales, restored.masks) == ((), ())
    assert (expected - image).std() > 0.05, "the network must do something"
    torch.testing.assert_close(restored.image, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("scale", "tolerance"), [(0.5, 1e-5), (2.0, 1e-3)])
def test_the_published_width_equals_it_in_float32(scale, tolerance):
    model = Restormer(blocks=[1, 1, 1, 1], refinement_blocks=1).eval()
    state = named_weights(model.state_dict(), scale, torch.float32)
    load_weights(model, state)
    image = torch.rand(1, 3, 19, 26, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        restored, expected = model(image).image, reference(state, image, [1, 2, 4, 8])
    assert (expected - image).abs().max() > 0.1
    torch.testing.assert_close(restored, expected, rtol=tolerance, atol=tolerance)


def test_gradients_are_those_of_the_published_formulation():
    model = Restormer(**SMALL).double()
    load_weights(model, named_weights(model.state_dict(), 1.0))
    image = torch.rand(2, 3, 8, 16, dtype=torch.float64)
    model(image).image.square().sum().backward()
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    reference(state, image, SMALL["heads"]).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("bias_free", [False, True])
def test_an_image_without_any_contrast_has_finite_gradients(bias_free):
    """Queries and keys of length 0 are divided by 1e-12, and have no slope."""
    model = Restormer(**SMALL, bias_free_norm=bias_free)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.zeros_(module.weight)
    restored = model(torch.zeros(1, 3, 8, 8)).image
    restored.sum().backward()
    assert torch.equal(restored, torch.zeros_like(restored))
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_attention_over_large_images_stays_in_the_range_of_half_precision():
    model = Restormer(**SMALL).eval()
    load_weights(model, named_weights(model.state_dict(), 1.0, torch.float32))
    attention = model.encoder_level1[0].attn
    x = 8 * torch.randn(1, 8, 96, 96)
    with torch.inference_mode():
        products = attention.qkv_dwconv(attention.qkv(x)).square().sum((2, 3))
        expected = attention(x)
        with torch.autocast("cpu", torch.float16):
            found = attention(x).float()
    assert products.max() > torch.finfo(torch.float16).max, "sums over the image that float16 cannot hold"
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
