"""BlurDM (He et al., NeurIPS 2025): a prior of what the sharp image holds, diffused from the blurred one.

`schedule` is the mathematics of blurring and noising step by step, `encoder` and `diffusion` are the networks of
the prior, `network` joins them with a backbone that is modulated by it.
"""

from relo.models.blurdm.diffusion import LatentDiffusion
from relo.models.blurdm.encoder import LatentEncoder

__all__ = ["LatentDiffusion", "LatentEncoder"]
