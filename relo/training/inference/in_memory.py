"""A photograph in memory, restored as a whole or only where it is blurred, at the depth that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from relo.training.data import to_tensor
from relo.training.inference.region_inference import Comparison, Difference, compare, restore_regions
from relo.training.inference.whole_image import restore

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class RegionReport:
    """What restoring a photograph only where it is blurred came to.

    Attributes
    ----------
    blurred : float
        Share of its pixels that the mask holds, 0 to 1.
    computed : float
        Share of its pixels that went through the network in windows, 0 to 1; finding the blur does not count.
    comparison : Comparison or None
        With the restoration of the whole photograph, if asked for; before rounding to the depth of the photograph.
    """

    blurred: float
    computed: float
    comparison: Comparison | None

    def notes(self) -> tuple[str, ...]:
        """What somebody who looks at the photograph should know."""
        found = [] if self.blurred else ["no blur found: its pixels are left as they are"]
        if self.comparison is not None:
            told = f"differs from the restoration of the whole image by {_told(self.comparison.everywhere)}"
            if self.comparison.blurred is not None:
                told += f"; where it is blurred by {_told(self.comparison.blurred)}"
            found.append(told)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored photograph.

    Attributes
    ----------
    image : (H, W, 3) array of the photograph's dtype
        Floats are clipped to [0, 1] where they were restored.
    mask : (H, W) float32 array in [0, 1], or None
        Where it was blurred; None for a network without masks.
    report : RegionReport or None
        None where the whole photograph was restored.
    """

    image: NDArray[Any]
    mask: NDArray[np.float32] | None
    report: RegionReport | None


def restore_whole(
    model: nn.Module,
    image: NDArray[Any],
    *,
    short: NDArray[Any] | None = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> Restored:
    """Restore all of an (H, W, 3) uint8, uint16 or floating-point RGB image; see `restore`.

    `short`, of the same size, is for networks that are given a short exposure.
    """
    restored = restore(model, _input(image, short), tile=tile, overlap=overlap)
    mask = restored.masks[-1][0, 0].numpy() if restored.masks else None
    return Restored(_to_array(restored.image, image.dtype), mask, None)


def restore_blurred(
    model: nn.Module,
    image: NDArray[Any],
    mask: NDArray[Any] | None = None,
    *,
    short: NDArray[Any] | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    with_comparison: bool = False,
) -> Restored:
    """Restore an image where it is blurred; all other pixels keep their values exactly.

    Parameters
    ----------
    model, tile, overlap
        See `restore_regions`.
    image : (H, W, 3) uint8, uint16 or floating-point array
        RGB; floats in [0, 1].
    mask : (H, W) array, optional
        Above 0 where it is blurred. By default the network says.
    short : (H, W, 3) array, optional
        See `restore_whole`.
    with_comparison : bool
        Restore the whole image too and report the difference.
    """
    blur = _input(image, short)
    given = None if mask is None else torch.from_numpy(mask > 0)
    regional = restore_regions(model, blur, given, tile=tile, overlap=overlap)
    comparison = compare(model, blur, regional, tile=tile, overlap=overlap) if with_comparison else None
    changed = regional.weight.numpy()[..., None] > 0
    pixels = regional.mask.pixels
    return Restored(
        np.where(changed, _to_array(regional.image, image.dtype), image),
        pixels.float().numpy(),
        RegionReport(float(pixels.double().mean()), regional.computed, comparison),
    )


def _input(image: NDArray[Any], short: NDArray[Any] | None) -> Tensor:
    return torch.cat([to_tensor(frame) for frame in (image, short) if frame is not None])[None]


def _to_array(restored: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(1, 3, H, W) tensor, clipped to [0, 1], to an (H, W, 3) array; 1 is the maximum of an integer dtype."""
    result = restored[0].permute(1, 2, 0).clamp(0, 1).double().numpy()
    if np.issubdtype(dtype, np.integer):
        return np.rint(result * np.iinfo(dtype).max).astype(dtype)
    return result.astype(dtype)


def _told(difference: Difference) -> str:
    if not difference.maximum:
        return "nothing"
    return f"at most {difference.maximum:.2f} of 255, RMS {difference.rms:.3f} ({difference.psnr:.1f} dB)"
