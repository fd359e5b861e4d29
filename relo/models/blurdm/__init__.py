"""BlurDM (He et al., NeurIPS 2025): a latent prior of the sharp image, by diffusion from the blurred one.

`schedule` has the equations of blurring and noising step by step, `encoder` and `diffusion` are the networks that
make the prior, and `network` joins them with a backbone that it modulates.
"""

from relo.models.blurdm.diffusion import LatentDiffusion
from relo.models.blurdm.encoder import LatentEncoder

__all__ = ["LatentDiffusion", "LatentEncoder"]
