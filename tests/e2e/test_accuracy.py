"""The figures that relo promises: `relo simulate`, `relo process`, and the truth that lies beside the session."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import h5py
import pytest
from support.program import relo

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "pipeline_accuracy.py"


def measure(session: Path, shards: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("pipeline_accuracy", BENCHMARK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.measure(session, shards)


@pytest.mark.parametrize(
    ("seed", "pattern", "bits", "options"),
    [
        (101, "GBRG", 12, ()),
        (202, "BGGR", 14, ("--set", "shards.bits=16")),
    ],
)
def test_promised_figures(tmp_path: Path, seed: int, pattern: str, bits: int, options: tuple[str, ...]):
    session = tmp_path / "s"
    arguments = ("--scenes", 2, "--pairs", 3, "--size", "538x359", "--seed", seed)
    assert relo("simulate", session, *arguments, "--pattern", pattern, "--bits", bits).code == 0
    answer = relo("process", session, *options)
    assert answer.code == 0, answer
    figures = measure(session, tmp_path / "s-shards")
    for camera, channels in figures["cast_residual"].items():
        assert max(channels) <= 0.012, (camera, channels)
        assert min(channels) > 0.002, "the part that no cubic can follow must remain, or nothing was measured"
    for name, scene in figures["scenes"].items():
        assert scene["gain_error"] <= 0.0002, name
        assert scene["flow_error_mean"] <= 0.01, name
        gained = [after - before for before, after in zip(scene["psnr_before"], scene["psnr_after"], strict=True)]
        assert min(gained) >= 3, (name, gained)
        assert min(scene["psnr_after"]) > 33, name
    assert figures["summary"]["mask_iou_mean"] >= 0.6


def test_half_size(small_session: Path, tmp_path: Path):
    from relo.shards import open_dataset

    out = tmp_path / "half"
    assert relo("process", small_session, out, "--set", "develop.output_scale=0.5").code == 0
    dataset = open_dataset(out)
    assert dataset[0].size == (90, 135)
    assert dataset[0].blur.shape == (90, 135, 3)
    assert dataset.shards[0].flow.shape == (180, 270, 2)
    assert all(sample.row["psnr"] > sample.row["psnr_before"] + 3 for sample in dataset)


def test_a_bump_is_flagged_on_every_pair_after_it(tmp_path: Path):
    from relo.capture import SimulationConfig, simulate_session
    from relo.shards import open_dataset

    session = tmp_path / "s"
    simulate_session(session, SimulationConfig(width=538, height=359, scenes=1, pairs=4, seed=9, bump_px=1.0))
    assert relo("process", session).code == 0
    with h5py.File(session / "truth.h5") as truth:
        bumped = set(json.loads(truth["scenes/scene_00"].attrs["bumped_pairs"]))
    assert 0 < len(bumped) < 4
    for sample in open_dataset(tmp_path / "s-shards"):
        flagged = "bumped" in sample.row["flags"].split(",")
        assert flagged == (sample.id in bumped), sample.id
        assert sample.row["bump"] == pytest.approx(1.0 if sample.id in bumped else 0.0, abs=0.1)
