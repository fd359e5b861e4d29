"""LoFormer: published names and counts, values against a second implementation, tiles, prior."""

import math

import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from support.named_weights import named_weights

from relo.models import create_model, load_weights
from relo.models.loformer import LoFormer, cosine_transform

SMALL = {"dim": 4, "enc_blocks": [1, 2, 1], "middle_blocks": 1, "dec_blocks": [2, 1, 1], "heads": [1, 2, 2, 4]}
PRIOR = 16
HEADS = (1, 2, 4, 8)


def published_shapes(dim, enc_blocks, middle_blocks, dec_blocks, prior):
    """Every name and shape, written from the published layout."""
    shapes = {
        "patch_embed.proj.weight": (dim, 3, 3, 3),
        "output.weight": (3, 2 * dim, 3, 3),
        "output.bias": (3,),
    }
    for j, channels in enumerate((dim, 2 * dim, 4 * dim)):
        shapes[f"downs.{j}.body.0.weight"] = (channels // 2, channels, 3, 3)
    for j, channels in enumerate((8 * dim, 4 * dim, 2 * dim)):
        shapes[f"ups.{j}.body.0.weight"] = (2 * channels, channels, 3, 3)
    for j, channels in enumerate((4 * dim, 2 * dim)):
        shapes[f"reduce_chan.{j}.weight"] = (channels, 2 * channels, 1, 1)
        shapes[f"reduce_chan.{j}.bias"] = (channels,)
    levels = [(f"encoders.{j}", dim << j, HEADS[j], count) for j, count in enumerate(enc_blocks)]
    levels += [("middle_blks", 8 * dim, 8, middle_blocks)]
    widths = (4 * dim, 2 * dim, 2 * dim)
    levels += [(f"decoders.{j}", widths[j], HEADS[2 - j], count) for j, count in enumerate(dec_blocks)]
    for level, channels, heads, count in levels:
        hidden = int(2.66 * channels)
        for layer in (f"{level}.{i}.trans{k}" for i in range(count) for k in (1, 2)):
            shapes |= {f"{layer}.norm{k}.body.{kind}": (channels,) for k in (1, 2) for kind in ("weight", "bias")}
            shapes[f"{layer}.attn.0.temperature"] = (heads, 1, 1)
            matrices = {
                "attn.0.qkv": (3 * channels, channels, 1, 1),
                "attn.0.qkv_dwconv": (3 * channels, 1, 3, 3),
                "attn.0.project_out": (channels, channels, 1, 1),
                "attn.0.mlp.0": (64, 64),
                "ffn.0.project_in": (2 * hidden, channels, 1, 1),
                "ffn.0.dwconv": (2 * hidden, 1, 3, 3),
                "ffn.0.project_out": (channels, hidden, 1, 1),
            }
            if prior and level.startswith("decoders"):
                matrices["attn.0.kv"] = (2 * channels, prior)
            for name, shape in matrices.items():
                shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    return shapes


def dct(x, inverse=False):
    """Over rows and columns of (N, C, H, W), by the definition."""

    def basis(size):
        k, i = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        matrix = torch.cos(math.pi * (i.double() + 0.5) * k / size) * math.sqrt(2 / size)
        matrix[0] /= math.sqrt(2)
        return (matrix.T if inverse else matrix).to(x)

    return basis(x.shape[2]) @ x @ basis(x.shape[3]).T


def reference(state, image, heads, prior=None):
    """LoFormer as it was published, NCHW throughout, untiled."""

    def conv(name, x, depthwise=False):
        weight = state[f"{name}.weight"]
        groups = weight.shape[0] if depthwise else 1
        return F.conv2d(x, weight, state.get(f"{name}.bias"), 1, weight.shape[-1] // 2, 1, groups)

    def norm(name, x):
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        weight, bias = (state[f"{name}.body.{kind}"].view(1, -1, 1, 1) for kind in ("weight", "bias"))
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def attention(name, x, count):
        n, c, height, width = x.shape
        if prior is not None and f"{name}.kv.weight" in state:
            modulation = prior @ state[f"{name}.kv.weight"].T + state[f"{name}.kv.bias"]
            k, v = modulation[:, :, None, None].chunk(2, dim=1)
            x = x * k + v
        x = conv(f"{name}.qkv_dwconv", conv(f"{name}.qkv", x), depthwise=True)
        x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="reflect")
        high, wide = x.shape[2] // 8, x.shape[3] // 8
        windows = x.reshape(n, 3, count, c // count, high, 8, wide, 8).permute(1, 0, 4, 6, 2, 3, 5, 7)
        q, k, v = windows.reshape(3, n, high, wide, count, c // count, 64)
        weights = torch.softmax(q @ k.transpose(-2, -1) * state[f"{name}.temperature"], dim=-1)
        gate = F.gelu(v @ state[f"{name}.mlp.0.weight"].T + state[f"{name}.mlp.0.bias"])
        mixed = (weights @ v * gate).reshape(n, high, wide, c, 8, 8).permute(0, 3, 1, 4, 2, 5)
        return conv(f"{name}.project_out", mixed.reshape(n, c, 8 * high, 8 * wide)[..., :height, :width])

    def layer(name, x, count):
        spectrum = dct(x)
        spectrum = spectrum + attention(f"{name}.attn.0", norm(f"{name}.norm1", spectrum), count)
        x = dct(spectrum, inverse=True)
        hidden = conv(f"{name}.ffn.0.project_in", norm(f"{name}.norm2", x))
        a, b = conv(f"{name}.ffn.0.dwconv", hidden, depthwise=True).chunk(2, dim=1)
        return x + conv(f"{name}.ffn.0.project_out", F.gelu(a) * b)

    def level(name, x, count):
        depth = name.count(".") + 1
        for i in range(len({key.split(".")[depth] for key in state if key.startswith(f"{name}.")})):
            x = layer(f"{name}.{i}.trans2", layer(f"{name}.{i}.trans1", x, count), count)
        return x

    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 8, 0, -height % 8), mode="reflect")
    x, skips = conv("patch_embed.proj", padded), []
    for j in range(3):
        skips.append(level(f"encoders.{j}", x, heads[j]))
        x = F.pixel_unshuffle(conv(f"downs.{j}.body.0", skips[-1]), 2)
    x = level("middle_blks", x, heads[3])
    for j in range(3):
        x = torch.cat([F.pixel_shuffle(conv(f"ups.{j}.body.0", x), 2), skips.pop()], 1)
        x = conv(f"reduce_chan.{j}", x) if j < 2 else x
        x = level(f"decoders.{j}", x, heads[2 - j])
    return (conv("output", x) + padded)[..., :height, :width]


def network(scale, dtype=torch.float64, **options):
    model = LoFormer(**(SMALL | options)).to(dtype).eval()
    state = named_weights(model.state_dict(), scale, dtype)
    load_weights(model, state)
    return model, state


def batch(size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(size[0], 3, *size[1:], dtype=dtype, generator=generator)
    return image, torch.randn(size[0], PRIOR, dtype=dtype, generator=generator)


@pytest.mark.parametrize(
    ("name", "options", "counts"),
    [
        ("loformer", (32, (1, 2, 3), 7, (3, 2, 2)), (16_382_661, 17_040_581)),
        ("loformer_s", (32, (1, 2, 3), 7, (3, 2, 2)), (16_382_661, 17_040_581)),
        ("loformer_b", (36, (1, 2, 6), 9, (6, 2, 2)), (27_925_041, 29_109_297)),
        ("loformer_l", (48, (1, 2, 6), 9, (6, 2, 2)), (49_031_521, 50_610_529)),
    ],
)
def test_parameters_are_the_published_ones(name, options, counts):
    for prior, count in zip((0, 256), counts, strict=True):
        with torch.device("meta"):
            state = create_model(name, prior=prior).state_dict()
        assert {key: tuple(tensor.shape) for key, tensor in state.items()} == published_shapes(*options, prior)
        assert sum(tensor.numel() for tensor in state.values()) == count


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 3), (8, 8), (37, 90)])
def test_the_cosine_transform_is_that_of_scipy(height, width, inverse):
    x = torch.randn(2, height, width, 5, dtype=torch.float64)
    transform = scipy.fft.idctn if inverse else scipy.fft.dctn
    expected = torch.from_numpy(transform(x.numpy(), axes=(1, 2), norm="ortho"))
    torch.testing.assert_close(cosine_transform(x, inverse=inverse), expected, rtol=1e-12, atol=1e-12)
    single = cosine_transform(x.float(), inverse=inverse)
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.7, 1.5])
@pytest.mark.parametrize("size", [(2, 64, 64), (1, 67, 85), (3, 72, 40)])
@pytest.mark.parametrize("prior", [0, PRIOR])
def test_it_equals_the_published_formulation(scale, size, prior):
    model, state = network(scale, prior=prior)
    image, vector = batch(size)
    vector = vector if prior else None
    with torch.inference_mode():
        restored = model(image, vector)
        expected = reference(state, image, SMALL["heads"], vector)
    assert (restored.scales, restored.masks) == ((), ())
    assert (expected - image).std() > 0.05, "the network must do something"
    largest = float(expected.abs().max())
    torch.testing.assert_close(restored.image, expected, rtol=0, atol=1e-10 * max(largest, 1))


