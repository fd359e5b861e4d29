"""Noise levels and restoration guidance, against closed forms and the schedulers' own numbers."""

import numpy as np
import pytest
import torch
from support.tiny_sdxl import save_tiny_sdxl

from relo.errors import ConfigError
from relo.models.exprdiff.diffusion.base import BaseModel
from relo.models.exprdiff.diffusion.schedule import (
    SCHEDULERS,
    held_to,
    noise_level,
    noised,
    timesteps_from,
    training_target,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(("strength", "count"), [(1.0, 10), (0.7, 7), (0.04, 1)])
def test_strength_is_a_share_of_the_steps(base, name, strength, count):
    scheduler = base.scheduler(SCHEDULERS[name])
    whole = timesteps_from(scheduler, 10, 1.0, CPU).tolist()
    part = timesteps_from(scheduler, 10, strength, CPU).tolist()
    assert part == whole[10 - count :]
    latents = torch.zeros(1, 4, 2, 2)
    for timestep in part:
        latents = scheduler.step(torch.zeros_like(latents), timestep, latents, return_dict=False)[0]
    assert torch.isfinite(latents).all()


def test_noise_levels_are_those_of_euler(base):
    scheduler = base.scheduler("EulerDiscreteScheduler")
    timesteps = timesteps_from(scheduler, 7, 1.0, CPU)
    found = [noise_level(scheduler, float(timestep)) for timestep in timesteps]
    np.testing.assert_allclose(found, scheduler.sigmas[:-1].numpy(), rtol=1e-5)
    assert noise_level(scheduler, 999) == pytest.approx(14.6146, abs=1e-3)  # SUPIR's constant


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_beginning(base, name):
    scheduler = base.scheduler(SCHEDULERS[name])
    clean, noise = torch.randn(2, 1, 4, 3, 3)
    first = timesteps_from(scheduler, 10, 0.5, CPU)[:1]
    sigma = noise_level(scheduler, float(first))
    seen = scheduler.scale_model_input(noised(scheduler, clean, noise, first, 0.5), first[0])
    torch.testing.assert_close(seen, (clean + sigma * noise) / (sigma**2 + 1) ** 0.5, rtol=1e-4, atol=1e-4)
    assert torch.equal(noised(scheduler, clean, noise, first, 1.0), noise * scheduler.init_noise_sigma)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_restoration_guidance(tmp_path, kind):
    """The clean latents that the changed prediction implies are x - (x - clean) (sigma / sigma_max)^4."""
    pytest.importorskip("diffusers")
    scheduler = BaseModel(str(save_tiny_sdxl(tmp_path, prediction_type=kind, text=False))).scheduler(
        "DDPMScheduler"
    )
    clean, x, noise = torch.randn(3, 1, 4, 3, 3, dtype=torch.float64)
    timestep = 800
    a = float(scheduler.alphas_cumprod[timestep])
    seen = a**0.5 * x + (1 - a) ** 0.5 * noise
    prediction = training_target(scheduler, x, noise, torch.tensor([timestep]))
    held = held_to(scheduler, prediction, seen, clean, timestep, 500, 4.0)
    sigma, largest = (noise_level(scheduler, level) for level in (timestep, 999))
    wanted = x - (x - clean) * (sigma / largest) ** 4
    implied = {
        "epsilon": (seen - (1 - a) ** 0.5 * held) / a**0.5,
        "v_prediction": a**0.5 * seen - (1 - a) ** 0.5 * held,
        "sample": held,
    }[kind]
    torch.testing.assert_close(implied, wanted, rtol=1e-5, atol=1e-5)
    assert held_to(scheduler, prediction, seen, clean, 20, 0, 4.0) is prediction


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_training_targets(tmp_path, kind):
    pytest.importorskip("diffusers")
    scheduler = BaseModel(str(save_tiny_sdxl(tmp_path, prediction_type=kind, text=False))).scheduler(
        "DDPMScheduler"
    )
    clean, noise = torch.randn(2, 1, 4, 3, 3)
    a = float(scheduler.alphas_cumprod[300])
    found = training_target(scheduler, clean, noise, torch.tensor([300]))
    velocity = a**0.5 * noise - (1 - a) ** 0.5 * clean
    torch.testing.assert_close(found, {"epsilon": noise, "v_prediction": velocity, "sample": clean}[kind])


def test_more_steps_than_there_are(base):
    with pytest.raises(ConfigError, match="steps 2000"):
        timesteps_from(base.scheduler("DDIMScheduler"), 2000, 1.0, CPU)
