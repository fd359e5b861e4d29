"""Flow between the two cameras of a rig."""

from relo.postprocess.flow.auto import FlowConfig, estimate_flow, fit_flow
from relo.postprocess.flow.model import FlowModel

__all__ = ["FlowConfig", "FlowModel", "estimate_flow", "fit_flow"]
