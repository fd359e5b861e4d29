"""Stripformer: published names and counts, values against a second implementation, priors, strips."""

import pytest
import torch
import torch.nn.functional as F
from support.named_weights import named_weights

from relo.models import load_weights
from relo.models.stripformer import Stripformer

SMALL = {"width": 4, "blocks": 2, "decoder_blocks": 2}


def published_shapes(prior):
    """Every name and shape, written from the published layout."""
    convolutions = {
        "encoder.en_layer1_1.0": (64, 3, 3, 3),
        "encoder.en_layer2_1.0": (128, 64, 3, 3),
        "encoder.en_layer3_1.0": (320, 128, 3, 3),
        "decoder.de_layer3_1.0": (320, 192, 4, 4),
        "decoder.de_layer2_2.0": (192, 320, 1, 1),
        "decoder.de_layer2_1.0": (192, 64, 4, 4),
        "decoder.de_layer1_3.0": (64, 128, 1, 1),
        "decoder.de_layer1_3.2": (64, 64, 3, 3),
        "decoder.de_layer1_2.0": (64, 64, 3, 3),
        "decoder.de_layer1_2.2": (64, 64, 3, 3),
        "decoder.de_layer1_1.0": (3, 64, 3, 3),
    }
    for i in (2, 3, 4):
        convolutions |= {f"encoder.en_layer1_{i}.{k}": (64, 64, 3, 3) for k in (0, 2)}
        convolutions |= {f"encoder.en_layer2_{i}.{k}": (128, 128, 3, 3) for k in (0, 2)}
    shapes = {f"{name}.weight": shape for name, shape in convolutions.items()}
    # A transposed convolution has its inputs first.
    shapes |= {
        f"{name}.bias": shape[1:2] if name in ("decoder.de_layer3_1.0", "decoder.de_layer2_1.0") else shape[:1]
        for name, shape in convolutions.items()
    }
    blocks = [(f"Trans_block_{i}", i, 320) for i in range(1, 13)]
    blocks += [(f"decoder.de_block_{i}", i, 192) for i in range(1, 7)]
    for name, i, c in blocks:
        norms = ("attention_norm", "ffn_norm")
        shapes |= {f"{name}.{norm}.{kind}": (c,) for norm in norms for kind in ("weight", "bias")}
        for layer in ("qkv_local_h", "qkv_local_v") if i % 2 else ("conv_h", "conv_v"):
            shapes[f"{name}.{layer}.weight"] = (3 * c // 2, c // 2) if i % 2 else (3 * c // 2, c // 2, 1, 1)
            shapes[f"{name}.{layer}.bias"] = (3 * c // 2,)
        for layer in ("conv_input", "fuse_out"):
            shapes |= {f"{name}.{layer}.weight": (c, c, 1, 1), f"{name}.{layer}.bias": (c,)}
        shapes |= {
            f"{name}.ffn.fc1.weight": (4 * c, c),
            f"{name}.ffn.fc1.bias": (4 * c,),
            f"{name}.ffn.fc2.weight": (c, 4 * c),
            f"{name}.ffn.fc2.bias": (c,),
            f"{name}.PEG.PEG.weight": (c, 1, 3, 3),
            f"{name}.PEG.PEG.bias": (c,),
        }
        if prior:
            shapes[f"{name}.kv.weight"] = (2 * c, 256)
    return shapes


def reference(state, image, prior=None):
    """Stripformer as published: NCHW, explicit softmax, each strip on its own."""

    def weights(name):
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def conv(name, x, **options):
        weight, bias = weights(name)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, **options)

    def act(x):
        return torch.where(x < 0, 0.2 * x, x)

    def up(name, x):
        return act(F.conv_transpose2d(x, *weights(name), stride=2, padding=1))

    def residual(name, x):
        return act(conv(f"{name}.2", act(conv(f"{name}.0", x))) + x)

    def norm(name, x):
        weight, bias = (vector.view(1, -1, 1, 1) for vector in weights(name))
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def attention(qkv, heads):
        """Tokens (L, 3E), heads contiguous in E."""
        q, k, v = (part.view(len(qkv), heads, -1).transpose(0, 1) for part in qkv.chunk(3, dim=1))
        similarity = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        return (torch.softmax(similarity, -1) @ v).transpose(0, 1).flatten(1)

    def rows_within(name, x, heads):
        """Of one image (C, H, W): tokens are the pixels of a row."""
        weight, bias = weights(name)
        return torch.stack([attention(row.T @ weight.T + bias, heads).T for row in x.unbind(1)], 1)

    def rows_between(name, x, heads):
        """Of one image (C, H, W): tokens are rows, flattened with the channels outermost."""
        parts = conv(name, x[None])[0].chunk(3)
        tokens = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)
        return attention(tokens, heads).view(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)

    def block(name, x, heads):
        y = x
        if prior is not None:
            k, v = (prior @ state[f"{name}.kv.weight"].T)[:, :, None, None].chunk(2, dim=1)
            y = x * k + v
        halves = conv(f"{name}.conv_input", norm(f"{name}.attention_norm", y)).chunk(2, dim=1)
        intra = f"{name}.qkv_local_h.weight" in state
        strips, h, v = (rows_within, "qkv_local_h", "qkv_local_v") if intra else (rows_between, "conv_h", "conv_v")
        horizontal = torch.stack([strips(f"{name}.{h}", image, heads) for image in halves[0]])
        vertical = torch.stack([strips(f"{name}.{v}", image.mT, heads).mT for image in halves[1]])
        x = x + conv(f"{name}.fuse_out", torch.cat([horizontal, vertical], 1))
        hidden = F.gelu(F.linear(norm(f"{name}.ffn_norm", x).movedim(1, -1), *weights(f"{name}.ffn.fc1")))
        x = x + F.linear(hidden, *weights(f"{name}.ffn.fc2")).movedim(-1, 1)
        return x + conv(f"{name}.PEG.PEG", x, groups=x.shape[1])

    def blocks(stem, x, heads):
        number = 1
        while f"{stem}_{number}.ffn.fc1.bias" in state:
            x, number = block(f"{stem}_{number}", x, heads), number + 1
        return x

    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 32, 0, -height % 32), mode="reflect") - 0.5
    r1 = act(conv("encoder.en_layer1_1.0", padded))
    for i in (2, 3, 4):
        r1 = residual(f"encoder.en_layer1_{i}", r1)
    r2 = act(conv("encoder.en_layer2_1.0", r1, stride=2))
    for i in (2, 3, 4):
        r2 = residual(f"encoder.en_layer2_{i}", r2)
    x = blocks("Trans_block", act(conv("encoder.en_layer3_1.0", r2, stride=2)), 5)
    x = torch.cat([up("decoder.de_layer3_1.0", x), r2], 1)
    x = blocks("decoder.de_block", act(conv("decoder.de_layer2_2.0", x)), 3)
    x = up("decoder.de_layer2_1.0", x)
    mixed = act(conv("decoder.de_layer1_3.0", torch.cat([x, r1], 1)))
    x = residual("decoder.de_layer1_2", act(conv("decoder.de_layer1_3.2", mixed) + x))
    return (act(conv("decoder.de_layer1_1.0", x)) + padded + 0.5)[..., :height, :width]


