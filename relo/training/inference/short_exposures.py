"""Photographs restored where they are blurred, from their short exposures, file by file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from relo.errors import ConfigError, ProcessError, ReloError, TrainingError
from relo.training.inference.file_by_file import DeblurResult, find_work, restore_each
from relo.training.inference.file_names import Format
from relo.training.inference.given_masks import find_mask, read_given_mask, require_masks
from relo.training.inference.given_short import find_short, require_short
from relo.training.inference.in_memory import RegionReport, Restored
from relo.training.inference.photographs import Photograph, read_photograph
from relo.training.instant.restore import align_short, restore_from_short

if TYPE_CHECKING:
    from relo.models.exprdiff.detector import BlurDetector
    from relo.training.diffusion.restoration import Restorer

_NO_MASK = (
    "Give masks with --mask-from (of 'relo masks', or drawn by hand), or a trained detector with --detector RUN."
)


def deblur_with_short(
    paths: Iterable[str | Path],
    short: str | Path,
    out: str | Path,
    *,
    mask_from: str | Path | None = None,
    detector: str | os.PathLike[str] | None = None,
    device: str | None = None,
    image_format: Format | None = None,
    masks: bool = False,
    overwrite: bool = False,
    restore: RestoreFromShort | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> DeblurResult:
    """Restore photographs from their short exposures into a folder; one that fails does not stop the others.

    A result that is there already is left as it is, so that an interrupted call can be repeated.

    Parameters
    ----------
    paths : iterable of path
        PNG, TIFF, JPEG and RAW files, or folders of them; folders in folders are not searched.
    short : path
        See `find_short`.
    out, image_format, masks, overwrite
        See `relo.training.deblur_files`; the mask is the one that was used.
    mask_from : path, optional
        Where the blur is, see `relo.training.inference.given_masks.read_given_mask`.
    detector : path, optional
        Instead: a run folder or weights file of `exprdiff_detector`.
    device : str, optional
        Where the detector runs; the GPU if there is one.
    restore : RestoreFromShort, optional
        By default `instantly`.
    progress : callable, optional
        Called with (files done, files in all, name of the file; where `restore` tells, its step too).

    Raises
    ------
    ConfigError
        Neither masks nor a detector are given, or both, or one of the paths does not exist.
    TrainingError
        The detector cannot be read, or there is no photograph among `paths`.
    ReloError
        A folder cannot be listed, or `out` cannot be written; a full disk, for example.
    """
    short, out = Path(short), Path(out)
    given = None if mask_from is None else Path(mask_from)
    find_blur = _blur_finder(given, detector, device)
    require_short(short)
    sources = find_work(paths, out)

    def report(source: Path, step: int, steps: int) -> None:
        if progress:
            progress(sources.index(source), len(sources), f"{source.name}: step {step} of {steps}")

    def restored(source: Path) -> tuple[Photograph, Restored, tuple[str, ...]]:
        report_step = partial(report, source)
        return _restored(source, find_short(short, source), find_blur, restore or instantly, report_step)

    return restore_each(
        restored,
        sources,
        out,
        inputs=_inputs(sources, short, given),
        again=overwrite,
        image_format=image_format,
        masks=masks,
        progress=progress,
    )


Report = Callable[[int, int], None]
"""Called with (steps done, steps in all) of one photograph."""

RestoreFromShort = Callable[
    [NDArray[Any], NDArray[Any], NDArray[np.bool_], Report], tuple[NDArray[Any], tuple[str, ...]]
]
"""Maps photograph, short exposure (both as their files hold them), (H, W) mask and a `Report` to the restored
photograph and notes."""


def instantly(
    blur: NDArray[Any],
    short: NDArray[Any],
    mask: NDArray[np.bool_],
    report: Report,  # noqa: ARG001
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Restore without training: `relo.training.instant`."""
    result = restore_from_short(blur, short, mask)
    return result.image, result.notes


def with_guide(restorer: Restorer) -> RestoreFromShort:
    """Restore by a trained guide of a diffusion model, which wants the short exposure aligned."""

    def restore(
        blur: NDArray[Any], short: NDArray[Any], mask: NDArray[np.bool_], report: Report
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        if not mask.any():
            return blur.copy(), ()
        aligned, notes = align_short(blur, short, mask)
        return restorer.restore(blur, aligned, mask, progress=report), notes

    return restore


# Maps a photograph and its pixels to where it is blurred, and to what was unusual about that.
BlurFinder = Callable[[Path, NDArray[Any]], tuple[NDArray[np.bool_], tuple[str, ...]]]


def _restored(
    source: Path, short_file: Path, find_blur: BlurFinder, restore: RestoreFromShort, report: Report
) -> tuple[Photograph, Restored, tuple[str, ...]]:
    """A photograph, what it became with the mask that was used, and notes."""
    photograph, short = read_photograph(source), read_photograph(short_file)
    mask, remarks = find_blur(source, photograph.image)
    try:
        image, told = restore(photograph.image, short.image, mask, report)
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise
        raise TrainingError(
            "the memory does not suffice for this photograph",
            file=source,
            advice="Give a smaller mask with --mask-from, or a part of the photograph.",
        ) from error
    except TrainingError as error:
        raise TrainingError(error.reason, file=error.file or source, advice=error.advice) from error
    except ProcessError as error:
        raise ProcessError(error.reason, file=short_file, advice=error.advice) from error
    empty = () if mask.any() else ("no blur found: the photograph is left as it is",)
    share = float(mask.mean())
    restored = Restored(image, mask.astype(np.float32), RegionReport(share, share, None))
    return photograph, restored, (*photograph.notes, *remarks, *empty, *told)


def _blur_finder(given: Path | None, detector: str | os.PathLike[str] | None, device: str | None) -> BlurFinder:
    """Function that tells where a photograph is blurred, and what was unusual about it."""
    if given is not None and detector is not None:
        raise ConfigError("both masks and a detector are given", advice="Leave --mask-from or --detector out.")
    if given is not None:
        require_masks(given)

        def read(source: Path, image: NDArray[Any]) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
            mask = read_given_mask(given, source, image.shape[:2])
            return mask.mask > 0, mask.notes

        return read
    if detector is None:
        raise ConfigError("nothing says where the photographs are blurred", advice=_NO_MASK)
    network = _load_detector(detector, device)

    def detect(_: Path, image: NDArray[Any]) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
        from relo.models.exprdiff.detector import detect_blur

        return np.asarray(detect_blur(network, image), np.bool_), ()

    return detect


def _load_detector(detector: str | os.PathLike[str], device: str | None) -> BlurDetector:
    """Network of a checkpoint of `exprdiff_detector`, on its device.

    Raises
    ------
    TrainingError
        The checkpoint cannot be read, or holds another network.
    """
    from relo.models.exprdiff.detector import BlurDetector
    from relo.training.checkpoint import load_checkpoint
    from relo.training.inference.whole_image import on_device

    checkpoint = load_checkpoint(detector)
    network = on_device(checkpoint.model, device)
    if not isinstance(network, BlurDetector):
        raise TrainingError(
            f"holds {checkpoint.name}, which is no blur detector",
            file=checkpoint.path,
            advice="Train one with  relo train exprdiff-detector",
        )
    return network


def _inputs(sources: list[Path], short: Path, given: Path | None) -> Iterable[Path]:
    """Files that no result may overwrite."""
    yield from sources
    for source in sources:
        with suppress(ReloError):  # told when it is this photograph's turn
            yield find_short(short, source)
        mask = None if given is None else find_mask(given, source)
        if mask is not None:
            yield mask
