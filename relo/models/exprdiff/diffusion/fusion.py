"""ExpBFusion: a UNet's encoder looks at the short exposure where the image is blurred (ExpRDiff, eq. 7).

The equation as printed gives 2N tokens for N, and without a residual it makes every token of the clear area the
mean of all values, which destroys the background. What is computed here, for encoder tokens E, short-exposure
tokens F, both normalised, and the mask M of a scale:

    A = softmax(Wq (E M) [Wk (F M); Wk (E M)]^T / gamma) [Wv F; Wv E],    D = E_before_norm + Wo A + bo

Wo and bo start at zero, so that an untrained module changes nothing. Wq, Wk and Wv have no bias and the mask is
applied after the norm: a token outside of the mask gives a query and a key of exactly zero. The shortcut below
depends on that.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_CHANNELS = 64


class ExposureFusion(nn.Module):
    """One scale of ExpBFusion.

    Parameters
    ----------
    channels : int
        Of the encoder's and the short exposure's features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        heads = max(1, channels // HEAD_CHANNELS)
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared out among {heads} heads")
        groups = math.gcd(32, channels)
        self.norm_short = nn.GroupNorm(groups, channels)
        self.norm_encoder = nn.GroupNorm(groups, channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        # The logarithm is what is learned: gamma stays positive, whatever the step.
        self.log_gamma = nn.Parameter(torch.full((heads, 1, 1), math.log(channels / heads) / 2))

    def forward(self, encoder: Tensor, short: Tensor, mask: Tensor, *, binary: bool) -> Tensor:
        """Fuse a scale.

        Parameters
        ----------
        encoder, short : (N, C, h, w) tensor
            Features of the UNet and of the short exposure.
        mask : (N, 1, h, w) tensor in [0, 1]
            1 where it is blurred.
        binary : bool
            Whether the mask holds 0 and 1 alone: then attention costs as much as there are masked tokens.

        Returns
        -------
        (N, C, h, w) tensor
        """
        shape = encoder.shape
        # Frozen convolutions may pass on channels_last strides, with which torch 2.13 crashes in the backward pass
        # of a group norm whose input wants no gradient.
        encoder_tokens = _tokens(self.norm_encoder(encoder.contiguous()))
        short_tokens = _tokens(self.norm_short(short.contiguous()))
        weights = _tokens(mask.to(encoder_tokens.dtype))
        attend = self._attend_masked if binary else self._attend
        fused = self.out(attend(encoder_tokens, short_tokens, weights))
        return encoder + fused.transpose(1, 2).reshape(shape).to(encoder.dtype)

    def _attend(self, encoder: Tensor, short: Tensor, mask: Tensor) -> Tensor:
        """A of the formula, for tokens (N, T, C) and mask (N, T, 1) of any values."""
        both = torch.cat([short, encoder], dim=1)
        queries, keys = self.query(encoder * mask), self.key(both * torch.cat([mask, mask], dim=1))
        return self._softmax(queries, keys, self.value(both))

    def _attend_masked(self, encoder: Tensor, short: Tensor, mask: Tensor) -> Tensor:
        """The same for a mask of 0 and 1, exactly, at the cost of the masked tokens.

        A query of zero weighs all values alike: outside of the mask the result is their mean. The keys outside are
        zero, too, so that all of them together act like one key of zero that has the mean of their values, and is
        counted as often as there are of them: the logarithm of their number is added to its logit.
        """
        mean = self.value(torch.cat([short, encoder], dim=1).mean(dim=1, keepdim=True))
        attended = []
        for one, (encoder_one, short_one, mask_one) in enumerate(zip(encoder, short, mask, strict=True)):
            inside = mask_one[:, 0].nonzero()[:, 0]
            everywhere = mean[one].expand(len(mask_one), -1)
            if len(inside) == 0:
                attended.append(everywhere)
                continue
            both = torch.cat([short_one[inside], encoder_one[inside]])
            keys, values = self.key(both), self.value(both)
            outside = 2 * (len(mask_one) - len(inside))
            bias = None  # (1, keys)
            if outside:
                rest = ((short_one + encoder_one) * (1 - mask_one)).sum(dim=0, keepdim=True) / outside
                keys = torch.cat([keys, torch.zeros_like(keys[:1])])
                values = torch.cat([values, self.value(rest)])
                bias = torch.zeros(1, len(keys), dtype=keys.dtype, device=keys.device)
                bias[0, -1] = math.log(outside)
            found = self._softmax(self.query(encoder_one[inside])[None], keys[None], values[None], bias)[0]
            attended.append(everywhere.to(found.dtype).index_copy(0, inside, found))
        return torch.stack(attended)

    def _softmax(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention of tokens (N, T, C), with `bias` (1, keys) added to the logits of each query."""
        heads = len(self.log_gamma)
        by_head = [tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (queries, keys, values)]
        scaled = by_head[0] / self.log_gamma.exp().to(queries.dtype)
        mixed = F.scaled_dot_product_attention(scaled, by_head[1], by_head[2], attn_mask=bias, scale=1.0)
        return mixed.transpose(1, 2).flatten(2)


def _tokens(features: Tensor) -> Tensor:
    """(N, C, h, w) to (N, h w, C)."""
    return features.flatten(2).transpose(1, 2)
