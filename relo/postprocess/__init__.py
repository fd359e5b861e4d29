"""One module per correction, and `pipeline`, which strings them together."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relo.postprocess.calibration import SceneCalibration, calibrate_scene
    from relo.postprocess.colour import ColourCast, apply_colour_cast, fit_colour_cast
    from relo.postprocess.demosaic import demosaic_menon
    from relo.postprocess.flow import FlowModel, estimate_flow, fit_flow
    from relo.postprocess.isp import develop
    from relo.postprocess.photometric import Gain, apply_gain, fit_gain
    from relo.postprocess.pipeline import process_pair
    from relo.postprocess.resample import warp
    from relo.postprocess.short import short_exposure
    from relo.postprocess.steps import PostprocessConfig

_HOME = {
    "ColourCast": "colour",
    "apply_colour_cast": "colour",
    "fit_colour_cast": "colour",
    "demosaic_menon": "demosaic",
    "FlowModel": "flow.model",
    "estimate_flow": "flow.auto",
    "fit_flow": "flow.auto",
    "develop": "isp",
    "Gain": "photometric",
    "apply_gain": "photometric",
    "fit_gain": "photometric",
    "PostprocessConfig": "steps",
    "SceneCalibration": "calibration",
    "calibrate_scene": "calibration",
    "process_pair": "pipeline",
    "short_exposure": "short",
    "warp": "resample",
}

__all__ = [
    "ColourCast",
    "FlowModel",
    "Gain",
    "PostprocessConfig",
    "SceneCalibration",
    "apply_colour_cast",
    "apply_gain",
    "calibrate_scene",
    "demosaic_menon",
    "develop",
    "estimate_flow",
    "fit_colour_cast",
    "fit_flow",
    "fit_gain",
    "process_pair",
    "short_exposure",
    "warp",
]


def __getattr__(name: str) -> Any:
    """Import a correction where it is used: cv2, numba and colour-demosaicing take a second or more."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"relo.postprocess.{_HOME[name]}"), name)
