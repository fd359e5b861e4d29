"""`FlowModel`: a geometric calibration in few numbers, plus a dense rest where few numbers do not do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relo.postprocess import polynomial


@dataclass(frozen=True, eq=False)
class FlowModel:
    """Displacement from each pixel of the target frame to its sample in the moving frame.

    Convention: `dense()[y, x]` is (dx, dy) [px]; `moving[y + dy, x + dx]` shows what `target[y, x]` shows.

    Attributes
    ----------
    shape : (H, W)
    coefficients : (2, 10) float64 array
        Cubic polynomials of dx and dy (see `relo.postprocess.polynomial`) [px].
    residual : (H, W, 2) float32 array or None
        What the scene's depth adds to the polynomial [px].
    method : str
        How it was found: "parametric", "hybrid" (with a dense rest), "coarse2fine" or "pyflow".
    note : str
        Why that method, where it was not the expected one.
    """

    shape: tuple[int, int]
    coefficients: np.ndarray
    residual: np.ndarray | None = None
    method: str = "parametric"
    note: str = ""

    @classmethod
    def identity(cls, shape: tuple[int, int]) -> FlowModel:
        """The flow of two frames that already agree."""
        return cls(shape, np.zeros((2, 10)))

    def dense(self) -> np.ndarray:
        """(H, W, 2) float32 flow [px]; computed once and read-only."""
        return self._dense

    @cached_property
    def _dense(self) -> np.ndarray:
        flow = np.ascontiguousarray(np.moveaxis(polynomial.evaluate(self.coefficients, self.shape), 0, -1))
        if self.residual is not None:
            flow += self.residual
        flow.setflags(write=False)
        return flow
