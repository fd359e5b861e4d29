from __future__ import annotations

import json

import pytest

from relo.errors import ShardError
from relo.report.collect import calibration_facts, choose_pairs, pair_records, scene_records
from relo.shards import open_dataset
from relo.shards.index import read_quarantine


def test_every_scene_is_chosen_before_a_second_pair_of_another(make_dataset):
    flags = {0: "gain", 1: "gain", 2: "gain"}
    data = open_dataset(make_dataset([{"scene": "a", "flags": flags}, {"scene": "b"}, {"scene": "c"}]))
    chosen = choose_pairs(pair_records(data), 4)
    assert sorted(record.scene for record in chosen) == ["a", "a", "b", "c"]
    assert [bool(record.flags) for record in chosen] == [True, True, False, False]


def test_more_scenes_than_room_keeps_the_worst(make_dataset):
    shards = [{"scene": f"s{number}", "pairs": 1, "size": (16, 16)} for number in range(5)]
    shards[3]["flags"] = {0: "x"}
    chosen = choose_pairs(pair_records(open_dataset(make_dataset(shards))), 2)
    assert len(chosen) == 2
    assert chosen[0].scene == "s3"


def test_unknown_numbers_are_no_doubt(make_dataset):
    data = open_dataset(make_dataset([{"scene": "a", "numbers": False}, {"scene": "b"}]))
    chosen = choose_pairs(pair_records(data), 10)
    assert [record.scene for record in chosen] == ["b"] * 3 + ["a"] * 3


def test_a_scene_of_several_shards_is_one_record(make_dataset):
    data = open_dataset(make_dataset([{"scene": "a", "pairs": 2}, {"scene": "a", "pairs": 1}]))
    (scene,) = scene_records(data, pair_records(data))
    assert (scene.pairs, len(scene.shards)) == (3, 2)
    assert scene.valid_share == pytest.approx(15 / 16)


def test_calibration_facts_show_what_is_there(make_dataset):
    data = open_dataset(make_dataset([{"scene": "a"}, {"scene": "b", "calibration": False}]))
    facts = dict(calibration_facts(data.shards[0]))
    assert facts["gain R, G, B"] == "1.0200, 0.9800, 1.0500"
    assert facts["flow"] == "parametric"
    assert facts["colour cast left, camera B"] == ("peak to peak 1.100, 1.200, 1.300 %; rms 0.100, 0.200, 0.300 %")
    assert calibration_facts(data.shards[1]) == []


def test_quarantine_lines_may_lack_keys_and_hold_any_text(tmp_path):
    lines = [{"scene": "a", "reason": "odd\u2028name"}, {"pair": None, "file": 3}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / "quarantine.jsonl").write_text(text + "\n", encoding="utf-8")
    first, second = read_quarantine(tmp_path)
    assert first == {
        "scene": "a",
        "pair": "",
        "file": "",
        "stage": "",
        "reason": "odd\u2028name",
        "advice": "",
    }
    assert (second["pair"], second["file"]) == ("", "3")


@pytest.mark.parametrize("line", ["{", "[1]", "3"])
def test_broken_quarantine_names_the_line(tmp_path, line):
    (tmp_path / "quarantine.jsonl").write_text("{}\n" + line + "\n")
    with pytest.raises(ShardError, match="line 2"):
        read_quarantine(tmp_path)
