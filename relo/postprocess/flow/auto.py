"""The flow between the two cameras: a cubic where it explains the pair, with a dense rest where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field

from relo.config import Config
from relo.errors import ProcessError
from relo.postprocess import isp
from relo.postprocess.flow.coarse2fine import estimate_coarse2fine
from relo.postprocess.flow.model import FlowModel
from relo.postprocess.flow.parallax import estimate_rest
from relo.postprocess.flow.parametric import estimate_parametric, gradients
from relo.postprocess.flow.pyflow import estimate_pyflow
from relo.postprocess.flow.start import estimate_start
from relo.postprocess.resample import warp

FlowMethod = Literal["auto", "parametric", "coarse2fine", "pyflow"]

SMALLEST = 64
_BLOCK = 32
# A block that the cubic misses by this much, beyond its own uncertainty, shows parallax [px].
_PARALLAX_PX = 0.1
_PARALLAX_SHARE = 0.02
# Parallax is looked for, and followed, on frames of about this width; it is smooth enough for that [px].
_PARALLAX_WIDTH = 1100
# A block whose difference exceeds this share of its contrast, and the usual, shows something else.
_CHANGED = 0.7
_CHANGED_SHARE = 0.005
# Aligned frames of one scene are correlated above this, frames of noise are not.
_CORRELATION = 0.3


class FlowConfig(Config):
    """Settings of the geometric alignment."""

    method: FlowMethod = Field("auto", description="auto, parametric (cubic), coarse2fine or pyflow (both dense).")
    limit: float = Field(0.05, gt=0, le=0.5, description="Largest believable shift, of the width.")
    alpha: float = Field(0.012, gt=0, le=0.2, description="Smoothness of coarse2fine and pyflow.")


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
        Display images in [0, 1].
    method : {"auto", "parametric", "coarse2fine", "pyflow"}
        "parametric": a cubic per component, for a coaxial rig. "auto": the same with a dense rest where blocks
        show that the scene has depth. "coarse2fine": the paper's dense method. "pyflow": the paper's code,
        where you have built it. The dense ones take no `weights`.
    weights : (H, W) float array, optional
        0 where a pixel must not count.

    Returns
    -------
    (H, W, 2) float32 array
        (dx, dy) [px]: `moving[y + dy, x + dx]` shows what `target[y, x]` shows.

    Raises
    ------
    ProcessError
        The frames are too small, hold NaN or too little texture, show different things, or lie further apart
        than 5 % of the width.
    ValueError
        The frames differ in size, or the method is unknown.
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
    target, moving = (np.ascontiguousarray(image, np.float32) for image in (target, moving))
    if target.shape != moving.shape:
        raise ValueError(f"frames differ in size: {target.shape} and {moving.shape}")
    shape = target.shape[0], target.shape[1]
    if min(shape) < SMALLEST:
        raise ProcessError(f"frames of {shape[1]}x{shape[0]} are too small to align ({SMALLEST} px at least)")
    if not (np.isfinite(target).all() and np.isfinite(moving).all()):
        raise ProcessError("a frame to align holds NaN or infinite values")
    grey_target, grey_moving = _grey(target), _grey(moving)
    if config.method == "coarse2fine" or config.method == "pyflow":
        dense = estimate_coarse2fine if config.method == "coarse2fine" else estimate_pyflow
        matched = moving * np.float32(grey_target.mean() / max(float(grey_moving.mean()), 1e-6))
        model = FlowModel(shape, np.zeros((2, 10)), dense(target, matched, alpha=config.alpha), config.method)
    else:
        start = estimate_start(grey_target, grey_moving) if config.method == "auto" else None
        model = estimate_parametric(grey_target, grey_moving, weights=weights, start=start)
    flow = model.dense()
    _check(grey_target, grey_moving, flow, config)
    return _with_parallax(model, target, moving, weights) if config.method == "auto" else model


def _grey(image: np.ndarray) -> np.ndarray:
    return isp.grey(image) if image.ndim == 3 else image


def _check(target: np.ndarray, moving: np.ndarray, flow: np.ndarray, config: FlowConfig) -> None:
    """Raise where a flow cannot be believed: too large, or the frames still do not agree."""
    largest = float(np.percentile(np.abs(flow[::4, ::4]), 99))  # a dense method may go astray on a few pixels
    advice = "Check that both files show the same still scene, or raise flow.limit."
    if not largest <= config.limit * target.shape[1]:
        raise ProcessError(
            f"the cameras seem to be {largest:.0f} px apart, more than {100 * config.limit:g} % of the width",
            advice=advice,
        )
    # A quarter of the pixels tells it; fine noise is averaged away before.
    rows, columns = np.mgrid[: target.shape[0] : 2, : target.shape[1] : 2].astype(np.float32)
    x, y = columns + flow[::2, ::2, 0], rows + flow[::2, ::2, 1]
    first, second = (cv2.GaussianBlur(image, (0, 0), 1.5) for image in (target, moving))
    second = cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    details = [image - cv2.GaussianBlur(image, (0, 0), 8) for image in (first[::2, ::2], second)]
    power = float((details[0] ** 2).sum(dtype=np.float64) * (details[1] ** 2).sum(dtype=np.float64))
    agreement = float((details[0] * details[1]).sum(dtype=np.float64)) / max(power, 1e-30) ** 0.5
    if not agreement > _CORRELATION:
        raise ProcessError(
            f"the static pair cannot be aligned (agreement {agreement:.2f}): little texture, or different scenes",
            advice="Photograph a still scene with detail all over the frame with both cameras.",
        )


def _with_parallax(
    model: FlowModel, target: np.ndarray, moving: np.ndarray, weights: np.ndarray | None
) -> FlowModel:
    """Add a dense rest where textured blocks show that the cubic does not explain the pair."""
    factor = max(1, round(model.shape[1] / _PARALLAX_WIDTH))
    size = model.shape[1] // factor, model.shape[0] // factor

    def reduced(image: np.ndarray) -> np.ndarray:
        image = image[: size[1] * factor, : size[0] * factor]
        return image if factor == 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))

    target, moving = reduced(target), reduced(moving)
    small = reduced(model.dense()) / np.float32(factor)
    if weights is not None:
        weights = (reduced(np.asarray(weights, np.float32)) > 0.99).astype(np.float32)
    blocks = block_shift(_grey(target), warp(_grey(moving), small))
    length = np.hypot(blocks.shift[..., 0], blocks.shift[..., 1])
    textured = np.isfinite(blocks.sigma)
    if weights is not None:
        rows, columns = textured.shape
        area = weights[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
        textured &= area.min(axis=(1, 3)) > 0
    total = int(textured.sum())
    if total == 0:
        return model
    usual = float(np.median(blocks.error[textured]))
    changed = textured & (blocks.error > np.maximum(4 * usual, _CHANGED * blocks.contrast))
    missed = textured & ~changed & (length > np.maximum(_PARALLAX_PX / factor, 4 * np.nan_to_num(blocks.sigma)))
    notes = []
    if changed.sum() > max(1, _CHANGED_SHARE * total):
        notes.append(f"{changed.sum()} of {total} textured blocks show different things: something moved")
    if missed.sum() < _PARALLAX_SHARE * total:
        return replace(model, note="; ".join(notes))
    notes.append(f"{missed.sum()} of {total} textured blocks are off the cubic by over {_PARALLAX_PX} px: parallax")
    rest = estimate_rest(np.atleast_3d(target), np.atleast_3d(moving), small, weights) * np.float32(factor)
    if factor > 1:
        rest = np.asarray(cv2.resize(rest, model.shape[::-1], interpolation=cv2.INTER_LINEAR))
    # A thousandth of a pixel is finer than it is known, and compresses to a fraction.
    rest = np.round(rest * 1024) / np.float32(1024)
    return FlowModel(model.shape, model.coefficients, rest, "hybrid", "; ".join(notes))


class Blocks(NamedTuple):
    """What `block_shift` finds in each block; arrays (rows, columns).

    Attributes
    ----------
    shift : (rows, columns, 2) float64 array
        (dx, dy) [px].
    sigma : float64 array
        Standard error of the weaker direction [px]; NaN for blocks without texture both ways.
    error, contrast : float64 arrays
        RMS difference of the blocks, and standard deviation of the target's, both smoothed.
    """

    shift: np.ndarray
    sigma: np.ndarray
    error: np.ndarray
    contrast: np.ndarray


def block_shift(target: np.ndarray, warped: np.ndarray, block: int = _BLOCK) -> Blocks:
    """Remaining shift of each block by one Lucas-Kanade step; good for shifts well below a pixel.

    Parameters
    ----------
    target, warped : (H, W) float32 arrays

    Returns
    -------
    Blocks
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
    mean = sums(target) / block**2
    contrast = np.sqrt(np.maximum(sums(target * target) / block**2 - mean * mean, 0))
    # The smoothing correlates neighbours: about 4 pi sigma^2 pixels count as one.
    return Blocks(shift, sigma * np.sqrt(4 * np.pi), noise, contrast)
