"""Tensors that follow from a size, a dtype and a device alone, made once and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar, TypeVarTuple

import torch

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


def keep_constants(
    most: int,
) -> Callable[[Callable[[*Arguments], Result]], Callable[[*Arguments], Result]]:
    """Decorate a function that makes constant tensors, so that it keeps the last `most` results by its arguments.

    While `torch.compile` or `torch.export` records a graph, the function is called each time: what it makes then
    belongs to the graph, and tensors made before are none of it.
    """

    def decorate(make: Callable[[*Arguments], Result]) -> Callable[[*Arguments], Result]:
        @lru_cache(maxsize=most)
        def kept(*arguments: *Arguments) -> Result:
            with torch.inference_mode(False):  # what is kept outlives it, and gradients may be wanted then
                return make(*arguments)

        @wraps(make)
        def give(*arguments: *Arguments) -> Result:
            return make(*arguments) if torch.compiler.is_compiling() else kept(*arguments)

        return give

    return decorate