def loaded(scale, dtype=torch.float64, **options):
    """A network with weights by name, and the weights; scales of norms are around 1."""
    model = Stripformer(**options).to(dtype).eval()
    state = named_weights(model.state_dict(), scale, dtype)
    state |= {name: 1 + value for name, value in state.items() if name.endswith("_norm.weight")}
    load_weights(model, {"params": state})
    return model, state


def images(count, height, width, dtype=torch.float64):
    return torch.rand(count, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("prior", "count"), [(0, 19_708_611), (256, 22_264_515)])
def test_parameters_are_the_published_ones(prior, count):
    with torch.device("meta"):
        state = Stripformer(prior=prior).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_shapes(prior)
    assert sum(tensor.numel() for tensor in state.values()) == count


def test_linear_layers_start_as_published():
    torch.manual_seed(0)
    ffn = Stripformer(width=16, blocks=1, decoder_blocks=1).Trans_block_1.ffn.requires_grad_(False)
    bound = (6 / (80 + 320)) ** 0.5  # Xavier: a uniform distribution over [-bound, bound]
    for layer in (ffn.fc1, ffn.fc2):
        assert layer.weight.abs().max() == pytest.approx(bound, rel=1e-3)
        assert layer.weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert layer.bias.std() == pytest.approx(1e-6, rel=0.5)


@pytest.mark.parametrize("size", [(2, 32, 32), (1, 64, 32), (2, 29, 50)])
@pytest.mark.parametrize("prior", [0, 7])
def test_it_equals_the_published_formulation(size, prior):
    model, state = loaded(1.0, **SMALL, prior=prior)
    image = images(*size)
    given = None if not prior else torch.randn(size[0], prior, dtype=torch.float64)
    with torch.inference_mode():
        restored, expected = model(image, given), reference(state, image, given)
    assert (restored.scales, restored.masks) == ((), ())
    assert (expected - image).std() > 0.05, "the network must do something"
    torch.testing.assert_close(restored.image, expected, rtol=1e-10, atol=1e-10)


def test_the_published_width_equals_it_in_float32():
    model, state = loaded(1.0, torch.float32, blocks=2, decoder_blocks=2, prior=256)
    image, prior = images(1, 30, 61, torch.float32), torch.randn(1, 256)
    with torch.inference_mode():
        restored, expected = model(image, prior).image, reference(state, image, prior)
    assert (expected - image).abs().max() > 0.1
    assert (restored - expected).abs().max() < 1e-4 * expected.abs().max()


def test_gradients_are_those_of_the_published_formulation():
    model, _ = loaded(1.0, **SMALL, prior=5)
    image, prior = images(1, 32, 36), torch.randn(1, 5, dtype=torch.float64)
    model.train()(image, prior).image.square().sum().backward()
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    reference(state, image, prior).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-7, atol=1e-7, msg=name)


def test_a_prior_that_scales_by_one_and_shifts_by_zero_changes_nothing():
    model, state = loaded(1.0, **SMALL, prior=3)
    for name, weight in state.items():
        if name.endswith(".kv.weight"):
            weight.copy_(torch.cat([torch.ones(len(weight) // 2, 3), torch.zeros(len(weight) // 2, 3)]))
    load_weights(model, state)
    plain = Stripformer(**SMALL).double().eval()
    load_weights(plain, {name: value for name, value in state.items() if ".kv." not in name})
    image = images(2, 32, 32)
    ones = torch.tensor([[0.5, 0.25, 0.25], [2.0, -3.0, 2.0]], dtype=torch.float64)
    with torch.inference_mode():
        expected = plain(image).image
        torch.testing.assert_close(model(image, ones).image, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(model(image).image, expected)
        assert not torch.allclose(model(image, 2 * ones).image, expected, rtol=1e-3)


def test_strips_of_rows_at_a_time_compute_the_same_as_all_at_once():
    model, _ = loaded(1.0, **SMALL)
    image = images(1, 96, 32)  # 24 rows in the bottleneck, several strips
    with torch.no_grad():
        found = model(image).image
    torch.testing.assert_close(found, model(image).image.detach(), rtol=1e-12, atol=1e-12)
