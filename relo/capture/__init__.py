"""What a rig gives: RAW frames in and out, session folders, exposure planning, and a rig simulator."""

from typing import TYPE_CHECKING, Any

from relo.capture.dng import write_dng
from relo.capture.exposure import ExposurePlan, plan_exposure
from relo.capture.frame import RawFrame
from relo.capture.raw_reader import read_raw
from relo.capture.session import Session, open_session

if TYPE_CHECKING:
    from relo.capture.simulator import SimulationConfig, simulate_session

__all__ = [
    "ExposurePlan",
    "RawFrame",
    "Session",
    "SimulationConfig",
    "open_session",
    "plan_exposure",
    "read_raw",
    "simulate_session",
    "write_dng",
]


def __getattr__(name: str) -> Any:
    """Import the simulator, with its image libraries, only where it is used."""
    if name in ("SimulationConfig", "simulate_session"):
        from relo.capture import simulator

        return getattr(simulator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
