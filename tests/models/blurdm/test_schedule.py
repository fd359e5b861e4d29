"""Blurring and noising step by step: closed form, way back, published numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relo.models.blurdm.schedule import Schedule, make_schedule, state_at, step_back, step_forward

FORMS = ("code", "paper")


def drawn(count, seed=0, shape=(3, 7)):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(count)]


@st.composite
def schedules(draw):
    """Any exposures and noise, but for the first step without noise."""
    steps = draw(st.integers(1, 8))
    numbers = st.floats(0.05, 1.0)
    rises = torch.tensor([draw(numbers) for _ in range(steps + 1)], dtype=torch.float64)
    noise = torch.tensor([0.0, *(draw(st.floats(0, 1)) for _ in range(steps - 1))], dtype=torch.float64)
    return Schedule(rises.cumsum(0), noise)


def test_numbers_of_the_published_code():
    schedule = make_schedule(5)
    np.testing.assert_allclose(schedule.alphas, [1, 1.2, 1.4, 1.6, 1.8, 2], rtol=1e-6)
    np.testing.assert_allclose(schedule.betas_bar, [0, 0.0606092, 0.1023169, 0.1418572, 0.1802776], atol=5e-8)
    removed = [float(schedule.noise_removed(t)) for t in (5, 4, 3, 2, 1)]
    np.testing.assert_allclose(removed, [0.0584512, 0.0572724, 0.0563245, 0.0707107, 0], atol=5e-8)
    assert float(make_schedule(5, "paper").betas_bar[-1]) == pytest.approx(0.0256613, abs=5e-8)
    assert make_schedule(1).betas_bar.tolist() == [0]


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_both_forms_equal_sums_written_out(steps):
    alphas = np.linspace(1, 2, steps + 1)
    betas = np.linspace(0, 0.02, steps)
    code = [
        np.sqrt(sum((alphas[s - 1] / alphas[t]) ** 2 * betas[s - 1] for s in range(1, t + 1)))
        for t in range(1, steps + 1)
    ]
    paper = [
        np.sqrt(sum((alphas[s] / alphas[t]) ** 2 * betas[s - 1] ** 2 for s in range(1, t + 1)))
        for t in range(1, steps + 1)
    ]
    for form, expected in zip(FORMS, (code, paper), strict=True):
        np.testing.assert_allclose(make_schedule(steps, form, torch.float64).betas_bar, expected, rtol=1e-13)


@given(schedules())
def test_closed_form_equals_the_steps(schedule):
    sharp, *residuals = drawn(schedule.steps + 1)
    state = sharp
    for t in range(1, schedule.steps + 1):
        state = step_forward(schedule, state, residuals[t - 1], t)
        torch.testing.assert_close(state_at(schedule, sharp, residuals, 0.0, t), state, rtol=1e-12, atol=1e-12)


def test_the_last_state_is_the_blurred_image():
    """Light that is collected from time 0 to 1, the sharp image's share first, averaged over the whole exposure."""
    schedule = make_schedule(4, dtype=torch.float64)
    radiance = drawn(8)  # of eighths of the exposure: the first half is the sharp image
    sharp = sum(radiance[:4]) / 4
    residuals = [part / 4 for part in radiance[4:]]  # each an eighth of an exposure of 2
    torch.testing.assert_close(state_at(schedule, sharp, residuals, 0.0, 4), sum(radiance) / 8)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_papers_noise_is_what_its_steps_add_up_to(steps):
    """Each step adds b_t of new noise and carries on a share of what is there: variances of independent draws."""
    schedule = make_schedule(steps, "paper", torch.float64)
    betas = np.linspace(0, 0.02, steps)
    variance = 0.0
    for t in range(1, steps + 1):
        share = float(schedule.alphas[t - 1] / schedule.alphas[t])
        variance = share**2 * variance + betas[t - 1] ** 2
        assert float(schedule.betas_bar[t - 1]) == pytest.approx(np.sqrt(variance), abs=1e-15)


@given(schedules())
def test_true_residuals_lead_back_to_the_sharp_image(schedule):
    sharp, noise, *residuals = drawn(schedule.steps + 2)
    state = state_at(schedule, sharp, residuals, noise, schedule.steps)
    for t in range(schedule.steps, 0, -1):
        state = step_back(schedule, state, residuals[t - 1], noise, t)
        if t > 1:
            torch.testing.assert_close(
                state, state_at(schedule, sharp, residuals, noise, t - 1), rtol=1e-10, atol=1e-10
            )
    scale = float(schedule.alphas[-1] / schedule.alphas[0])  # by which rounding grows on the way
    torch.testing.assert_close(state, sharp, rtol=1e-13 * scale, atol=1e-13 * scale)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_oracle_to_twelve_digits(form, steps):
    schedule = make_schedule(steps, form, torch.float64)
    sharp, noise, *residuals = drawn(steps + 2, seed=steps)
    state = state_at(schedule, sharp, residuals, noise, steps)
    for t in range(steps, 0, -1):
        state = step_back(schedule, state, residuals[t - 1], noise, t)
    torch.testing.assert_close(state, sharp, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("steps", "form"), [(0, "code"), (-1, "code"), (5, "linear")])
def test_refused(steps, form):
    with pytest.raises(ValueError, match=r"at least 1|code or paper"):
        make_schedule(steps, form)
