"""Photographs through a trained guide: the filter's result, the diffusion from it on, colours, composite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from relo.config import Config
from relo.errors import TrainingError
from relo.models.exprdiff.diffusion.base import BaseModel, require_packages
from relo.models.exprdiff.diffusion.colour_fix import fix_colour
from relo.models.exprdiff.diffusion.conditioning import condition
from relo.models.exprdiff.diffusion.guided_unet import GuidedUNet
from relo.models.exprdiff.diffusion.latents import decode, encode
from relo.models.exprdiff.diffusion.prompts import Prompt, encode_prompt
from relo.models.exprdiff.diffusion.sampling import Images, Sampling, sample
from relo.models.exprdiff.diffusion.schedule import SCHEDULERS
from relo.models.exprdiff.diffusion.weights import GuideFile, read_guide, read_header
from relo.training.checkpoint import FILE_NAME
from relo.training.data import to_tensor
from relo.training.devices import choose_device
from relo.training.diffusion.parts import require_factor
from relo.training.diffusion.recipe import FACTOR, SMALLEST_CROP
from relo.training.inference.regions import blend_weights
from relo.training.instant.composite import composite
from relo.training.memory_errors import memory_explained

MARGIN = 64  # [px] that the window sees around all that counts
_MEMORY_ADVICE = "Use smaller tiles, --set tile=64, or --set precision=bf16."


class DiffusionOptions(Config):
    """How a photograph is restored. The paper says nothing of any of it.

    Attributes
    ----------
    base, variant : str, optional
        Base model instead of the one that the guide was trained with.
    offline : bool
        Take from the hub only what is in its cache.
    cache_dir : path, optional
        Where that cache is.
    scheduler : {"unipc", "euler", "dpmpp", "ddim"}
    steps, strength, guidance_scale, control_scale, restoration, seed, tile, overlap
        See `relo.models.exprdiff.diffusion.sampling.Sampling`.
    prompt : str, optional
        Instead of the one that the guide was trained with.
    negative_prompt : str
        What it shall not be; for a guidance scale other than 1.
    colour_fix : bool
        Take the coarse colours from the guided filter's result.
    precision : {"float32", "bf16"}
    device : str
        "auto" is the GPU where there is one.
    """

    base: str | None = None
    variant: str | None = None
    offline: bool = False
    cache_dir: Path | None = None
    scheduler: Literal["unipc", "euler", "dpmpp", "ddim"] = "unipc"
    steps: int = Field(default=20, ge=1, le=1000)
    strength: float = Field(default=0.7, gt=0, le=1)
    guidance_scale: float = Field(default=1.0, ge=1)
    control_scale: float = Field(default=1.0, ge=0)
    restoration: float = Field(default=0.0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    tile: int = Field(default=128, ge=16)
    overlap: int = Field(default=16, ge=0)
    prompt: str | None = None
    negative_prompt: str = ""
    colour_fix: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    device: str = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionOptions:
        if self.overlap >= self.tile:
            raise ValueError(f"overlap must be below tile, got {self.overlap} and {self.tile}")
        return self

    @property
    def sampling(self) -> Sampling:
        """What decides the drawing."""
        names = ("steps", "strength", "guidance_scale", "control_scale", "restoration", "seed", "tile", "overlap")
        return Sampling(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Restorer:
    """A trained guide with its base model, ready for photographs; see `load_restorer`.

    Attributes
    ----------
    model : GuidedUNet
    vae, scheduler
        Of the base model.
    prompts : (Prompt, Prompt or None)
        What the image shall be, and what not.
    file : GuideFile
    options : DiffusionOptions
    """

    model: GuidedUNet
    vae: Any
    scheduler: Any
    prompts: tuple[Prompt, Prompt | None]
    file: GuideFile
    options: DiffusionOptions

    @torch.no_grad()
    def restore(
        self,
        blur: NDArray[Any],
        short: NDArray[Any],
        mask: NDArray[Any],
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[Any]:
        """Restore one photograph where it is blurred.

        Parameters
        ----------
        blur, short : (H, W, 3) uint8, uint16 or float array
            RGB, sRGB-encoded; floats in [0, 1]. The short exposure is aligned with the long one.
        mask : (H, W) bool array, or float array in [0, 1]
            Where it is blurred.
        progress : callable, optional
            Called with (steps done, steps in all).

        Returns
        -------
        (H, W, 3) array
            Of the dtype of `blur`, and exactly `blur` from 16 px around the mask on; a copy where nothing is
            blurred. Decided by the inputs, the weights and the seed.

        Raises
        ------
        TrainingError
            The sizes differ, or the memory does not suffice.
        """
        if short.shape != blur.shape or mask.shape != blur.shape[:2]:
            raise TrainingError(
                f"sizes differ: photograph {blur.shape[:2]}, short exposure {short.shape[:2]}, mask {mask.shape}",
                advice="Give a short exposure and a mask of the photograph's size.",
            )
        blurred = mask if mask.dtype == np.bool_ else mask >= 0.5
        weight = blend_weights(blurred)
        result = blur.copy()
        if not blurred.any():
            return result
        with memory_explained(_MEMORY_ADVICE):
            rows, columns = window_around(weight > 0, self.options.tile * FACTOR)
            parts = (image[rows, columns] for image in (blur, short, mask, weight))
            found = self._draw(*parts, progress=progress)
        result[rows, columns] = composite(blur[rows, columns], found, weight[rows, columns])
        return result

    def _draw(
        self,
        blur: NDArray[Any],
        short: NDArray[Any],
        mask: NDArray[Any],
        weight: NDArray[np.float32],
        *,
        progress: Callable[[int, int], None] | None,
    ) -> NDArray[np.float32]:
        """Restored window, (H, W, 3) float32."""
        height, width = mask.shape
        device = next(self.model.parameters()).device
        pictures = [to_tensor(image)[None].to(device) for image in (blur, short)]
        planes = [torch.from_numpy(np.array(plane, np.float32))[None, None].to(device) for plane in (mask, weight)]
        right, bottom = (max(SMALLEST_CROP, -(-side // FACTOR) * FACTOR) - side for side in (width, height))
        padding = (0, right, 0, bottom)
        long, fast, where, share = (F.pad(image, padding, mode="replicate") for image in (*pictures, *planes))
        first_guess = condition(long, fast, where, **self.file.condition)
        images = Images(*(image.to(self.model.unet.dtype) for image in (first_guess, fast, where)))
        wanted = F.max_pool2d(share, FACTOR)[0, 0] > 0
        clean = encode(self.vae, first_guess)
        latents = sample(
            self.model, self.scheduler, images, clean, wanted, self.prompts, self.options.sampling, progress
        )
        drawn = decode(self.vae, latents)
        if self.options.colour_fix:
            drawn = fix_colour(drawn, first_guess)
        return _to_array(drawn[..., :height, :width])


def is_guide(path: str | Path) -> bool:
    """Whether a run folder or weights file is a trained guide, and whole enough to tell so."""
    path = Path(path)
    try:
        read_header(path / FILE_NAME if path.is_dir() else path)
    except TrainingError:
        return False
    return True


def load_restorer(run: str | Path, options: DiffusionOptions | None = None) -> Restorer:
    """Load a trained guide and its base model.

    Parameters
    ----------
    run : path
        Run folder of `relo train exprdiff`, or its model.safetensors.
    options : DiffusionOptions, optional

    Raises
    ------
    MissingExtraError
        diffusers is not installed; or transformers, for a prompt other than that of the training.
    ConfigError
        There is no such device, or the base model's latents have another scale.
    TrainingError
        The weights or the base model are missing, damaged, or do not fit each other.
    """
    options = options or DiffusionOptions()
    path = Path(run)
    file = read_header(path / FILE_NAME if path.is_dir() else path)
    require_packages("diffusers")
    device = choose_device(options.device)
    variant = options.variant if options.base or options.variant else file.base.get("variant")
    base = BaseModel(options.base or str(file.base.get("name", "")), variant, options.offline, options.cache_dir)
    dtype = torch.float32 if options.precision == "float32" else torch.bfloat16
    with memory_explained(_MEMORY_ADVICE):
        unet, vae = base.unet(dtype), base.vae(dtype)
        require_factor(vae)
        guide, prompt = read_guide(file, unet.config)
        if options.prompt is not None:
            prompt = encode_prompt(base, options.prompt)
        negative = encode_prompt(base, options.negative_prompt) if options.guidance_scale != 1 else None
        like = torch.zeros(1, dtype=dtype, device=device)
        model = GuidedUNet(unet, guide.to(dtype)).to(device).eval()
        vae.enable_tiling()  # of large images alone
    prompts = prompt.to(like), None if negative is None else negative.to(like)
    return Restorer(model, vae.to(device), base.scheduler(SCHEDULERS[options.scheduler]), prompts, file, options)


def restore_with_diffusion(
    run: str | Path,
    blur: NDArray[Any],
    short: NDArray[Any],
    mask: NDArray[Any],
    options: DiffusionOptions | None = None,
) -> NDArray[Any]:
    """`load_restorer(run, options).restore(blur, short, mask)`; for several photographs load once."""
    return load_restorer(run, options).restore(blur, short, mask)


def window_around(wanted: NDArray[np.bool_], least: int) -> tuple[slice, slice]:
    """Rows and columns around all that is wanted, with a margin, as long as `least` where the image is.

    SDXL was trained on 1024 px and draws small windows badly; larger ones cost time for nothing.
    """
    return _span(np.any(wanted, axis=1), least), _span(np.any(wanted, axis=0), least)


def _span(wanted: NDArray[np.bool_], least: int) -> slice:
    places = np.flatnonzero(wanted)
    first, last = int(places[0]) - MARGIN, int(places[-1]) + 1 + MARGIN
    missing = max(least - (last - first), 0)
    first, last = first - missing // 2, last + missing - missing // 2
    # Pushed inside as a whole, before it is cut.
    push = max(-first, 0) - max(last - len(wanted), 0)
    return slice(max(first + push, 0) // FACTOR * FACTOR, min(last + push, len(wanted)))


def _to_array(images: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(images[0].clamp(0, 1).permute(1, 2, 0).float().cpu().numpy())