def test_the_published_width_equals_it_in_float32():
    options = {"dim": 32, "enc_blocks": [1, 1, 1], "middle_blocks": 1, "dec_blocks": [1, 1, 1], "heads": HEADS}
    model, state = network(0.7, torch.float32, **options, prior=PRIOR)
    image, prior = batch((1, 66, 93), torch.float32)
    with torch.inference_mode():
        restored, expected = model(image, prior).image, reference(state, image, HEADS, prior)
    assert (expected - image).abs().max() > 0.1
    torch.testing.assert_close(restored, expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_published_formulation():
    model, state = network(0.7, prior=PRIOR)
    image, prior = batch((2, 64, 48))
    with torch.inference_mode():
        model(image, prior)  # what is kept of it must not stand in the way of gradients
    model.train()(image, prior).image.square().sum().backward()
    expected = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    reference(expected, image, SMALL["heads"], prior).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("height", [112, 61])
def test_tiles_are_restored_one_by_one_and_blended(height):
    """The image is cut before it is padded: tiles of 80 px share 48 rows and 35 columns; 61 rows are one tile."""
    model, state = network(0.7, tile=80, prior=PRIOR)
    image, prior = batch((2, height, 125))
    expected = torch.zeros_like(image)
    rows, columns = (torch.linspace(0, 1, shared, dtype=torch.float64) for shared in (48, 35))
    downwards = {0: torch.cat([torch.ones(32), 1 - rows]), 32: torch.cat([rows, torch.ones(32)])}
    across = {0: torch.cat([torch.ones(45), 1 - columns]), 45: torch.cat([columns, torch.ones(45)])}
    if height < 80:
        downwards = {0: torch.ones(height)}
    with torch.inference_mode():
        for top, vertical in downwards.items():
            for left, horizontal in across.items():
                tile = image[..., top : top + 80, left : left + 80]
                padded = F.pad(tile, (0, 0, 0, -tile.shape[-2] % 8), mode="reflect")
                residual = reference(state, padded, SMALL["heads"], prior)[..., : tile.shape[-2], :] - tile
                expected[..., top : top + 80, left : left + 80] += residual * vertical[:, None] * horizontal
        restored = model(image, prior).image
    torch.testing.assert_close(restored, image + expected, rtol=1e-10, atol=1e-10)


def test_there_are_no_tiles_in_training_or_where_one_is_enough():
    model, state = network(0.7, tile=64)
    image, _ = batch((1, 40, 99))
    with torch.inference_mode():
        whole = reference(state, image, SMALL["heads"])
        assert (model(image).image - whole).abs().max() > 1e-3
        torch.testing.assert_close(model.train()(image).image, whole, rtol=1e-10, atol=1e-10)
        model.eval()
        for tile in (0, 104):
            model.tile = tile
            torch.testing.assert_close(model(image).image, whole, rtol=1e-10, atol=1e-10)


def test_a_recorded_graph_has_no_tiles(monkeypatch):
    model, state = network(0.7, tile=64)
    image, _ = batch((1, 40, 99))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.inference_mode():
        whole = reference(state, image, SMALL["heads"])
        torch.testing.assert_close(model(image).image, whole, rtol=1e-10, atol=1e-10)


def test_a_prior_that_changes_nothing_gives_the_plain_network():
    model, state = network(0.7, prior=PRIOR)
    for name, tensor in state.items():
        if ".kv." in name:
            channels = len(tensor) // 2
            state[name] = torch.zeros_like(tensor)
            if name.endswith("bias"):
                state[name][:channels] = 1.0
    load_weights(model, state)
    image, prior = batch((2, 24, 40))
    with torch.inference_mode():
        torch.testing.assert_close(model(image, prior).image, model(image).image, rtol=1e-12, atol=1e-12)
