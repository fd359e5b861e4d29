"""Stripformer's contrastive term: a restoration should be near the sharp and far from the blurred image.

Near and far are measured between features of VGG19, a network trained to classify photographs (Simonyan and
Zisserman 2015). Its weights are the user's: nothing is downloaded. Source: public code of Tsai et al. 2022.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.errors import TrainingError
from relo.models.weights import read_state_dict

OFFSET = 0.5  # the published term sees images in [-0.5, 0.5], without the normalisation that VGG was trained with
THRESHOLD = 0.01  # mean absolute difference of blurred and sharp above which a pixel counts
LEAST_DISTANCE = 1e-7  # added to what is divided by


class ContrastiveLoss(nn.Module):
    """Distance to the sharp image as a share of the distance to the blurred one; see `from_file`."""

    def __init__(self) -> None:
        super().__init__()
        # The first twelve layers of VGG19 under their published names, features.0 to features.11.
        self.features = nn.Sequential(
            *_convolution(3, 64),
            *_convolution(64, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 128),
            *_convolution(128, 128),
            nn.MaxPool2d(2),
            *_convolution(128, 256),
        ).requires_grad_(False)

    @classmethod
    def from_file(cls, path: Path) -> ContrastiveLoss:
        """Read the weights of VGG19 with torchvision's names; what the term does not need is ignored.

        Raises
        ------
        TrainingError
            The file cannot be read, or lacks a needed tensor.
        """
        with torch.device("meta"):  # no weights are drawn only to be replaced
            loss = cls()
        state, weights = read_state_dict(path), {}
        for name, tensor in loss.state_dict().items():
            found = state.get(name)
            if found is None or found.shape != tensor.shape or not found.isfinite().all():
                raise TrainingError(
                    f"holds no {name} of shape {tuple(tensor.shape)} with finite values",
                    file=path,
                    advice="Give VGG19 as torchvision publishes it, vgg19-dcbb9e9d.pth.",
                )
            weights[name] = found.to(tensor.dtype)
        loss.load_state_dict(weights, assign=True)
        return loss

    def forward(self, pred: Tensor, sharp: Tensor, blur: Tensor) -> Tensor:
        """Mean over the batch's blurred pixels, at a quarter of the size, of that share.

        Parameters
        ----------
        pred, sharp, blur : (N, 3, H, W) tensor
            In [0, 1]; sides of at least 4 px.

        Returns
        -------
        () tensor
            0 where no pixel is blurred. A distance is the mean absolute difference of a pixel's features.
        """
        restored = self.features(pred - OFFSET)
        with torch.no_grad():
            near, far = (self.features(image - OFFSET) for image in (sharp, blur))
            blurred = ((sharp - blur).abs().mean(dim=1, keepdim=True) > THRESHOLD).to(pred.dtype)
            weight = F.interpolate(blurred, restored.shape[-2:], mode="bilinear")
        to_sharp, to_blur = ((restored - other).abs().mean(dim=1, keepdim=True) for other in (near, far))
        share = to_sharp / (to_blur + LEAST_DISTANCE)
        # Weights are multiples of a quarter: this keeps all sums but 0.
        return (share * weight).sum() / weight.sum().clamp(min=0.25)


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)
