"""The three stages in which a BlurDM (He et al. 2025) is trained: what each trains, and what it compares.

"encode" trains backbone and sharp encoder, whose prior sees the sharp image; "diffuse" trains the diffusion to give
that prior from the blurred image alone; "restore" trains backbone and diffusion together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models import Restoration
from relo.models.blurdm.network import BlurDM
from relo.models.image_batches import pad_to_multiple
from relo.training.losses import charbonnier
from relo.training.recipe import PriorStage, PriorTraining

TRAINED: dict[PriorStage, tuple[str, ...]] = {
    "encode": ("backbone", "sharp_encoder"),
    "diffuse": ("diffusion",),
    "restore": ("backbone", "diffusion"),
}


class Priors(NamedTuple):
    """What the stage "diffuse" compares.

    Attributes
    ----------
    diffused, wanted : (N draws, 256) tensor
        The diffusion's prior for each draw of noise, and the sharp encoder's.
    """

    diffused: Tensor
    wanted: Tensor

    def to(self, where: torch.device | torch.dtype) -> Priors:
        """Bring both tensors to a device or a dtype."""
        return Priors(self.diffused.to(where), self.wanted.to(where))


def train_only_parts_of(model: nn.Module, stage: PriorStage) -> None:
    """Freeze the parts of a `BlurDM` that a stage does not train; other networks are trained as a whole."""
    if isinstance(model, BlurDM):
        for name, part in model.named_children():
            if name not in TRAINED[stage]:  # nor is what a network keeps frozen by itself woken up
                part.requires_grad_(False)


def parts_of(model: nn.Module) -> dict[str, dict[str, int]]:
    """Parameters of each part of a `BlurDM` that are trained and frozen; of other networks nothing."""
    if not isinstance(model, BlurDM):
        return {}
    return {
        name: {
            "trained": sum(values.numel() for values in part.parameters() if values.requires_grad),
            "frozen": sum(values.numel() for values in part.parameters() if not values.requires_grad),
        }
        for name, part in model.named_children()
    }


def restored_in_stage(model: nn.Module, stage: PriorStage, blur: Tensor, sharp: Tensor) -> Restoration:
    """Restore a batch: in the stage "encode" with the prior that only training has."""
    if stage == "encode":
        assert isinstance(model, BlurDM)
        return model(blur, model.sharp_prior(blur, sharp))
    return model(blur)


def priors(model: BlurDM, blur: Tensor, sharp: Tensor, draws: int = 1) -> Priors:
    """Both priors of a batch, for several draws of noise; the sharp encoder is frozen, its normalisation too."""
    assert model.sharp_encoder is not None
    with torch.no_grad():
        model.sharp_encoder.eval()
        wanted = model.sharp_prior(blur, sharp)
    latents = model.diffusion.encode(pad_to_multiple(blur, model.stride))
    diffused = model.diffusion.states_from(latents.repeat_interleave(draws, dim=0))[-1]
    return Priors(diffused, wanted.repeat_interleave(draws, dim=0))


def prior_loss(found: Priors, settings: PriorTraining) -> dict[str, Tensor]:
    """Difference of the priors, in the form of `relo.training.losses.total_loss`.

    Returns
    -------
    dict of () tensors
        "prior", and the same as "total": the mean of sqrt(d^2 + 1e-6), or of |d| (the paper's).
    """
    if settings.loss == "l1":
        difference = F.l1_loss(found.diffused, found.wanted)
    else:
        difference = charbonnier(found.diffused, found.wanted).mean()
    return {"prior": difference, "total": difference}
