"""Depth-wise 3x3 convolution whose nine taps are displaced at each pixel.

Two ways to the same numbers: torch's own bilinear sampling, tap by tap, for training, export and GPUs; and a
compiled loop for inference on a CPU, where libraries spend their time on copies, nine times the features.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from relo.models.m2aenet.trajectories import TAPS


def deformable_depthwise_conv(x: Tensor, taps_yx: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve each channel with its own 3x3 kernel, every tap displaced (M2AENet paper, eq. 6).

    out[c, p] = bias[c] + sum over k of weight[c, k] S(x[c], p + cell_k + taps_k(p)), with S bilinear and zero
    outside the image, and cell_k = (k // 3 - 1, k % 3 - 1). Without displacement it is the zero-padded convolution.

    Parameters
    ----------
    x : (N, C, H, W) tensor
    taps_yx : (9, N, 2, H, W) tensor
        Displacements (dy, dx) of each tap [px], without the cell itself; all channels share them.
    weight : (C, 1, 3, 3) tensor
    bias : (C,) tensor, optional

    Returns
    -------
    (N, C, H, W) tensor

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    count, channels, height, width = x.shape
    if taps_yx.shape != (TAPS, count, 2, height, width):
        raise ValueError(f"taps {tuple(taps_yx.shape)} do not fit features {tuple(x.shape)}")
    if weight.shape != (channels, 1, 3, 3) or (bias is not None and bias.shape != (channels,)):
        raise ValueError(f"a kernel {tuple(weight.shape)} does not fit {channels} channels")
    if runs_compiled(x, taps_yx, weight, *([] if bias is None else [bias])):
        return convolve_compiled(x.permute(0, 2, 3, 1), taps_yx, weight, bias).permute(0, 3, 1, 2)
    precise = torch.promote_types(torch.promote_types(x.dtype, taps_yx.dtype), torch.float32)
    return convolve_by_sampling(x, sampling_places(taps_yx.to(precise)), weight, bias).to(x.dtype)


def sampling_places(taps_yx: Tensor) -> Tensor:
    """Where `convolve_by_sampling` reads, computed once for many convolutions with the same displacements.

    Parameters
    ----------
    taps_yx : (9, N, 2, H, W) tensor
        (dy, dx) [px].

    Returns
    -------
    (9, N, H, W, 2) tensor
        (x, y) as `grid_sample` wants them: from -1 to 1, between the outer edges of the first and the last pixel.
    """
    height, width = taps_yx.shape[-2:]
    cells = torch.arange(-1, 2, dtype=taps_yx.dtype, device=taps_yx.device)
    rows = torch.arange(height, dtype=taps_yx.dtype, device=taps_yx.device)
    columns = torch.arange(width, dtype=taps_yx.dtype, device=taps_yx.device)
    y = taps_yx[:, :, 0] + cells.repeat_interleave(3).view(-1, 1, 1, 1) + rows[:, None]
    x = taps_yx[:, :, 1] + cells.repeat(3).view(-1, 1, 1, 1) + columns
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    # NaN and infinite displacements read outside the image, hence 0, as in the compiled loop.
    return torch.where(torch.isfinite(places), places, -3)


def convolve_by_sampling(x: Tensor, places: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`deformable_depthwise_conv` by torch's `grid_sample`, differentiable, one tap after the other.

    Parameters
    ----------
    x : (N, C, H, W) tensor
    places : (9, N, H, W, 2) tensor
        See `sampling_places`. Features of a lower precision are converted to its dtype: in half precision the
        positions of neighbouring pixels can be equal.
    weight, bias
        As there.

    Returns
    -------
    (N, C, H, W) tensor of the dtype of `places`
    """
    x = x.to(places.dtype)
    out = None
    for tap in range(TAPS):
        sample = F.grid_sample(x, places[tap], mode="bilinear", padding_mode="zeros", align_corners=False)
        term = sample * weight[:, 0, tap // 3, tap % 3].view(1, -1, 1, 1)
        out = term if out is None else out + term
    assert out is not None
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def runs_compiled(*tensors: Tensor) -> bool:
    """Whether `convolve_compiled` can be used: on a CPU, without gradient, and nothing traces what is computed."""
    return (
        not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and tensors[0].dtype in (torch.float32, torch.float64)
    )


def convolve_compiled(
    x: Tensor, taps_yx: Tensor, weight: Tensor, bias: Tensor | None, *, gated: bool = False
) -> Tensor:
    """`deformable_depthwise_conv` of features (N, H, W, C) by a compiled loop on torch's number of threads.

    Parameters
    ----------
    x : (N, H, W, C) float32 or float64 tensor
    taps_yx, weight, bias
        As there.
    gated : bool
        Return the product of the first and the second half of the channels, (N, H, W, C / 2), instead.

    Returns
    -------
    (N, H, W, C) tensor
    """
    count, height, width, channels = x.shape
    from relo.models.m2aenet.compiled import convolve_rows

    features = x.contiguous().numpy()
    taps = taps_yx.to(x.dtype).permute(1, 3, 4, 0, 2).contiguous().numpy()
    weights = weight.detach().to(x.dtype).reshape(channels, TAPS).T.contiguous().numpy()
    biases = (x.new_zeros(channels) if bias is None else bias.detach().to(x.dtype)).numpy()
    out = x.new_empty(count, height, width, channels // 2 if gated else channels)

    def convolve(first: int, last: int) -> None:
        convolve_rows(features, taps, weights, biases, gated, first, last, out.numpy())

    in_threads(convolve, count * height)
    return out


def in_threads(function: Callable[[int, int], None], count: int) -> None:
    """Call a compiled loop for [first, last) of `count` things on each of as many threads as torch uses."""
    threads = torch.get_num_threads()
    if threads == 1:
        function(0, count)
        return
    borders = [part * count // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(function, borders[:-1], borders[1:]))
