"""Weights that became infinite or not a number."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from relo.errors import TrainingError


def require_finite(tensors: Iterable[Tensor], step: int, advice: str) -> None:
    """Refuse to go on with weights that are spoilt, before they replace good ones on disk.

    Raises
    ------
    TrainingError
        A floating-point tensor holds an infinite value or NaN; `advice` says what helps.
    """
    finite = [torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]
    if not bool(torch.stack(finite).all()):
        raise TrainingError(
            f"the weights became infinite or not a number by step {step}",
            advice=f"{advice}; what was saved before is good, --resume continues from it.",
        )
