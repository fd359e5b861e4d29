"""The diffusion of BlurDM: from the latent of the blurred image to the sharp prior, with the published names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from relo.models.blurdm.encoder import PRIOR, SLOPE, LatentEncoder
from relo.models.blurdm.schedule import Schedule, ScheduleForm, make_schedule, step_back

LAYERS = 5  # of an estimator after its first
MOST_STEPS = 1000  # a damaged number is refused instead of being built for hours
SEED = 2023  # of the published code

Noise = Tensor | Sequence[Generator] | float | None


class LatentDiffusion(nn.Module):
    """Encodes a blurred image, adds noise, and removes blur and noise in T deterministic steps.

    2,067,776 parameters and, for 256 x 256 px, 4.157 G multiply-adds, nearly all of them in the encoder: the number
    of steps hardly matters. The exposures and the amounts of noise are buffers, so that weights bring the schedule
    they were trained with.

    Parameters
    ----------
    steps : int
        T; 5 is published, and more gained nothing there.
    schedule : {"code", "paper"}
        See `make_schedule`.
    noise : float
        Factor of the noise that is drawn where `forward` is given none: 1 as published, 0 for no noise.
    seed : int
        Of that noise in evaluation mode, where it is the same for every image: the result depends neither on the
        place in a batch nor on earlier calls.
    offset : float
        Subtracted from images: 0.5 for backbones that are trained on [-0.5, 0.5].
    """

    alphas: Tensor
    betas_bar: Tensor

    def __init__(
        self,
        steps: int = 5,
        schedule: ScheduleForm = "code",
        noise: float = 1.0,
        seed: int = SEED,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"steps must be 1 to {MOST_STEPS}, got {steps}")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must be 0 to 1, got {noise}")
        self.steps, self.noise, self.offset = steps, noise, offset
        self.lcr_model = ResidualEstimator(steps)
        self.noise_model = ResidualEstimator(steps)
        self.condition_encoder = LatentEncoder(batch_norm=False)
        alphas, betas_bar = make_schedule(steps, schedule)
        self.register_buffer("alphas", alphas)
        self.register_buffer("betas_bar", betas_bar)
        self.register_buffer("time_stamps_list", torch.arange(steps, 0, -1))  # only kept for published weights
        # Drawn on the CPU, so that every device has the same, and kept there: it follows from the options, is in no
        # weights, and `to_empty` would put garbage in its place if it were a buffer.
        self.own_noise = noise * torch.randn(PRIOR, generator=Generator().manual_seed(seed), device="cpu")

    def forward(self, blur: Tensor, noise: Noise = None) -> Tensor:
        """Give the sharp prior.

        Parameters
        ----------
        blur : (N, 3, H, W) tensor
            In [0, 1]; any size.
        noise : tensor, sequence of Generator or 0, optional
            (N, 256) unit noise; generators that draw it, one an image; or 0 for none. By default drawn by torch's
            generator in training, and in evaluation the same for every image.

        Returns
        -------
        (N, 256) tensor
            In training the gradient flows through all steps.

        Raises
        ------
        ValueError
            The images or the noise are not as described.
        """
        return self.states(blur, noise)[-1]

    def states(self, blur: Tensor, noise: Noise = None) -> tuple[Tensor, ...]:
        """Give all states, the noisy blurred one Z_T first and the sharp prior Z_0 last: T + 1 tensors (N, 256)."""
        return self.states_from(self.encode(blur), noise)

    def encode(self, blur: Tensor) -> Tensor:
        """Give the latents (N, 256) of blurred images, without noise."""
        shifted = blur - self.offset if self.offset else blur
        return self.condition_encoder(shifted, shifted)

    def states_from(self, condition: Tensor, noise: Noise = None) -> tuple[Tensor, ...]:
        """`states` from what `encode` gives."""
        schedule = Schedule(self.alphas, self.betas_bar)
        drawn = self.draw_noise(noise, condition.shape[0]).to(condition)
        states = [condition + schedule.noise_at(self.steps) * drawn]
        for t in range(self.steps, 0, -1):
            time = condition.new_full((condition.shape[0], 1), t)
            light = self.lcr_model(states[-1], time, condition)
            unit_noise = self.noise_model(states[-1], time, condition)
            states.append(step_back(schedule, states[-1], light, unit_noise, t))
        return tuple(states)

    def draw_noise(self, noise: Noise, count: int) -> Tensor:
        """Make (count, 256) unit noise of what `forward` may be given."""
        like = self.alphas.new_empty(count, PRIOR)
        if noise is None:
            return self.noise * torch.randn_like(like) if self.training else self.own_noise.to(like).expand_as(like)
        if isinstance(noise, Tensor):
            if noise.shape != like.shape:
                raise ValueError(f"expected {(*like.shape,)} noise, got shape {(*noise.shape,)}")
            return noise
        if isinstance(noise, Sequence):
            if len(noise) != count or not all(isinstance(generator, Generator) for generator in noise):
                raise ValueError(f"expected {count} generators, one an image, got {noise!r}")
            drawn = [torch.randn(PRIOR, generator=generator, device=generator.device) for generator in noise]
            return torch.stack([values.to(like.device) for values in drawn])
        if not isinstance(noise, int | float) or noise != 0:
            raise ValueError(f"noise is a tensor, one generator an image, or 0 for none, got {noise!r}")
        return torch.zeros_like(like)


class ResidualEstimator(nn.Module):
    """Estimates the light or the noise of a step from the state, the step and the latent of the blurred image.

    Linear layers, each followed by LeakyReLU, the last one too; there is no residual connection, in spite of the
    published name.

    The last layer is initialised to zero, so that the first estimates are 0, and the others orthogonally, which
    preserves the norm of activations (Saxe et al. 2014). With torch's default initialisation the network hardly
    tells the noise from the latent, even after hundreds of steps of training.

    Parameters
    ----------
    steps : int
        T, by which the step is divided.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.resmlp = nn.Sequential(*_layer(2 * PRIOR + 1), *(_HiddenLayer() for _ in range(LAYERS)))
        linear = [layer for layer in self.modules() if isinstance(layer, nn.Linear)]
        for layer in linear:
            nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("leaky_relu", SLOPE))
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(linear[-1].weight)

    def forward(self, state: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Map (N, 256), steps (N, 1) from T to 1, and (N, 256) to (N, 256)."""
        return self.resmlp(torch.cat([condition, time / self.steps, state], dim=1))


class _HiddenLayer(nn.Module):
    """One layer, under the name that it has in published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.resmlp = nn.Sequential(*_layer(PRIOR))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, 256)."""
        return self.resmlp(x)


def _layer(inputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(inputs, PRIOR), nn.LeakyReLU(SLOPE, inplace=True)
