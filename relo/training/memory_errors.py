"""Memory that does not suffice, told in one line with what lowers the need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from relo.errors import TrainingError

_OF_CPU = ("can't allocate memory", "not enough memory")  # torch has no exception of its own for it


@contextmanager
def memory_explained(advice: str, reason: str = "the memory does not suffice") -> Iterator[None]:
    """Turn what torch and Python raise where memory is short, on GPU and CPU, into a TrainingError.

    Raises
    ------
    TrainingError
        `reason`, with `advice`; other errors pass.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(reason, advice=advice) from error
    except RuntimeError as error:
        if not any(text in str(error) for text in _OF_CPU):
            raise
        raise TrainingError(reason, advice=advice) from error
