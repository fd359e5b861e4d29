"""One scene: which background a mask sees, what is flagged, and what an unexpected error costs."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from relo.capture import open_session, read_raw, write_dng
from relo.masks import scene as mask_scene
from relo.masks.lbfmg import BackgroundModel
from relo.shards import ProcessConfig, ShardWriter, open_dataset, process_session, scene
from relo.shards.reader import close_files


@pytest.fixture(autouse=True)
def no_open_files():
    yield
    close_files()


@pytest.fixture
def session(small_session: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_session, tmp_path / "s"))


def test_an_unexpected_error_costs_its_scene_alone(
    session: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    honest = scene.process_pair

    def fail(*args, **kwargs):
        if fail.left:
            fail.left -= 1
            raise ZeroDivisionError("a bug")
        return honest(*args, **kwargs)

    fail.left = 1
    monkeypatch.setattr(scene, "process_pair", fail)
    with caplog.at_level(logging.ERROR):
        result = process_session(session)
    assert (result.done, result.failed) == (3, 3)
    assert "scene scene_00 failed" in caplog.text and "a bug" in caplog.text
    assert sorted(path.name for path in result.out.iterdir()) == [
        "README.md", "dataset.json", "quarantine.jsonl", "scene_01-000.h5",
    ]  # fmt: skip
    assert [(problem.scene, problem.stage) for problem in result.quarantined] == [("scene_00", "bug")]
    again = process_session(session)
    assert (again.done, again.skipped, again.failed) == (3, 3, 0)


class WatchedModel(BackgroundModel):
    """Keeps what it is shown."""

    made: ClassVar[list[WatchedModel]] = []

    def __init__(self, config):
        super().__init__(config)
        self.learnt: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.made.append(self)

    def learn(self, frame):
        self.learnt.append(frame)
        super().learn(frame)

    def foreground(self, target):
        self.targets.append(target)
        return super().foreground(target)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[WatchedModel]:
    monkeypatch.setattr(mask_scene, "BackgroundModel", WatchedModel)
    monkeypatch.setattr(WatchedModel, "made", [])
    return WatchedModel.made


def test_a_mask_sees_every_frame_but_its_own_blurred_one(session: Path, models: list[WatchedModel]):
    shutil.rmtree(session / "scenes" / "scene_01")
    process_session(session, config=ProcessConfig(masks={"method": "lbfmg"}))
    shard = open_dataset(session.with_name("s-shards")).shards[0]
    blur, sharp = (shard.file[name][()] for name in ("blur", "sharp"))
    assert len(models) == 3
    for index, model in enumerate(models):
        (target,) = model.targets
        assert (target == blur[index]).all()
        assert len(model.learnt) == 2 + 3 + 2  # the static pair, every sharp frame, the other blurred ones
        assert not any((frame == blur[index]).all() for frame in model.learnt)
        assert any((frame == sharp[index]).all() for frame in model.learnt)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"own_sharp": False}, [2 + 2 + 2] * 3),
        ({"static": False}, [3 + 2] * 3),
        ({"most_frames": 3}, [2 + 3] * 3),
        ({"most_frames": 1}, [3] * 3),
        ({"passes": 2}, [14] * 3),
    ],
)
def test_background_settings(session: Path, models: list[WatchedModel], options: dict, expected: list[int]):
    shutil.rmtree(session / "scenes" / "scene_01")
    process_session(session, config=ProcessConfig(masks=options | {"method": "lbfmg"}, short={"enabled": False}))
    assert [len(model.learnt) for model in models] == expected
    assert sum(len(model.targets) for model in models) == 3


def test_larger_scenes_share_a_few_models(
    session: Path, models: list[WatchedModel], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mask_scene, "_FEW_PAIRS", 2)
    shutil.rmtree(session / "scenes" / "scene_01")
    process_session(session, config=ProcessConfig(masks={"method": "lbfmg"}, short={"enabled": False}))
    assert [len(model.learnt) for model in models] == [2 + 3 + 1, 2 + 3 + 2]
    assert [len(model.targets) for model in models] == [2, 1]
    for model in models:
        for target in model.targets:
            assert not any((frame == target).all() for frame in model.learnt)


def test_doubtful_pairs_are_flagged(session: Path):
    """Brighter by half: gain; a whole frame shifted: misaligned or a large mask."""
    folder = session / "scenes" / "scene_00"
    frame = read_raw(folder / "0000_B.dng")
    black = 512
    brighter = np.clip((frame.mosaic.astype(np.float64) - black) * 1.3 + black, 0, 16383).astype(np.uint16)
    write_dng(folder / "0000_B.dng", type(frame)(**(vars(frame) | {"mosaic": brighter})))
    frame = read_raw(folder / "0001_B.dng")
    shifted = np.roll(frame.mosaic, (4, 6), axis=(0, 1))
    write_dng(folder / "0001_B.dng", type(frame)(**(vars(frame) | {"mosaic": shifted})))
    shutil.rmtree(session / "scenes" / "scene_01")
    process_session(session)
    flags = [set(sample.row["flags"].split(",")) for sample in open_dataset(session.with_name("s-shards"))]
    assert "gain" in flags[0]
    assert flags[1] & {"misaligned", "mask-large"}
    assert not flags[2] & {"gain", "misaligned"}


def test_parts_of_a_scene(small_session: Path, tmp_path: Path):
    listed = open_session(small_session)
    task = scene.SceneTask(
        listed, listed.scenes[0], tmp_path, "train", ProcessConfig(shards={"pairs": 2}), casts={}, shared_sources={}
    )
    assert [path.name for path in scene.shard_paths(task)] == ["scene_00-000.h5", "scene_00-001.h5"]


def test_an_error_while_writing_leaves_no_file(session: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ShardWriter, "append", fail)
    from relo.errors import ReloError

    with pytest.raises(ReloError, match=r"s-shards: cannot be written \(Input/output error\)"):
        process_session(session)
    assert list(session.with_name("s-shards").iterdir()) == []
