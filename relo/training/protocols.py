"""The named evaluation protocols: in what published evaluations of the same metrics differ.

Common to all: RGB, images clamped to [0, 1], data range 1, one value per image, mean over images. Images are whole
but for `exprdiff`, whose images are crops.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Crops:
    """Which crops are scored instead of whole images.

    Attributes
    ----------
    side : int
        Of the square crops [px]. As few as cover the image, evenly spread: for 2152 x 1436 px and 512 px, 5 x 3.
    blurred_share : float
        A crop is kept if the share of its pixels whose mask is above 0 is greater.
    """

    side: int
    blurred_share: float


@dataclass(frozen=True)
class Protocol:
    """One way of computing PSNR, SSIM, PSNR_w, SSIM_w and PSNR_a, and what of the images is scored.

    Attributes
    ----------
    summary : str
        One line on where it comes from.
    rounded : bool
        Images are rounded to 8 bits, halves to even.
    added_error : float
        Added to the mean squared error of PSNR.
    soft_mask : bool
        Masks weight by their values; else every pixel above 0 counts fully.
    pixel_floor : float or None
        PSNR_w is the mean over the mask of the PSNR of single pixels, whose squared error counts as at least
        this; None: PSNR_w is the PSNR of the squared error averaged over the mask.
    over_valid_area : bool
        PSNR_a divides the squared error by the pixels that the aligned image covers; else by all.
    crops : Crops or None
        What is restored and scored; None: whole images.
    without_reference : bool
        Also the metrics that need no sharp image: NIQE and, where pyiqa is installed, CLIPIQA+ and MUSIQ-PAQ2PIQ.
    """

    summary: str
    rounded: bool = True
    added_error: float = 0.0
    soft_mask: bool = False
    pixel_floor: float | None = None
    over_valid_area: bool = False
    crops: Crops | None = None
    without_reference: bool = False


PROTOCOLS = {
    "reloblur": Protocol("public code of ReLoBlur (Li et al. 2023)"),
    # The paper's form has no value where a pixel has no error. The floor is the variance of rounding to 8 bits,
    # 58.9 dB: less than any error that three 8-bit channels can have without being equal.
    "paper": Protocol(
        "text of Li et al. 2023: PSNR_w averages decibels of pixels, PSNR_a is RealBlur's",
        pixel_floor=(1 / 255) ** 2 / 12,
        over_valid_area=True,
    ),
    "realblur": Protocol("reloblur, with PSNR_a over the valid area (Rim et al. 2020)", over_valid_area=True),
    # No PSNR_a is published under the following two; theirs is that of reloblur on images that are not rounded.
    "lmdvit": Protocol(
        "public code of LMD-ViT (Li et al. 2024): no rounding, soft masks, 1e-8 added to the error of PSNR",
        rounded=False,
        added_error=1e-8,
        soft_mask=True,
    ),
    "mimo": Protocol("public code of MIMO-UNet (Cho et al. 2021): no rounding", rounded=False),
    # The paper says that crops are of blurred areas, not by which rule; its counts come to 64 % of a grid of 5 x 3.
    # It publishes the metrics without reference alone; the others are those of reloblur.
    "exprdiff": Protocol(
        "text of ExpRDiff (arXiv 2412.09193): crops of 512 px with blur in them, also metrics without reference",
        crops=Crops(side=512, blurred_share=0.01),
        without_reference=True,
    ),
}
