"""What networks return."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Restoration(NamedTuple):
    """Restored images, coarse to fine.

    Attributes
    ----------
    image : (N, 3, H, W) tensor
        The restoration at the size of the input, not clamped to [0, 1].
    scales : tuple of (N, 3, ceil(H/s), ceil(W/s)) tensors
        Restorations coarse to fine, the last one `image`; empty for networks with a single output.
    masks : tuple of (N, 1, ceil(H/s), ceil(W/s)) tensors
        Predicted blur masks in [0, 1], coarse to fine, ending at full size; empty for networks without.
    """

    image: Tensor
    scales: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]

    def to(self, where: torch.device | torch.dtype) -> Restoration:
        """Bring every tensor to a device or a dtype."""
        scales, masks = (tuple(tensor.to(where) for tensor in tensors) for tensors in (self.scales, self.masks))
        return Restoration(self.image.to(where), scales, masks)


class MotionRestoration(NamedTuple):
    """What a network that estimates motion within the exposure returns in training mode: more for its losses.

    Attributes
    ----------
    image, scales, masks
        As in `Restoration`.
    logits : (N, 2, ceil(H/8), ceil(W/8)) tensor
        Of "blurred" (index 0) and "sharp" (1), before the mask is drawn from them. The scores of the blur detector,
        `relo.models.exprdiff.detector.BlurDetection`, have the opposite order.
    offsets : (N, 4, ceil(H/8), ceil(W/8)) tensor
        What `relo.models.m2aenet.trajectory` takes, in pixels of this grid; (N, 18, …) for its form "learned".
    """

    image: Tensor
    scales: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    logits: Tensor
    offsets: Tensor

    def to(self, where: torch.device | torch.dtype) -> MotionRestoration:
        """Bring every tensor to a device or a dtype."""
        plain = Restoration(self.image, self.scales, self.masks).to(where)
        return MotionRestoration(*plain, self.logits.to(where), self.offsets.to(where))


def takes_short(model: nn.Module) -> bool:
    """Whether a network is given a short exposure behind the blurred image: (N, 6, H, W) instead of (N, 3, H, W).

    Its attribute `in_channels` is 6 then. A network without that attribute is given the blurred image alone.
    """
    return getattr(model, "in_channels", 3) == 6
