"""How much memory a network needs at a given image size, found without running it at that size."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from relo.errors import TrainingError
from relo.resources import available_memory
from relo.training.inference.tiling import ALIGNMENT, SMALLEST

if TYPE_CHECKING:
    from torch import nn

# Real peak over live tensors: copies that convolutions make of their input and output in the memory layout of
# their kernels. Measured on a CPU as growth of the resident set: 1.32 to 1.41 for lbag (256 to 1024 px), 1.43 for
# mimo_unet (768 x 512 px), 1.54 for lbag with width 8 and two blocks. Not measured on a GPU.
WORKSPACE = 1.6
# Share of the memory at hand that may be planned with: others want some too.
SHARE = 0.8
_PROBE = 256  # side of a real run where a network cannot be followed without computing [px]


def peak_bytes(model: nn.Module, shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> int:
    """Largest number of bytes of tensors that live at once during a forward pass.

    The pass runs on torch's `meta` device, which computes shapes only. A network that cannot (because its
    course depends on values, say) runs once for real on at most 256 x 256 px, and the bytes a pixel count.

    Parameters
    ----------
    model : torch.nn.Module
        Maps an (N, 3, H, W) batch to a `Restoration`; in evaluation mode.
    shape : (N, 3, H, W)
    dtype : torch.dtype

    Returns
    -------
    int
        Input and output included, parameters and the workspaces of convolutions not.
    """
    state = {
        name: tensor.to("meta")
        for named in (model.named_parameters(), model.named_buffers())
        for name, tensor in named
    }
    try:
        blur = torch.empty(shape, dtype=dtype, device="meta")
        return _live_peak(lambda: functional_call(model, state, (blur,)), blur)
    except RuntimeError:  # what torch raises where a value or another device is asked for, NotImplementedError too
        batch, channels, height, width = shape
        small = torch.zeros(
            (batch, channels, min(height, _PROBE), min(width, _PROBE)), dtype=dtype, device=device_of(model)
        )
        peak = _live_peak(lambda: model(small), small)
        return -(-peak * height * width // (small.shape[2] * small.shape[3]))


def choose_tile(
    model: nn.Module, shape: tuple[int, int, int, int], memory: int | None, dtype: torch.dtype = torch.float32
) -> int:
    """Choose the side of the windows in which a batch fits into memory.

    Parameters
    ----------
    model : torch.nn.Module
    shape : (N, 3, H, W)
    memory : int or None
        Bytes at hand, see `memory_at_hand`; None where unknown.
    dtype : torch.dtype

    Returns
    -------
    int
        0 for the whole image, also where `memory` is unknown; else a multiple of 64 [px], as large as fits.

    Raises
    ------
    TrainingError
        Not even windows of 128 px fit.
    """
    if memory is None:
        return 0
    budget = SHARE * memory
    batch, channels, height, width = shape

    def needed(tile: int) -> float:
        window = (batch, channels, min(height, tile), min(width, tile))
        return WORKSPACE * peak_bytes(model, window, dtype)

    if needed(max(height, width)) <= budget:
        return 0
    fits, too_large = SMALLEST // ALIGNMENT, -(-max(height, width) // ALIGNMENT)
    if needed(SMALLEST) > budget:
        raise TrainingError(
            f"the network needs about {needed(SMALLEST) / 1e6:.0f} MB for a window of {SMALLEST} px, "
            f"and {memory / 1e6:.0f} MB are free",
            advice=f"Close other programs, or try all the same with --tile {SMALLEST}.",
        )
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if needed(middle * ALIGNMENT) <= budget:
            fits = middle
        else:
            too_large = middle
    return fits * ALIGNMENT


def memory_at_hand(device: torch.device) -> int | None:
    """Bytes that a forward pass on `device` may take; None where unknown."""
    if device.type == "cuda":
        # What torch keeps for later allocations is free for us too. Not tested: no GPU was at hand.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return available_memory() if device.type == "cpu" else None


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter; the CPU for a model without."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _live_peak(run: Callable[[], Any], blur: Tensor) -> int:
    with torch.inference_mode(), _LiveBytes() as live:
        live.add(blur)
        run()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators return, from their birth to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once, while it lives."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:  # a view, or an operation in place
            return

        def forget(_: weakref.ref[torch.UntypedStorage]) -> None:
            del self._seen[key]
            self._now -= size

        self._seen[key] = weakref.ref(storage, forget)
        self._now += size
        self.peak = max(self.peak, self._now)
