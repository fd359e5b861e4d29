"""The latent encoder of BlurDM: two images of one scene to one vector, with the published parameter names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.image_batches import check_image_batch, pad_to_multiple

PRIOR = 256  # length of the vector
FEATURES = 64  # channels of the residual blocks; the vector is four times as long
FACTOR = 4  # of the pixel unshuffling that comes first; sides are padded to a multiple of it
BLOCKS = 6
SLOPE = 0.1  # of every LeakyReLU


class LatentEncoder(nn.Module):
    """Convolutions at a quarter of the size, a mean over the image, two linear layers.

    The sharp encoder of BlurDM is given (blurred, sharp) and has batch normalisation, 1,148,224 parameters; its
    blur encoder is given the blurred image twice and has none, 1,146,688.

    Parameters
    ----------
    batch_norm : bool
        Whether a normalisation follows each convolution of the residual blocks.
    """

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.E = nn.Sequential(
            _convolution(2 * 3 * FACTOR**2, FEATURES),
            nn.LeakyReLU(SLOPE, inplace=True),
            *(_ResidualBlock(FEATURES, batch_norm) for _ in range(BLOCKS)),
            _convolution(FEATURES, 2 * FEATURES),
            nn.LeakyReLU(SLOPE, inplace=True),
            _convolution(2 * FEATURES, 2 * FEATURES),
            nn.LeakyReLU(SLOPE, inplace=True),
            _convolution(2 * FEATURES, PRIOR),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        self.mlp = nn.Sequential(
            nn.Linear(PRIOR, PRIOR),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(PRIOR, PRIOR),
            nn.LeakyReLU(SLOPE, inplace=True),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Encode two (N, 3, H, W) images, in the range that the backbone is trained with, to (N, 256).

        Sizes that are no multiples of 4 are padded at the bottom and right.

        Raises
        ------
        ValueError
            The images are not as described, or not of one size.
        """
        for image in (first, second):
            check_image_batch(image)
        if first.shape != second.shape:
            raise ValueError(f"two images of one size are needed, got {(*first.shape,)} and {(*second.shape,)}")
        cells = [F.pixel_unshuffle(pad_to_multiple(image, FACTOR), FACTOR) for image in (first, second)]
        return self.mlp(self.E(torch.cat(cells, dim=1)).mean(dim=(2, 3)))


class _ResidualBlock(nn.Module):
    """x + conv(LeakyReLU(conv(x))), each convolution normalised if asked for; nothing after the sum."""

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels),
            *_norm(channels, batch_norm),
            nn.LeakyReLU(SLOPE, inplace=True),
            _convolution(channels, channels),
            *_norm(channels, batch_norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, C, H, W)."""
        return self.body(x) + x


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _norm(channels: int, wanted: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels)] if wanted else []
