"""The loss against its formula, and that training lowers it."""

import pytest
import torch

from relo.training.diffusion.objective import Batch, Draws, degradation, draw, objective
from relo.training.diffusion.parts import build_parts
from relo.training.diffusion.recipe import load_diffusion_recipe

CPU = torch.device("cpu")


def batch(size=64):
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, size // 8, size // 8, generator=rng)
    sharp = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    mask = torch.zeros(2, 1, size, size)
    mask[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    blur = torch.where(mask > 0, torch.nn.functional.avg_pool2d(sharp, 9, 1, 4), sharp)
    return Batch(blur, sharp / 2, sharp, mask)


def test_the_noise_term_of_an_untrained_guide(recipe):
    parts = build_parts(recipe(), CPU)
    images, draws = batch(), draw(3, 1, (2, 4, 8, 8), 1000)
    terms = objective(parts.model, parts.vae, parts.scheduler, parts.prompt, images, draws)
    with torch.no_grad():
        moments = parts.vae.encode(2 * images.sharp - 1).latent_dist
        latents = 0.13025 * (moments.mean + moments.std * draws.encoding)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        kept = torch.cumprod(1 - betas, 0)[draws.timesteps].view(2, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * draws.noise
        known = parts.prompt.conditions(2)
        predicted = parts.model.unet(noisy, draws.timesteps, **known).sample
    expected = (predicted - draws.noise).square().mean()
    torch.testing.assert_close(terms["noise"].detach(), expected, rtol=1e-4, atol=1e-5)
    total = terms["noise"] + terms["degradation"]
    torch.testing.assert_close(terms["loss"], total)


def test_pictures_are_compared_with_the_sharp_image_made_small():
    sharp = batch().sharp
    small = torch.nn.functional.avg_pool2d(2 * sharp - 1, 2)  # bilinear at half the size
    assert degradation([small], sharp) < 1e-6
    assert float(degradation([small + 0.25, small - 0.5], sharp)) == pytest.approx(0.75, abs=1e-5)


def test_draws_are_decided_by_seed_and_step():
    shape = (3, 4, 8, 8)
    first, again, later, other = (
        draw(1, 5, shape, 1000),
        draw(1, 5, shape, 1000),
        draw(1, 6, shape, 1000),
        draw(2, 5, shape, 1000),
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for changed in (later, other):
        assert not any(torch.equal(a, b) for a, b in zip(first, changed, strict=True))
    assert not torch.equal(first.noise, first.encoding)
    many = draw(0, 0, (1000, 4, 1, 1), 1000).timesteps
    assert 0 <= many.min() < 20 and 980 < many.max() <= 999


def test_training_lowers_the_loss_on_a_fixed_batch(tiny_folder):
    """By 30 % within 200 steps of `exprdiff-tiny`, with fixed draws; it stops as soon as that is reached."""
    recipe = load_diffusion_recipe("exprdiff-tiny", [f"base={tiny_folder}"])
    assert recipe.steps == 200
    parts = build_parts(recipe, CPU)
    images, draws = batch(recipe.crop), draw(0, 1, (2, 4, recipe.crop // 8, recipe.crop // 8), 1000)
    guide = parts.model.guide
    optimizer = torch.optim.AdamW(
        guide.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    first = {}
    for _ in range(recipe.steps):
        terms = objective(parts.model, parts.vae, parts.scheduler, parts.prompt, images, draws)
        losses = {name: float(value.detach()) for name, value in terms.items()}
        first = first or losses
        if all(losses[name] < 0.7 * first[name] for name in first):
            break
        optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(guide.parameters(), recipe.clip)
        optimizer.step()
    else:
        pytest.fail(f"{first} became {losses}")
    # All three parts have learned something.
    assert all(fusion.out.weight.any() for fusion in guide.fusions)
    assert guide.embedding.conv_out.weight.any() and guide.control.controlnet_mid_block.weight.any()


def test_parts_of_a_batch_add_up(recipe):
    parts = build_parts(recipe(), CPU)
    images, draws = batch(), draw(0, 1, (2, 4, 8, 8), 1000)
    whole = objective(parts.model, parts.vae, parts.scheduler, parts.prompt, images, draws)["loss"]
    halves = [
        objective(
            parts.model,
            parts.vae,
            parts.scheduler,
            parts.prompt,
            Batch(*(image[some] for image in images)),
            Draws(*(values[some] for values in draws)),
        )["loss"]
        for some in (slice(0, 1), slice(1, 2))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), whole, rtol=1e-3, atol=1e-3)
