"""M2AENet (Shang et al. 2025): a NAFNet whose deepest encoder stage is given a blur mask and the motion.

No code was published: what the paper leaves open is chosen so that its parameter counts come out, and each choice
is in docs/decisions, from 0014 on. Features are (N, H, W, C), as in `relo.models.nafnet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.channels_last import pointwise, spatial
from relo.models.image_batches import enlarge
from relo.models.m2aenet.deformable import (
    convolve_by_sampling,
    convolve_compiled,
    runs_compiled,
    sampling_places,
)
from relo.models.m2aenet.heads import MaskPredictor, MotionAnalyzer, decide_mask, draw_mask
from relo.models.m2aenet.pruning import MaskedPixels, find_masked, gate_where_masked
from relo.models.m2aenet.trajectories import TAPS, TrajectoryForm, trajectory
from relo.models.nafnet import NAFBlock, NAFNet, gate
from relo.models.precision import at_least_float32
from relo.models.restoration import MotionRestoration, Restoration


class Guide(NamedTuple):
    """Mask and motion of a batch, which all blocks of the stage share.

    Attributes
    ----------
    mask : (N, h, w, 1) tensor of 0 and 1
        1 where blurred.
    taps : (9, N, 2, h, w) tensor
        (dy, dx) [px of this grid].
    places : (9, N, h, w, 2) tensor or None
        The same for torch's sampling; None where the compiled convolution runs.
    pixels : MaskedPixels or None
        Tables for pruned inference; None to compute the masked formula at every pixel.
    """

    mask: Tensor
    taps: Tensor
    places: Tensor | None
    pixels: MaskedPixels | None


class MotionAwareBlock(NAFBlock):
    """NAFBlock that leaves sharp pixels out of its first convolutions and follows the motion in its second half.

    M2AS of the paper, eq. 5 and 6: the wide features are m conv2(conv1(f)) + (1 - m) [f, f]; a deformable
    depth-wise convolution, initialised as the identity, precedes the second gate.
    """

    def __init__(self, channels: int, window: int = 0) -> None:
        super().__init__(channels, window)
        wide = 2 * channels
        self.dconv = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        nn.init.zeros_(self.dconv.weight)
        nn.init.ones_(self.dconv.weight[:, :, 1, 1])
        assert self.dconv.bias is not None
        nn.init.zeros_(self.dconv.bias)

    def forward(self, x: Tensor, guide: Guide) -> Tensor:  # type: ignore[override]
        """Keep the shape of (N, H, W, C)."""
        features = self.norm1(x)
        if guide.pixels is None:
            gated = self._gated_everywhere(features, guide.mask)
        else:
            gated = gate_where_masked(features, self.conv1, self.conv2, guide.pixels)
        x = self.mixed(x, self.sca(gated))
        wide = pointwise(self.conv4, self.norm2(x))
        return self.fed_forward(x, self._gated_along(wide, guide))

    def _gated_everywhere(self, features: Tensor, mask: Tensor) -> Tensor:
        """Equation 5 as it stands: both branches at every pixel, with a gradient for the mask."""
        wide = spatial(self.conv2, pointwise(self.conv1, features))
        return gate(mask * wide + (1 - mask) * torch.cat([features, features], dim=-1))

    def _gated_along(self, wide: Tensor, guide: Guide) -> Tensor:
        weight, bias = self.dconv.weight, self.dconv.bias
        if guide.places is None:
            return convolve_compiled(wide, guide.taps, weight, bias, gated=True)
        moved = convolve_by_sampling(wide.permute(0, 3, 1, 2), guide.places, weight, bias)
        return gate(moved.permute(0, 2, 3, 1).to(wide.dtype))


class M2AENet(NAFNet):
    """Motion-aware adaptive pixel pruning network: 17,437,865 parameters by default.

    In evaluation mode the masked convolutions are pruned, which changes nothing but rounding; set `pruned` to False
    to compute the masked formula at every pixel, as in training and as exported.

    Parameters
    ----------
    width, enc_blocks, middle_blocks, dec_blocks, local_pooling
        As in `NAFNet`. The last encoder stage has the motion-aware blocks; its features are at
        1 / 2^(stages - 1), an eighth for the published four.
    trajectory_form : {"quadratic", "linear", "learned"}
        See `trajectory`.
    temperature : float
        Of the Gumbel-softmax that draws the mask in training.
    """

    def __init__(
        self,
        width: int = 32,
        enc_blocks: Sequence[int] = (1, 1, 1, 28),
        middle_blocks: int = 1,
        dec_blocks: Sequence[int] = (1, 1, 1, 1),
        local_pooling: int = 0,
        trajectory_form: TrajectoryForm = "quadratic",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(width, enc_blocks, middle_blocks, dec_blocks, local_pooling)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        channels = width << (len(enc_blocks) - 1)
        if channels % 4:
            raise ValueError(f"the last encoder stage needs a multiple of 4 channels, got {channels}")
        self.trajectory_form = trajectory_form
        self.temperature = temperature
        self.pruned = True
        self.predictor = MaskPredictor(channels)
        self.analyzer = MotionAnalyzer(channels, trajectory_form)

    def _encoder(self, channels: int, count: int, window: int, last: bool) -> nn.Module:
        if not last:
            return super()._encoder(channels, count, window, last)
        return nn.ModuleList([MotionAwareBlock(channels, window) for _ in range(count)])

    @property
    def mask_stride(self) -> int:
        """Pixels of the image to a side of one pixel of the mask."""
        return self.stride // 2

    def forward(  # type: ignore[override]
        self, blur: Tensor, mask: Tensor | None = None
    ) -> Restoration | MotionRestoration:
        """Restore a batch of any size.

        Parameters
        ----------
        blur : (N, 3, H, W) tensor
            RGB in [0, 1]. Padded with zeros at the bottom and right, where the mask is 0.
        mask : (N, 1, ceil(H/8), ceil(W/8)) tensor, optional
            Where there is blur, in place of what the network predicts: values above 0.5 count as 1, others as 0.

        Returns
        -------
        Restoration, or MotionRestoration in training mode without a given mask
            `masks` holds the probability of blur, or the given mask, at full size; the network decides a pixel of
            the coarse grid at a time. In training the mask is drawn by that probability, at test it is where it is
            above one half.
        """
        x, skips = self._features(blur)
        rows, columns = self._mask_size(blur)
        logits = None
        if mask is None:
            logits = self.predictor(x[:, :rows, :columns])
            used = draw_mask(logits, self.temperature) if self.training else decide_mask(logits)
            shown = logits.softmax(dim=-1)[..., :1]
        else:
            if mask.shape != (len(blur), 1, rows, columns):
                raise ValueError(f"expected a mask {(len(blur), 1, rows, columns)}, got {tuple(mask.shape)}")
            used = shown = (mask > 0.5).to(x.dtype).permute(0, 2, 3, 1)
        offsets = self.analyzer(x)
        x = self._guided(x, used, offsets)
        skips.append(x)
        image = self.restored(spatial(self.downs[-1], x), skips, blur)
        masks = (enlarge(shown.permute(0, 3, 1, 2), self.mask_stride, *blur.shape[-2:]),)
        if not self.training or logits is None:
            return Restoration(image, (), masks)
        return MotionRestoration(image, (), masks, logits.permute(0, 3, 1, 2), offsets[..., :rows, :columns])

    def mask_features(self, blur: Tensor) -> Tensor:
        """Features that `mask_of` takes: (N, 3, H, W) to (N, C, ceil(H/8), ceil(W/8)).

        For images that are restored in windows: features can be put together from windows, a mask cannot, because
        it depends on the mean over the image.
        """
        rows, columns = self._mask_size(blur)
        return self._features(blur)[0][:, :rows, :columns].permute(0, 3, 1, 2)

    def mask_of(self, features: Tensor) -> Tensor:
        """Mask (N, 1, h, w) of 0 and 1 that the network decides on from features (N, C, h, w) of a whole image."""
        return decide_mask(self.predictor(features.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def untrained_names(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Names of tensors that the weights of a NAFNet lack; empty for any other weights.

        With a NAFNet's weights and the initial values of these the network restores exactly as that NAFNet does, if
        the mask is 1 everywhere and no padding is needed.
        """
        own = tuple(
            name for name in self.state_dict() if name.startswith(("predictor.", "analyzer.")) or ".dconv." in name
        )
        return () if any(name in state for name in own) else own

    def _mask_size(self, blur: Tensor) -> tuple[int, int]:
        height, width = blur.shape[-2:]
        return -(-height // self.mask_stride), -(-width // self.mask_stride)

    def _features(self, blur: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Input of the last encoder stage, and the skip features of the stages before."""
        return self.encoded(blur, len(self.encoders) - 1)

    def _guided(self, x: Tensor, mask: Tensor, offsets: Tensor) -> Tensor:
        """Last encoder stage; `mask` (N, h, w, 1) is 0 in the padding."""
        mask = F.pad(mask, (0, 0, 0, x.shape[2] - mask.shape[2], 0, x.shape[1] - mask.shape[1]))
        # In half precision a position among hundreds of pixels would be a quarter of a pixel off.
        taps = trajectory(at_least_float32(offsets), TAPS, self.trajectory_form)
        # As the compiled convolution reads them; a view of the same shape.
        taps = taps.permute(1, 3, 4, 0, 2).contiguous().permute(3, 0, 4, 1, 2)
        # Tables need values, which memory estimates (on the meta device) and exports do without.
        prune = self.pruned and not (self.training or torch.is_grad_enabled() or x.is_meta)
        compiled = runs_compiled(x, taps, *self.encoders[-1].parameters())
        guide = Guide(mask, taps, None if compiled else sampling_places(taps), find_masked(mask) if prune else None)
        for block in self.encoders[-1].children():
            x = block(x, guide)
        return x
