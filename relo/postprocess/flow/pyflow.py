"""The original `coarse2fine_flow`, where a user has built it (github.com/pathak22/pyflow).

PyPI's package "pyflow" is another program; relo never asks for either.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np

from relo.errors import ProcessError

_ADVICE = (
    "Build github.com/pathak22/pyflow and put it on PYTHONPATH (PyPI's package of that name is another program), "
    "or use flow.method=coarse2fine, which computes the same."
)


def estimate_pyflow(target: np.ndarray, moving: np.ndarray, *, alpha: float = 0.012) -> np.ndarray:
    """Dense flow by pyflow, with its demo's parameters; see `estimate_coarse2fine`.

    Raises
    ------
    ProcessError
        There is no module `pyflow`, or it is not the optical-flow code.
    """
    try:
        module = import_module("pyflow")
    except ImportError as error:
        raise ProcessError(f"flow.method=pyflow needs the module pyflow ({error})", advice=_ADVICE) from error
    if not hasattr(module, "coarse2fine_flow"):
        place = getattr(module, "__file__", None) or "built in"
        reason = f"the module pyflow ({place}) has no coarse2fine_flow: it is another one"
        raise ProcessError(reason, advice=_ADVICE)
    frames = [np.ascontiguousarray(np.atleast_3d(image), np.float64) for image in (target, moving)]
    colours = 1 if frames[0].shape[2] == 1 else 0
    u, v, _ = module.coarse2fine_flow(*frames, alpha, 0.75, 20, 7, 1, 30, colours)
    return np.stack([u, v], axis=-1).astype(np.float32)
