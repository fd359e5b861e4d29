from __future__ import annotations

import shutil
from pathlib import Path

from support.program import relo


def test_nothing_is_wrong(small_session: Path):
    answer = relo("check", small_session)
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "scene_00: 3 of 3 pairs can be processed",
        "scene_01: 3 of 3 pairs can be processed",
        "nothing is wrong",
        "done 6, skipped 0, quarantined 0, failed 0",
        f"next:   relo process {small_session}",
    ]


def test_json(small_session: Path):
    answer = relo("check", small_session, "--json").json
    assert (answer["done"], answer["quarantined"], answer["problems"], answer["warnings"]) == (6, 0, [], [])
    assert answer["scenes"]["scene_01"] == {"pairs": 3, "good": 3}
    assert answer["next"] == f"relo process {small_session}"


def test_problems_give_3_and_name_the_file(small_session: Path, tmp_path: Path):
    session = Path(shutil.copytree(small_session, tmp_path / "s"))
    victim = session / "scenes" / "scene_00" / "0001_S.dng"
    victim.write_bytes(b"")
    answer = relo("check", session)
    assert answer.code == 3
    assert "scene_00: 2 of 3 pairs can be processed" in answer.out
    assert f"problem: {victim}: is empty (0 bytes; copy interrupted?). Copy it again." in answer.out
    assert "quarantined 1" in answer.out
    assert "nothing is wrong" not in answer.out
    answer = relo("check", session, "--json")
    assert answer.code == 3
    assert len(answer.json["problems"]) == 1


def test_check_changes_nothing(small_session: Path):
    before = {path: path.stat().st_mtime_ns for path in small_session.rglob("*")}
    relo("check", small_session)
    assert {path: path.stat().st_mtime_ns for path in small_session.rglob("*")} == before
