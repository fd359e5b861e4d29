"""Colour-cast correction from lightbox frames (Li et al. 2023, eq. 3-5).

A beam splitter tints each camera differently over the field. Each camera photographs a uniform field once;
the factor that makes the frame uniform again is fitted by a cubic per channel and then multiplied onto
every frame of that camera. Where the paper's text cannot be meant as printed relo differs, see
docs/decisions/0002-colour-cast.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import Field

from relo.capture.frame import RawFrame, channel_of_position
from relo.config import Config
from relo.errors import ProcessError
from relo.postprocess import polynomial

# A lightbox patch above this share of white has lost the brightest sites, below it drowns in read noise.
_BRIGHTEST, _DARKEST = 0.95, 0.02
# A patch that the polynomial misses by less than this is no outlier: real casts are no exact polynomials.
_OUTLIER = 0.006


class ColourConfig(Config):
    """Settings of the colour-cast correction."""

    enabled: bool = Field(True, description="Without it no lightbox frames are needed.")
    degree: int = Field(3, ge=1, le=5, description="Degree of the polynomial; 3 as published, 4 or 5 if it pays.")
    patch_rows: int = Field(15, ge=5, le=101, description="Rows of patches on the lightbox frame.")
    patch_columns: int = Field(23, ge=5, le=101, description="Columns of patches on the lightbox frame.")


@dataclass(frozen=True, eq=False)
class ColourCast:
    """What undoes the colour cast of one camera.

    Attributes
    ----------
    shape : (H, W)
        Sensor size the fit belongs to.
    pattern : str
        CFA pattern of the camera's frames.
    coefficients : (3, terms) float64 array
        Polynomial of alpha per channel, see `relo.postprocess.polynomial`; 1 at the frame's centre.
    residual_peak_to_peak, residual_rms : (3,) float64 arrays
        What the fit leaves on the lightbox patches, relative.
    leave_one_out : (3,) float64 array
        RMS error at a patch of the fit to all others, relative: far above `residual_rms` the polynomial
        follows noise.
    alpha_range : (3, 2) float64 array
        Smallest and largest alpha over the frame.
    green_ratio : float
        Mean of the first greens over mean of the second; far from 1 the two greens need attention.
    notes : tuple of str
        Frames that were rejected, and why.
    """

    shape: tuple[int, int]
    pattern: str
    coefficients: np.ndarray
    residual_peak_to_peak: np.ndarray
    residual_rms: np.ndarray
    leave_one_out: np.ndarray
    alpha_range: np.ndarray
    green_ratio: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def degree(self) -> int:
        """Degree of the polynomial."""
        return polynomial.degree_of(self.coefficients.shape[1])

    def alpha(self) -> np.ndarray:
        """(3, H, W) float32: the factor by which each channel is multiplied."""
        return polynomial.evaluate(self.coefficients, self.shape)

    @cached_property
    def mosaic_alpha(self) -> np.ndarray:
        """(H, W) float32: at each site the factor of the site's own channel."""
        result = np.empty(self.shape, np.float32)
        for channel in range(3):
            alpha = polynomial.evaluate(self.coefficients[channel : channel + 1], self.shape)[0]
            for position, own in enumerate(channel_of_position(self.pattern)):
                if own == channel:
                    sites = np.s_[position // 2 :: 2, position % 2 :: 2]
                    result[sites] = alpha[sites]
        return result


def fit_colour_cast(
    lightbox: RawFrame | Sequence[RawFrame],
    *,
    degree: int = 3,
    patch_rows: int = 15,
    patch_columns: int = 23,
) -> ColourCast:
    """Fit the factor alpha that makes a lightbox frame uniform, per channel.

    The frame is cut into patches; alpha of a patch is the centre's mean over the patch's mean (the paper
    prints the inverse, which would double the cast). Both greens share one polynomial. Means are taken
    after a 3-sigma clip. The fit is a least squares with Huber weights, in which patches near the border
    count more, by 1 / sqrt((1 - u^2)(1 - v^2)): the weights of Chebyshev polynomials, with which the largest
    error over the frame comes near its minimum instead of the mean one. It is scaled so that alpha is 1 at
    the centre of the frame: the centre patch alone would carry its noise into every pixel.

    Parameters
    ----------
    lightbox : RawFrame or sequence of RawFrame
        A uniform 6500 K field; several frames are averaged, over- and under-exposed ones left out.
    degree : int
        1 to 5; the paper uses 3.
    patch_rows, patch_columns : int
        Grid of patches; at least degree + 1 each way.

    Returns
    -------
    ColourCast

    Raises
    ------
    ProcessError
        The frames differ in size or pattern, are all too bright or too dark, are too small, or the fitted
        factor is not positive everywhere.
    """
    if min(patch_rows, patch_columns) <= degree:
        raise ProcessError(
            f"{patch_columns} x {patch_rows} patches do not determine a polynomial of degree {degree}",
            advice=f"Use at least {degree + 1} each way.",
        )
    frames = [lightbox] if isinstance(lightbox, RawFrame) else list(lightbox)
    if not frames:
        raise ProcessError("no lightbox frame given")
    shape, pattern = frames[0].shape, frames[0].pattern
    if any(frame.shape != shape or frame.pattern != pattern for frame in frames):
        raise ProcessError("the lightbox frames differ in size or CFA pattern")
    means, x, y, notes = _mean_of_usable(frames, patch_rows, patch_columns)
    height, width = shape
    u = (x - (width - 1) / 2) / (width / 2)
    v = (y - (height - 1) / 2) / (height / 2)
    channels = channel_of_position(pattern)
    coefficients = np.empty((3, len(polynomial.exponents(degree))))
    peak_to_peak, rms, leave_one_out = np.empty(3), np.empty(3), np.empty(3)
    for channel in range(3):
        positions = [position for position in range(4) if channels[position] == channel]
        own_u, own_v = u[positions].ravel(), v[positions].ravel()
        matrix = polynomial.design_matrix(own_u, own_v, degree)
        patch = means[positions].ravel()
        alpha = np.median(patch) / patch
        # 1.05: the outermost patch of a fine grid must not outweigh all others.
        border = 1 / np.sqrt((1.05 - own_u**2) * (1.05 - own_v**2))
        fit, weights = _huber_fit(matrix, alpha, border)
        corrected = patch * (matrix @ fit)
        corrected /= corrected.mean()
        peak_to_peak[channel], rms[channel] = np.ptp(corrected), corrected.std()
        left_out = _leave_one_out(matrix, alpha, weights, fit) / alpha
        leave_one_out[channel] = np.sqrt(np.mean(left_out**2))
        coefficients[channel] = fit / fit[-1]  # the last monomial is 1, the value at the centre
    field = polynomial.evaluate(coefficients, shape)
    if field.min() <= 0:
        raise ProcessError(
            "the fitted colour factor is not positive everywhere", advice="Check that the field was uniform."
        )
    greens = [position for position in range(4) if channels[position] == 1]
    return ColourCast(
        shape,
        pattern,
        coefficients,
        peak_to_peak,
        rms,
        leave_one_out,
        alpha_range=np.stack([field.min(axis=(1, 2)), field.max(axis=(1, 2))], axis=1).astype(np.float64),
        green_ratio=float(means[greens[0]].mean() / means[greens[1]].mean()),
        notes=tuple(notes),
    )


def apply_colour_cast(cast: ColourCast, image: np.ndarray) -> np.ndarray:
    """Multiply a frame by the factor that undoes its camera's cast.

    Parameters
    ----------
    cast : ColourCast
    image : (H, W) or (H, W, 3) float32 array
        A normalised mosaic of the cast's CFA pattern, or a linear camera-RGB image.

    Returns
    -------
    float32 array of the same shape

    Raises
    ------
    ProcessError
        The frame has another size than the lightbox frames had.
    """
    if image.shape[:2] != cast.shape:
        raise ProcessError(
            f"a frame of {image.shape[1]}x{image.shape[0]} cannot be corrected with a colour calibration of "
            f"{cast.shape[1]}x{cast.shape[0]}",
            advice="Take the lightbox frames with the size of the scenes.",
        )
    factor = cast.mosaic_alpha if image.ndim == 2 else np.moveaxis(cast.alpha(), 0, -1)
    return image * factor


def _mean_of_usable(
    frames: Sequence[RawFrame], rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """`_patch_means` averaged over the frames that are well exposed, and a note on each of the others."""
    used, notes = [], []
    for number, frame in enumerate(frames, 1):
        mosaic = frame.normalised()
        means, x, y = _patch_means(mosaic, rows, columns)
        if not means.max() <= _BRIGHTEST:
            fault = f"is over-exposed: a patch reaches {100 * means.max():.0f} % of white"
            advice = f"Expose it so that no patch exceeds {100 * _BRIGHTEST:.0f} %."
        elif not means.min() >= _DARKEST:
            fault = f"is too dark: a patch has only {100 * means.min():.1f} % of white"
            advice = "Expose it longer."
        else:
            used.append(means)
            continue
        notes.append(f"lightbox frame {number} of {len(frames)} {fault}: not used")
    if not used:
        raise ProcessError(f"the lightbox frame {fault}", advice=advice)
    return np.mean(used, axis=0), x, y, notes


def _patch_means(mosaic: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clipped means of the four CFA positions over a grid of patches that hold whole cells.

    Returns
    -------
    means, x, y : (4, rows * columns) float64 arrays
        Mean, and coordinates of the sites' centre of gravity [px].
    """
    height, width = mosaic.shape
    if height < 2 * rows or width < 2 * columns:
        raise ProcessError(f"a lightbox frame of {width}x{height} is too small for {columns} x {rows} patches")
    # Together the patches cover the frame: a cubic must not be extrapolated into its corners.
    edges_y = 2 * np.rint(np.linspace(0, height // 2, rows + 1)).astype(int)
    edges_x = 2 * np.rint(np.linspace(0, width // 2, columns + 1)).astype(int)
    means, x, y = (np.empty((4, rows, columns)) for _ in range(3))
    for row, column in np.ndindex(rows, columns):
        top, bottom, left, right = edges_y[row], edges_y[row + 1], edges_x[column], edges_x[column + 1]
        for position in range(4):
            down, along = divmod(position, 2)
            means[position, row, column] = _clipped_mean(mosaic[top + down : bottom : 2, left + along : right : 2])
            y[position, row, column] = (top + bottom - 2) / 2 + down
            x[position, row, column] = (left + right - 2) / 2 + along
    return means.reshape(4, -1), x.reshape(4, -1), y.reshape(4, -1)


def _clipped_mean(sites: np.ndarray) -> float:
    """Mean without what lies beyond 3 robust standard deviations (dust, hot pixels)."""
    distance = np.abs(sites - np.median(sites))
    keep = distance <= max(3 * 1.4826 * float(np.median(distance)), 1e-6)
    return float(sites[keep].mean(dtype=np.float64))


def _huber_fit(
    matrix: np.ndarray, values: np.ndarray, prior: np.ndarray, iterations: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares with weights `prior` times Huber's at 2 robust standard deviations.

    Returns
    -------
    fit, weights : float64 arrays
    """
    weights = prior
    for _ in range(iterations):
        root = np.sqrt(weights)
        fit, *_ = np.linalg.lstsq(matrix * root[:, None], values * root, rcond=None)
        distance = np.abs(values - matrix @ fit)
        limit = max(_OUTLIER, 2 * 1.4826 * float(np.median(distance)))
        weights = prior * np.minimum(1.0, limit / np.maximum(distance, 1e-300))
    return fit, weights


def _leave_one_out(matrix: np.ndarray, values: np.ndarray, weights: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Error at each value of the weighted least squares to all others, by the leverages: e / (1 - h)."""
    root = np.sqrt(weights)[:, None]
    orthonormal, _ = np.linalg.qr(matrix * root)
    leverage = np.sum(orthonormal**2, axis=1)
    return np.asarray((values - matrix @ fit) / np.maximum(1 - leverage, 1e-9))
