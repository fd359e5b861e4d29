"""Restore photographs with a trained model: arrays, and files in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from relo.atomic import writing_to
from relo.errors import ReloError, TrainingError
from relo.images import WRITABLE, ImageError
from relo.models import Restoration
from relo.training.checkpoint import load_checkpoint
from relo.training.data import to_tensor
from relo.training.inference.photographs import (
    PHOTOGRAPHS,
    RAW,
    Photograph,
    read_photograph,
    write_mask,
    write_photograph,
)
from relo.training.inference.whole_image import check_options, on_device, restore

if TYPE_CHECKING:
    from torch import nn

Format = Literal["png", "tif", "jpg"]
_NO_ROOM = "Make room there, or give another folder with -o; what is done is not done again."


@dataclass(frozen=True)
class DeblurResult:
    """What `deblur_files` did.

    Attributes
    ----------
    written : tuple of Path
        Restored photographs.
    skipped : tuple of Path
        Results that were there already.
    failed : tuple of (Path, str)
        Inputs that could not be restored, each with its reason on one line.
    notes : tuple of (Path, str)
        Inputs of which something was not kept or had to be assumed.
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    notes: tuple[tuple[Path, str], ...]


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
    tile, overlap : int, optional
        See `relo.training.inference.whole_image.restore`: by default as large as the memory at hand allows.
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
        `tile` or `overlap` is not as described, or there is no such device.
    TrainingError
        The memory does not suffice.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty (H, W, 3) image, got shape {image.shape}")
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"expected uint8, uint16 or floating-point values, got {image.dtype}")
    check_options(tile, overlap)
    network = load_checkpoint(model).model if isinstance(model, (str, os.PathLike)) else model
    restored = restore(on_device(network, device), to_tensor(image)[None], tile=tile, overlap=overlap)
    return _to_array(restored, image.dtype)


def deblur_files(
    checkpoint: str | os.PathLike[str],
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    device: str | None = None,
    model: str | None = None,
    image_format: Format | None = None,
    masks: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> DeblurResult:
    """Restore photographs into a folder, one file each; one that fails does not stop the others.

    A result that is there already is left as it is, so that an interrupted call can be repeated.

    Parameters
    ----------
    checkpoint : path
        See `load_checkpoint`.
    paths : iterable of path
        PNG, TIFF, JPEG and RAW files, or folders of them; folders in folders are not searched.
    out : path
        Folder for the results, same name. PNG and TIFF keep their kind and depth, JPEG becomes PNG, RAW becomes
        TIFF of 16 bits. EXIF and ICC profile are kept. Inputs are never overwritten.
    tile, overlap, device
        See `deblur`.
    model : str, optional
        See `load_checkpoint`.
    image_format : {"png", "tif", "jpg"}, optional
        Kind of all results. JPEG has 8 bits.
    masks : bool
        Write the blur mask that the network predicts as NAME_mask.png too: 8 bits, 255 where it is 1.
    overwrite : bool
        Restore again what is there already.
    progress : callable, optional
        Called with (files done, files in all, name of the file).

    Raises
    ------
    TrainingError
        The checkpoint cannot be read, there is no photograph among `paths`, or the network predicts no mask.
    ConfigError
        `tile`, `overlap` or `model` is not as described, or there is no such device.
    ReloError
        A folder cannot be listed, or `out` cannot be written; a full disk, for example.
    """
    check_options(tile, overlap)
    network, out = on_device(load_checkpoint(checkpoint, model=model).model, device), Path(out)
    if masks and not _predicts_masks(network):
        raise TrainingError("its network predicts no blur mask", file=Path(checkpoint), advice="Leave --mask out.")
    sources = _expand(paths)
    if not sources:
        raise TrainingError("no PNG, TIFF, JPEG or RAW image among the given paths")
    with writing_to(out, _NO_ROOM):  # before hours of work, not after
        out.mkdir(parents=True, exist_ok=True)
    taken = {source.resolve(): source for source in sources}
    written, skipped = list[Path](), list[Path]()
    failed, notes = list[tuple[Path, str]](), list[tuple[Path, str]]()
    for number, source in enumerate(sources, start=1):
        target = out / (source.stem + _ending(source, image_format))
        results = [target, out / f"{source.stem}_mask.png"] if masks else [target]
        try:
            _claim(results, source, taken)
            there = not overwrite and all(result.exists() for result in results)
            if not there:
                photograph = read_photograph(source)
                restored = restore(network, to_tensor(photograph.image)[None], tile=tile, overlap=overlap)
        except (ReloError, OSError) as error:
            failed.append((source, " ".join(str(error).split())))
        else:
            if there:
                skipped.append(target)
            else:
                with writing_to(out, _NO_ROOM):
                    left = _write(results, restored, photograph)
                notes += [(source, note) for note in (*photograph.notes, *left)]
                written.append(target)
        if progress:
            progress(number, len(sources), source.name)
    return DeblurResult(tuple(written), tuple(skipped), tuple(failed), tuple(notes))


def _to_array(restored: Restoration, dtype: np.dtype[Any]) -> NDArray[Any]:
    result = restored.image[0].permute(1, 2, 0).clamp(0, 1).double().numpy()
    if np.issubdtype(dtype, np.integer):
        return np.rint(result * np.iinfo(dtype).max).astype(dtype)
    return result.astype(dtype)


def _write(results: list[Path], restored: Restoration, photograph: Photograph) -> tuple[str, ...]:
    """Write the image, and the mask where its path follows; return what of the metadata does not fit."""
    for path in results[1:]:
        write_mask(path, restored.masks[-1][0, 0].numpy())
    return write_photograph(results[0], _to_array(restored, photograph.image.dtype), photograph.metadata)


def _predicts_masks(model: nn.Module) -> bool:
    return bool(restore(model, torch.zeros(1, 3, 64, 64), tile=0).masks)


def _ending(source: Path, image_format: Format | None) -> str:
    if image_format:
        return f".{image_format}"
    suffix = source.suffix.lower()
    if suffix in RAW:
        return ".tif"
    return suffix if suffix in WRITABLE else ".png"


def _claim(results: list[Path], source: Path, taken: dict[Path, Path]) -> None:
    """Reserve the names of results; none may be that of an input or of another input's result."""
    for result in results:
        if result.resolve() in taken:
            raise ImageError(
                f"would overwrite {result}, which belongs to {taken[result.resolve()]}",
                file=source,
                advice="Give another folder with -o, or not both at once.",
            )
    taken.update(dict.fromkeys([result.resolve() for result in results], source))


def _expand(paths: Iterable[str | Path]) -> list[Path]:
    sources: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            try:
                sources += sorted(
                    entry for entry in path.iterdir() if entry.suffix.lower() in PHOTOGRAPHS and entry.is_file()
                )
            except OSError as error:
                raise ReloError(f"cannot be listed ({error.strerror})", file=path) from error
        else:
            sources.append(path)
    return list(dict.fromkeys(sources))
