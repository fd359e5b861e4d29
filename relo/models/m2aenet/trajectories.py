"""Motion within the exposure: offsets at equally spaced times, from a few numbers for each pixel.

Convention: offsets are (dy, dx) in pixels of the grid they are given on, relative to the middle of the exposure.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

TrajectoryForm = Literal["quadratic", "linear", "learned"]
TAPS = 9  # times, and taps of the deformable convolution; N1 and N2 of the paper


def offset_channels(form: TrajectoryForm) -> int:
    """Channels that `trajectory` takes.

    Raises
    ------
    ValueError
        There is no such form.
    """
    if form not in get_args(TrajectoryForm):
        raise ValueError(f"there is no trajectory '{form}': {', '.join(get_args(TrajectoryForm))}")
    return 2 * TAPS if form == "learned" else 4


def trajectory(offsets: Tensor, count: int = TAPS, form: TrajectoryForm = "quadratic") -> Tensor:
    """Offsets at `count` equally spaced times of the exposure (M2AENet paper, eq. 4 and 12).

    With tau from -1 (begin) to 1 (end) and the displacements s at the begin and e at the end:
    quadratic: (s + e) / 2 tau^2 + (e - s) / 2 tau; linear: -tau s before the middle, tau e after it.
    Both are 0 in the middle.

    Parameters
    ----------
    offsets : (N, 4, H, W) tensor
        Channels dy and dx at the begin, dy and dx at the end [px]; the order is relo's choice. For "learned"
        (N, 18, H, W): dy and dx at each of nine times.
    count : int
        Number of times, at least 2; 9 for "learned".
    form : {"quadratic", "linear", "learned"}

    Returns
    -------
    (count, N, 2, H, W) tensor
        (dy, dx) [px].

    Raises
    ------
    ValueError
        The form, the number of channels or `count` is another one.
    """
    channels = offset_channels(form)
    if offsets.ndim != 4 or offsets.shape[1] != channels:
        raise ValueError(f"a {form} trajectory needs (N, {channels}, H, W), got {tuple(offsets.shape)}")
    if count < 2 or (form == "learned" and count != TAPS):
        raise ValueError(f"a {form} trajectory cannot have {count} times")
    if form == "learned":
        return offsets.unflatten(1, (TAPS, 2)).movedim(1, 0)
    begin, end = offsets[:, :2], offsets[:, 2:]
    times = torch.linspace(-1, 1, count, dtype=offsets.dtype, device=offsets.device).view(-1, 1, 1, 1, 1)
    if form == "linear":
        return (-times).clamp(min=0) * begin + times.clamp(min=0) * end
    return 0.5 * (begin + end) * times**2 + 0.5 * (end - begin) * times
