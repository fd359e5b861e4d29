"""NAFNet (Chen et al. 2022, "Simple baselines for image restoration") with the published parameter names.

A U-Net of convolutions, gates and one attention over channels; no activation function. Inside, features lie as
(N, H, W, C): a 1x1 convolution is one matrix product, and torch's layer normalisation works on contiguous channels.
For inference on a CPU, blocks of few channels process the image in strips of rows, whose features stay in the
cache. Both make it fast (`benchmarks/models.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.channels_last import in_strips, only_computes, pointwise, spatial
from relo.models.image_batches import check_image_batch, check_in_channels
from relo.models.option_ranges import check_blocks
from relo.models.restoration import Restoration

NORM_EPS = 1e-6
MOST_STAGES = 8  # of the encoder; a damaged number is refused
# Test-time local pooling looks at windows of 1.5 times the size of the training patches (Chu et al. 2022, TLC).
POOLING_SHARE = 1.5
# With more channels, computing the rows that strips share twice costs more time than the cache saves.
STRIP_CHANNELS = 64


class ChannelAttention(nn.Sequential):
    """Simplified channel attention: one factor a channel, linear in the channels' means; no sigmoid.

    The convolution has the published index 1; at index 0 there is the mean, which has no parameters.

    Parameters
    ----------
    channels : int
    window : int
        0 for the mean over the whole image; else side of the window [px] whose mean each pixel has instead.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__(nn.Identity(), nn.Conv2d(channels, channels, 1))
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Scale (N, H, W, C) features."""
        return x * self.factors(x)

    def factors(self, x: Tensor) -> Tensor:
        """Of features (N, H, W, C): (N, 1, 1, C), or a factor for every pixel with local pooling."""
        height, width = x.shape[1:3]
        # In a recorded graph the size is unknown: `local_mean` cuts windows to it.
        if self.window and (torch.compiler.is_compiling() or self.window < max(height, width)):
            means = local_mean(x, self.window)
        else:
            means = x.mean(dim=(1, 2), keepdim=True)
        return pointwise(self.get_submodule("1"), means)


class NAFBlock(nn.Module):
    """x + beta conv3(attention(gate(conv2(conv1(norm1 x))))), then y + gamma conv5(gate(conv4(norm2 y))).

    Parameters
    ----------
    channels : int
    window : int
        See `ChannelAttention`.
    """

    def __init__(self, channels: int, window: int = 0) -> None:
        super().__init__()
        wide = 2 * channels
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca = ChannelAttention(channels, window)
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = nn.LayerNorm(channels, NORM_EPS)
        self.norm2 = nn.LayerNorm(channels, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, H, W, C)."""
        if x.shape[-1] <= STRIP_CHANNELS and only_computes(x):
            return self._in_strips(x)
        wide = spatial(self.conv2, pointwise(self.conv1, self.norm1(x)))
        x = self.mixed(x, self.sca(gate(wide)))
        return self.fed_forward(x, gate(pointwise(self.conv4, self.norm2(x))))

    def _in_strips(self, x: Tensor) -> Tensor:
        """`forward`, a few rows at a time before and after attention, which wants the means of all."""
        gated = in_strips(lambda rows: gate(self._wide(x, rows)), x)
        factors = self.sca.factors(gated).expand_as(gated)

        def rest(rows: slice) -> Tensor:
            mixed = self.mixed(x[:, rows], gated[:, rows] * factors[:, rows])
            return self.fed_forward(mixed, gate(pointwise(self.conv4, self.norm2(mixed))))

        return in_strips(rest, x)

    def _wide(self, x: Tensor, rows: slice) -> Tensor:
        """Rows of the depth-wise convolution, which reads one more on each side, or zeros outside the image."""
        height = x.shape[1]
        wide = pointwise(self.conv1, self.norm1(x[:, max(rows.start - 1, 0) : rows.stop + 1]))
        above, below = int(rows.start == 0), int(rows.stop == height)
        if above or below:
            wide = F.pad(wide, (0, 0, 0, 0, above, below))
        conv, wide = self.conv2, wide.permute(0, 3, 1, 2)
        return F.conv2d(wide, conv.weight, conv.bias, padding=(0, 1), groups=conv.groups).permute(0, 2, 3, 1)

    def mixed(self, x: Tensor, attended: Tensor) -> Tensor:
        """First half of the block, from its attention on."""
        return x + pointwise(self.conv3, attended, self.beta)

    def fed_forward(self, x: Tensor, gated: Tensor) -> Tensor:
        """Second half of the block, from its gate on."""
        return x + pointwise(self.conv5, gated, self.gamma)


