"""How a prior, one vector an image, modulates the features of a network (BlurDM, He et al. 2025)."""

from __future__ import annotations

from torch import Tensor, nn


class PriorFusion(nn.Linear):
    """Scale and shift each channel of features by a linear function of the prior: F' = F k + v.

    (k, v) = prior W^T, the prior fusion of BlurDM (He et al. 2025). There is no "1 + k": where k is 0 the features
    vanish. Published state dicts call this layer `kv`.

    Parameters
    ----------
    channels : int
        Of the features.
    prior : int
        Length of the prior.
    bias : bool
        Only LoFormer's has one.
    """

    def __init__(self, channels: int, prior: int, *, bias: bool = False) -> None:
        super().__init__(prior, 2 * channels, bias=bias)

    def forward(self, features: Tensor, prior: Tensor) -> Tensor:  # type: ignore[override]
        """Keep the shape of (N, channels, H, W) features; the prior is (N, its length)."""
        scale, shift = super().forward(prior)[:, :, None, None].chunk(2, dim=1)
        return features * scale + shift

    def channels_last(self, features: Tensor, prior: Tensor) -> Tensor:
        """Do the same for features (N, H, W, channels)."""
        return self(features.permute(0, 3, 1, 2), prior).permute(0, 2, 3, 1)


class Level(nn.ModuleList):
    """A sequence of blocks, each given the same prior."""

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C), or of whatever the blocks take."""
        for block in self:
            x = block(x, prior)
        return x


def check_prior_length(length: int) -> None:
    """Refuse the length of a prior that no network can be built for.

    Raises
    ------
    ValueError
        It is negative.
    """
    if length < 0:
        raise ValueError(f"prior must be the length of a prior, or 0 for none, got {length}")


def check_prior(prior: Tensor, length: int, batch: int) -> None:
    """Refuse a prior that a network was not built for.

    Parameters
    ----------
    prior : tensor
    length : int
        What the network was built for; 0 for a network without prior.
    batch : int
        Images.

    Raises
    ------
    ValueError
        The prior is not (batch, length), or the network takes none.
    """
    if not length:
        raise ValueError("this network was built without prior fusion: give prior=256 when it is created")
    if prior.shape != (batch, length):
        raise ValueError(f"expected a ({batch}, {length}) prior, got shape {tuple(prior.shape)}")
