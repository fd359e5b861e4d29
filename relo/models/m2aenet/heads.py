"""What M2AENet predicts from its features before its motion-aware blocks: where there is blur, and its motion.

Convention: features are (N, H, W, C). The predictor is that of LMD-ViT at the width of the features, but without
windows, which gives the parameter count of the paper (docs/decisions/0014-m2aenet-heads.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.m2aenet.trajectories import TrajectoryForm, offset_channels


class MaskPredictor(nn.Module):
    """Two logits a pixel, "blurred" and "sharp", from its own features and the image's mean (M2AENet paper, eq. 1).

    Parameters
    ----------
    channels : int
        A multiple of 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.features = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.LayerNorm(channels), nn.Linear(channels, channels)
        )
        self.logits = nn.Sequential(
            nn.Linear(channels, half), nn.GELU(), nn.Linear(half, quarter), nn.GELU(), nn.Linear(quarter, 2)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) features to (N, H, W, 2) logits."""
        local, general = self.features(x).chunk(2, dim=-1)
        general = general.mean(dim=(1, 2), keepdim=True).expand_as(local)
        return self.logits(torch.cat([local, general], dim=-1))


class MotionAnalyzer(nn.Conv2d):
    """Displacements at the begin and the end of the exposure by one 3x3 convolution (M2AENet paper, section 3.2).

    It is initialised to zero: an untrained network displaces nothing, as a NAFNet.

    Parameters
    ----------
    channels : int
    form : {"quadratic", "linear", "learned"}
        See `relo.models.m2aenet.trajectory`.
    """

    def __init__(self, channels: int, form: TrajectoryForm) -> None:
        super().__init__(channels, offset_channels(form), 3, padding=1)
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) features to (N, K, H, W) offsets in pixels of this grid."""
        return super().forward(x.permute(0, 3, 1, 2))


def draw_mask(logits: Tensor, temperature: float) -> Tensor:
    """Draw a binary mask by Gumbel-softmax, with the gradient of the soft one (straight through).

    Parameters
    ----------
    logits : (N, H, W, 2) tensor
    temperature : float

    Returns
    -------
    (N, H, W, 1) tensor of 0 and 1
        1 where index 0, "blurred", was drawn.
    """
    # In half precision the noise's logarithm of a logarithm becomes infinite now and then.
    return F.gumbel_softmax(logits.float(), tau=temperature, hard=True)[..., :1].to(logits.dtype)


def decide_mask(logits: Tensor) -> Tensor:
    """Class with the larger logit: (N, H, W, 2) to (N, H, W, 1), 1 blurred (index 0); 0 sharp, also in a tie."""
    return (logits[..., :1] > logits[..., 1:]).to(logits.dtype)
