"""The flow between the two cameras: a cubic where it explains the pair, with a dense rest where it does not."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from relo.config import Config
from relo.errors import ProcessError
from relo.postprocess import isp
from relo.postprocess.flow.dense import estimate_dense
from relo.postprocess.flow.model import FlowModel
from relo.postprocess.flow.parametric import estimate_parametric, gradients

FlowMethod = Literal["auto", "parametric", "dense"]

_BLOCK = 32
# A block that the cubic misses by this much, beyond its own uncertainty, shows parallax [px].
_PARALLAX_PX = 0.1
_PARALLAX_SHARE = 0.02


class FlowConfig(Config):
    """Settings of the geometric alignment."""

    method: FlowMethod = Field("auto", description="auto, parametric (cubic) or dense.")
    limit: float = Field(0.05, gt=0, le=0.5, description="Largest believable shift, of the width.")


def estimate_flow(
    target: np.ndarray,
    moving: np.ndarray,
    *,
    method: FlowMethod = "auto",
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Flow that maps each pixel of `target` (camera S) to its place in `moving` (camera B).

    Parameters
    ----------
    target, moving : (H, W) or (H, W, 3) float arrays
        Display images in [0, 1]; camera B gain-matched to camera S.
    method : {"auto", "parametric", "dense"}
    weights : (H, W) float array, optional
        0 where a pixel must not count.

    Returns
    -------
    (H, W, 2) float32 array
        (dx, dy) [px]: `moving[y + dy, x + dx]` shows what `target[y, x]` shows.

    Raises
    ------
    ProcessError
        The frames are too small, hold NaN, or too little texture.
    """
    return fit_flow(target, moving, FlowConfig(method=method), weights=weights).dense()


def fit_flow(
    target: np.ndarray,
    moving: np.ndarray,
    config: FlowConfig | None = None,
    *,
    weights: np.ndarray | None = None,
) -> FlowModel:
    """Like `estimate_flow`, as a `FlowModel`; "auto" also says which way it went and why."""
    config = config or FlowConfig()
    target, moving = _grey(target), _grey(moving)
    if target.shape != moving.shape:
        raise ValueError(f"frames differ in size: {target.shape} and {moving.shape}")
    if min(target.shape) < 64:
        raise ProcessError(f"frames of {target.shape[1]}x{target.shape[0]} are too small to align (64 px at least)")
    if not (np.isfinite(target).all() and np.isfinite(moving).all()):
        raise ProcessError("a frame to align holds NaN or infinite values")
    if config.method == "dense":
        shape = (target.shape[0], target.shape[1])
        model = FlowModel(shape, np.zeros((2, 10)), estimate_dense(target, moving), "dense")
    else:
        model = estimate_parametric(target, moving, weights=weights)
        if config.method == "auto":
            model = _add_parallax(model, target, moving, weights)
    largest = float(np.abs(model.dense()).max())
    if largest > config.limit * target.shape[1]:
        raise ProcessError(
            f"the cameras seem to be {largest:.0f} px apart, more than {100 * config.limit:g} % of the width",
            advice="Check that both files show the same scene, or raise flow.limit.",
        )
    return model


def _grey(image: np.ndarray) -> np.ndarray:
    return isp.grey(image) if image.ndim == 3 else np.ascontiguousarray(image, np.float32)


def _add_parallax(
    model: FlowModel, target: np.ndarray, moving: np.ndarray, weights: np.ndarray | None
) -> FlowModel:
    """Add a dense rest where textured blocks show that the cubic does not explain the pair."""
    flow = model.dense()
    rows, columns = np.indices(target.shape, np.float32)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    warped = cv2.remap(moving, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    shift, sigma = block_shift(target, warped)
    length = np.hypot(shift[..., 0], shift[..., 1])
    textured = np.isfinite(sigma)
    if weights is not None:
        rows, columns = textured.shape
        area = weights[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
        textured &= area.min(axis=(1, 3)) > 0
    missed = textured & (length > np.maximum(_PARALLAX_PX, 4 * np.where(textured, sigma, 0)))
    if textured.sum() == 0 or missed.sum() < _PARALLAX_SHARE * textured.sum():
        return model
    rest = estimate_dense(target, warped)
    rest = np.dstack([cv2.medianBlur(np.ascontiguousarray(rest[..., axis]), 5) for axis in range(2)])
    rest = cv2.GaussianBlur(rest, (0, 0), 3, borderType=cv2.BORDER_REPLICATE)
    # Below the noise of the dense field the cubic is the better estimate: fade the rest in above it.
    rest *= np.clip((np.hypot(rest[..., :1], rest[..., 1:]) - 0.08) / 0.08, 0, 1)
    note = (
        f"{missed.sum()} of {textured.sum()} textured blocks are off the cubic by more than {_PARALLAX_PX} px: "
        "parallax or something that moved"
    )
    return FlowModel(model.shape, model.coefficients, rest, "hybrid", note)


def block_shift(target: np.ndarray, warped: np.ndarray, block: int = _BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """Remaining shift of each block by one Lucas-Kanade step; good for shifts well below a pixel.

    Parameters
    ----------
    target, warped : (H, W) float32 arrays

    Returns
    -------
    shift : (rows, columns, 2) float64 array
        (dx, dy) [px].
    sigma : (rows, columns) float64 array
        Standard error of the weaker direction [px]; NaN for blocks without texture both ways.
    """
    target, warped = (cv2.GaussianBlur(image, (0, 0), 1.0) for image in (target, warped))
    gx, gy = gradients((target + warped) / 2)
    rows, columns = target.shape[0] // block, target.shape[1] // block

    def sums(image: np.ndarray) -> np.ndarray:
        cut = image[: rows * block, : columns * block].reshape(rows, block, columns, block)
        return cut.sum(axis=(1, 3), dtype=np.float64)

    ones = np.ones_like(gx)
    bright = sums(warped) / sums(ones)
    # A local gain is not a shift: compare blocks after matching their means.
    ratio = (sums(target) / sums(ones)) / np.maximum(bright, 1e-6)
    scaled = np.kron(ratio, np.ones((block, block))).astype(np.float32)
    error = target[: rows * block, : columns * block] - scaled * warped[: rows * block, : columns * block]
    gx, gy = gx[: rows * block, : columns * block], gy[: rows * block, : columns * block]
    xx, xy, yy = sums(gx * gx), sums(gx * gy), sums(gy * gy)
    ex, ey = sums(gx * error), sums(gy * error)
    determinant = xx * yy - xy * xy
    weaker = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
    textured = (weaker > block * block * 1e-5) & (determinant > 0)
    safe = np.where(textured, determinant, 1.0)
    shift = np.stack([(yy * ex - xy * ey) / safe, (xx * ey - xy * ex) / safe], axis=-1)
    noise = np.sqrt(sums(error * error)) / block
    sigma = np.where(textured, noise / np.sqrt(np.where(textured, weaker, 1.0)), np.nan)
    # The smoothing correlates neighbours: about 4 pi sigma^2 pixels count as one.
    return shift, sigma * np.sqrt(4 * np.pi)
