"""A photograph deblurred with its short exposure, in memory and within seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from relo.errors import ProcessError
from relo.training.instant.alignment import Alignment, apply_alignment, estimate_alignment
from relo.training.instant.composite import composite, feathered
from relo.training.instant.config import InstantConfig
from relo.training.instant.matching import as_floats, match_gain, match_tone, smoothed
from relo.training.instant.noise import calm_strong_noise
from relo.training.instant.prefiltered import prefiltered_guided_filter
from relo.training.instant.shrinkage import shrink_difference

# Brightness that noise depends on is that of the surroundings [px].
_SURROUNDINGS = 2.0
# Around the mask nothing is taken as still: masks are a little too small now and then [px].
_MARGIN = 8


@dataclass(frozen=True, eq=False)
class InstantResult:
    """A photograph deblurred with its short exposure.

    Attributes
    ----------
    image : (H, W, 3) array of the photograph's dtype
        Equal to it outside of the mask.
    alignment : Alignment or None
        None where there was nothing to restore.
    gains : 3 floats or None
        Factors on the linear light of the short exposure's channels.
    notes : tuple of str
        What somebody who looks at it should know.
    """

    image: NDArray[Any]
    alignment: Alignment | None
    gains: tuple[float, float, float] | None
    notes: tuple[str, ...]


def restore_from_short(
    blur: NDArray[Any], short: NDArray[Any], mask: NDArray[Any], config: InstantConfig | None = None
) -> InstantResult:
    """Restore the blurred pixels of a photograph from a short exposure of the same moment.

    Parameters
    ----------
    blur : (H, W, 3) uint8, uint16 or floating-point array
        RGB, sRGB-encoded; floats in [0, 1].
    short : (H, W, 3) uint8, uint16 or floating-point array
        Likewise; darker, with more noise, and displaced by no more than `config.search_range`.
    mask : (H, W) bool or uint8 array
        Above 0 where the photograph is blurred. Other pixels are not touched.
    config : InstantConfig, optional

    Returns
    -------
    InstantResult
        Floats are clipped to [0, 1] where they were restored.

    Raises
    ------
    ProcessError
        The short exposure has another size, is black, or does not show what the photograph shows within the search
        range.
    ValueError
        Shapes, dtypes or values are not as described.
    """
    config = config or InstantConfig()
    _check(blur, short, mask)
    blurred = mask > 0
    if not blurred.any():
        return InstantResult(blur.copy(), None, None, ())
    if not short.any():
        raise ProcessError("the short exposure is black", advice="Expose it longer, or raise its brightness.")
    static = _still(blurred)
    photograph = as_floats(blur)
    moved, gains = match_gain(blur, short, static)
    moved = calm_strong_noise(moved)
    alignment, seen = Alignment(np.eye(2, 3), float("nan"), 0.0), np.ones_like(blurred)
    if config.search_range:
        alignment = estimate_alignment(photograph, moved, static, search_range=config.search_range)
        moved, seen = apply_alignment(alignment, moved)
    moved = match_tone(photograph, moved, static & seen)
    brightness = smoothed(photograph.mean(axis=2, dtype=np.float32), _SURROUNDINGS)
    wanted = blurred & seen
    restored = photograph + shrink_difference(
        moved - photograph, brightness, static & seen, wanted, threshold=config.threshold
    )
    if config.method == "prefiltered":
        restored = prefiltered_guided_filter(
            photograph, restored, wanted, radius=config.radius, eps=config.eps, sigma=config.prefilter_sigma
        )
    notes = [alignment.note] if alignment.note else []
    if not wanted.all() and (blurred & ~seen).any():
        notes.append(f"{(blurred & ~seen).sum() / blurred.sum():.1%} of the blur lies beyond the short exposure")
    image = composite(blur, restored, feathered(wanted, config.feather))
    return InstantResult(image, alignment, gains, tuple(notes))


def align_short(
    blur: NDArray[Any],
    short: NDArray[Any],
    mask: NDArray[Any],
    *,
    search_range: float = InstantConfig().search_range,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Move a short exposure to where its photograph was taken from, as `restore_from_short` does, and no more.

    Parameters
    ----------
    blur, short, mask
        As there.
    search_range : float
        Largest displacement that is undone [px].

    Returns
    -------
    (H, W, 3) float32 array
        As dark and as noisy as it was; its border is repeated where it shows nothing.
    tuple of str
        What somebody who looks at the result should know.

    Raises
    ------
    ProcessError, ValueError
        As there.
    """
    _check(blur, short, mask)
    static = _still(mask > 0)
    matched, _ = match_gain(blur, short, static)
    alignment = estimate_alignment(as_floats(blur), calm_strong_noise(matched), static, search_range=search_range)
    moved, _ = apply_alignment(alignment, as_floats(short))
    return np.clip(moved, 0, 1), (alignment.note,) if alignment.note else ()


def _still(blurred: NDArray[np.bool_]) -> NDArray[np.bool_]:
    around = cv2.dilate(blurred.astype(np.uint8), np.ones((2 * _MARGIN + 1, 2 * _MARGIN + 1), np.uint8))
    return np.asarray(around == 0)


def _check(blur: NDArray[Any], short: NDArray[Any], mask: NDArray[Any]) -> None:
    for name, image in (("photograph", blur), ("short exposure", short)):
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"expected the {name} as a non-empty (H, W, 3) array, got shape {image.shape}")
        if np.issubdtype(image.dtype, np.floating):
            if not np.isfinite(image).all():
                raise ValueError(f"the {name} holds NaN or infinity")
        elif image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"expected the {name} as uint8, uint16 or floating-point array, got {image.dtype}")
    if short.shape != blur.shape:
        (height, width), (rows, columns) = blur.shape[:2], short.shape[:2]
        raise ProcessError(
            f"the short exposure is {columns}x{rows}, the photograph {width}x{height}",
            advice="Both must come from the same camera, uncropped and of one size.",
        )
    if mask.shape != blur.shape[:2] or mask.dtype not in (np.bool_, np.uint8):
        wanted = f"expected a bool or uint8 mask of shape {blur.shape[:2]}"
        raise ValueError(f"{wanted}, got {mask.dtype} {mask.shape}")
