"""Restore whole photographs with a trained model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relo.errors import ConfigError, ReloError, TrainingError
from relo.images import READABLE, WRITABLE, ImageError, read_image, write_image
from relo.training.checkpoint import load_checkpoint
from relo.training.data import to_tensor

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class DeblurResult:
    """What `deblur_files` did.

    Attributes
    ----------
    written : tuple of Path
        Restored files.
    failed : tuple of (Path, str)
        Inputs that could not be restored, each with its reason on one line.
    """

    written: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]


def deblur(
    model: nn.Module | str | os.PathLike[str],
    image: NDArray[Any],
    *,
    tile: int | None = None,
    overlap: int | None = None,
    device: str | None = None,
) -> NDArray[Any]:
    """Restore one photograph of any size.

    Parameters
    ----------
    model : torch.nn.Module or path
        A model from `create_model`, or a checkpoint. It is left in evaluation mode, on `device`.
    image : (H, W, 3) uint8, uint16 or floating-point array
        RGB; floats in [0, 1].
    tile : int, optional
        Side of the windows [px], a multiple of 4, to bound memory; the whole image at once if not given.
    overlap : int, optional
        Rows and columns that neighbouring windows share [px], a multiple of 4, at most half of `tile`;
        the windows are blended in the middle half of it. 64, or a quarter of `tile` where that is less.
    device : str, optional
        "cpu", "cuda", …; the GPU if there is one.

    Returns
    -------
    (H, W, 3) array of the same dtype
        Clipped to the range of the input.

    Raises
    ------
    ValueError
        The array is not as described.
    ConfigError
        `tile` or `overlap` is not as described.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty (H, W, 3) image, got shape {image.shape}")
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"expected uint8, uint16 or floating-point values, got {image.dtype}")
    shared = _overlap(tile, overlap)
    if isinstance(model, (str, os.PathLike)):
        model = load_checkpoint(model).model
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = model.to(target).eval()
    blur = to_tensor(image)[None]
    with torch.inference_mode():
        if tile is None:
            restored = model(blur.to(target)).image.cpu()
        else:
            restored = _blend(lambda window: model(window.to(target)).image.cpu(), blur, tile, shared)
    result = restored[0].permute(1, 2, 0).clamp(0, 1).double().numpy()
    if np.issubdtype(image.dtype, np.integer):
        return np.rint(result * np.iinfo(image.dtype).max).astype(image.dtype)
    return result.astype(image.dtype)


def deblur_files(
    checkpoint: str | os.PathLike[str],
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    tile: int | None = None,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> DeblurResult:
    """Restore photographs into a folder, one file each; one that fails does not stop the others.

    Parameters
    ----------
    checkpoint : path
        Run folder or .safetensors file.
    paths : iterable of path
        PNG, TIFF and JPEG files, or folders of them.
    out : path
        Folder for the results: same name, TIFF for TIFF, PNG otherwise, same bit depth. Inputs are never
        overwritten.
    tile : int, optional
        See `deblur`.
    device : str, optional
        See `deblur`.
    progress : callable, optional
        Called with (files done, files in all, name of the file).

    Raises
    ------
    TrainingError
        The checkpoint cannot be read, or there is no image among `paths`.
    ConfigError
        `tile` is no positive multiple of 4.
    """
    _overlap(tile, None)
    model, out = load_checkpoint(checkpoint).model, Path(out)
    sources = _expand(paths)
    if not sources:
        raise TrainingError("no PNG, TIFF or JPEG image among the given paths")
    written: list[Path] = []
    failed: list[tuple[Path, str]] = []
    for number, source in enumerate(sources, start=1):
        suffix = source.suffix.lower()
        target = out / (source.stem + (suffix if suffix in WRITABLE else ".png"))
        try:
            if target in written or target.resolve() in {path.resolve() for path in sources}:
                raise ImageError(f"would overwrite {target}", file=source, advice="Give another folder with -o.")
            write_image(target, deblur(model, read_image(source), tile=tile, device=device))
            written.append(target)
        except (ReloError, OSError) as error:
            failed.append((source, " ".join(str(error).split())))
        if progress:
            progress(number, len(sources), source.name)
    return DeblurResult(tuple(written), tuple(failed))


def _overlap(tile: int | None, overlap: int | None) -> int:
    """Overlap to use; a ConfigError where windows of these sizes cannot be laid."""
    if tile is None:
        return 0
    if tile < 4 or tile % 4:
        raise ConfigError(f"the tile size must be a positive multiple of 4, got {tile}")
    if overlap is None:
        return min(64, tile // 16 * 4)
    if not 0 <= overlap <= tile // 2 or overlap % 4:
        raise ConfigError(f"the overlap must be a multiple of 4 and at most half of the tile, got {overlap}")
    return overlap


def _expand(paths: Iterable[str | Path]) -> list[Path]:
    sources: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            sources += sorted(entry for entry in path.iterdir() if entry.suffix.lower() in READABLE)
        else:
            sources.append(path)
    return sources


def _blend(restore: Callable[[Tensor], Tensor], image: Tensor, tile: int, overlap: int) -> Tensor:
    """Restore overlapping windows and average them with weights that sum to 1 at every pixel."""
    height, width = image.shape[-2:]
    result, total = torch.zeros_like(image), torch.zeros(1, 1, height, width)
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            window = image[..., top : top + tile, left : left + tile]
            rows, columns = window.shape[-2:]
            weight = _ramp(top, rows, height, overlap)[:, None] * _ramp(left, columns, width, overlap)
            result[..., top : top + rows, left : left + columns] += restore(window) * weight
            total[..., top : top + rows, left : left + columns] += weight
    return result / total


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the windows, multiples of 4 like the strides of the networks."""
    starts = [0]
    while starts[-1] + tile < size:
        starts.append(starts[-1] + tile - overlap)
    return starts


def _ramp(start: int, length: int, size: int, overlap: int) -> Tensor:
    """Weights along one side: 0 in the outer quarter of an overlap, 1 from its inner quarter on.

    The outermost pixels, which a network restores without seeing their surroundings, do not count.
    """
    position = torch.arange(length) + 0.5
    ramp = torch.ones(length)
    if overlap and start > 0:
        ramp = ramp * ((position - overlap / 4) / (overlap / 2)).clamp(0, 1)
    if overlap and start + length < size:
        ramp = ramp * ((length - position - overlap / 4) / (overlap / 2)).clamp(0, 1)
    return ramp
