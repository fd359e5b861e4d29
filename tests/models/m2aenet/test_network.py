"""M2AENet: counts, the network written out from its equations, warm start, what it returns in training."""

import pytest
import torch
import torch.nn.functional as F
from support.networks import balance_mask
from torch import nn

from relo.errors import ConfigError
from relo.models import Restoration, create_model, load_weights, model_info
from relo.models.restoration import MotionRestoration

TINY = {"width": 8, "enc_blocks": [1, 1, 1, 2]}


def randomised(model, std=0.2):
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def test_parameter_counts():
    with torch.device("meta"):
        state = create_model("m2aenet").state_dict()
        base = create_model("nafnet").state_dict()
    count = {
        part: sum(state[name].numel() for name in state if part in name)
        for part in ("predictor.", "analyzer.", ".dconv.")
    }
    assert count == {"predictor.": 173_378, "analyzer.": 9_220, ".dconv.": 28 * 5_120}
    assert sum(tensor.numel() for tensor in state.values()) == model_info("m2aenet").parameters == 17_437_865
    rest = {name: tensor.shape for name, tensor in state.items() if not any(part in name for part in count)}
    assert rest == {name: tensor.shape for name, tensor in base.items()}


def written_out(state, blur, mask=None):
    """M2AENet as (N, C, H, W) with functional calls only, after the equations."""

    def conv(name, x, **options):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def norm(name, x):
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        x = (x - mean) / (variance + 1e-6).sqrt()
        return state[f"{name}.weight"].view(1, -1, 1, 1) * x + state[f"{name}.bias"].view(1, -1, 1, 1)

    def product(x):
        a, b = x.chunk(2, 1)
        return a * b

    def deformable(name, x, offsets):
        out = state[f"{name}.bias"].view(1, -1, 1, 1).expand_as(x).clone()
        _, _, height, width = x.shape
        padded = F.pad(x, (30, 30, 30, 30))
        for tap, offset in enumerate(offsets):
            y = torch.arange(height).view(-1, 1) + tap // 3 - 1 + offset[:, 0]
            x_ = torch.arange(width) + tap % 3 - 1 + offset[:, 1]
            top, left = y.floor().long(), x_.floor().long()
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
                share = (1 - (y - top - row).abs()) * (1 - (x_ - left - column).abs())
                for n in range(len(x)):
                    values = padded[n][:, top[n] + row + 30, left[n] + column + 30]
                    out[n] += state[f"{name}.weight"][:, 0, tap // 3, tap % 3].view(-1, 1, 1) * share[n] * values
        return out

    def block(name, x, m=None, offsets=None):
        f = norm(f"{name}.norm1", x)
        wide = conv(f"{name}.conv2", conv(f"{name}.conv1", f), padding=1, groups=2 * f.shape[1])
        if m is not None:
            wide = m * wide + (1 - m) * torch.cat([f, f], 1)
        g = product(wide)
        g = g * conv(f"{name}.sca.1", g.mean((2, 3), keepdim=True))
        x = x + state[f"{name}.beta"] * conv(f"{name}.conv3", g)
        wide = conv(f"{name}.conv4", norm(f"{name}.norm2", x))
        if offsets is not None:
            wide = deformable(f"{name}.dconv", wide, offsets)
        return x + state[f"{name}.gamma"] * conv(f"{name}.conv5", product(wide))

    def blocks(prefix, x, *guide):
        index = 0
        while f"{prefix}.{index}.beta" in state:
            x, index = block(f"{prefix}.{index}", x, *guide), index + 1
        return x

    height, width = blur.shape[-2:]
    rows, columns = -(-height // 8), -(-width // 8)
    x = conv("intro", F.pad(blur, (0, -width % 16, 0, -height % 16)), padding=1)
    skips = []
    for stage in range(3):
        x = blocks(f"encoders.{stage}", x)
        skips.append(x)
        x = conv(f"downs.{stage}", x, stride=2)
    tokens = x[..., :rows, :columns].permute(0, 2, 3, 1)

    def linear(name, x):
        return F.linear(x, state[f"predictor.{name}.weight"], state[f"predictor.{name}.bias"])

    f = F.gelu(linear("features.0", tokens))
    f = F.layer_norm(
        f, f.shape[-1:], state["predictor.features.2.weight"], state["predictor.features.2.bias"], 1e-5
    )
    f = linear("features.3", f)
    half = f.shape[-1] // 2
    f = torch.cat([f[..., :half], f[..., half:].mean((1, 2), keepdim=True).expand(-1, rows, columns, -1)], -1)
    logits = linear("logits.4", F.gelu(linear("logits.2", F.gelu(linear("logits.0", f))))).permute(0, 3, 1, 2)
    m = (logits[:, :1] > logits[:, 1:]).to(x.dtype) if mask is None else mask
    m = F.pad(m, (0, x.shape[-1] - columns, 0, x.shape[-2] - rows))
    o = conv("analyzer", x, padding=1)
    offsets = []
    for n in range(9):
        tau = 2 * n / 8 - 1
        offsets.append(0.5 * (o[:, :2] + o[:, 2:]) * tau**2 + 0.5 * (o[:, 2:] - o[:, :2]) * tau)
    x = blocks("encoders.3", x, m, offsets)
    skips.append(x)
    x = blocks("middle_blks", conv("downs.3", x, stride=2))
    for stage in range(4):
        x = F.pixel_shuffle(conv(f"ups.{stage}.0", x), 2) + skips[-1 - stage]
        x = blocks(f"decoders.{stage}", x)
    return conv("ending", x, padding=1)[..., :height, :width] + blur, logits


@pytest.mark.parametrize("size", [(32, 48), (37, 51)])
@pytest.mark.parametrize("given", [False, True])
def test_the_network_equals_its_equations(size, given):
    model = randomised(create_model("m2aenet", **TINY).double()).eval()
    with torch.no_grad():
        model.analyzer.weight *= 0.3  # motion of some pixels, not of hundreds
        blur = torch.rand(2, 3, *size, dtype=torch.float64)
        balance_mask(model, blur)
        assert 0.2 < model.mask_of(model.mask_features(blur)).mean() < 0.8
        cells = 2, 1, -(-size[0] // 8), -(-size[1] // 8)
        mask = (torch.rand(cells) < 0.4).double() if given else None
        expected, logits = written_out(model.state_dict(), blur, mask)
        for model.pruned in (True, False):
            found = model(blur, mask)
            torch.testing.assert_close(found.image, expected, atol=1e-9, rtol=1e-9)
    shown = logits.softmax(1)[:, :1] if mask is None else mask
    enlarged = shown.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., : size[0], : size[1]]
    torch.testing.assert_close(found.masks[-1], enlarged)
    assert isinstance(found, Restoration) and len(found.masks) == 1 and found.scales == ()


def test_a_mask_from_features_is_the_mask_of_the_network():
    model = randomised(create_model("m2aenet", **TINY)).eval()
    blur = torch.rand(2, 3, 75, 100)
    with torch.no_grad():
        mask = model.mask_of(model.mask_features(blur))
        assert mask.shape == (2, 1, 10, 13) and 0 < mask.mean() < 1
        assert torch.equal(model(blur, mask).image, model(blur).image)


def test_nafnet_weights_start_it_exactly(tmp_path):
    torch.manual_seed(0)
    donor = randomised(create_model("nafnet", **TINY)).eval()
    model = create_model("m2aenet", **TINY).eval()
    left = load_weights(model, {"params": donor.state_dict()})
    assert {name.split(".")[0] for name in left if not name.startswith("encoders.3.")} == {"predictor", "analyzer"}
    assert all(".dconv." in name for name in left if name.startswith("encoders"))
    blur = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(model(blur, torch.ones(2, 1, 6, 8)).image, donor(blur).image)
    assert load_weights(create_model("m2aenet", **TINY), model.state_dict()) == ()


def test_a_part_of_an_m2aenet_is_no_nafnet():
    from relo.errors import TrainingError

    state = create_model("m2aenet", **TINY).state_dict()
    del state["analyzer.weight"]
    with pytest.raises(TrainingError, match="analyzer"):
        load_weights(create_model("m2aenet", **TINY), state)


def test_training_returns_what_the_losses_need():
    model = randomised(create_model("m2aenet", **TINY), 0.1).train()
    blur = torch.rand(2, 3, 44, 61)
    found = model(blur)
    assert isinstance(found, MotionRestoration)
    assert found.logits.shape == (2, 2, 6, 8) and found.offsets.shape == (2, 4, 6, 8)
    (found.image.square().mean() + found.logits.square().mean() + found.offsets.square().mean()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert isinstance(model.eval()(blur), Restoration)
    moved = found.to(torch.float64)
    assert isinstance(moved, MotionRestoration) and moved.offsets.dtype == moved.masks[0].dtype == torch.float64


def test_the_mask_is_drawn_in_training_with_a_gradient_straight_through():
    model = randomised(create_model("m2aenet", **TINY), 0.1).train()
    blur = torch.rand(1, 3, 64, 64)
    torch.manual_seed(5)
    first = model(blur).image
    second = model(blur).image
    torch.manual_seed(5)
    assert torch.equal(first, model(blur).image) and not torch.equal(first, second)
    first.square().mean().backward()
    assert model.predictor.logits[-1].weight.grad.abs().max() > 0, "the image teaches the mask"


@pytest.mark.parametrize("form", ["linear", "learned"])
def test_other_trajectories(form):
    model = randomised(create_model("m2aenet", **TINY, trajectory_form=form), 0.1).train()
    found = model(torch.rand(1, 3, 32, 32))
    assert found.offsets.shape == (1, 18 if form == "learned" else 4, 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 3, "enc_blocks": [1], "dec_blocks": [1]}, "multiple of 4"),
        ({"enc_blocks": [1, 1], "dec_blocks": [1]}, "decoder stages"),
        ({"rep": "concat"}, "no option 'rep'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        create_model("m2aenet", **options)


def test_a_mask_of_another_size_is_refused():
    model = create_model("m2aenet", **TINY).eval()
    with pytest.raises(ValueError, match="expected a mask"):
        model(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64))
