"""Pictures of the report and of the contact sheet: arrays in, small 8-bit RGB arrays or data URIs out."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from relo.errors import ReloError
from relo.images import outline, to_bytes

MASK_COLOUR = (230, 30, 120)
OUTLINE_COLOUR = (0, 229, 255)
_JPEG_QUALITIES = (82, 70, 55, 40, 25, 10)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Bring an encoded image to 8 bits for display; uint8 is returned as it is.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) uint8 or uint16 array
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"expected uint8 or uint16, got {image.dtype}")
    return to_bytes(image)


def fit(shape: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """(H, W) that `shape` takes inside a box of `width` x `height`; a small image is not enlarged."""
    scale = min(1.0, width / shape[1], height / shape[0])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def thumbnail(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Shrink by area averaging into a box of `width` x `height` [px].

    Parameters
    ----------
    image : (H, W) or (H, W, 3) array, any dtype OpenCV resizes

    Returns
    -------
    array of the same dtype
        A small image comes back as it is.
    """
    rows, columns = fit((image.shape[0], image.shape[1]), width, height)
    if (rows, columns) == image.shape[:2]:
        return image
    # Halving is many times as fast as the fractional step, which then has little left to do.
    while rows * 3 <= image.shape[0] and columns * 3 <= image.shape[1]:
        even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        image = np.asarray(cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA))


def mask_overlay(
    image: np.ndarray, mask: np.ndarray, valid: np.ndarray, width: int, height: int, alpha: float = 0.45
) -> np.ndarray:
    """Tint what the mask covers and darken what only one camera sees.

    Parameters
    ----------
    image : (H, W, 3) uint8 or uint16 array
    mask, valid : (H, W) uint8 array
        255 where blurred; 255 where both cameras see.
    width, height : int
        Box of the result [px].
    alpha : float
        Weight of the tint, [0, 1].

    Returns
    -------
    (h, w, 3) uint8 array
    """
    picture = to_uint8(thumbnail(image, width, height)).astype(np.float32)
    small_mask = thumbnail(mask, width, height) > 127
    colour = np.array(MASK_COLOUR, np.float32)
    picture[small_mask] += alpha * (colour - picture[small_mask])
    picture[outline(small_mask)] = colour
    picture[thumbnail(valid, width, height) <= 127] *= 0.3
    return np.asarray(np.rint(picture), np.uint8)


def difference_map(
    blur: np.ndarray, sharp: np.ndarray, mask: np.ndarray, width: int, height: int, gain: float = 4.0
) -> np.ndarray:
    """False-colour |blur - sharp| x `gain` with the outline of the mask.

    The difference is taken at full resolution and then averaged, so that a misalignment of one pixel stays
    visible as bright edges in the still area.

    Parameters
    ----------
    blur, sharp : (H, W, 3) uint8 or uint16 array
    mask : (H, W) uint8 array
    width, height : int
        Box of the result [px].
    gain : float
        A mean difference of 1 / `gain` of the range saturates.

    Returns
    -------
    (h, w, 3) uint8 array
        Black for no difference, yellow for a large one.
    """
    difference = thumbnail(cv2.absdiff(blur, sharp), width, height).astype(np.float32).mean(axis=-1)
    level = np.clip(difference * (gain * 255.0 / np.iinfo(blur.dtype).max), 0, 255)
    picture = false_colour(np.rint(level).astype(np.uint8), cv2.COLORMAP_INFERNO)
    picture[outline(thumbnail(mask, width, height) > 127)] = OUTLINE_COLOUR
    return picture


def flow_picture(flow: np.ndarray, valid: np.ndarray, width: int, height: int) -> tuple[np.ndarray, float, float]:
    """False-colour length of a flow; what only one camera sees is grey.

    Parameters
    ----------
    flow : (H, W, 2) float32 array
        Displacements [px].
    valid : (h, w) uint8 array
        May be of another resolution than the flow.
    width, height : int
        Box of the result [px].

    Returns
    -------
    picture : (h, w, 3) uint8 array
    low, high : float
        Lengths that are shown darkest and brightest [px].
    """
    length = np.hypot(*np.moveaxis(thumbnail(flow, width, height), -1, 0))
    low, high = float(length.min()), float(length.max())
    level = (length - low) * (255.0 / max(high - low, 1e-6))
    picture = false_colour(np.rint(np.clip(level, 0, 255)).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    rows, columns = picture.shape[:2]
    shown = np.asarray(cv2.resize(valid, (columns, rows), interpolation=cv2.INTER_NEAREST))
    picture[shown == 0] = 128
    return picture, low, high


def false_colour(level: np.ndarray, colour_map: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the (H, W) uint8 array `level` in one of OpenCV's colour maps."""
    return np.ascontiguousarray(np.asarray(cv2.applyColorMap(level, colour_map))[..., ::-1])


def jpeg(image: np.ndarray, limit: int) -> bytes:
    """Encode as JPEG of at most about `limit` bytes: the quality falls until it fits.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    limit : int
        [bytes]; exceeded only where the lowest quality needs more.
    """
    data = b""
    for quality in _JPEG_QUALITIES:
        data = _encode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(data) <= limit:
            break
    return data


def png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 RGB as PNG."""
    return _encode(".png", image, [])


def data_uri(image: np.ndarray, limit: int = 45_000) -> str:
    """Embed an (H, W, 3) uint8 RGB image: `data:` URI of a JPEG of at most about `limit` bytes."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(image, limit)).decode("ascii")


def _encode(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    good, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not good:
        raise ReloError(f"OpenCV cannot encode an image of {image.shape} as {suffix}")
    return bytes(data.tobytes())
