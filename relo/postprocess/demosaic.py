"""Demosaicing by Menon, Andriani and Calvagno (2007), as the paper uses it."""

from __future__ import annotations

import warnings

import numpy as np

from relo.capture.frame import PATTERNS


def demosaic_menon(mosaic: np.ndarray, pattern: str, refine: bool = True) -> np.ndarray:
    """Interpolate a Bayer mosaic to RGB (directional filtering with a-posteriori decision).

    Parameters
    ----------
    mosaic : (H, W) float array
        Linear light, about [0, 1].
    pattern : {"RGGB", "BGGR", "GRBG", "GBRG"}
    refine : bool
        Whether to run the method's refining step.

    Returns
    -------
    (H, W, 3) float32 array
        Not clipped: overshoots at edges leave [0, 1].

    References
    ----------
    Menon, Andriani, Calvagno, "Demosaicing with directional filtering and a posteriori decision", IEEE TIP
    16(1), 2007; computed by the package colour-demosaicing.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")
    if mosaic.ndim != 2 or min(mosaic.shape) < 2:
        raise ValueError(f"mosaic must be (H, W) with at least one 2 x 2 cell, got {mosaic.shape}")
    with warnings.catch_warnings():
        # The package imports a deprecated scipy name and remarks that matplotlib is missing; neither matters.
        warnings.simplefilter("ignore")
        from colour_demosaicing import demosaicing_CFA_Bayer_Menon2007
    rgb = demosaicing_CFA_Bayer_Menon2007(mosaic.astype(np.float64), pattern, refining_step=refine)
    return np.asarray(rgb, np.float32)
