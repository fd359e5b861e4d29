"""Sampling against the SDXL pipeline of diffusers; tiles, colours, determinism, time."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from relo.models.exprdiff.diffusion.colour_fix import fix_colour
from relo.models.exprdiff.diffusion.conditioning import as_bright, condition
from relo.models.exprdiff.diffusion.latents import decode, encode
from relo.models.exprdiff.diffusion.sampling import Images, Sampling, sample
from relo.models.exprdiff.diffusion.schedule import SCHEDULERS
from relo.models.exprdiff.diffusion.tiles import Joined, Tile, plan_tiles, tile_weights
from relo.models.exprdiff.guided_filter import blur_aware_guided_filter

EVERYWHERE = torch.ones(8, 8, dtype=torch.bool)


def draw(model, base, prompt, images, sampling, wanted=EVERYWHERE, name="unipc", negative=None):
    one = Images(*(image[:1] for image in images))
    clean = encode(base.vae(), one.condition).detach()
    scheduler = base.scheduler(SCHEDULERS[name])
    return sample(model, scheduler, one, clean, wanted, (prompt, negative), sampling), clean


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize("name", ["euler", "unipc"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_untrained_guide_draws_what_sdxl_draws(guided, base, pipeline, prompt, images, name, scale):
    pipeline.scheduler = base.scheduler(SCHEDULERS[name])
    other = type(prompt)(prompt.tokens.flip(1), prompt.pooled.flip(1))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = pipeline(
        prompt_embeds=prompt.tokens,
        pooled_prompt_embeds=prompt.pooled,
        negative_prompt_embeds=other.tokens,
        negative_pooled_prompt_embeds=other.pooled,
        latents=noise,
        num_inference_steps=3,
        guidance_scale=scale,
        height=64,
        width=64,
        original_size=(1024, 1024),
        target_size=(1024, 1024),
        output_type="latent",
    ).images
    sampling = Sampling(steps=3, strength=1.0, guidance_scale=scale, seed=5)
    found, _ = draw(guided(), base, prompt, images, sampling, name=name, negative=other)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_seed_decides(guided, base, prompt, images):
    model, sampling = guided(spread=0.1), Sampling(steps=3, strength=0.7)
    first, clean = draw(model, base, prompt, images, sampling)
    again, _ = draw(model, base, prompt, images, sampling)
    other, _ = draw(model, base, prompt, images, replace(sampling, seed=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first - clean).abs().mean() > 0.01


def test_restoration_guidance_stays_nearer_to_the_first_guess(guided, base, prompt, images):
    model, far = guided(spread=0.1), Sampling(steps=6, strength=1.0)
    distances = []
    for restoration in (0.0, 4.0, 0.5):
        found, clean = draw(model, base, prompt, images, replace(far, restoration=restoration))
        distances.append(float((found - clean).abs().mean()))
    assert distances[0] > distances[1] > distances[2]


def test_tiles_without_blur_stay_the_first_guess(guided, base, prompt, images):
    wanted = torch.zeros(8, 8, dtype=torch.bool)
    wanted[:2, :2] = True
    found, clean = draw(guided(), base, prompt, images, Sampling(steps=2, tile=4, overlap=1), wanted)
    assert torch.equal(found[..., 4:, :], clean[..., 4:, :]) and torch.equal(found[..., 4:], clean[..., 4:])
    assert (found[..., :4, :4] - clean[..., :4, :4]).abs().min() > 0


def test_large_enough_tiles_are_the_whole(guided, base, prompt, images):
    model = guided(spread=0.1)
    whole, _ = draw(model, base, prompt, images, Sampling(steps=2, tile=8, overlap=4))
    larger, _ = draw(model, base, prompt, images, Sampling(steps=2, tile=128, overlap=16))
    assert torch.equal(whole, larger)


@pytest.mark.parametrize(("side", "overlap"), [(4, 0), (5, 2), (6, 5), (16, 3)])
def test_tiles_cover_what_is_wanted(side, overlap):
    wanted = torch.rand(13, 9, generator=torch.Generator().manual_seed(0)) > 0.8
    tiles = plan_tiles(wanted, side, overlap)
    covered = torch.zeros_like(wanted)
    for tile in tiles:
        assert tile.y + tile.height <= 13 and tile.x + tile.width <= 9
        assert tile.of(wanted).any()
        tile.of(covered).fill_(True)
    assert (covered | ~wanted).all()
    starts = sorted({tile.y for tile in plan_tiles(torch.ones(13, 9, dtype=torch.bool), side, overlap)})
    assert all(later - earlier <= side - overlap for earlier, later in pairwise(starts))
    assert plan_tiles(torch.zeros(13, 9, dtype=torch.bool), side, overlap) == ()


def test_what_tiles_agree_on_is_their_mean():
    field = torch.randn(1, 4, 10, 12, generator=torch.Generator().manual_seed(0))
    joined = Joined(field)
    for tile in plan_tiles(torch.ones(10, 12, dtype=torch.bool), 6, 2):
        joined.add(tile, tile.of(field))
    torch.testing.assert_close(joined.mean(), field)
    weights = tile_weights(6, 9)
    assert weights.min() > 0 and weights.argmax() in (2 * 9 + 4, 3 * 9 + 4)
    one = Joined(field)
    one.add(Tile(2, 3, 4, 4), field[..., 2:6, 3:7] / 3)
    assert torch.equal(one.mean()[..., 2:6, 3:7], field[..., 2:6, 3:7] / 3)


def test_two_steps_at_256_px_take_less_than_two_seconds(guided, base, prompt):
    rng = torch.Generator().manual_seed(0)
    picture, mask = torch.rand(1, 3, 256, 256, generator=rng), torch.zeros(1, 1, 256, 256)
    mask[..., 64:192, 64:192] = 1
    model, vae, everywhere = guided(), base.vae(), torch.ones(32, 32, dtype=torch.bool)
    times = []
    for _ in range(2):
        begin = time.process_time()
        with torch.no_grad():
            clean = encode(vae, picture)
            scheduler = base.scheduler(SCHEDULERS["unipc"])
            images = Images(picture, picture, mask)
            found = sample(model, scheduler, images, clean, everywhere, (prompt, None), Sampling(2, 1.0))
            image = decode(vae, found)
        times.append(time.process_time() - begin)
    assert image.shape == (1, 3, 256, 256) and torch.isfinite(image).all()
    assert min(times) < 2


def test_colours_come_from_the_reference():
    rng = torch.Generator().manual_seed(0)
    image, reference = torch.rand(2, 1, 3, 40, 56, generator=rng)
    fixed = fix_colour(image, reference)
    # The oracle: five smoothings with the dense kernel.
    for level in range(5):
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(3, 1, 3, 3) / 16
        step = 2**level
        image, reference = (
            F.conv2d(F.pad(x, (step,) * 4, mode="replicate"), kernel, dilation=step, groups=3)
            for x in (image, reference)
        )
    rng = torch.Generator().manual_seed(0)
    given, _ = torch.rand(2, 1, 3, 40, 56, generator=rng)
    torch.testing.assert_close(fixed, given - image + reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fix_colour(given + 0.2, given), given, rtol=1e-5, atol=1e-5)


def test_conditions_of_the_ablations(images):
    blur, short, mask = images
    short = short / 2
    bright = as_bright(short, blur)
    torch.testing.assert_close(bright.mean(dim=(2, 3)), blur.mean(dim=(2, 3)))
    assert condition(blur, short, mask, "none") is blur
    masked = condition(blur, short, mask, "masked", radius=4, eps=1e-3)
    expected = blur_aware_guided_filter(blur, bright, mask, radius=4, eps=1e-3).clamp(0, 1)
    assert torch.equal(masked, expected)
    assert torch.equal(masked[1], blur[1])  # nothing is blurred there
    everywhere = condition(blur, short, mask, "plain_gf", radius=4, eps=1e-3)
    assert (everywhere[1] - blur[1]).abs().max() > 0.01
    dark = condition(blur, torch.zeros_like(short), mask)
    assert torch.isfinite(dark).all()
