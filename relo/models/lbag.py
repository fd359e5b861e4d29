"""LBAG: MIMO-UNet+ with a gate at each output scale (Li et al. 2023, section 4).

Each head has four channels: channel 0 is the logit of the blur mask, channels 1 to 3 are the RGB
residual. The gate has no parameters of its own: mask = sigmoid(logit), output = mask * residual + input.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from relo.models.image_batches import check_image_batch, crop_to, pad_to_multiple
from relo.models.mimo_unet import SCALES, STRIDE, MIMOUNet
from relo.models.restoration import Restoration

# The only tensors whose shape differs from MIMO-UNet+.
HEAD_NAMES = tuple(
    f"{layer}.main.0.{kind}"
    for layer in ("feat_extract.5", "ConvsOut.0", "ConvsOut.1")
    for kind in ("weight", "bias")
)


class LBAG(MIMOUNet):
    """Local blur-aware gated network.

    Parameters
    ----------
    num_res, width, dropout
        As in `MIMOUNet`; 20, 32 and 0.1 are published (16,109,670 parameters).
    clamp_gate : float
        Lower bound of the gate, 0.1 in the public code (the paper does not mention it). Where the
        sigmoid is below it, the mask logit gets no gradient. 0 switches it off.
    multiscale_gate : bool
        Whether the two coarse outputs are gated too. If not, their channel 0 is ignored and `masks`
        holds the full-size mask alone.
    """

    def __init__(
        self,
        num_res: int = 20,
        width: int = 32,
        dropout: float = 0.1,
        clamp_gate: float = 0.1,
        multiscale_gate: bool = True,
    ) -> None:
        super().__init__(num_res, width, dropout, head_channels=4)
        if not 0.0 <= clamp_gate < 1.0:
            raise ValueError(f"clamp_gate must be in [0, 1), got {clamp_gate}")
        self.clamp_gate = clamp_gate
        self.multiscale_gate = multiscale_gate

    def forward(self, blur: Tensor) -> Restoration:  # type: ignore[override]  # a gate, and no prior
        """Restore a batch of any size.

        Parameters
        ----------
        blur : (N, 3, H, W) tensor
            RGB in [0, 1]. Sizes that are not multiples of 4 are padded inside and cropped again.

        Returns
        -------
        Restoration
            `scales` and `masks` at 1/4, 1/2 and full size; images not clamped, masks in [clamp_gate, 1].
        """
        check_image_batch(blur)
        height, width = blur.shape[-2:]
        padded = pad_to_multiple(blur, STRIDE)
        scales, masks = [], []
        for scale, head in zip(SCALES, self.heads(padded), strict=True):
            residual = head[:, 1:]
            if self.multiscale_gate or scale == 1:
                mask = torch.sigmoid(head[:, :1]).clamp(min=self.clamp_gate)
                residual = mask * residual
                masks.append(crop_to(mask, height, width, scale))
            scales.append(crop_to(residual + padded[:, :, ::scale, ::scale], height, width, scale))
        return Restoration(scales[-1], tuple(scales), tuple(masks))

    def untrained_names(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Names of the heads, where those of a state dict are MIMO-UNet+'s; else none.

        With the other weights of a MIMO-UNet+ this is "LBAG+" (Li et al. 2023, table 3).
        """
        heads = [state.get(name) for name in HEAD_NAMES]
        published = all(head is not None and head.ndim > 0 and head.shape[0] == 3 for head in heads)
        return HEAD_NAMES if published else ()
