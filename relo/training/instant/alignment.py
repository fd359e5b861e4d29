"""The short exposure moved to where its photograph was taken from: hands shake between two frames.

A phase correlation finds the rough displacement over all of the frame; the enhanced correlation coefficient (ECC)
then fits an affine map to the area in which nothing moved. What moves in the scene between the two frames is not
followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

import cv2
import numpy as np
from numpy.typing import NDArray

from relo.errors import ProcessError
from relo.training.instant.matching import enough, smoothed

# Frames are aligned at no more than this many pixels a side; it tells fractions of a pixel of the whole frame.
_SIDE = 1200
# Detail between these scales counts [px of the reduced frame]: noise is finer, light that changes is coarser.
_FINE, _COARSE = 1.5, 12.0
_STEPS, _PRECISION = 60, 1e-5
# By how much of what it lacks to 1 the correlation must rise for an affine map, of which noise has one too, and may
# fall for a refined translation, which is right where a search has not failed.
_BETTER, _FAILED = 0.005, 0.2
_STRIP = 16  # along the border of either frame nothing counts: few foreign pixels bend a map [px]
_FILTER = 5  # side of the Gaussian that ECC smooths both frames with [px]
# Less detail than this in the photograph [of 1] aligns nothing.
_NO_DETAIL = 0.002
# Correlation of the details from which on two frames show one scene; noise alone stays below.
_ONE_SCENE = 0.12
# A displacement that is smaller everywhere is none [px]: interpolating would cost more.
_STILL = 0.03

_ADVICE = "Give the short exposure of this photograph, taken at the same moment from the same place."


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the short exposure shows what the photograph shows.

    Convention: `matrix @ (x, y, 1)` is the place in the short exposure of the photograph's pixel (x, y).

    Attributes
    ----------
    matrix : (2, 3) float64 array
    correlation : float
        Of the details of both frames where nothing moved, after the alignment; NaN where there are none.
    displacement : float
        Largest displacement within the frame [px].
    note : str
        What somebody should know; may be empty.
    """

    matrix: NDArray[np.float64]
    correlation: float
    displacement: float
    note: str = ""

    @property
    def is_none(self) -> bool:
        """Whether there is nothing to undo."""
        return self.displacement < _STILL


def estimate_alignment(
    blur: NDArray[np.float32], short: NDArray[np.float32], static: NDArray[np.bool_], *, search_range: float
) -> Alignment:
    """Fit an affine map of the photograph's pixels into the short exposure.

    Parameters
    ----------
    blur, short : (H, W, 3) float32 arrays
        sRGB in [0, 1], about as bright.
    static : (H, W) bool array
        Where nothing moved.
    search_range : float
        Largest displacement that is expected [px].

    Raises
    ------
    ProcessError
        The frames do not show the same, or are displaced by more than `search_range`.
    """
    height, width = static.shape
    factor = max(1.0, max(height, width) / _SIDE)
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    target, moving = (_reduced(_grey(image), size) for image in (blur, short))
    seen = (_reduced(static.astype(np.float32), size) > 0.99).astype(np.uint8)
    frame = _inner_frame(seen.shape)
    seen = frame * enough(frame * cv2.erode(seen, np.ones((5, 5), np.uint8)) > 0)
    detail, moving_detail = _detail(target), _detail(moving)
    if not seen.any() or detail[seen > 0].std() < _NO_DETAIL:
        told = "too little detail where nothing moved: the short exposure is taken as aligned"
        return Alignment(np.eye(2, 3), float("nan"), 0.0, told)
    still, rough = _translation(0.0, 0.0), _translation(*_rough_shift(detail, moving_detail, seen))

    def correlation_of(matrix: NDArray[np.float64]) -> float:
        return _correlation(detail, moving_detail, matrix, seen, frame)

    matrix, correlation = max(((start, correlation_of(start)) for start in (still, rough)), key=itemgetter(1))
    for motion, least in ((cv2.MOTION_TRANSLATION, -_FAILED), (cv2.MOTION_AFFINE, _BETTER)):
        refined = _refined(target, moving, matrix, seen, frame, motion)
        if refined is not None and (found := correlation_of(refined)) > correlation + least * (1 - correlation):
            matrix, correlation = refined, found
    matrix = _enlarged(matrix, width / size[0], height / size[1])
    displacement = _largest(matrix, height, width)
    if correlation < _ONE_SCENE:
        raise ProcessError(
            f"the short exposure does not show what the photograph shows (correlation {correlation:.2f}), or is "
            f"displaced by more than the search range of {search_range:g} px",
            advice=_ADVICE,
        )
    if displacement > search_range:
        raise ProcessError(
            f"the short exposure is displaced by {displacement:.0f} px, more than the search range of "
            f"{search_range:g} px",
            advice=_ADVICE,
        )
    return Alignment(matrix, correlation, displacement)


