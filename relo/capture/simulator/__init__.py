"""A beam-splitter rig in software: sessions of real DNG files with ground truth for every correction.

It is the only source with truth for colour cast, gain, flow, images and masks at once, so every accuracy
figure of relo comes from here. Image libraries are imported when a session is rendered, not before.
"""

from relo.capture.simulator.config import PRESETS, SimulationConfig
from relo.capture.simulator.session import simulate_session

__all__ = ["PRESETS", "SimulationConfig", "simulate_session"]
