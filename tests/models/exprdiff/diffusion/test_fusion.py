"""ExpBFusion against the formula written out with dense matrices."""

import math

import pytest
import torch
from torch import nn

from relo.models.exprdiff.diffusion.fusion import ExposureFusion


def dense(fusion, encoder, short, mask):
    """Equation 7 of the fact sheet, all 2N rows of the attention matrix, one head at a time."""
    count, channels, height, width = encoder.shape
    e = fusion.norm_encoder(encoder).flatten(2).mT
    f = fusion.norm_short(short).flatten(2).mT
    m = mask.flatten(2).mT
    masked, plain = torch.cat([f * m, e * m], 1), torch.cat([f, e], 1)
    q, k, v = masked @ fusion.query.weight.T, masked @ fusion.key.weight.T, plain @ fusion.value.weight.T
    heads = []
    size = channels // len(fusion.log_gamma)
    for number, log_gamma in enumerate(fusion.log_gamma.flatten()):
        part = slice(number * size, (number + 1) * size)
        weights = torch.softmax(q[..., part] @ k[..., part].mT / log_gamma.exp(), dim=-1)
        heads.append(weights @ v[..., part])
    attended = torch.cat(heads, -1)[:, height * width :]  # the encoder's half
    fused = attended @ fusion.out.weight.T + fusion.out.bias
    return encoder + fused.mT.reshape(count, channels, height, width)


def trained(channels, dtype):
    """A module whose output projection, norms and gammas are not at their initial values."""
    torch.manual_seed(0)
    fusion = ExposureFusion(channels).to(dtype)
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.3)
    return fusion


def draw(count, channels, height, width, dtype):
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(count, channels, height, width, generator=rng, dtype=dtype) for _ in range(2)]


def masks(height, width, dtype):
    """One of each kind in a batch: some of it, nothing, everything, a single token."""
    mask = torch.zeros(4, 1, height, width, dtype=dtype)
    mask[0, :, 1:4, 2:5] = 1
    mask[2] = 1
    mask[3, 0, height - 1, 0] = 1
    return mask


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("channels", [32, 128])
@pytest.mark.parametrize("binary", [True, False])
def test_equals_the_dense_formula(dtype, tolerance, channels, binary):
    fusion, (encoder, short) = trained(channels, dtype), draw(4, channels, 7, 5, dtype)
    mask = masks(7, 5, dtype)
    expected = dense(fusion, encoder, short, mask)
    found = fusion(encoder, short, mask, binary=binary)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    assert (expected - encoder).abs().max() > 0.1


def test_fractional_masks():
    fusion, (encoder, short) = trained(64, torch.float64), draw(2, 64, 4, 6, torch.float64)
    mask = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = fusion(encoder, short, mask, binary=False)
    torch.testing.assert_close(found, dense(fusion, encoder, short, mask), rtol=1e-12, atol=1e-12)


def test_gradients_of_the_shortcut_are_those_of_the_formula():
    fusion, (encoder, short) = trained(64, torch.float64), draw(4, 64, 5, 5, torch.float64)
    mask = masks(5, 5, torch.float64)
    inputs = [encoder.requires_grad_(), short.requires_grad_(), *fusion.parameters()]
    found, expected = (
        torch.autograd.grad(output.square().sum(), inputs)
        for output in (fusion(encoder, short, mask, binary=True), dense(fusion, encoder, short, mask))
    )
    for mine, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9)


def test_clear_tokens_get_the_mean_of_all_values():
    """What the equation as printed would put in their place, without the residual."""
    fusion, (encoder, short) = trained(32, torch.float64), draw(1, 32, 4, 4, torch.float64)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., 0, 0] = 1
    change = (fusion(encoder, short, mask, binary=True) - encoder).flatten(2)[0]
    assert (change[:, 1:] - change[:, 1:2]).abs().max() < 1e-12
    assert (change[:, 0] - change[:, 1]).abs().max() > 1e-3


def test_an_untrained_module_changes_nothing():
    fusion, (encoder, short) = ExposureFusion(64), draw(4, 64, 5, 3, torch.float32)
    for binary in (True, False):
        assert torch.equal(fusion(encoder, short, masks(5, 3, torch.float32), binary=binary), encoder)


def test_gamma_starts_at_the_root_of_the_head_size_and_stays_positive():
    fusion = ExposureFusion(320)
    assert fusion.log_gamma.shape == (5, 1, 1)
    assert fusion.log_gamma.exp().flatten().tolist() == pytest.approx([math.sqrt(64)] * 5)
    nn.init.constant_(fusion.log_gamma, -9)
    assert (fusion.log_gamma.exp() > 0).all()


def test_backward_behind_frozen_channels_last_features():
    """torch 2.13 dies here with SIGSEGV where the features are not made contiguous first."""
    fusion, (encoder, short) = ExposureFusion(64), draw(1, 64, 8, 8, torch.float32)
    frozen = encoder.to(memory_format=torch.channels_last)
    mask = torch.ones(1, 1, 8, 8)
    fusion(frozen, short.to(memory_format=torch.channels_last), mask, binary=True).square().sum().backward()
    assert fusion.out.weight.grad.abs().sum() > 0
