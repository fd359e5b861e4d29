"""Compile the kernels of the pipeline before the work starts: once a machine, not once a worker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from relo.kernels import compilations
from relo.postprocess import demosaic, isp
from relo.postprocess.flow import parametric
from relo.postprocess.resample import WarpMethod, warp
from relo.postprocess.short import short_exposure


def compile_kernels(
    announce: Callable[[], None] | None = None, *, warp_method: WarpMethod = "cmtf", clamp: bool = False
) -> None:
    """Run every kernel of the pipeline on a few pixels.

    With the machine code on disk that takes half a second. Other processes then find it there.

    Parameters
    ----------
    announce : callable, optional
        Called before the compiler starts, if it has to.
    warp_method : str
        The interpolator that will be used.
    clamp : bool
    """
    image = np.full((32, 32, 3), 0.5, np.float32)
    before = compilations(isp._develop_rows)
    isp.develop(image, (1.0, 1.0, 1.0), np.eye(3))  # the quickest tells whether there is anything to compile
    if announce and compilations(isp._develop_rows) > before:
        announce()
    for bits in (8, 16):
        short_exposure(isp.quantise(image, bits), np.random.default_rng(0))
    demosaic.demosaic_menon(image[..., 0], "RGGB")
    for method in ("cmtf", warp_method):
        warp(image, np.zeros((32, 32, 2), np.float32), method=method, clamp=clamp)
    warp(image[..., 0], np.zeros((32, 32, 2), np.float32))  # the flow aligns grey frames
    parametric.compile_kernels()
