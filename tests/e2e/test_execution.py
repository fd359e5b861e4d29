"""However and wherever a session is processed, its shards are the same bytes; what is damaged is mended."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import pytest
from support.program import command, environment, relo, relo_process

from relo.atomic import file_sha256
from relo.shards import open_dataset, process_session


def dataset(out: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(out.iterdir()) if path.name != "report.html"}


@pytest.fixture
def session(small_session: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_session, tmp_path / "s"))


# Job arrays


def test_parts_make_the_whole(small_shards: Path, session: Path, tmp_path: Path):
    out = tmp_path / "out"
    first = relo("process", session, out, "--part", "2/2", "--json").json
    assert (first["done"], first["report"]) == (3, None)
    assert not (out / "report.html").exists()
    assert len(open_dataset(out)) == 3, "what is there can be used already"
    second = relo("process", session, out, "--part", "1/2", "--json").json
    assert second["done"] == 3 and Path(second["report"]).is_file()
    assert dataset(out) == dataset(small_shards)
    assert relo("process", session, out, "--part", "1/2", "--json").json["skipped"] == 3
    assert relo("process", session, out, "--json").json["skipped"] == 6
    assert dataset(out) == dataset(small_shards)


def test_parts_at_the_same_time(small_shards: Path, session: Path, tmp_path: Path):
    out = tmp_path / "out"
    started = [
        subprocess.Popen(
            command("process", session, out, "--part", f"{i}/2"), env=environment(), stdout=-3, stderr=-3
        )
        for i in (1, 2)
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    assert dataset(out) == dataset(small_shards)
    assert (out / "report.html").is_file()


def test_a_part_that_has_nothing_to_do(session: Path, tmp_path: Path):
    answer = relo("process", session, tmp_path / "out", "--part", "3/3", "--json")
    assert (answer.code, answer.json["done"]) == (0, 0)


def test_quarantine_of_all_parts_is_kept(session: Path, tmp_path: Path):
    for scene in ("scene_00", "scene_01"):
        (session / "scenes" / scene / "0001_S.dng").write_bytes(b"")
    whole = tmp_path / "whole"
    assert relo("process", session, whole).code == 3
    for part in ("1/2", "2/2"):
        assert relo("process", session, tmp_path / "parts", "--part", part).code == 3
    assert dataset(tmp_path / "parts") == dataset(whole)
    assert len((whole / "quarantine.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("part", ["0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2/3"])
def test_no_such_part(session: Path, part: str):
    relo("process", session, f"--part={part}").error("--part")


def test_overwriting_in_parts_is_refused(session: Path):
    relo("process", session, "--part", "1/2", "--overwrite").error("--overwrite")


# A cluster


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_makes_the_same_bytes(small_shards: Path, session: Path, tmp_path: Path):
    from distributed import LocalCluster

    out = tmp_path / "out"
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:
        answer = relo_process("process", session, out, "--scheduler", cluster.scheduler_address, "--json")
    assert answer.code == 0, answer
    assert answer.json["done"] == 6
    assert dataset(out) == dataset(small_shards)


def test_a_thread_that_looks_at_others_changes_no_byte(small_shards: Path, session: Path, tmp_path: Path):
    """A profiler's thread, as dask's, holds on to objects of the frames it sees, so HDF5 closes them later."""
    held: deque[object] = deque(maxlen=2000)
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.0005):
            for frame in sys._current_frames().values():
                while frame is not None:
                    held.append((frame, dict(frame.f_locals)))
                    frame = frame.f_back

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        process_session(session, tmp_path / "out")
    finally:
        stop.set()
        watcher.join()
        held.clear()
    assert dataset(tmp_path / "out") == dataset(small_shards)


def test_no_scheduler_there(session: Path, monkeypatch: pytest.MonkeyPatch):
    from relo import cluster

    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    relo("process", session, "--scheduler", "tcp://127.0.0.1:1").error("127.0.0.1:1", "dask scheduler")


def test_a_scheduler_and_jobs_exclude_each_other(session: Path):
    answer = relo("process", session, "--scheduler", "tcp://127.0.0.1:1", "--jobs", 2)
    assert answer.code == 2 and "--scheduler" in answer.err


# What comes before


def test_a_dry_run_writes_nothing(session: Path):
    before = sorted(session.parent.rglob("*"))
    answer = relo("process", session, "--dry-run", "--split", "test=scene_01", "--json")
    assert answer.code == 0
    found = answer.json
    assert (found["pairs"], found["scenes"]) == (6, {"scene_00": 3, "scene_01": 3})
    assert found["splits"] == {"scene_00": "train", "scene_01": "test"}
    assert found["disk_bytes"] > 0 and found["seconds"] > 0 and found["memory_bytes"] > 0
    text = relo("process", session, "--dry-run").out
    for word in ("time", "memory", "disk", "workers", "nothing was written"):
        assert word in text
    assert sorted(session.parent.rglob("*")) == before


def test_the_estimate_of_the_disk_is_right_within_a_factor_of_two(small_shards: Path, session: Path):
    expected = relo("process", session, "--dry-run", "--json").json["disk_bytes"]
    found = sum(path.stat().st_size for path in small_shards.glob("*.h5"))
    assert 0.5 < expected / found < 2


# Damage, and what is stopped


def test_a_damaged_shard_is_made_again_alone(small_shards: Path, session: Path):
    relo("process", session)
    out = session.with_name("s-shards")
    shard, other = out / "scene_00-000.h5", out / "scene_01-000.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    untouched = other.stat().st_mtime_ns
    assert relo("inspect", out, "--verify").code == 3
    answer = relo("process", session, "--json")
    assert (answer.json["done"], answer.json["skipped"]) == (3, 3)
    assert "scene_00-000.h5 was damaged" in answer.err
    assert dataset(out) == dataset(small_shards)
    assert other.stat().st_mtime_ns == untouched


def test_shards_with_other_masks_are_no_damage(session: Path):
    relo("process", session)
    out = session.with_name("s-shards")
    assert relo("masks", out, "--method", "pair").code == 0
    before = dataset(out)
    assert relo("process", session, "--json").json["skipped"] == 6
    assert dataset(out) == before


def test_what_was_quarantined_is_known_without_the_list(session: Path):
    """A run that is killed has written no list; the finished scenes are finished all the same."""
    (session / "scenes" / "scene_00" / "0001_S.dng").write_bytes(b"")
    assert relo("process", session).code == 3
    out = session.with_name("s-shards")
    before = dataset(out)
    for name in ("dataset.json", "quarantine.jsonl", "README.md"):
        (out / name).unlink()
    answer = relo("process", session, "--json")
    assert (answer.code, answer.json["skipped"], answer.json["quarantined"]) == (3, 5, 1)
    assert dataset(out) == before


def test_a_scene_that_has_gone_goes_from_the_dataset(session: Path):
    relo("process", session)
    shutil.rmtree(session / "scenes" / "scene_00")
    assert relo("process", session, "--json").json["skipped"] == 3
    assert [path.name for path in session.with_name("s-shards").glob("*.h5")] == ["scene_01-000.h5"]


def workers_of(process: int) -> list[int]:
    """Workers of a running `relo process`: the grandchildren, which a server has forked."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parents.get(parent) == process]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["parent", "worker"])
