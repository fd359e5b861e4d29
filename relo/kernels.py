"""Numerical kernels: compiled by numba at first use, kept on disk, compiled at a moment that people know of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(*, parallel: bool = False, fastmath: set[str] | bool = False) -> Callable[[F], F]:
    """Compile a function with `numba.njit`; it releases the interpreter lock.

    The machine code is cached beside the source or, where that cannot be written, in the user's cache folder
    (NUMBA_CACHE_DIR names another). Where neither can be written it is compiled once a process.

    Parameters
    ----------
    parallel : bool
        Whether `numba.prange` runs on several threads.
    fastmath : set of str or bool
        Liberties that the compiler may take with sums; each kernel says why.
    """

    def compile_lazily(function: F) -> F:
        options: dict[str, Any] = {"nogil": True, "parallel": parallel, "fastmath": fastmath}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba: "no locator available"
            return numba.njit(**options)(function)

    return compile_lazily


def compilations(function: Callable[..., Any]) -> int:
    """How often the kernel `function` had to be compiled in this process, for want of a cached copy."""
    misses = function.stats.cache_misses  # type: ignore[attr-defined]
    return sum(misses.values())
