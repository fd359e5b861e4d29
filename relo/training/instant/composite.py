"""A restored image laid into its photograph, so that what is outside of the mask is not touched."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def feathered(mask: NDArray[np.bool_], feather: int) -> NDArray[np.float32]:
    """Opacity of the restored image: 0 outside of the mask, rising to 1 inside.

    Parameters
    ----------
    mask : (H, W) bool array
    feather : int
        Width of the transition [px]; at the image's border there is none. 0: the mask itself.

    Returns
    -------
    (H, W) float32 array in [0, 1]
    """
    if mask.all():
        return np.ones(mask.shape, np.float32)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(distance / np.float32(feather + 1), 0, 1)


def composite(image: NDArray[Any], restored: NDArray[np.float32], opacity: NDArray[np.float32]) -> NDArray[Any]:
    """Lay a restored image over a photograph.

    Parameters
    ----------
    image : (H, W, 3) uint8, uint16 or floating-point array
    restored : (H, W, 3) float32 array
        In shares of the full range; clipped to [0, 1] here.
    opacity : (H, W) float32 array

    Returns
    -------
    (H, W, 3) array of the dtype of `image`
        Equal to it where the opacity is 0.
    """
    result = image.copy()
    integer = np.issubdtype(image.dtype, np.integer)
    top = np.float32(np.iinfo(image.dtype).max if integer else 1)
    for row in np.flatnonzero((opacity > 0).any(axis=1)):  # a row at a time stays in the cache
        share, before = opacity[row, :, None], image[row].astype(np.float32)
        after = before + share * (np.clip(restored[row], 0, 1) * top - before)
        result[row] = np.where(share > 0, np.rint(after) if integer else after, image[row])
    return result