def apply_alignment(
    alignment: Alignment, short: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Move the short exposure.

    Returns
    -------
    (H, W, 3) float32 array
    (H, W) bool array
        Where it shows something: beyond its border it does not.
    """
    if alignment.is_none:
        return short, np.ones(short.shape[:2], bool)
    height, width = short.shape[:2]
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(short, alignment.matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(np.ones((height, width), np.uint8), alignment.matrix, (width, height), flags=flags)
    return np.asarray(moved, np.float32), np.asarray(inside) > 0


def _grey(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(np.minimum(image, 1), cv2.COLOR_RGB2GRAY), np.float32)


def _reduced(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)


def _detail(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return smoothed(image, _FINE) - smoothed(image, _COARSE)


def _inner_frame(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """1, but 0 along the border, where one frame shows what the other does not."""
    height, width = shape
    strip = min(_STRIP, height // 8, width // 8)
    inner = np.zeros(shape, np.uint8)
    inner[strip : height - strip, strip : width - strip] = 1
    return inner


def _translation(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y]], np.float64)


def _rough_shift(
    detail: NDArray[np.float32], moving: NDArray[np.float32], seen: NDArray[np.uint8]
) -> tuple[float, float]:
    """(x, y) from the photograph to the short exposure [px]; motion is left out of the photograph only."""
    window = cv2.createHanningWindow(detail.shape[::-1], cv2.CV_32F) if min(detail.shape) > 1 else None
    # Where their sizes suit it, OpenCV multiplies both images by the window in place.
    (x, y), _ = cv2.phaseCorrelate(detail * seen, moving.copy(), window)
    return x, y


def _refined(
    target: NDArray[np.float32],
    moving: NDArray[np.float32],
    start: NDArray[np.float64],
    seen: NDArray[np.uint8],
    frame: NDArray[np.uint8],
    motion: int,
) -> NDArray[np.float64] | None:
    """Affine map or translation of the greatest correlation near `start`; None where the search fails."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _PRECISION)
    # ECC counts in pixels of the frame that it moves.
    used = cv2.warpAffine(seen, start, seen.shape[::-1], flags=cv2.INTER_NEAREST) * frame
    try:
        _, matrix = cv2.findTransformECC(target, moving, start.astype(np.float32), motion, criteria, used, _FILTER)
    except cv2.error:
        return None
    return np.asarray(matrix, np.float64) if np.isfinite(matrix).all() else None


def _correlation(
    detail: NDArray[np.float32],
    moving: NDArray[np.float32],
    matrix: NDArray[np.float64],
    seen: NDArray[np.uint8],
    frame: NDArray[np.uint8],
) -> float:
    """Correlation of the details where nothing moved, with the second moved; -1 where they hardly overlap."""
    size = detail.shape[::-1]
    # Linear interpolation would take noise away, and favour fractions of a pixel.
    moved = cv2.warpAffine(moving, matrix, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    use = seen * cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    if np.count_nonzero(use) < 0.1 * np.count_nonzero(seen):
        return -1.0
    first, second = (image[use].astype(np.float64) for image in (detail, moved))
    first, second = first - first.mean(), second - second.mean()
    size_of_both = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size_of_both if size_of_both > 0 else -1.0


def _enlarged(matrix: NDArray[np.float64], along: float, down: float) -> NDArray[np.float64]:
    """The map between whole frames of one between reduced ones; pixel centres lie at whole numbers in both."""
    to_full = np.array([[along, 0, (along - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])
    full = to_full @ np.vstack([matrix, [0, 0, 1]]) @ np.linalg.inv(to_full)
    return full[:2]


def _largest(matrix: NDArray[np.float64], height: int, width: int) -> float:
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]], np.float64)
    moved = corners @ matrix.T
    return float(np.hypot(*(moved - corners[:, :2]).T).max())
