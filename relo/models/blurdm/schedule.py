"""How BlurDM blurs and noises step by step, and back (He et al., NeurIPS 2025, section 3).

An image whose exposure grows from a_0 to a_T collects the light e_t in step t and, in this model, noise:

    I_t = (a_{t-1} / a_t) I_{t-1} + e_t / a_t + b_t n_t                    one step forward
    I_t = (a_0 I_0 + e_1 + ... + e_t) / a_t + c_t n,  c_t^2 = sum_s (a_s / a_t)^2 b_s^2     in closed form

Apart from noise, I_T is the blurred image, whatever the e_t. Backwards, with e_t and n estimated:

    I_{t-1} = (a_t I_t - e_t) / a_{t-1} - (a_t c_t / a_{t-1} - c_{t-1}) n

The functions take images or latents of any shape alike. Schedules start without noise, b_1 = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ScheduleForm = Literal["code", "paper"]

EXPOSURES = (1.0, 2.0)  # a_0 and a_T; the paper's 0 to 1 would divide by zero in the last step back
LARGEST_NOISE = 0.02  # b_T


class Schedule(NamedTuple):
    """Exposures and noise of all steps.

    Attributes
    ----------
    alphas : (T + 1,) tensor
        Exposures a_0 to a_T, rising and above 0.
    betas_bar : (T,) tensor
        Standard deviations c_1 to c_T of the noise that the closed form adds.
    """

    alphas: Tensor
    betas_bar: Tensor

    @property
    def steps(self) -> int:
        """T."""
        return len(self.betas_bar)

    def noise_at(self, t: int) -> Tensor | float:
        """c_t; 0 before the first step."""
        return self.betas_bar[t - 1] if t else 0.0

    def noise_removed(self, t: int) -> Tensor:
        """What step t back takes away of the noise: a_t c_t / a_{t-1} - c_{t-1}; c_1 in the last step, t = 1.

        The published code leaves out the factor a_1 / a_0 there, which is the same where b_1 = 0.
        """
        if t == 1:
            return self.betas_bar[0]
        return self.alphas[t] * self.betas_bar[t - 1] / self.alphas[t - 1] - self.betas_bar[t - 2]


def make_schedule(steps: int, form: ScheduleForm = "code", dtype: torch.dtype = torch.float32) -> Schedule:
    """Schedule of T steps with even exposures and an even rise of the noise.

    Parameters
    ----------
    steps : int
        T, at least 1; 5 is published.
    form : {"code", "paper"}
        Noise of the closed form: as the published code sums it up, the variances (a_{s-1} / a_t)^2 b_s, with b_s
        not squared; or as it follows from the steps. At T = 5 the code has seven times the noise. The exposures are
        the code's in both.
    dtype : torch.dtype
        Of the tensors and of the computation.

    Raises
    ------
    ValueError
        A value is not among those.
    """
    if steps < 1:
        raise ValueError(f"at least 1 step is needed, got {steps}")
    if form not in ("code", "paper"):
        raise ValueError(f"the schedule is code or paper, got {form!r}")
    alphas = torch.linspace(*EXPOSURES, steps + 1, dtype=dtype)
    betas = torch.linspace(0, LARGEST_NOISE, steps, dtype=dtype)
    weights, variances = (alphas[:-1], betas) if form == "code" else (alphas[1:], betas.square())
    summed = torch.stack([((weights[:t] / alphas[t]).square() * variances[:t]).sum() for t in range(1, steps + 1)])
    return Schedule(alphas, summed.sqrt())


def step_forward(schedule: Schedule, before: Tensor, residual: Tensor, t: int) -> Tensor:
    """I_t from I_{t-1} and the light e_t of the step, without noise."""
    return (schedule.alphas[t - 1] * before + residual) / schedule.alphas[t]


def state_at(
    schedule: Schedule, sharp: Tensor, residuals: Sequence[Tensor], noise: Tensor | float, t: int
) -> Tensor:
    """I_t in closed form, from I_0, the lights e_1, e_2, … and a draw of unit noise."""
    light = schedule.alphas[0] * sharp + sum(residuals[:t])
    return light / schedule.alphas[t] + schedule.noise_at(t) * noise


def step_back(schedule: Schedule, state: Tensor, residual: Tensor, noise: Tensor, t: int) -> Tensor:
    """I_{t-1} from I_t and estimates of e_t and of the noise; with true ones it is exact."""
    without_light = (schedule.alphas[t] * state - residual) / schedule.alphas[t - 1]
    return without_light - schedule.noise_removed(t) * noise
