"""The blur-aware guided filter with slopes fitted on smoothed images and applied to the sharp short exposure.

The paper's filter fits the short exposure to a photograph that is blurred: its slopes come out too small, and the
result keeps much of the blur. Where both images are smoothed by more than the blur before the fit, they are blurred
alike.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from relo.models.exprdiff.filter_arrays import fitted_strips


def prefiltered_guided_filter(
    blurry: NDArray[np.float32],
    short: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    radius: int = 32,
    eps: float = 1e-4,
    sigma: float = 10.0,
) -> NDArray[np.float32]:
    """Map the short exposure to the photograph by slopes and offsets that fit their smoothed versions.

    Parameters
    ----------
    blurry, short : (H, W, 3) float32 arrays
        Aligned and about as bright, about [0, 1]; the short exposure without its noise.
    mask : (H, W) bool array
        Where the photograph is blurred; only these pixels are fitted, and smoothed with one another.
    radius, eps
        See `relo.models.exprdiff.blur_aware_guided_filter`; eps counts for each pixel.
    sigma : float
        Standard deviation of the Gaussian [px]; about half the blur's length or more.

    Returns
    -------
    (H, W, 3) float32 array
        Equal to `blurry` outside of the mask. Not clipped.
    """
    confidence = mask.astype(np.float32)
    share = cv2.GaussianBlur(confidence, (0, 0), sigma)[..., None]

    def smoothed(image: NDArray[np.float32]) -> NDArray[np.float32]:
        total = cv2.GaussianBlur(image * confidence[..., None], (0, 0), sigma)
        return np.where(mask[..., None], total / np.maximum(share, 1e-6), image)

    result = blurry.copy()
    for rows, columns, slope, offset in fitted_strips(smoothed(blurry), smoothed(short), mask, radius, eps, "mean"):
        part = (rows, columns)
        result[part] = np.where(mask[part][..., None], slope * short[part] + offset, blurry[part])
    return result
