"""One scene: which background a mask sees, what is flagged, and what an unexpected error costs."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from relo.capture import open_session, read_raw, write_dng
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
        "dataset.json", "quarantine.jsonl", "scene_01-000.h5",
    ]  # fmt: skip
    again = process_session(session)
    assert (again.done, again.skipped, again.failed) == (3, 3, 0)


def test_a_mask_sees_every_frame_but_its_own_blurred_one(session: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[np.ndarray, list[np.ndarray]]] = []

    def watch(blur, background, **_):
        seen.append((blur, list(background)))
        return np.zeros(blur.shape[:2], np.uint8)

    monkeypatch.setattr(scene, "blur_mask", watch)
    process_session(session, config=ProcessConfig())
    shard = open_dataset(session.with_name("s-shards")).shards[0]
    blur, sharp = (shard.file[name][()] for name in ("blur", "sharp"))
    for index, (target, background) in enumerate(seen[:3]):
        assert (target == blur[index]).all()
        assert len(background) == 2 + 3 + 2  # the static pair, every sharp frame, the other blurred ones
        assert not any((frame == blur[index]).all() for frame in background)
        assert any((frame == sharp[index]).all() for frame in background)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"own_sharp": False}, 2 + 2 + 2),
        ({"static": False}, 3 + 2),
        ({"most_frames": 3}, 2 + 3),
        ({"most_frames": 1}, 3),
    ],
)
def test_background_settings(session: Path, monkeypatch: pytest.MonkeyPatch, options: dict, expected: int):
    counts: list[int] = []

    def watch(blur, background, **_):
        counts.append(len(list(background)))
        return np.zeros(blur.shape[:2], np.uint8)

    monkeypatch.setattr(scene, "blur_mask", watch)
    shutil.rmtree(session / "scenes" / "scene_01")
    process_session(session, config=ProcessConfig(masks=options, short={"enabled": False}))
    assert counts == [expected] * 3


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
