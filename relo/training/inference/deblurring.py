"""Restore photographs with a trained model: arrays, and files in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relo.errors import ConfigError, ReloError, TrainingError
from relo.models.restoration import takes_short
from relo.training.checkpoint import load_checkpoint
from relo.training.detector_evaluation import require_restoration
from relo.training.inference.blur_masks import no_mask_predicted, predicts_masks
from relo.training.inference.file_by_file import DeblurResult, find_work, restore_each
from relo.training.inference.file_names import Format
from relo.training.inference.given_masks import find_mask, read_given_mask, require_masks
from relo.training.inference.given_short import find_short, read_short, require_short
from relo.training.inference.in_memory import Restored, restore_blurred, restore_whole
from relo.training.inference.photographs import Photograph, read_photograph
from relo.training.inference.whole_image import check_options, on_device

if TYPE_CHECKING:
    from torch import nn


def deblur(
    model: nn.Module | str | os.PathLike[str],
    image: NDArray[Any],
    *,
    tile: int | None = None,
    overlap: int | None = None,
    device: str | None = None,
    only_blurred: bool = False,
    mask: NDArray[Any] | None = None,
    short: NDArray[Any] | None = None,
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
    only_blurred : bool
        Restore only windows around blur, which takes less time; see
        `relo.training.inference.region_inference.restore_regions` for what it costs. Pixels 16 px away from all
        blur keep their values exactly.
    mask : (H, W) bool or uint8 array, optional
        With `only_blurred`: True or above 0 where the photograph is blurred. By default the network says.
    short : (H, W, 3) array, optional
        Short exposure of the same size, for a network that is given one; aligned with the photograph.

    Returns
    -------
    (H, W, 3) array of the same dtype
        Clipped to the range of the input.

    Raises
    ------
    ValueError
        The image, the mask or the short exposure is not as described.
    ConfigError
        `tile` or `overlap` is not as described, there is no such device, a mask without `only_blurred`, or a short
        exposure is missing or of no use.
    TrainingError
        The memory does not suffice, or nothing says where the blur is.
    """
    _check_arrays(image, mask)
    if short is not None:
        _check_arrays(short, None)
        if short.shape != image.shape:
            raise ValueError(f"the short exposure has shape {short.shape}, the image {image.shape}")
    _check_regions(only_blurred, mask is not None, False)
    check_options(tile, overlap)
    network = load_checkpoint(model).model if isinstance(model, (str, os.PathLike)) else model
    network = on_device(network, device)
    _check_short(network, short is not None)
    if only_blurred:
        return restore_blurred(network, image, mask, short=short, tile=tile, overlap=overlap).image
    return restore_whole(network, image, short=short, tile=tile, overlap=overlap).image


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
    only_blurred: bool = False,
    mask_from: str | Path | None = None,
    short: str | Path | None = None,
    compare: bool = False,
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
        Kind of all results. JPEG has 8 bits, and changes every pixel a little.
    masks : bool
        Write the blur mask as NAME_mask.png too: 8 bits, 255 where it is 1. It is what the network predicts, or
        with `only_blurred` what decided where to restore.
    overwrite : bool
        Restore again what is there already.
    only_blurred : bool
        See `deblur`. Of a RAW file the developed picture is what is kept elsewhere.
    mask_from : path, optional
        With `only_blurred`: masks instead of the network's, see
        `relo.training.inference.given_masks.read_given_mask`.
    short : path, optional
        For a network that is given a short exposure: see `relo.training.inference.given_short.find_short`. Taken
        as it is, neither aligned nor brightened.
    compare : bool
        With `only_blurred`: restore every photograph as a whole too, and report the difference.
    progress : callable, optional
        Called with (files done, files in all, name of the file).

    Raises
    ------
    TrainingError
        The checkpoint cannot be read or restores nothing, there is no photograph among `paths`, or the network
        predicts no mask where one is needed.
    ConfigError
        `tile`, `overlap` or `model` is not as described, there is no such device, no `mask_from`, no `short`, or an
        option that needs `only_blurred` is without.
    ReloError
        A folder cannot be listed, or `out` cannot be written; a full disk, for example.
    """
    check_options(tile, overlap)
    _check_regions(only_blurred, mask_from is not None, compare)
    given = None if mask_from is None else Path(mask_from)
    if given is not None:
        require_masks(given)
    loaded = load_checkpoint(checkpoint, model=model)
    require_restoration(loaded)
    network, out = on_device(loaded.model, device), Path(out)
    _check_short(network, short is not None)
    if short is not None:
        require_short(Path(short))
    if (masks or only_blurred) and given is None and not predicts_masks(network):
        if only_blurred:
            raise no_mask_predicted(Path(checkpoint))
        raise TrainingError("its network predicts no blur mask", file=Path(checkpoint), advice="Leave --mask out.")
    sources = find_work(paths, out)

    def restored_photograph(source: Path) -> tuple[Photograph, Restored, tuple[str, ...]]:
        photograph = read_photograph(source)
        image = photograph.image
        frame = None if short is None else read_short(Path(short), source, image.shape[:2])
        if not only_blurred:
            restored = restore_whole(network, image, short=frame, tile=tile, overlap=overlap)
            return photograph, restored, photograph.notes
        mask, remarks = (None, ()) if given is None else read_given_mask(given, source, image.shape[:2])
        restored = restore_blurred(
            network, image, mask, short=frame, tile=tile, overlap=overlap, with_comparison=compare
        )
        assert restored.report is not None
        return photograph, restored, (*photograph.notes, *remarks, *restored.report.notes())

    given_files = () if given is None else filter(None, (find_mask(given, source) for source in sources))
    short_files = list[Path]()
    for source in sources:
        with suppress(ReloError):  # told when it is this photograph's turn
            short_files += [] if short is None else [find_short(Path(short), source)]
    return restore_each(
        restored_photograph,
        sources,
        out,
        inputs=(*sources, *given_files, *short_files),
        again=overwrite or compare,  # a comparison is asked for to be seen
        image_format=image_format,
        masks=masks,
        progress=progress,
    )


def _check_arrays(image: NDArray[Any], mask: NDArray[Any] | None) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty (H, W, 3) image, got shape {image.shape}")
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"expected uint8, uint16 or floating-point values, got {image.dtype}")
    if mask is None:
        return
    if mask.shape != image.shape[:2] or mask.dtype not in (np.bool_, np.uint8):
        wanted = f"expected a bool or uint8 mask of shape {image.shape[:2]}"
        raise ValueError(f"{wanted}, got {mask.dtype} {mask.shape}")


def _check_short(network: nn.Module, given: bool) -> None:
    wanted = takes_short(network)
    if wanted and not given:
        raise ConfigError("the network is given a short exposure too", advice="Name it with --short.")
    if given and not wanted:
        raise ConfigError(
            "the network sees no short exposure",
            advice="Leave --short out, or restore by it with  relo deblur exprdiff-instant",
        )


def _check_regions(only_blurred: bool, mask: bool, compare: bool) -> None:
    """Refuse options that say nothing about a photograph that is restored as a whole."""
    if not only_blurred and (mask or compare):
        raise ConfigError(
            "a given mask (--mask-from) and a comparison (--compare) are of use only with --only-blurred",
            advice="Add --only-blurred.",
        )
