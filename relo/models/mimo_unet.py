"""MIMO-UNet and MIMO-UNet+ (Cho et al. 2021), with the published parameter names.

The network sees the blurred image at full, half and quarter resolution and restores all three;
each output is a residual added to its input. MIMO-UNet+ has more residual blocks and two channel
dropouts. `MIMOUNet.heads` gives the three residuals before anything is added: LBAG builds its gates
on them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.image_batches import check_image_batch, check_in_channels, crop_to, pad_to_multiple
from relo.models.option_ranges import check_blocks
from relo.models.prior_fusion import PriorFusion, check_prior, check_prior_length
from relo.models.restoration import Restoration

STRIDE = 4  # sides must be multiples of it inside the network
STRIDE_WITH_PRIOR = 8  # as in the evaluation of BlurDM
SCALES = (4, 2, 1)  # coarse to fine


class ConvUnit(nn.Module):
    """A convolution with bias and zero padding k // 2, or a x2 transposed one, then optionally ReLU.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel : int
        Kernel size [px]; 4 for the transposed form.
    stride : int
        Stride [px].
    relu : bool
        Whether a ReLU follows.
    transposed : bool
        Transposed convolution with padding 1: kernel 4 and stride 2 double the size exactly.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        relu: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        convolution: nn.Module
        if transposed:
            convolution = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding=1)
        else:
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.main = nn.Sequential(convolution, nn.ReLU(inplace=True)) if relu else nn.Sequential(convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H', W')."""
        return self.main(x)


class ResBlock(nn.Module):
    """x + conv(ReLU(conv(x))), without a ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(ConvUnit(channels, channels, 3), ConvUnit(channels, channels, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, C, H, W)."""
        return self.main(x) + x


class ResBlocks(nn.Module):
    """A chain of `count` residual blocks.

    Parameters
    ----------
    channels, count : int
    prior : int
        Length of a prior that modulates what enters the chain; 0 for none.
    """

    def __init__(self, channels: int, count: int, prior: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ResBlock(channels) for _ in range(count)))
        if prior:
            self.kv = PriorFusion(channels, prior)

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, C, H, W); without a prior nothing is modulated."""
        return self.layers(x if prior is None else self.kv(x, prior))


class ShallowModule(nn.Module):
    """SCM: features of a downsampled input (N, inputs, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, inputs: int = 3) -> None:
        super().__init__()
        quarter, half = channels // 4, channels // 2
        self.main = nn.Sequential(
            ConvUnit(inputs, quarter, 3),
            ConvUnit(quarter, half, 1),
            ConvUnit(half, half, 3),
            ConvUnit(half, channels - inputs, 1),
        )
        self.conv = ConvUnit(channels, channels, 1, relu=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map the image to features."""
        return self.conv(torch.cat([image, self.main(image)], dim=1))


class AttentionModule(nn.Module):
    """FAM: f + conv(f * g) for downsampled features f and shallow features g."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = ConvUnit(channels, channels, 3, relu=False)

    def forward(self, features: Tensor, shallow: Tensor) -> Tensor:
        """Fuse two (N, C, H, W) tensors."""
        return features + self.merge(features * shallow)


class FusionModule(nn.Module):
    """AFF: features of all three encoder levels, brought to one size, to `channels` channels."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(ConvUnit(inputs, channels, 1), ConvUnit(channels, channels, 3, relu=False))

    def forward(self, *levels: Tensor) -> Tensor:
        """Concatenate the levels and mix them."""
        return self.conv(torch.cat(levels, dim=1))


class MIMOUNet(nn.Module):
    """MIMO-UNet (Cho et al. 2021).

    Parameters
    ----------
    num_res : int
        Residual blocks per stage, at most 256: 8 published as MIMO-UNet, 20 as MIMO-UNet+.
    width : int
        Channels at full resolution, even; 32 is published.
    dropout : float
        Probability of the channel dropouts after the two feature fusions: 0.1 for MIMO-UNet+, else 0.
    head_channels : int
        Channels of each of the three output convolutions.
    in_channels : int
        3, or 6 to be given a short exposure too, behind the blurred image (ExpRDiff paper, table 1).
    prior : int
        Length of a prior that modulates the input of each decoder stage, 256 in BlurDM; 0 for a network without.
    offset : float
        Subtracted from the input: 0.5 in BlurDM, which trains on [-0.5, 0.5].
    """

    def __init__(
        self,
        num_res: int = 8,
        width: int = 32,
        dropout: float = 0.0,
        head_channels: int = 3,
        in_channels: int = 3,
        prior: int = 0,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        check_in_channels(in_channels)
        self.in_channels, self.prior, self.offset = in_channels, prior, offset
        check_blocks(1, num_res=num_res)
        check_prior_length(prior)
        if width < 2 or width % 2:
            raise ValueError(f"expected an even width, got {width}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if 2 * width <= in_channels:
            raise ValueError(
                f"width must be above {in_channels // 2} for {in_channels} input channels, got {width}"
            )
        c1, c2, c4 = width, 2 * width, 4 * width
        self.Encoder = nn.ModuleList([ResBlocks(c, num_res) for c in (c1, c2, c4)])
        self.feat_extract = nn.ModuleList(
            [
                ConvUnit(in_channels, c1, 3),
                ConvUnit(c1, c2, 3, 2),
                ConvUnit(c2, c4, 3, 2),
                ConvUnit(c4, c2, 4, 2, transposed=True),
                ConvUnit(c2, c1, 4, 2, transposed=True),
                ConvUnit(c1, head_channels, 3, relu=False),
            ]
        )
        self.Decoder = nn.ModuleList([ResBlocks(c, num_res, prior) for c in (c4, c2, c1)])
        self.Convs = nn.ModuleList([ConvUnit(c4, c2, 1), ConvUnit(c2, c1, 1)])
        self.ConvsOut = nn.ModuleList([ConvUnit(c, head_channels, 3, relu=False) for c in (c4, c2)])
        self.AFFs = nn.ModuleList([FusionModule(7 * width, c) for c in (c1, c2)])
        self.FAM1, self.SCM1 = AttentionModule(c4), ShallowModule(c4, in_channels)
        self.FAM2, self.SCM2 = AttentionModule(c2), ShallowModule(c2, in_channels)
        self.drop1, self.drop2 = nn.Dropout2d(dropout), nn.Dropout2d(dropout)

    def heads(self, x: Tensor, prior: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three head outputs, coarse to fine, for an image whose sides are multiples of 4.

        Parameters
        ----------
        x : (N, in_channels, H, W) tensor
            Blurred images in [0, 1].
        prior : (N, P) tensor, optional

        Returns
        -------
        tuple of three tensors
            (N, head_channels, H/4, W/4), (…, H/2, W/2) and (…, H, W).
        """
        x = x - self.offset if self.offset else x
        x2 = halve(x)
        x4 = halve(x2)
        res1 = self.Encoder[0](self.feat_extract[0](x))
        res2 = self.Encoder[1](self.FAM2(self.feat_extract[1](res1), self.SCM2(x2)))
        z = self.Encoder[2](self.FAM1(self.feat_extract[2](res2), self.SCM1(x4)))
        z42 = double(z)
        # Both fusions see the encoder features from before either of them.
        fused2 = self.drop2(self.AFFs[1](halve(res1), res2, z42))
        fused1 = self.drop1(self.AFFs[0](res1, double(res2), double(z42)))
        z = self.Decoder[0](z, prior)
        head4 = self.ConvsOut[0](z)
        z = self.Decoder[1](self.Convs[0](torch.cat([self.feat_extract[3](z), fused2], dim=1)), prior)
        head2 = self.ConvsOut[1](z)
        z = self.Decoder[2](self.Convs[1](torch.cat([self.feat_extract[4](z), fused1], dim=1)), prior)
        return head4, head2, self.feat_extract[5](z)

    def forward(self, blur: Tensor, prior: Tensor | None = None) -> Restoration:
        """Restore a batch of any size.

        Parameters
        ----------
        blur : (N, in_channels, H, W) tensor
            RGB in [0, 1]. Other sizes than multiples of 4, with a prior of 8, are padded and cropped again.
        prior : (N, P) tensor, optional
            Without it a network that was built for one restores as if it were not.

        Returns
        -------
        Restoration
            `scales`: (N, 3, ceil(H/s), ceil(W/s)) for s = 4, 2, 1, not clamped; `image` is the last.
        """
        check_image_batch(blur, self.in_channels)
        if prior is not None:
            check_prior(prior, self.prior, blur.shape[0])
        height, width = blur.shape[-2:]
        padded = pad_to_multiple(blur, STRIDE if prior is None else STRIDE_WITH_PRIOR)
        scales = tuple(
            crop_to(head + padded[:, :3, ::scale, ::scale], height, width, scale)
            for scale, head in zip(SCALES, self.heads(padded, prior), strict=True)
        )
        return Restoration(scales[-1], scales, ())


def mimo_unet(
    num_res: int = 8, width: int = 32, in_channels: int = 3, prior: int = 0, offset: float = 0.0
) -> MIMOUNet:
    """MIMO-UNet: 6,807,171 parameters as published."""
    return MIMOUNet(num_res, width, in_channels=in_channels, prior=prior, offset=offset)


def mimo_unet_plus(
    num_res: int = 20,
    width: int = 32,
    dropout: float = 0.1,
    in_channels: int = 3,
    prior: int = 0,
    offset: float = 0.0,
) -> MIMOUNet:
    """MIMO-UNet+: 16,107,651 parameters as published, 16,222,339 with a prior of 256."""
    return MIMOUNet(num_res, width, dropout, in_channels=in_channels, prior=prior, offset=offset)


def halve(x: Tensor) -> Tensor:
    """Nearest-neighbour scale 1/2: keeps the even rows and columns (index 2i)."""
    return x[:, :, ::2, ::2]


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour scale 2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
