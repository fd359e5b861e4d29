"""Which scene goes to which split, and what a configuration's hash covers."""

from __future__ import annotations

import pytest

from relo.config import build_config, config_sha256
from relo.errors import ConfigError
from relo.shards import ProcessConfig
from relo.shards.config import assign_splits, parse_split

SCENES = [f"scene_{number:02d}" for number in range(10)]


def assign(split: dict, scenes: list[str] = SCENES, seed: int = 0) -> dict[str, str]:
    return assign_splits(scenes, ProcessConfig(split=split, seed=seed))


def count(assigned: dict[str, str], split: str) -> int:
    return list(assigned.values()).count(split)


def test_without_splits_everything_is_for_training():
    assert assign({}) == dict.fromkeys(SCENES, "train")


def test_by_name():
    assigned = assign({"test": ["scene_03", "scene_07"], "val": ["scene_00"]})
    assert {scene for scene, split in assigned.items() if split == "test"} == {"scene_03", "scene_07"}
    assert assigned["scene_00"] == "val"
    assert count(assigned, "train") == 7
    assert list(assigned) == SCENES


@pytest.mark.parametrize(
    ("share", "scenes", "expected"),
    [(0.2, 10, 2), (0.25, 10, 2), (0.01, 10, 1), (0.9, 10, 9), (0.5, 2, 1), (0.3, 3, 1)],
)
def test_by_share(share: float, scenes: int, expected: int):
    assert count(assign({"test": share}, SCENES[:scenes]), "test") == expected


def test_a_share_depends_on_seed_and_names_alone():
    first = assign({"test": 0.3})
    assert assign({"test": 0.3}, SCENES[::-1]) == first
    assert any(assign({"test": 0.3}, seed=seed) != first for seed in range(1, 5))
    # A scene more moves at most the ones at the edge: what was drawn first is drawn first again.
    more = assign({"test": 0.3}, [*SCENES, "scene_10"])
    moved = [scene for scene in SCENES if first[scene] == "test" and more[scene] != "test"]
    assert len(moved) <= 1


def test_names_and_shares_together():
    assigned = assign({"test": 0.5, "val": ["scene_01"], "train": ["scene_02"]})
    assert (assigned["scene_01"], assigned["scene_02"]) == ("val", "train")
    assert count(assigned, "test") == 5


def test_the_order_of_the_splits_does_not_matter():
    one, other = {"val": 0.3, "test": 0.2}, {"test": 0.2, "val": 0.3}
    assert config_sha256(ProcessConfig(split=one)) == config_sha256(ProcessConfig(split=other))
    assert assign(one) == assign(other)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"test": ["attic"]}, "names scene 'attic', the session has: scene_00"),
        ({"test": ["scene_00"], "val": ["scene_00"]}, "scene 'scene_00' is in split 'test' and in 'val'"),
        ({"test": 0.96}, "leaves none for training. Record more scenes"),
        ({"test": 0.5, "val": 0.5}, "leaves none for training"),
    ],
)
def test_impossible_splits(split: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        assign(split)


def test_one_scene_cannot_be_shared():
    with pytest.raises(ConfigError, match="takes 1 of 1 free scenes"):
        assign({"test": 0.2}, ["scene_00"])


@pytest.mark.parametrize(
    "split", [{"test": 1.5}, {"test": 0}, {"test": -0.1}, {"te st": 0.2}, {"train": 0.8}, {"": ["a"]}]
)
def test_senseless_splits(split: dict):
    with pytest.raises(ConfigError, match="'split'"):
        build_config(ProcessConfig, {"split": split}, "here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test=0.2", {"test": 0.2}),
        ("test=.5", {"test": 0.5}),
        ("test=scene_01", {"test": ["scene_01"]}),
        ("test = scene_01, scene_02 ,", {"test": ["scene_01", "scene_02"]}),
        ("test=007", {"test": ["007"]}),
        ("test=1,2", {"test": ["1", "2"]}),
        ("test=nan", {"test": ["nan"]}),
    ],
)
def test_parse_split(text: str, expected: dict):
    assert parse_split(text) == expected


@pytest.mark.parametrize("text", ["test", "=0.2", "test=", "test= , ", ""])
def test_parse_split_refuses(text: str):
    with pytest.raises(ConfigError, match="expected NAME=SCENE,SCENE or NAME=SHARE"):
        parse_split(text)


def test_the_stored_configuration_is_an_input():
    config = ProcessConfig(split={"test": 0.2, "val": ["a"]}, seed=4)
    again = ProcessConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    assert config_sha256(again) == config_sha256(config)


def test_the_hash_covers_what_changes_the_result():
    hashes = [
        config_sha256(build_config(ProcessConfig, values, "here"))
        for values in (
            {},
            {"seed": 1},
            {"shards": {"bits": 16}},
            {"masks": {"passes": 2}},
            {"split": {"test": 0.2}},
        )
    ]
    assert len(set(hashes)) == len(hashes)
