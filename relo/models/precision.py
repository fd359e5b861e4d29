"""Computing in float32 at least, where half precision is too coarse or overflows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for the device of `x`; the meta device has none."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Convert to float32; a float64 tensor stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
