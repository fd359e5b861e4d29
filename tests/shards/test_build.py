"""`process_session`: what a dataset folder holds, and what its result tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from relo.atomic import file_sha256
from relo.capture import open_session
from relo.config import config_sha256
from relo.postprocess.steps import PostprocessConfig
from relo.shards import ProcessConfig, open_dataset, process_session
from relo.shards.build import default_out
from relo.shards.reader import close_files


@pytest.fixture(autouse=True)
def no_open_files():
    yield
    close_files()


def test_one_shard_a_scene_and_an_index(small_shards: Path):
    assert sorted(path.name for path in small_shards.iterdir()) == [
        "README.md", "dataset.json", "quarantine.jsonl", "report.html", "scene_00-000.h5", "scene_01-000.h5",
    ]  # fmt: skip
    index = json.loads((small_shards / "dataset.json").read_text())
    assert (index["format"], index["version"], index["quarantined"]) == ("relo-dataset", 1, 0)
    for number, entry in enumerate(index["shards"]):
        path = small_shards / f"scene_0{number}-000.h5"
        assert entry == {
            "file": path.name, "scene": f"scene_0{number}", "split": "train", "pairs": 3,
            "sha256": file_sha256(path), "schema_version": 1,
        }  # fmt: skip
    config = ProcessConfig.model_validate(index["config"])
    assert config == ProcessConfig()
    assert index["config_sha256"] == config_sha256(config)


def test_samples_are_what_the_design_says(small_shards: Path):
    dataset = open_dataset(small_shards)
    assert len(dataset) == 6
    for sample in dataset:
        assert sample.blur.shape == sample.sharp.shape == sample.short.shape == (180, 270, 3)
        assert sample.blur.dtype == sample.sharp.dtype == sample.short.dtype == np.uint8
        assert sample.mask.shape == sample.valid.shape == (180, 270)
        assert set(np.unique(sample.mask)) == {0, 255}
        assert 0.85 < (sample.valid > 0).mean() < 1
        assert not sample.mask[sample.valid == 0].any()
        assert 20 < sample.sharp.mean() < 200
    for shard in dataset.shards:
        assert shard.flow.shape == (180, 270, 2)
        assert shard.flow.dtype == np.float32
        assert 0.1 < np.abs(shard.flow).max() < 20


def test_numbers_of_the_pairs(small_shards: Path):
    for sample in open_dataset(small_shards):
        row = sample.row
        assert row["t_long"] == pytest.approx(0.02) and row["t_short"] == pytest.approx(0.001)
        assert row["blur_fraction"] == pytest.approx((sample.mask[sample.valid > 0] > 0).mean())
        assert row["psnr"] > row["psnr_before"] + 3
        static = (sample.mask == 0) & (sample.valid > 0)
        error = (sample.blur[static] / 255 - sample.sharp[static] / 255) ** 2
        assert row["psnr"] == pytest.approx(-10 * np.log10(error.mean()), abs=0.01)
        assert all(0.8 < row[f"gain_{channel}"] < 1.25 for channel in "rgb")
        assert row["gain_deviation"] < 0.02
        assert 0.3 <= row["short_scale"] <= 0.7
        assert 0.005 <= row["short_noise"] <= 0.03
        # The short exposure is a darker, noisier copy of the sharp frame.
        assert sample.short.mean() == pytest.approx(row["short_scale"] * sample.sharp.mean(), rel=0.03)


def test_sources_name_every_file(small_session: Path, small_shards: Path):
    sources = open_dataset(small_shards).shards[0].attrs["sources"]
    wanted = {"session.yaml", "calibration/lightbox_B.dng", "calibration/lightbox_S.dng"}
    wanted |= {path.relative_to(small_session).as_posix() for path in small_session.glob("scenes/scene_00/*.dng")}
    assert set(sources) == wanted
    assert sources["scenes/scene_00/0001_S.dng"] == file_sha256(small_session / "scenes/scene_00/0001_S.dng")


def test_splits_and_parts_and_options(small_session: Path, tmp_path: Path):
    config = ProcessConfig(
        split={"test": ["scene_01"]},
        shards={"bits": 16, "pairs": 2},
        short={"enabled": False},
        flow={"method": "parametric"},
    )
    steps: list[tuple[int, int, str]] = []
    result = process_session(
        small_session, tmp_path / "new" / "out", config, progress=lambda *step: steps.append(step)
    )
    assert (result.done, result.skipped, result.failed, result.quarantined) == (6, 0, 0, [])
    assert result.changed
    assert [path.name for path in result.shards] == [
        "scene_00-000.h5", "scene_00-001.h5", "scene_01-000.h5", "scene_01-001.h5",
    ]  # fmt: skip
    dataset = open_dataset(result.out)
    assert [(shard.split, shard.ids) for shard in dataset.shards] == [
        ("train", ("0000", "0001")), ("train", ("0002",)), ("test", ("0000", "0001")), ("test", ("0002",)),
    ]  # fmt: skip
    assert dataset[0].short is None
    assert dataset[0].blur.dtype == np.uint16 and dataset[0].blur.max() > 255
    assert dataset.shards[0].flow_model.method == "parametric"
    assert dataset.shards[0].attrs["config"]["shards"] == {"bits": 16, "pairs": 2}
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert steps[-1][:2] == (6, 6)
    again = process_session(small_session, result.out, config)
    assert (again.done, again.skipped, again.changed) == (0, 6, False)


def test_a_pairs_part_of_a_scene_does_not_depend_on_the_others(small_session: Path, small_shards: Path):
    """Short exposures are drawn by the pair's name, so a pair more or less changes none of the others."""
    from relo.shards.scene import pair_generator

    one, same, other = (pair_generator(0, "scene_00", name).random() for name in ("0000", "0000", "0001"))
    assert one == same != other
    assert pair_generator(1, "scene_00", "0000").random() != one
    assert pair_generator(0, "scene_01", "0000").random() != one


def test_the_scene_is_calibrated_on_its_static_pair(small_session: Path, small_shards: Path):
    from relo.postprocess.calibration import calibrate_scene
    from relo.postprocess.colour import fit_colour_cast

    session = open_session(small_session)
    scene = session.scenes[0]
    casts = {camera: fit_colour_cast(session.read(session.lightbox[camera][0], camera)) for camera in "BS"}
    static = [session.read_pair(scene.static[0])]
    board = session.read_pair(scene.whiteboard[0])
    wanted = calibrate_scene(static, casts, PostprocessConfig(), whiteboard=board)
    stored = open_dataset(small_shards).shards[0].file["calibration"]
    assert stored["gain"][()] == pytest.approx(wanted.gain.rgb, rel=1e-6)
    assert stored["white_balance"][()] == pytest.approx(wanted.wb, rel=1e-6)
    assert stored["white_balance"].attrs["source"] == "whiteboard"
    assert stored["colour_B"][()] == pytest.approx(casts["B"].coefficients, rel=1e-6)
    assert stored["colour_S"].attrs["residual_peak_to_peak"].max() < 0.05
    assert stored["flow/coefficients"][()] == pytest.approx(wanted.flow.coefficients, abs=1e-4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("s", "s-shards"), ("a/s/", "a/s-shards"), ("/x/y", "/x/y-shards"), ("s.raw", "s.raw-shards")],
)
def test_default_out(given: str, expected: str):
    assert default_out(given) == Path(expected)


def test_default_out_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inner = tmp_path / "session" / "scenes"
    inner.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "session")
    assert default_out(".") == tmp_path / "session-shards"
    monkeypatch.chdir(inner)
    assert default_out("..") == tmp_path / "session-shards"
