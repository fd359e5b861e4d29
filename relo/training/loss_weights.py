"""Which losses a recipe sums up, and with which weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from relo.config import Config


class LossWeights(Config):
    """Factors of the terms of `relo.training.losses.total_loss`; 0 leaves a term out.

    Attributes
    ----------
    l1, ssim, msfr, psnr, charbonnier, edge : float
        Image terms, summed over the output scales. `psnr` is NAFNet's, in dB and negative.
    msfr_form : {"modulus", "real_imag", "windows", "charbonnier", "charbonnier_height"}
        Form of the frequency term: that of LBAG and LoFormer, of MIMO-UNet and FFTformer, of LMD-ViT; or BlurDM's,
        as it is meant, or with the transform along the height alone that its public code computes.
    contrastive : float
        Stripformer's term at full size, see `relo.training.contrastive`; needs `vgg`.
    vgg : str, optional
        File with the weights of VGG19 as torchvision publishes them, for the contrastive term.
    clip_output : bool
        Whether restored images are clamped to [0, 1] before the image terms and the contrastive one, as in BlurDM.
    mask : float
        Mask term lambda_g: 0.1 in the public configuration, 0.01 in the paper.
    shift_invariant : bool
        Whether each image term is the least over nine shifts of the target by at most one pixel.
    mask_ce : float
        Cross-entropy of M2AENet's mask, see `relo.training.motion_losses`.
    mask_ce_form : {"half", "any"}
        Which blocks of pixels it takes for blurred: those with at least half of their pixels blurred, or with any.
    reblur : float
        Term of M2AENet's motion: the sharp image, moved along it, must give the blurred one.
    reblur_form : {"mean", "pooled"}
        How the moved frames are averaged where one of them has a hole.
    tv : float
        Total variation of that motion.
    """

    l1: float = Field(default=1.0, ge=0)
    ssim: float = Field(default=1.0, ge=0)
    msfr: float = Field(default=0.1, ge=0)
    psnr: float = Field(default=0.0, ge=0)
    charbonnier: float = Field(default=0.0, ge=0)
    edge: float = Field(default=0.0, ge=0)
    msfr_form: Literal["modulus", "real_imag", "windows", "charbonnier", "charbonnier_height"] = "modulus"
    contrastive: float = Field(default=0.0, ge=0)
    vgg: str | None = None
    clip_output: bool = False
    mask: float = Field(default=0.1, ge=0)
    shift_invariant: bool = True
    mask_ce: float = Field(default=0.0, ge=0)
    mask_ce_form: Literal["half", "any"] = "half"
    reblur: float = Field(default=0.0, ge=0)
    reblur_form: Literal["mean", "pooled"] = "mean"
    tv: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> LossWeights:
        if self.contrastive and not self.vgg:
            raise ValueError("the contrastive term needs loss.vgg, a file with the weights of VGG19")
        return self
