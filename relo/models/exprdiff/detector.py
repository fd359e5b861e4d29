"""Where a photograph is blurred, patch by patch: the blur detector of ExpRDiff (arXiv 2412.09193, section 3.1).

The paper draws convolutions, max-pooling and a small MLP with two logits, and gives no sizes. Those here are our
own: four stages whose pools reduce a patch of 60 px to one value a channel, with group normalisation, because the
patches of one photograph are too alike for batch normalisation. Each colour channel of a patch is first brought to
mean 0 and standard deviation 1: brightness and contrast say nothing about blur.

Convention: patches are numbered row by row. Of two scores, index 0 is "sharp" and 1 is "blurred"; the logits of
M2AENet, `relo.models.restoration.MotionRestoration`, have the opposite order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from relo.models.image_batches import check_image_batch, enlarge, pad_to_multiple

PATCH = 60  # side of a patch in the paper [px]
SMALLEST_PATCH = 8
_POOLS = (2, 2, 3)  # strides of the first stages; the last pools over what is left, 5 x 5 of a patch of 60
_GROUPS = 8
_HIDDEN = 64
_FAINTEST = 0.02  # standard deviation below which a patch holds little but noise, which is not amplified further
_AT_ONCE = 64  # patches at a time outside of training: some 100 MB of memory, whatever the size of the image


class BlurDetection(NamedTuple):
    """What the detector returns.

    Attributes
    ----------
    scores : (N, 2, ceil(H/p), ceil(W/p)) tensor
        Of "sharp" (index 0) and "blurred" (1) for each patch of p px, before the softmax; in training with Gumbel
        noise, divided by the temperature (eq. 1). The logits of M2AENet have the opposite order.
    mask : (N, 1, H, W) tensor of 0 and 1
        1 where a patch is blurred; in training with the gradient of the softmax (straight through).
    """

    scores: Tensor
    mask: Tensor

    def to(self, where: torch.device | torch.dtype) -> BlurDetection:
        """Bring both tensors to a device or a dtype."""
        return BlurDetection(self.scores.to(where), self.mask.to(where))


class BlurDetector(nn.Module):
    """Classifies each patch of an image as sharp or blurred.

    Parameters
    ----------
    patch : int
        Side of the patches [px], at least 8.
    width : int
        Channels of the first stage, a multiple of 8; each further stage doubles them.
    temperature : float
        Of the Gumbel-softmax in training; the paper gives none.
    blurred_from : float
        In training and scoring a patch counts as blurred if more than this share of its pixels is. The share is
        small, because a patch that is missed stays blurred, while one too many only costs time.
    soft_labels : bool
        Train with the share itself, "blur degree" in the paper. "Blurred" then means more than half, whatever
        `blurred_from`.

    Raises
    ------
    ValueError
        An option is out of its range.
    """

    def __init__(
        self,
        *,
        patch: int = PATCH,
        width: int = 32,
        temperature: float = 1.0,
        blurred_from: float = 0.1,
        soft_labels: bool = False,
    ) -> None:
        super().__init__()
        if patch < SMALLEST_PATCH:
            raise ValueError(f"patch must be at least {SMALLEST_PATCH} px, got {patch}")
        if width < 1 or width % _GROUPS:
            raise ValueError(f"width must be a multiple of {_GROUPS}, got {width}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0 <= blurred_from < 1:
            raise ValueError(f"blurred_from must be in [0, 1), got {blurred_from}")
        self.patch, self.temperature, self.soft_labels = patch, temperature, soft_labels
        self.blurred_from = 0.5 if soft_labels else blurred_from
        channels = [3, *(width << stage for stage in range(len(_POOLS) + 1))]
        pools = (*_POOLS, None)
        self.standardise = nn.InstanceNorm2d(3, eps=_FAINTEST**2)
        self.features = nn.Sequential(*map(_Stage, channels[:-1], channels[1:], pools))
        self.head = nn.Sequential(nn.Linear(channels[-1], _HIDDEN), nn.ReLU(inplace=True), nn.Linear(_HIDDEN, 2))

    def forward(self, blur: Tensor) -> BlurDetection:
        """Map (N, 3, H, W) RGB in [0, 1] to a `BlurDetection`; H and W are padded at the bottom and right."""
        check_image_batch(blur)
        batch, _, height, width = blur.shape
        padded = pad_to_multiple(blur, self.patch)
        rows, columns = (side // self.patch for side in padded.shape[-2:])
        patches = split_patches(padded, self.patch)
        parts = [patches] if self.training else patches.split(_AT_ONCE)
        scores = torch.cat([self.head(self.features(self.standardise(part)).flatten(1)) for part in parts])
        scores = scores.view(batch, rows, columns, 2).permute(0, 3, 1, 2)
        mask = decide(scores)
        if self.training:
            scores = add_gumbel_noise(scores.float()) / self.temperature
            likely = scores.softmax(dim=1)[:, 1:]
            mask = decide(scores) + (likely - likely.detach())
        return BlurDetection(scores, enlarge(mask, self.patch, height, width))

    def labels(self, share: Tensor) -> Tensor:
        """Training targets of the scores: the blurred share of patches itself, or 0 and 1; of the same shape."""
        return share if self.soft_labels else self.is_blurred(share).to(share.dtype)

    def is_blurred(self, share: Tensor) -> Tensor:
        """Which patches count as blurred by their blurred share: a bool tensor of the same shape."""
        return share > self.blurred_from


class _Stage(nn.Module):
    """Convolution, group normalisation, max-pooling, ReLU; ReLU before the pooling would give the same.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    pool : int or None
        Stride of the pooling; cells cut off by the border are pooled too. None pools over everything.
    """

    def __init__(self, inputs: int, outputs: int, pool: int | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(_GROUPS, outputs)
        self.pool = nn.MaxPool2d(pool, ceil_mode=True) if pool else nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H/pool), ceil(W/pool))."""
        return F.relu(self.pool(self.norm(self.conv(x))))


