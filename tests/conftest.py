"""Fixtures that several parts share; `tests/support` becomes importable as `support`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def make_dataset(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make a small dataset folder: `make_dataset(shards=[...], quarantine=[...], name="data")`."""
    from support import datasets

    from relo.shards.reader import close_files

    def make(
        shards: list[dict[str, Any]] | None = None,
        quarantine: list[dict[str, str]] | None = None,
        name: str = "data",
    ) -> Path:
        return datasets.make_dataset(tmp_path / name, shards, quarantine)

    yield make
    close_files()
