"""MIMO-UNet, MIMO-UNet+ and LBAG: published names, counts and wiring; unknown names."""

import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from relo.errors import ConfigError
from relo.models import Restoration, create_model, list_models, model_info
from relo.models.image_batches import pad_to_multiple

# The public state dicts' names and shapes (weights; every one has a bias), n residual blocks, h head channels.
PATTERNS = [
    (r"Encoder\.([012])\.layers\.\d+\.main\.[01]\.main\.0", lambda i, h: (32 << i, 32 << i, 3, 3)),
    (r"Decoder\.([012])\.layers\.\d+\.main\.[01]\.main\.0", lambda i, h: (128 >> i, 128 >> i, 3, 3)),
    (r"feat_extract\.([012345])\.main\.0", lambda i, h: [
        (32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (128, 64, 4, 4), (64, 32, 4, 4), (h, 32, 3, 3)][i]),
    (r"Convs\.([01])\.main\.0", lambda i, h: [(64, 128, 1, 1), (32, 64, 1, 1)][i]),
    (r"ConvsOut\.([01])\.main\.0", lambda i, h: [(h, 128, 3, 3), (h, 64, 3, 3)][i]),
    (r"AFFs\.0\.conv\.([01])\.main\.0", lambda i, h: [(32, 224, 1, 1), (32, 32, 3, 3)][i]),
    (r"AFFs\.1\.conv\.([01])\.main\.0", lambda i, h: [(64, 224, 1, 1), (64, 64, 3, 3)][i]),
    (r"FAM([12])\.merge\.main\.0", lambda i, h: {1: (128, 128, 3, 3), 2: (64, 64, 3, 3)}[i]),
    (r"SCM1\.main\.([0123])\.main\.0", lambda i, h: [
        (32, 3, 3, 3), (64, 32, 1, 1), (64, 64, 3, 3), (125, 64, 1, 1)][i]),
    (r"SCM2\.main\.([0123])\.main\.0", lambda i, h: [
        (16, 3, 3, 3), (32, 16, 1, 1), (32, 32, 3, 3), (61, 32, 1, 1)][i]),
    (r"SCM([12])\.conv\.main\.0", lambda i, h: {1: (128, 128, 1, 1), 2: (64, 64, 1, 1)}[i]),
]  # fmt: skip
TENSORS = {"mimo_unet": 244, "mimo_unet_plus": 532, "lbag": 532}


@pytest.mark.parametrize("name", ["mimo_unet", "mimo_unet_plus", "lbag"])
def test_parameter_counts_and_names_are_the_published_ones(name):
    with torch.device("meta"):
        state = create_model(name).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == model_info(name).parameters
    assert len(state) == TENSORS[name]
    heads = 4 if name == "lbag" else 3
    for key, tensor in state.items():
        stem, _, kind = key.rpartition(".")
        matches = [(re.fullmatch(p, stem), shape) for p, shape in PATTERNS if re.fullmatch(p, stem)]
        assert len(matches) == 1, key
        match, shape = matches[0]
        expected = shape(int(match.group(1)), heads)
        transposed = stem in ("feat_extract.3.main.0", "feat_extract.4.main.0")
        assert tuple(tensor.shape) == (expected if kind == "weight" else (expected[1 if transposed else 0],)), key
    order = list(dict.fromkeys(key.split(".")[0] for key in state))
    assert order == [
        "Encoder",
        "feat_extract",
        "Decoder",
        "Convs",
        "ConvsOut",
        "AFFs",
        "FAM1",
        "SCM1",
        "FAM2",
        "SCM2",
    ]


def test_published_counts():
    published = {"mimo_unet": 6_807_171, "mimo_unet_plus": 16_107_651, "lbag": 16_109_670}
    assert {name: model_info(name).parameters for name in published} == published
    assert set(published) <= set(list_models())


def reference_forward(state, x, num_res, heads_only=False):
    """MIMO-UNet written out from the fact sheet with functional calls only."""

    def conv(name, x, stride=1):
        weight = state[f"{name}.main.0.weight"]
        return F.conv2d(x, weight, state[f"{name}.main.0.bias"], stride, weight.shape[-1] // 2)

    def up(name, x):
        return F.conv_transpose2d(x, state[f"{name}.main.0.weight"], state[f"{name}.main.0.bias"], 2, 1).relu()

    def blocks(name, x):
        for j in range(num_res):
            inner = conv(f"{name}.layers.{j}.main.0", x).relu()
            x = x + conv(f"{name}.layers.{j}.main.1", inner)
        return x

    def scm(name, image):
        y = image
        for j in range(4):
            y = conv(f"{name}.main.{j}", y).relu()
        return conv(f"{name}.conv", torch.cat([image, y], 1))

    def fam(name, f, g):
        return f + conv(f"{name}.merge", f * g)

    def aff(name, *xs):
        return conv(f"{name}.conv.1", conv(f"{name}.conv.0", torch.cat(xs, 1)).relu())

    half = lambda x: F.interpolate(x, scale_factor=0.5)  # noqa: E731
    double = lambda x: F.interpolate(x, scale_factor=2)  # noqa: E731
    x2 = half(x)
    x4 = half(x2)
    res1 = blocks("Encoder.0", conv("feat_extract.0", x).relu())
    res2 = blocks("Encoder.1", fam("FAM2", conv("feat_extract.1", res1, 2).relu(), scm("SCM2", x2)))
    z = blocks("Encoder.2", fam("FAM1", conv("feat_extract.2", res2, 2).relu(), scm("SCM1", x4)))
    z12, z21, z42 = half(res1), double(res2), double(z)
    z41 = double(z42)
    res2 = aff("AFFs.1", z12, res2, z42)
    res1 = aff("AFFs.0", res1, z21, z41)
    z = blocks("Decoder.0", z)
    head4 = conv("ConvsOut.0", z)
    z = blocks("Decoder.1", conv("Convs.0", torch.cat([up("feat_extract.3", z), res2], 1)).relu())
    head2 = conv("ConvsOut.1", z)
    z = blocks("Decoder.2", conv("Convs.1", torch.cat([up("feat_extract.4", z), res1], 1)).relu())
    return (head4, head2, conv("feat_extract.5", z)), (x4, x2, x)


def test_mimo_unet_equals_the_written_out_reference():
    torch.manual_seed(0)
    model = create_model("mimo_unet", num_res=2, width=4).double().eval()
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    heads, inputs = reference_forward(model.state_dict(), x, 2)
    restored = model(x)
    for scale, head, image in zip(restored.scales, heads, inputs, strict=True):
        torch.testing.assert_close(scale, head + image)
    assert restored.image is restored.scales[-1]
    assert restored.masks == ()


@pytest.mark.parametrize(("clamp", "multiscale"), [(0.1, True), (0.0, True), (0.1, False)])
def test_lbag_gates_the_residuals(clamp, multiscale):
    torch.manual_seed(1)
    model = create_model("lbag", num_res=1, width=4, clamp_gate=clamp, multiscale_gate=multiscale).double().eval()
    with torch.no_grad():  # strong logits, so that the clamp matters
        for layer in (model.feat_extract[5], *model.ConvsOut):
            layer.main[0].weight[0] *= 200
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    heads, inputs = reference_forward(model.state_dict(), x, 1)
    restored = model(x)
    gates = [torch.sigmoid(head[:, :1]).clamp(min=clamp) for head in heads]
    assert any((gate == clamp).any() for gate in gates) == (clamp > 0)
    for k, (head, image) in enumerate(zip(heads, inputs, strict=True)):
        factor = gates[k] if multiscale or k == 2 else 1
        torch.testing.assert_close(restored.scales[k], factor * head[:, 1:] + image)
    assert len(restored.masks) == (3 if multiscale else 1)
    for mask, gate in zip(restored.masks[::-1], gates[::-1], strict=False):
        torch.testing.assert_close(mask, gate)


def test_padding_reflects_at_the_bottom_and_right_only():
    x = torch.arange(5 * 6.0).view(1, 1, 5, 6)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 1, 8, 8)
    assert torch.equal(padded[..., :5, :6], x)
    assert torch.equal(padded[..., 5:, :6], x[..., [3, 2, 1], :])
    assert torch.equal(padded[..., :5, 6:], x[..., [4, 3]])
    assert torch.equal(pad_to_multiple(torch.ones(1, 1, 1, 4), 4), torch.ones(1, 1, 4, 4))


def test_dropout_only_in_training_and_only_where_published():
    blur = torch.rand(1, 3, 16, 16)
    torch.manual_seed(0)
    plain = create_model("mimo_unet", num_res=1, width=8).train()
    assert torch.equal(plain(blur).image, plain(blur).image)
    dropping = create_model("lbag", num_res=1, width=8, dropout=0.5).train()
    assert not torch.equal(dropping(blur).image, dropping(blur).image)
    dropping.eval()
    assert torch.equal(dropping(blur).image, dropping(blur).image)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("unet", {}, "there is no model 'unet'. Known: mimo_unet, "),
        ("lbag", {"widht": 8}, "no option 'widht'. Known: num_res, width"),
    ],
)
def test_unknown_names_are_explained(name, options, match):
    with pytest.raises(ConfigError, match=match):
        create_model(name, **options)


def test_importing_the_packages_imports_no_torch():
    code = (
        "import relo.models, relo.training, sys; sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_restoration_goes_to_a_dtype_as_a_whole():
    tensors = torch.rand(3, 1, 3, 4, 4, dtype=torch.float64)
    restored = Restoration(tensors[0], (tensors[1], tensors[0]), (tensors[2],)).to(torch.float32)
    assert {tensor.dtype for tensor in (restored.image, *restored.scales, *restored.masks)} == {torch.float32}
    assert torch.equal(restored.masks[0], tensors[2].float())
