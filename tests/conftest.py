"""Fixtures that several parts share; `tests/support` becomes importable as `support`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Compile before anything is tested: `relo process` says so when it does, which no test should stumble over."""
    import torch

    from relo.postprocess.warm_up import compile_kernels

    threads = torch.get_num_threads()
    compile_kernels()
    # numba leaves OpenMP, and so torch, with all cores: two test processes would wait for each other.
    torch.set_num_threads(threads)


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


@pytest.fixture(scope="session")
def small_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated session of 2 scenes x 3 pairs at 270x180; copy it before changing anything."""
    from relo.capture import SimulationConfig, simulate_session

    config = SimulationConfig(width=270, height=180, scenes=2, pairs=3, seed=3)
    return simulate_session(tmp_path_factory.mktemp("small") / "session", config)


@pytest.fixture(scope="session")
def small_shards(small_session: Path) -> Path:
    """What `relo process` makes of `small_session`; copy it before changing anything."""
    from support.program import relo

    answer = relo("process", small_session)
    assert answer.code == 0, answer.err
    return small_session.with_name("session-shards")
