"""Latent encoder and diffusion: published names, values against a second implementation, noise, errors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.named_weights import named_weights

from relo.models.blurdm import LatentDiffusion, LatentEncoder


def encoder_shapes(batch_norm):
    shapes = {"E.0": (64, 96, 3, 3), "E.8": (128, 64, 3, 3), "E.10": (128, 128, 3, 3), "E.12": (256, 128, 3, 3)}
    for block in range(2, 8):
        shapes |= {f"E.{block}.body.{index}": (64, 64, 3, 3) for index in ((0, 3) if batch_norm else (0, 2))}
    shapes |= {"mlp.0": (256, 256), "mlp.2": (256, 256)}
    both = {f"{name}.weight": shape for name, shape in shapes.items()}
    both |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    if batch_norm:
        kinds = ("weight", "bias", "running_mean", "running_var")
        norms = [f"E.{block}.body.{index}" for block in range(2, 8) for index in (1, 4)]
        both |= {f"{norm}.{kind}": (64,) for norm in norms for kind in kinds}
        both |= {f"{norm}.num_batches_tracked": () for norm in norms}
    return both


def estimator_shapes():
    first = {"resmlp.0.weight": (256, 513), "resmlp.0.bias": (256,)}
    others = {f"resmlp.{i}.resmlp.0.weight": (256, 256) for i in range(2, 7)}
    return first | others | {f"resmlp.{i}.resmlp.0.bias": (256,) for i in range(2, 7)}


def named(module, dtype=torch.float64):
    """Weights by name; variances above 0, counters and schedules as they are."""
    state = module.state_dict()
    kept = ("alphas", "betas_bar", "time_stamps_list", "num_batches_tracked")
    values = named_weights({k: v for k, v in state.items() if not k.endswith(kept)}, 1.0, dtype)
    values = {k: v.abs() + 0.5 if k.endswith("running_var") else v for k, v in values.items()}
    module.load_state_dict(values | {k: v for k, v in state.items() if k.endswith(kept)})
    return {k: v.to(dtype) for k, v in module.state_dict().items()}


def reference_encoder(state, first, second, prefix="", batch_norm=False):
    """Written from the published layout, step by step."""

    def conv(name, x):
        return F.conv2d(x, state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"], padding=1)

    def norm(name, x):
        mean, variance = state[f"{prefix}{name}.running_mean"], state[f"{prefix}{name}.running_var"]
        scaled = (x - mean.view(-1, 1, 1)) / torch.sqrt(variance.view(-1, 1, 1) + 1e-5)
        return scaled * state[f"{prefix}{name}.weight"].view(-1, 1, 1) + state[f"{prefix}{name}.bias"].view(
            -1, 1, 1
        )

    def leaky(x):
        return torch.where(x > 0, x, 0.1 * x)

    n, _, h, w = first.shape
    cells = [
        x.reshape(n, 3, h // 4, 4, w // 4, 4).permute(0, 1, 3, 5, 2, 4).reshape(n, 48, h // 4, w // 4)
        for x in (first, second)
    ]
    x = leaky(conv("E.0", torch.cat(cells, 1)))
    for block in range(2, 8):
        if batch_norm:
            y = leaky(norm(f"E.{block}.body.1", conv(f"E.{block}.body.0", x)))
            y = norm(f"E.{block}.body.4", conv(f"E.{block}.body.3", y))
        else:
            y = conv(f"E.{block}.body.2", leaky(conv(f"E.{block}.body.0", x)))
        x = x + y
    for layer in ("E.8", "E.10", "E.12"):
        x = leaky(conv(layer, x))
    x = x.mean((2, 3))
    for layer in ("mlp.0", "mlp.2"):
        x = leaky(x @ state[f"{prefix}{layer}.weight"].T + state[f"{prefix}{layer}.bias"])
    return x


def reference_diffusion(state, blur, noise, steps):
    """All states, with the schedule written out."""
    alphas = np.linspace(1, 2, steps + 1)
    betas = np.linspace(0, 0.02, steps)
    bars = [0.0] + [
        np.sqrt(sum((alphas[s - 1] / alphas[t]) ** 2 * betas[s - 1] for s in range(1, t + 1)))
        for t in range(1, steps + 1)
    ]

    def estimate(name, z, t, c):
        x = torch.cat([c, torch.full((len(z), 1), t / steps, dtype=z.dtype), z], 1)
        for layer in ("0", *(f"{i}.resmlp.0" for i in range(2, 7))):
            x = x @ state[f"{name}.resmlp.{layer}.weight"].T + state[f"{name}.resmlp.{layer}.bias"]
            x = torch.where(x > 0, x, 0.1 * x)
        return x

    condition = reference_encoder(state, blur, blur, "condition_encoder.")
    states = [condition + bars[steps] * noise]
    for t in range(steps, 0, -1):
        z = states[-1]
        coefficient = bars[1] if t == 1 else alphas[t] * bars[t] / alphas[t - 1] - bars[t - 1]
        e, n = estimate("lcr_model", z, t, condition), estimate("noise_model", z, t, condition)
        states.append((alphas[t] * z - e) / alphas[t - 1] - coefficient * n)
    return states


@pytest.mark.parametrize(("batch_norm", "count"), [(False, 1_146_688), (True, 1_148_224)])
def test_encoder_has_the_published_parameters(batch_norm, count):
    encoder = LatentEncoder(batch_norm)
    assert {k: tuple(v.shape) for k, v in encoder.state_dict().items()} == encoder_shapes(batch_norm)
    assert sum(p.numel() for p in encoder.parameters()) == count


def test_diffusion_has_the_published_parameters():
    diffusion = LatentDiffusion(5)
    expected = {"alphas": (6,), "betas_bar": (5,), "time_stamps_list": (5,)}
    expected |= {f"condition_encoder.{k}": v for k, v in encoder_shapes(False).items()}
    expected |= {f"{kind}.{k}": v for kind in ("lcr_model", "noise_model") for k, v in estimator_shapes().items()}
    assert {k: tuple(v.shape) for k, v in diffusion.state_dict().items()} == expected
    assert sum(p.numel() for p in diffusion.parameters()) == 2_067_776
    assert diffusion.time_stamps_list.tolist() == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 16, 24), (1, 3, 40, 12)])
def test_encoder_equals_the_reference(batch_norm, size):
    encoder = LatentEncoder(batch_norm).double().eval()
    state = named(encoder)
    first, second = torch.rand(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = reference_encoder(state, first, second, batch_norm=batch_norm)
    with torch.no_grad():
        torch.testing.assert_close(encoder(first, second), expected, rtol=1e-10, atol=1e-12)
        single = encoder.float()(first.float(), second.float())
        assert float((single - expected).abs().max() / expected.abs().max()) < 1e-4
        assert not torch.allclose(encoder(second.float(), first.float()), single, rtol=1e-3)  # the order counts


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_every_state_equals_the_reference(steps):
    diffusion = LatentDiffusion(steps).double().eval()
    state = named(diffusion)
    rng = torch.Generator().manual_seed(2)
    blur = torch.rand(2, 3, 24, 16, dtype=torch.float64, generator=rng)
    noise = torch.randn(2, 256, dtype=torch.float64, generator=rng)
    expected = reference_diffusion(state, blur, noise, steps)
    with torch.no_grad():
        states = diffusion.states(blur, noise)
    assert len(states) == steps + 1
    for ours, theirs in zip(states, expected, strict=True):
        # The schedule is of single precision, as in published weights.
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-6
    torch.testing.assert_close(diffusion(blur, noise).detach(), states[-1])


def test_offset_and_padding():
    torch.manual_seed(0)
    plain, shifted = LatentDiffusion(), LatentDiffusion(offset=0.5)
    shifted.load_state_dict(plain.state_dict())
    blur = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(shifted(blur, 0), plain(blur - 0.5, 0))
    odd = torch.rand(1, 3, 15, 17)
    padded = F.pad(odd, (0, 3, 0, 1), mode="reflect")
    torch.testing.assert_close(plain(odd, 0), plain(padded, 0))


def test_noise():
    torch.manual_seed(0)
    diffusion = LatentDiffusion().eval()
    blur = torch.rand(3, 3, 16, 16)
    ours = diffusion(blur)
    # The same for each image wherever it is, and the published seed's first draw.
    torch.testing.assert_close(diffusion(blur[2:]), ours[2:])
    drawn = torch.randn(256, generator=torch.Generator().manual_seed(2023)).expand(3, -1)
    assert torch.equal(diffusion(blur, drawn), ours)
    assert not torch.equal(diffusion(blur, 0), ours)
    quiet = LatentDiffusion(noise=0.0).eval()
    quiet.load_state_dict(diffusion.state_dict())
    assert torch.equal(quiet(blur), diffusion(blur, 0))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    expected = torch.stack([torch.randn(256, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6, 7)])
    assert torch.equal(diffusion(blur, generators), diffusion(blur, expected))
    diffusion.train()
    assert not torch.equal(diffusion(blur), diffusion(blur))
    torch.manual_seed(3)
    once = diffusion(blur)
    torch.manual_seed(3)
    assert torch.equal(diffusion(blur), once)


def test_its_own_noise_outlives_memory_that_is_made_anew():
    """As when weights are read into a network that was built without memory of its own."""
    torch.manual_seed(0)
    diffusion = LatentDiffusion(seed=4).eval()
    with torch.device("meta"):
        other = LatentDiffusion(seed=4).eval()
    assert other(torch.rand(2, 3, 8, 8, device="meta")).shape == (2, 256)
    other.to_empty(device="cpu").load_state_dict(diffusion.state_dict())
    drawn = torch.randn(256, generator=torch.Generator().manual_seed(4)).expand(2, -1)
    blur = torch.rand(2, 3, 8, 8)
    assert torch.equal(other(blur), diffusion(blur, drawn))
    assert torch.equal(other.double()(blur.double()), diffusion.double()(blur.double(), drawn.double()))
    assert other.draw_noise(None, 2).dtype == torch.float64


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    diffusion = LatentDiffusion()
    start = diffusion.states(torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(start[-1], 2 * start[0])  # estimates of 0: only the exposure counts
    for estimator in (diffusion.lcr_model, diffusion.noise_model):
        torch.nn.init.normal_(estimator.resmlp[-1].resmlp[0].weight, std=0.1)
    diffusion(torch.rand(2, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in diffusion.parameters())
    assert sum(float(p.grad.abs().sum()) > 0 for p in diffusion.parameters()) == len(list(diffusion.parameters()))


def test_weights_bring_their_schedule():
    torch.manual_seed(0)
    code, paper = LatentDiffusion(), LatentDiffusion(schedule="paper")
    code.load_state_dict(paper.state_dict())
    assert torch.equal(code.betas_bar, paper.betas_bar)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (torch.zeros(1, 256), "noise, got shape"),
        ([torch.Generator()], "one an image"),
        (0.5, "0 for none"),
        ([5, 6], "one an image"),
    ],
)
def test_wrong_noise_is_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        LatentDiffusion()(torch.rand(2, 3, 8, 8), noise)


@pytest.mark.parametrize(("options", "message"), [({"steps": 0}, "steps"), ({"noise": 2.0}, "noise")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LatentDiffusion(**options)


def test_wrong_images_are_refused():
    encoder = LatentEncoder()
    with pytest.raises(ValueError, match="one size"):
        encoder(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 12))
    with pytest.raises(ValueError, match="image batch"):
        encoder(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))
