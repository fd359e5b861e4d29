"""The short exposure's features at the scales of a UNet's encoder.

The paper names such a network but no layers. This one is in the manner of the T2I-Adapter (Mou et al. 2023): space
to channels by the factor of the VAE, then at each scale a convolution and residual blocks of few parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

BLOCKS = 2  # a scale


class ResidualBlock(nn.Module):
    """x + conv1x1(SiLU(conv3x3(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, C, H, W)."""
        return x + self.main(x)


class ShortFeatures(nn.Module):
    """Feature maps of a short exposure.

    Parameters
    ----------
    channels : sequence of int
        Of each map.
    strides : sequence of int
        Of each map against the latents, not falling, each a multiple of the one before: 2, 4, 4 for SDXL.
    factor : int
        Pixels a latent, along each side: 8 for SDXL.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], factor: int = 8) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(factor)
        self.intro = nn.Conv2d(3 * factor**2, channels[0], 3, padding=1)
        inputs, before = (channels[0], *channels[:-1]), (1, *strides[:-1])
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide_in, wide, 3, stride=stride // last, padding=1),
                *(ResidualBlock(wide) for _ in range(BLOCKS)),
            )
            for wide_in, wide, stride, last in zip(inputs, channels, strides, before, strict=True)
        )

    def forward(self, short: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps.

        Parameters
        ----------
        short : (N, 3, H, W) tensor
            Short exposure in [0, 1]; H and W are multiples of `factor`.

        Returns
        -------
        tuple of (N, C_i, h_i, w_i) tensors
            h_i is H / factor / stride_i, rounded up at every step as the UNet rounds.
        """
        x = self.intro(self.unshuffle(short))
        maps = []
        for scale in self.scales:
            x = scale(x)
            maps.append(x)
        return tuple(maps)


def encoder_taps(block_out_channels: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of the outputs of a UNet's down blocks: (320, 640, 1280), (2, 4, 4) for SDXL.

    Parameters
    ----------
    block_out_channels : sequence of int
        Of the UNet's configuration. Each block but the last halves the size at its end.
    """
    last = len(block_out_channels) - 1
    return tuple(block_out_channels), tuple(2 ** min(block + 1, last) for block in range(last + 1))
