"""Restore image batches of any size within the memory at hand: at once where that fits, else in blended windows."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from relo.errors import ConfigError
from relo.models import Restoration
from relo.training.devices import choose_device
from relo.training.inference.memory_estimate import choose_tile, device_of, memory_at_hand
from relo.training.inference.own_mask import MaskedNetwork, part_of, predict_grid
from relo.training.inference.tiling import aligned_tile, windows
from relo.training.memory_errors import memory_explained

if TYPE_CHECKING:
    from torch import Tensor, nn

# How far from a cut through the picture the result changes by more than 1e-3: 21 px in lbag and 10 px in mimo_unet
# with fresh weights, 13 px in a small lbag after 339 steps of training. With all kernels of lbag 1.1 times as large
# 36 px, and 1.2 times 62 px, when it adds up to 1.7 to values in [0, 1]. The outer 3/8 of the overlap, 72 px, count
# nothing. Weights that amplify more reach further, and restore nothing: 1.3 times, 94 px, adding up to 30.
OVERLAP = 192


def restore(
    model: nn.Module,
    blur: Tensor,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    mask: Tensor | None = None,
) -> Restoration:
    """Restore a batch of images of any size.

    A `MaskedNetwork` computes by the mask of the whole image, in windows too.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode, on its device.
    blur : (N, 3, H, W) tensor
        RGB in [0, 1], on any device; (N, 6, H, W) with a short exposure, for networks that are given one.
    tile : int, optional
        Side of the windows [px], rounded down to a multiple of 64, but at least 128; 0 for the whole image at
        once. By default the whole image where the memory at hand suffices by an estimate, else the largest windows
        for which it does.
    overlap : int, optional
        Rows and columns that neighbouring windows share at least [px], at most half of `tile`; 192, or half of
        `tile` where that is less. With 192 px and weights that restore, what is away from windows' borders equals
        the whole image to 1e-3.
    mask : (N, 1, ceil(H/s), ceil(W/s)) tensor of 0 and 1, optional
        For a `MaskedNetwork` alone, with its stride s: what it computes by, instead of the mask that it predicts.

    Returns
    -------
    Restoration
        On the device of `blur`. In windows, `scales` is empty and `masks` holds the mask at full size alone, if the
        network predicts masks; of a `MaskedNetwork` it is of 0 and 1 then.

    Raises
    ------
    ConfigError
        `tile` or `overlap` is not as described.
    TrainingError
        The memory does not suffice.
    """
    tile, overlap = choose_windows(model, blur, tile, overlap)
    height, width = blur.shape[-2:]
    device = device_of(model)
    with torch.no_grad(), _memory_explained(tile or max(height, width)):
        if not tile:
            return _run(model, blur, mask, device).to(blur.device)
        if mask is None and isinstance(model, MaskedNetwork):
            mask = predict_grid(model, blur, tile, overlap, device)
        result, found = torch.zeros_like(blur[:, :3]), None
        for rows, columns, weight in windows(height, width, tile, overlap):
            restored = _run(model, blur[..., rows, columns], part_of(mask, model, rows, columns), device)
            weight = weight.to(blur.device)
            result[..., rows, columns] += restored.image.to(blur.device) * weight
            if restored.masks:
                found = torch.zeros_like(blur[:, :1]) if found is None else found
                found[..., rows, columns] += restored.masks[-1].to(blur.device) * weight
        return Restoration(result, (), () if found is None else (found,))


def predict_own_mask(
    model: nn.Module, blur: Tensor, *, tile: int | None = None, overlap: int | None = None
) -> Tensor | None:
    """Predict the mask by which `restore` lets a `MaskedNetwork` compute.

    Parameters
    ----------
    model, blur, tile, overlap
        As for `restore`.

    Returns
    -------
    (N, 1, ceil(H/s), ceil(W/s)) tensor of 0 and 1, or None
        On the device of `blur`; None for other networks.

    Raises
    ------
    ConfigError, TrainingError
        As `restore` does.
    """
    if not isinstance(model, MaskedNetwork):
        return None
    tile, overlap = choose_windows(model, blur, tile, overlap)
    with torch.no_grad(), _memory_explained(tile or max(blur.shape[-2:])):
        return predict_grid(model, blur, tile, overlap, device_of(model)).to(blur.device)


def choose_windows(model: nn.Module, blur: Tensor, tile: int | None, overlap: int | None) -> tuple[int, int]:
    """Side and overlap of the windows that `restore` uses; (0, 0) for the whole image at once.

    Raises
    ------
    ConfigError, TrainingError
        As `restore` does.
    """
    check_options(tile, overlap)
    batch, channels, height, width = blur.shape
    if tile:
        tile = aligned_tile(tile, overlap or 0)
    elif tile is None:
        memory = memory_at_hand(device_of(model))
        tile = choose_tile(model, (batch, channels, height, width), memory, blur.dtype)
    if not tile or tile >= max(height, width):
        return 0, 0
    return tile, min(OVERLAP, tile // 2) if overlap is None else overlap


def on_device(model: nn.Module, device: str | None) -> nn.Module:
    """Put a model on a device (see `choose_device`), in evaluation mode.

    Raises
    ------
    ConfigError
        There is no such device.
    """
    return model.to(choose_device(device)).eval()


def check_options(tile: int | None, overlap: int | None) -> None:
    """Raise the ConfigErrors of `restore`."""
    if tile:
        aligned_tile(tile, overlap or 0)
    elif overlap is not None:
        raise ConfigError("an overlap needs a tile size")


def _run(model: nn.Module, blur: Tensor, mask: Tensor | None, device: torch.device) -> Restoration:
    blur = blur.to(device)
    return model(blur) if mask is None else model(blur, mask.to(device))


def _memory_explained(tile: int) -> AbstractContextManager[None]:
    return memory_explained(
        "Use smaller windows: --tile 512, or less.", f"the memory does not suffice for {tile} px at once"
    )
