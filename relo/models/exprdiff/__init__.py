"""ExpRDiff (arXiv 2412.09193): deblurring guided by a second, short exposure.

The blur detector, the blur-aware guided filter, and what guides a diffusion model with their results. The paper has
no published code: formulas follow its text, with its slips mended where a module says so.
"""

from relo.models.exprdiff.guided_filter import blur_aware_guided_filter

__all__ = ["blur_aware_guided_filter"]