def test_killed_at_random_moments(small_shards: Path, session: Path, who: str):
    rng = random.Random(who)
    out = session.with_name("s-shards")
    for _ in range(5):
        shutil.rmtree(out, ignore_errors=True)
        arguments = command("process", session, "--jobs", 2)
        process = subprocess.Popen(arguments, env=environment(), stdout=-3, stderr=-3, start_new_session=True)
        while not list(out.glob(".relo*")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 3))
        if who == "parent":
            process.kill()
            process.wait()
            names = {path.name for path in out.iterdir()}
            whole = {*dataset(small_shards), "report.html"}
            assert all(name in whole or name.startswith(".relo") or name.endswith(".part") for name in names), names
            assert relo("process", session).code == 0
        else:
            workers = workers_of(process.pid)
            for worker in workers[:1]:
                os.kill(worker, signal.SIGKILL)
            assert process.wait(120) == 0, "it is replaced, and its scene begun again"
        assert dataset(out) == dataset(small_shards)


def test_ten_faults_of_many_kinds(session: Path, small_session: Path):
    """Every fault costs its pair and says why; the others are done."""
    import numpy as np
    import tifffile

    from relo.capture import read_raw, write_dng

    scene = session / "scenes" / "scene_00"
    good = (scene / "0000_B.dng", scene / "0000_S.dng")
    for number in range(10, 20):
        for path, camera in zip(good, "BS", strict=True):
            shutil.copy(path, scene / f"00{number}_{camera}.dng")
    frame = read_raw(good[0])
    (scene / "0010_S.dng").unlink()
    (scene / "0011_B.dng").write_bytes(b"")
    (scene / "0012_B.dng").write_bytes(good[0].read_bytes()[:3000])
    (scene / "0013_B.dng").write_text("this is no photograph")
    small = frame.__class__(**{**frame.__dict__, "mosaic": frame.mosaic[:90, :120]})
    write_dng(scene / "0014_B.dng", small)
    (scene / "0015_S.dng").unlink()
    (scene / "0015_S.dng").mkdir()
    (scene / "0016_S.dng").unlink()
    (scene / "0016_S.dng").symlink_to(scene / "nowhere.dng")
    shutil.copy(good[1], scene / "0017_S.tiff")
    (scene / "0018_B.dng").unlink()
    tifffile.imwrite(scene / "0018_B.tiff", np.zeros((180, 270, 3), np.uint8))
    shifted = {"RGGB": "GRBG", "GRBG": "RGGB", "BGGR": "GBRG", "GBRG": "BGGR"}[frame.pattern]
    write_dng(scene / "0019_B.dng", frame.__class__(**{**frame.__dict__, "pattern": shifted}))
    answer = relo("process", session, "--json")
    out = session.with_name("s-shards")
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert answer.code == 3
    assert sorted(line["pair"] for line in lines) == [f"00{number}" for number in range(10, 20)], lines
    assert answer.json["done"] == 6
    reasons = {line["reason"] for line in lines}
    assert len(reasons) == 10, sorted(reasons)
    assert all(line["advice"] and line["stage"] and line["file"] for line in lines)
