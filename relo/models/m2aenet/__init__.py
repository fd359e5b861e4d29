"""M2AENet (Shang et al. 2025), rebuilt from its paper: deblurring where there is blur, along its motion.

The network (`network`, `heads`), its parts that are of use alone (`splatting`, `trajectories`, `deformable`), and
exact inference that leaves out what a mask makes unnecessary (`pruning`).
"""

from relo.models.m2aenet.deformable import deformable_depthwise_conv
from relo.models.m2aenet.network import M2AENet
from relo.models.m2aenet.splatting import splat
from relo.models.m2aenet.trajectories import trajectory

__all__ = ["M2AENet", "deformable_depthwise_conv", "splat", "trajectory"]
