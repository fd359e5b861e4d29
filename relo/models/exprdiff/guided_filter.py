"""The blur-aware guided filter of ExpRDiff: a local linear map of the short exposure onto the blurred photograph.

In each window k a slope and an offset fit the short exposure R to the blurred photograph B where the blur map M
says that there is blur: they minimise sum W (a R + b - B)^2 + lambda a^2 over the window, W = M^2. Every pixel then
takes the mean of a and b over the windows that hold it, and H = M (a R + b) + (1 - M) B.

Equation 6 of the paper gives a in terms of b and b in terms of a; here is its closed form. The paper takes one pair
(a, b) a pixel, though a pixel lies in many windows; here they are averaged, as in He et al.'s guided filter.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np

if TYPE_CHECKING:
    import torch

EpsMode = Literal["mean", "sum"]
Images = TypeVar("Images", np.ndarray, "torch.Tensor")

RADIUS = 16  # about the length of the blur [px]
EPS = 1e-4


def blur_aware_guided_filter(
    blurry: Images,
    short: Images,
    mask: Images,
    *,
    radius: int = RADIUS,
    eps: float = EPS,
    eps_mode: EpsMode = "mean",
) -> Images:
    """Replace the blurred pixels of a photograph by a local linear map of its short exposure.

    Channels are filtered one by one, each guided by its own. Windows are cut off at the image's border and may be
    larger than the image. Sums are kept in float64; time does not depend on the radius.

    Parameters
    ----------
    blurry, short : (H, W) or (H, W, 3) float32 or float64 array; or (N, C, H, W) floating-point tensor
        The photograph and its short exposure, aligned, about [0, 1]; one shape and dtype.
    mask : (H, W) array; or (N, 1, H, W) tensor
        Blur map M: bool, or floating-point in [0, 1]; 1 is blurred.
    radius : int
        Windows have 2 radius + 1 pixels a side [px]; at least 1.
    eps : float
        Keeps slopes small where the short exposure is smooth; above 0. `short` should be about as bright as
        `blurry`, so that it means the same for every pair.
    eps_mode : {"mean", "sum"}
        "mean": eps counts for each pixel, lambda = eps sum W, as in He et al. "sum": it counts once a window,
        lambda = eps, as the paper's equations 5 and 6 have it. It is then weaker the more pixels are blurred.

    Returns
    -------
    array or tensor
        H, of the shape and dtype of `blurry`. Equal to it where the mask is 0. Not clipped: a fit may leave [0, 1].
        Of tensors it is differentiable in all three.

    Raises
    ------
    ValueError
        Shapes, dtypes, values or options are not as described; NaN and infinity among them.
    TypeError
        Arrays and tensors are mixed, or neither is given.

    References
    ----------
    ExpRDiff (arXiv 2412.09193), equations 4 to 6; He et al., "Guided Image Filtering", TPAMI 2013.
    """
    reach = _check_options(radius, eps, eps_mode)
    if isinstance(blurry, np.ndarray) and isinstance(short, np.ndarray) and isinstance(mask, np.ndarray):
        from relo.models.exprdiff import filter_arrays  # numba takes a while

        _check_arrays(blurry, short, mask)
        return filter_arrays.apply(blurry, short, mask, reach, eps, eps_mode)
    import torch

    if isinstance(blurry, torch.Tensor) and isinstance(short, torch.Tensor) and isinstance(mask, torch.Tensor):
        from relo.models.exprdiff import filter_tensors

        _check_tensors(blurry, short, mask)
        return filter_tensors.apply(blurry, short, mask, reach, eps, eps_mode)
    kinds = ", ".join(type(images).__name__ for images in (blurry, short, mask))
    raise TypeError(f"expected three NumPy arrays or three tensors, got {kinds}")


def _check_options(radius: int, eps: float, eps_mode: str) -> int:
    if isinstance(radius, bool) or not isinstance(radius, (int, np.integer)) or radius < 1:
        raise ValueError(f"radius must be a whole number of pixels, at least 1, got {radius!r}")
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"eps must be above 0 and finite, got {eps!r}")
    if eps_mode not in get_args(EpsMode):
        raise ValueError(f"eps_mode must be one of {', '.join(get_args(EpsMode))}, got {eps_mode!r}")
    return int(radius)


def _check_arrays(blurry: np.ndarray, short: np.ndarray, mask: np.ndarray) -> None:
    if blurry.ndim not in (2, 3) or blurry.shape[2:] not in ((), (3,)) or blurry.size == 0:
        raise ValueError(f"expected a non-empty (H, W) or (H, W, 3) array, got shape {blurry.shape}")
    _require_alike(blurry, short)
    if blurry.dtype not in (np.float32, np.float64):
        raise ValueError(f"expected float32 or float64 images in [0, 1], got {blurry.dtype}")
    if mask.shape != blurry.shape[:2]:
        raise ValueError(f"expected a mask of shape {blurry.shape[:2]}, got {mask.shape}")
    if mask.dtype != np.bool_ and not np.issubdtype(mask.dtype, np.floating):
        raise ValueError(f"expected a bool mask, or a floating-point one in [0, 1], got {mask.dtype}")
    _require_finite(blurry=_finite(blurry), short=_finite(short), mask=_finite(mask))
    if mask.dtype != np.bool_:
        _require_mask_range(float(mask.min()), float(mask.max()))


def _check_tensors(blurry: torch.Tensor, short: torch.Tensor, mask: torch.Tensor) -> None:
    import torch

    if blurry.ndim != 4 or blurry.numel() == 0:
        raise ValueError(f"expected a non-empty (N, C, H, W) tensor, got shape {tuple(blurry.shape)}")
    _require_alike(blurry, short)
    if not blurry.is_floating_point():
        raise ValueError(f"expected floating-point images in [0, 1], got {blurry.dtype}")
    wanted = (blurry.shape[0], 1, *blurry.shape[2:])
    if tuple(mask.shape) != wanted:
        raise ValueError(f"expected a mask of shape {wanted}, got {tuple(mask.shape)}")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"expected a bool mask, or a floating-point one in [0, 1], got {mask.dtype}")
    if len({images.device for images in (blurry, short, mask)}) > 1:
        raise ValueError("expected the photograph, the short exposure and the mask on one device")
    with torch.no_grad():
        finite = {
            name: bool(torch.isfinite(images).all())
            for name, images in (("blurry", blurry), ("short", short), ("mask", mask))
        }
        _require_finite(**finite)
        if mask.dtype != torch.bool:
            _require_mask_range(float(mask.min()), float(mask.max()))


def _require_alike(blurry: Any, short: Any) -> None:
    if tuple(short.shape) != tuple(blurry.shape):
        raise ValueError(f"the short exposure has shape {tuple(short.shape)}, the photograph {tuple(blurry.shape)}")
    if short.dtype != blurry.dtype:
        raise ValueError(f"the short exposure is {short.dtype}, the photograph {blurry.dtype}")


def _finite(image: np.ndarray) -> bool:
    # The sum of finite float32 numbers is finite in float64; of float64 ones too, unless they are absurd.
    return bool(np.isfinite(image.sum(dtype=np.float64))) or bool(np.isfinite(image).all())


def _require_finite(**finite: bool) -> None:
    for name, is_finite in finite.items():
        if not is_finite:
            raise ValueError(f"{name} holds NaN or infinity")


def _require_mask_range(smallest: float, largest: float) -> None:
    if smallest < 0 or largest > 1:
        raise ValueError(f"the mask must be within [0, 1], got {smallest:g} to {largest:g}")
