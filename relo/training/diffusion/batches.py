"""From patches as they are read to the batch of a step: on the device, with the mask that the recipe asks for."""

from __future__ import annotations

import torch

from relo.errors import TrainingError
from relo.models.exprdiff.detector import BlurDetector
from relo.models.image_batches import enlarge
from relo.training.checkpoint import load_checkpoint
from relo.training.data import Item, to_float
from relo.training.diffusion.objective import Batch
from relo.training.diffusion.recipe import DiffusionRecipe


class Batches:
    """Makes batches.

    Parameters
    ----------
    recipe : DiffusionRecipe
        Its mask and detector.
    device : torch.device

    Raises
    ------
    TrainingError
        A predicted mask is wanted, and `detector` holds none.
    """

    def __init__(self, recipe: DiffusionRecipe, device: torch.device) -> None:
        self.device, self.soft = device, recipe.mask == "predicted_soft"
        predicted = recipe.mask != "ground_truth" and recipe.detector is not None
        self.detector = _load_detector(str(recipe.detector), device) if predicted else None

    def of(self, item: Item) -> Batch:
        """Batch of patches whose "blur" has the short exposure behind it, (N, 6, H, W)."""
        floats = to_float(item)
        blur, short = floats["blur"].to(self.device).chunk(2, dim=1)
        mask = floats["mask"].to(self.device)
        if self.detector is not None:
            with torch.no_grad():
                found = self.detector(blur)
                mask = found.mask
                if self.soft:
                    likely = found.scores.float().softmax(dim=1)[:, 1:]
                    mask = enlarge(likely, self.detector.patch, *blur.shape[-2:])
        return Batch(blur, short, floats["sharp"].to(self.device), mask.float())


def _load_detector(run: str, device: torch.device) -> BlurDetector:
    model = load_checkpoint(run).model
    if not isinstance(model, BlurDetector):
        raise TrainingError(
            "holds no blur detector", file=run, advice="Give a run of 'relo train exprdiff-detector'."
        )
    return model.requires_grad_(False).eval().to(device)