def split_patches(images: Tensor, patch: int) -> Tensor:
    """Cut (N, C, rows * patch, columns * patch) images into (N * rows * columns, C, patch, patch) patches.

    In memory they are (…, patch, patch, C), which makes torch's pooling on a CPU several times faster.
    """
    batch, channels, height, width = images.shape
    cells = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(-1, patch, patch, channels).permute(0, 3, 1, 2)


def blurred_share(mask: Tensor, patch: int, valid: Tensor | None = None) -> Tensor:
    """Share of blurred pixels in each patch, the "blur degree" that the detector learns.

    Parameters
    ----------
    mask : (N, 1, H, W) tensor
        1 where blurred, 0 elsewhere.
    patch : int
        Side of the patches [px].
    valid : (N, 1, H, W) tensor of 0 and 1, optional
        Pixels that count; by default all of them. What lies of a patch beyond the image never counts.

    Returns
    -------
    (N, ceil(H/patch), ceil(W/patch)) tensor
        In [0, 1]; NaN for a patch without any pixel that counts.
    """
    counts = torch.ones_like(mask) if valid is None else valid.to(mask.dtype)
    height, width = mask.shape[-2:]
    beyond = (0, -width % patch, 0, -height % patch)
    blurred, counted = (
        split_patches(F.pad(part, beyond), patch).sum(dim=(1, 2, 3)) for part in (mask * counts, counts)
    )
    return (blurred / counted).view(len(mask), -(-height // patch), -(-width // patch))


def blur_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy between the probability of "blurred" and the labels (eq. 2 with its arguments exchanged).

    As printed the equation takes the logarithm of the ground truth, which is infinite for patches that are wholly
    blurred or sharp.

    Parameters
    ----------
    scores : (N, 2, rows, columns) tensor
        See `BlurDetection`.
    labels : (N, rows, columns) tensor
        In [0, 1].

    Returns
    -------
    () tensor
        Mean over the patches.
    """
    log_sharp, log_blurred = F.log_softmax(scores, dim=1).unbind(dim=1)
    return -(labels * log_blurred + (1 - labels) * log_sharp).mean()


def decide(scores: Tensor) -> Tensor:
    """Class with the larger score, (N, 2, rows, columns) to (N, 1, rows, columns): 1 blurred; 0 sharp or a tie."""
    return (scores[:, 1:] > scores[:, :1]).to(scores.dtype)


def add_gumbel_noise(scores: Tensor) -> Tensor:
    """Add -log(-log u), u uniform in (0, 1) for each value, from torch's default generator."""
    # -log u is an exponential variate, of which 0 must not be drawn: its logarithm is infinite.
    return scores - torch.empty_like(scores).exponential_().clamp_(min=1e-9).log()


def detect_blur(model: BlurDetector, image: NDArray[Any], *, stride: int | None = None) -> NDArray[np.bool_]:
    """Find the blurred patches of a whole photograph.

    Parameters
    ----------
    model : BlurDetector
        On any device; it decides as in evaluation mode, and its mode is left as it is.
    image : (H, W, 3) uint8, uint16 or floating-point array
        RGB; floats in [0, 1]. 12 MP take some 0.5 GB.
    stride : int, optional
        By default patches lie side by side, as in the paper. A smaller stride, for example half or a third of a
        patch, lays that many shifted grids over the image; the mean of 2 v - 1, v being the probability of
        "blurred", decides for each pixel. The outline becomes finer, in (patch / stride)^2 times the time.

    Returns
    -------
    (H, W) bool array

    Raises
    ------
    ValueError
        The image or `stride` is not as described.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty (H, W, 3) image, got shape {image.shape}")
    stride = model.patch if stride is None else stride
    if not 1 <= stride <= model.patch:
        raise ValueError(f"stride must be 1 to {model.patch}, the side of a patch, got {stride}")
    weight = next(model.parameters())
    blur = _to_batch(image).to(weight.device)
    evidence = torch.zeros(image.shape[:2], device=weight.device)  # only its sign matters
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for top in range(0, min(model.patch, image.shape[0]), stride):
                for left in range(0, min(model.patch, image.shape[1]), stride):
                    part = evidence[top:, left:]
                    sharp, blurred = model(blur[..., top:, left:]).scores[0].float()
                    part += enlarge(torch.tanh((blurred - sharp) / 2), model.patch, *part.shape)
    finally:
        model.train(training)
    return np.asarray((evidence > 0).cpu())


def _to_batch(image: NDArray[Any]) -> Tensor:
    """(H, W, 3) image to a (1, 3, H, W) float32 tensor in [0, 1].

    Raises
    ------
    ValueError
        The dtype is another one, or a value is not finite.
    """
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
    if image.dtype in (np.uint8, np.uint16):
        top = np.float32(np.iinfo(image.dtype).max)
        return torch.from_numpy(np.divide(planes, top, dtype=np.float32))
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"expected uint8, uint16 or floating-point values, got {image.dtype}")
    if not np.isfinite(planes).all():
        raise ValueError("the image holds NaN or infinite values")
    return torch.from_numpy(planes.astype(np.float32, copy=False))
