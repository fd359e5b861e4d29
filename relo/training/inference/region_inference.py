"""Restore only where an image is blurred, in windows around it; other pixels stay as they are, bit for bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from relo.training.inference.blur_masks import BlurMask, given_mask, predict_mask
from relo.training.inference.own_mask import part_of
from relo.training.inference.regions import blend_weights, plan_regions
from relo.training.inference.whole_image import choose_windows, restore


class RegionRestoration(NamedTuple):
    """An image of which only the blurred parts were restored.

    Attributes
    ----------
    image : (1, 3, H, W) tensor
        On the device of the input, and exactly the input where `weight` is 0.
    mask : BlurMask
        Where blur was found or said to be.
    weight : (H, W) float32 tensor in [0, 1]
        Share of the restored image in the result: 1 in the mask. On the CPU.
    computed : float
        Pixels of the windows over pixels of the image, 0 to 1; what it took to find the blur does not count.
    """

    image: Tensor
    mask: BlurMask
    weight: Tensor
    computed: float


class Difference(NamedTuple):
    """How far two images in [0, 1] are apart.

    Attributes
    ----------
    maximum, rms : float
        In units of the 8-bit scale, 0 to 255.
    psnr : float
        [dB]; infinite where they are equal.
    """

    maximum: float
    rms: float
    psnr: float


class Comparison(NamedTuple):
    """Difference of a region restoration from that of the whole image.

    Attributes
    ----------
    everywhere : Difference
        What the whole network changes outside of the mask counts too.
    blurred : Difference or None
        In the mask; None where it is empty.
    """

    everywhere: Difference
    blurred: Difference | None


def restore_regions(
    model: nn.Module,
    blur: Tensor,
    mask: Tensor | None = None,
    *,
    tile: int | None = None,
    overlap: int | None = None,
) -> RegionRestoration:
    """Restore an image where it is blurred.

    Windows see 72 px beyond all that counts in them. For networks that look no further, that is LBAG and MIMO-UNet
    with weights that restore (measured at `whole_image.OVERLAP`), blurred pixels equal the whole image's to 1e-3.
    Networks that pool over all they see (NAFNet, M2AENet) or attend to it (Restormer) give other values in a window
    than in the whole image: `compare` tells. To predict its mask, M2AENet runs its
    first three stages on the whole image, an eighth to a fifth of its time; with a given mask it does not.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode, on its device.
    blur : (1, 3, H, W) tensor
        RGB in [0, 1], on any device; (1, 6, H, W) with a short exposure, for networks that are given one.
    mask : (H, W) bool tensor, optional
        Where it is blurred. By default what the network predicts, see `predict_mask`. A network that computes by a
        mask takes it instead of its own.
    tile, overlap : int, optional
        See `restore`; for windows that do not fit into the memory.

    Raises
    ------
    ValueError
        The mask has another size than the image.
    ConfigError
        `tile` or `overlap` is not as described.
    TrainingError
        No mask is given and the network predicts none, or the memory does not suffice.
    """
    height, width = blur.shape[-2:]
    # Once, for the whole image: where that fits, everything does.
    tile, chosen_overlap = choose_windows(model, blur, tile, overlap)
    overlap = chosen_overlap if tile else None
    if mask is None:
        found = predict_mask(model, blur, tile=tile, overlap=overlap)
    elif mask.shape == (height, width):
        found = given_mask(model, mask.cpu())
    else:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, the image {(height, width)}")
    weight = blend_weights(found.pixels.numpy())
    image, computed = blur[:, :3].clone(), 0
    for rows, columns, share in plan_regions(weight):
        grid = part_of(found.grid, model, rows, columns)
        window = blur[..., rows, columns]
        restored = restore(model, window, tile=tile, overlap=overlap, mask=grid).image
        part = torch.from_numpy(share).to(blur)
        # Chosen, not added with weight 0: that would let an infinity through, and turn -0 into 0.
        image[..., rows, columns] = torch.where(
            part > 0, window[:, :3].lerp(restored, part), image[..., rows, columns]
        )
        computed += window.shape[-2] * window.shape[-1]
    return RegionRestoration(image, found, torch.from_numpy(weight), computed / (height * width))


def compare(
    model: nn.Module,
    blur: Tensor,
    regional: RegionRestoration,
    *,
    tile: int | None = None,
    overlap: int | None = None,
) -> Comparison:
    """Restore the whole image too, and say how far the restoration of its regions is from that.

    A network that computes by a mask does so by the same mask.

    Parameters
    ----------
    model, blur, tile, overlap
        As for `restore_regions`.
    regional : RegionRestoration
        What that returned.
    """
    whole = restore(model, blur, tile=tile, overlap=overlap, mask=regional.mask.grid).image
    error = (regional.image.clamp(0, 1) - whole.clamp(0, 1))[0].cpu()
    pixels = regional.mask.pixels
    return Comparison(_difference(error), _difference(error[:, pixels]) if pixels.any() else None)


def _difference(error: Tensor) -> Difference:
    values = error.double().numpy()
    mean_square = float(np.mean(values**2))
    psnr = -10 * np.log10(mean_square) if mean_square else np.inf
    return Difference(255 * float(np.abs(values).max()), 255 * mean_square**0.5, float(psnr))