class NAFNet(nn.Module):
    """NAFNet: 17,111,907 parameters by default, as published for GoPro; 67,888,835 with width 64.

    Parameters
    ----------
    width : int
        Channels at full resolution; each encoder stage doubles them.
    enc_blocks, dec_blocks : sequence of int
        Blocks of each encoder stage, of each decoder stage; as many stages in both.
    middle_blocks : int
    local_pooling : int
        0 for channel attention over the whole image; else the side of the training patches [px], for means over
        windows of 1.5 times that: the variant for testing on whole images ("TLC", Chu et al. 2022; 256 for
        the published GoPro weights). The weights are the same.
    in_channels : int
        3, or 6 to be given a short exposure too, behind the blurred image (ExpRDiff paper, table 1).
    """

    def __init__(
        self,
        width: int = 32,
        enc_blocks: Sequence[int] = (1, 1, 1, 28),
        middle_blocks: int = 1,
        dec_blocks: Sequence[int] = (1, 1, 1, 1),
        local_pooling: int = 0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _check(width, enc_blocks, middle_blocks, dec_blocks, local_pooling)
        check_in_channels(in_channels)
        self.in_channels = in_channels
        stages = len(enc_blocks)
        windows = [pooling_window(local_pooling, level) for level in range(stages + 1)]
        channels = [width << level for level in range(stages + 1)]
        self.intro = nn.Conv2d(in_channels, width, 3, padding=1)
        self.ending = nn.Conv2d(width, 3, 3, padding=1)
        self.encoders = nn.ModuleList(
            [
                self._encoder(channels[level], count, windows[level], level == stages - 1)
                for level, count in enumerate(enc_blocks)
            ]
        )
        self.downs = nn.ModuleList([nn.Conv2d(c, 2 * c, 2, 2) for c in channels[:-1]])
        self.middle_blks = _blocks(channels[-1], middle_blocks, windows[-1])
        self.ups = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in reversed(channels[1:])]
        )
        self.decoders = nn.ModuleList(
            [
                _blocks(channels[level], count, windows[level])
                for level, count in zip(reversed(range(stages)), dec_blocks, strict=True)
            ]
        )

    def _encoder(self, channels: int, count: int, window: int, last: bool) -> nn.Module:  # noqa: ARG002
        """Blocks of an encoder stage; M2AENet has others in the last."""
        return _blocks(channels, count, window)

    @property
    def stride(self) -> int:
        """Sides are padded to a multiple of it inside the network [px]."""
        return 1 << len(self.encoders)

    def forward(self, blur: Tensor) -> Restoration:
        """Restore a batch of any size.

        Parameters
        ----------
        blur : (N, in_channels, H, W) tensor
            RGB in [0, 1]. Padded with zeros at the bottom and right to a multiple of 2^stages, as published.

        Returns
        -------
        Restoration
            Not clamped; no scales, no masks.
        """
        x, skips = self.encoded(blur, len(self.encoders))
        return Restoration(self.restored(x, skips, blur), (), ())

    def encoded(self, blur: Tensor, stages: int) -> tuple[Tensor, list[Tensor]]:
        """Pad a batch and run the first encoder stages: the input of the next stage, and the skip features."""
        check_image_batch(blur, self.in_channels)
        height, width = blur.shape[-2:]
        padded = F.pad(blur, (0, -width % self.stride, 0, -height % self.stride))
        x = spatial(self.intro, padded.permute(0, 2, 3, 1).contiguous())
        skips = []
        for encoder, down in zip(self.encoders[:stages], self.downs[:stages], strict=True):
            x = encoder(x)
            skips.append(x)
            x = spatial(down, x)
        return x, skips

    def restored(self, x: Tensor, skips: list[Tensor], blur: Tensor) -> Tensor:
        """Middle and decoder: the image from the deepest features and those of each encoder stage.

        `skips` is emptied on the way, so that features are freed once they are used.
        """
        x = self.middle_blks(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(_doubled(up.get_submodule("0"), x, skips.pop()))
        height, width = blur.shape[-2:]
        return blur[:, :3] + spatial(self.ending, x).permute(0, 3, 1, 2)[..., :height, :width]


def gate(x: Tensor) -> Tensor:
    """Product of the first half of the channels and the second: (N, H, W, 2C) to (N, H, W, C)."""
    first, second = x.chunk(2, dim=-1)
    return first * second


def pooling_window(train_size: int, level: int) -> int:
    """Side of the windows of local pooling [px of that level], for training patches of `train_size` px; 0 for 0."""
    return (train_size >> level) * int(POOLING_SHARE * train_size) // train_size if train_size else 0


def local_mean(x: Tensor, window: int) -> Tensor:
    """Mean over a window around each pixel, by cumulative sums.

    Near the border the mean is that of the nearest window that lies inside; a window larger than a side is
    cut to it.

    Parameters
    ----------
    x : (N, H, W, C) tensor
    window : int
        Side [px].

    Returns
    -------
    (N, H, W, C) tensor
    """
    overall = x.mean(dim=(1, 2), keepdim=True)
    # Cumulative sums of differences from the mean stay small, so that subtracting them loses fewer digits.
    mean = _moving_mean(_moving_mean(x - overall, 1, window), 2, window)
    return mean + overall


def _moving_mean(x: Tensor, dim: int, window: int) -> Tensor:
    size = x.shape[dim]
    window = min(window, size)
    total = x.cumsum(dim)
    first = total.narrow(dim, window - 1, 1)
    rest = total.narrow(dim, window, size - window) - total.narrow(dim, 0, size - window)
    inside = (torch.arange(size, device=x.device) - (window - 1) // 2).clamp(0, size - window)
    return torch.cat([first, rest], dim).index_select(dim, inside) / window


def _doubled(conv: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
    """1x1 convolution, pixel shuffle, sum with the encoder's features: (N, H, W, C) to (N, 2H, 2W, C / 2)."""
    count, height, width, channels = skip.shape
    # Pixel shuffle wants (channel, row, column); weights in another order give (row, column, channel).
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.view(channels, 4, -1).transpose(0, 1).reshape(4 * channels, -1)
    squares = F.linear(x, weight).view(count, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return (skip.reshape(count, height // 2, 2, width // 2, 2, channels) + squares).reshape(skip.shape)


def _blocks(channels: int, count: int, window: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(channels, window) for _ in range(count)))


def _check(
    width: int, enc_blocks: Sequence[int], middle_blocks: int, dec_blocks: Sequence[int], local_pooling: int
) -> None:
    if width < 1:
        raise ValueError(f"width must be positive, got {width}")
    check_blocks(0, enc_blocks=enc_blocks, middle_blocks=middle_blocks, dec_blocks=dec_blocks)
    if not 1 <= len(enc_blocks) <= MOST_STAGES or len(enc_blocks) != len(dec_blocks):
        raise ValueError(f"needs 1 to {MOST_STAGES} encoder stages and as many decoder stages")
    if local_pooling < 0 or 0 < local_pooling < 1 << len(enc_blocks):
        raise ValueError(f"local_pooling must be 0 or the side of the training patches, got {local_pooling}")
