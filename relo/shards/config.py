"""`ProcessConfig`: everything that decides what a dataset's bytes are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator

from relo.config import Config, build_config
from relo.errors import ConfigError
from relo.masks.config import MaskConfig
from relo.postprocess.short import ShortExposureConfig
from relo.postprocess.steps import PostprocessConfig

DEFAULT_SPLIT = "train"

# Scenes, or the share of all scenes, of each split.
Split = dict[str, float | list[str]]


class ShardConfig(Config):
    """Settings of the files."""

    bits: Literal[8, 16] = Field(8, description="Depth of the images.")
    pairs: int = Field(64, ge=1, le=4096, description="Pairs a shard at most.")


class ProcessConfig(PostprocessConfig):
    """Settings of `relo process`: those of the corrections, and of what is made from their result."""

    seed: int = Field(0, ge=0, description="Seeds the synthetic short exposures and random splits.")
    masks: MaskConfig = MaskConfig()
    short: ShortExposureConfig = ShortExposureConfig()
    shards: ShardConfig = ShardConfig()
    split: Split = Field(
        default_factory=dict, description="Scenes, or the share of all scenes, of splits other than 'train'."
    )

    @field_validator("split")
    @classmethod
    def _sensible_split(cls, split: dict[str, float | list[str]]) -> dict[str, float | list[str]]:
        for name, wanted in split.items():
            if not name.isidentifier():
                raise ValueError(f"'{name}' is no name for a split")
            if isinstance(wanted, float) and name == DEFAULT_SPLIT:
                raise ValueError(f"'{name}' gets what is left: give the shares of the other splits")
            if isinstance(wanted, float) and not 0 < wanted < 1:
                raise ValueError(f"the share of '{name}' must lie between 0 and 1")
        return split


def assign_splits(scenes: Sequence[str], config: ProcessConfig) -> dict[str, str]:
    """Split of each scene; a scene belongs to exactly one.

    Named scenes go where they are named. A share takes the nearest whole number of scenes, at least one and
    never all, in an order that depends on the seed and the scene's name only.

    Raises
    ------
    ConfigError
        A named scene does not exist or is named twice, or the shares take every scene.
    """
    assigned: dict[str, str] = {}
    splits = sorted(config.split.items())  # their order is not part of config_sha256
    for split, wanted in splits:
        if isinstance(wanted, float):
            continue
        for scene in wanted:
            if scene not in scenes:
                raise ConfigError(f"split '{split}' names scene '{scene}', the session has: {', '.join(scenes)}")
            if scene in assigned:
                raise ConfigError(f"scene '{scene}' is in split '{assigned[scene]}' and in '{split}'")
            assigned[scene] = split
    shuffled = sorted(scenes, key=lambda scene: hashlib.sha256(f"{config.seed}/{scene}".encode()).hexdigest())
    for split, wanted in splits:
        if not isinstance(wanted, float):
            continue
        free = [scene for scene in shuffled if scene not in assigned]
        count = max(1, round(wanted * len(scenes)))
        if count >= len(free):
            raise ConfigError(
                f"a share of {wanted:g} for split '{split}' takes {count} of {len(free)} free scenes and leaves "
                "none for training",
                advice="Record more scenes, or name scenes.",
            )
        assigned |= dict.fromkeys(free[:count], split)
    return {scene: assigned.get(scene, DEFAULT_SPLIT) for scene in scenes}


def moved_splits(current: Mapping[str, str], wanted: Split, seed: int = 0) -> dict[str, str]:
    """Split of each scene after some have been moved.

    Named scenes go where they are named. A share is drawn from the scenes of "train", so that no scene that was
    held back for testing ends up in training. All others stay.

    Parameters
    ----------
    current : mapping of scene -> split
    wanted : mapping of split -> scenes or share
        As `ProcessConfig.split`.
    seed : int

    Raises
    ------
    ConfigError
        A named scene does not exist or is named twice, or the shares take all of "train".
    """
    if not wanted:
        return dict(current)
    named = {scene for scenes in wanted.values() if isinstance(scenes, list) for scene in scenes}
    unknown = sorted(named - set(current))
    if unknown:
        known = ", ".join(sorted(current)[:8]) + (", ..." if len(current) > 8 else "")
        raise ConfigError(f"--split names scene '{unknown[0]}', there is: {known}")
    free = sorted(scene for scene, split in current.items() if scene in named or split == DEFAULT_SPLIT)
    config = build_config(ProcessConfig, {"split": wanted, "seed": seed}, "options")
    return dict(current) | assign_splits(free, config)


def parse_split(text: str) -> Split:
    """Read "test=scene_01,scene_02" or "test=0.2" as one entry of `ProcessConfig.split`.

    A number that is no share, as in "test=007", names a scene.

    Raises
    ------
    ConfigError
        The text is neither.
    """
    name, separator, wanted = text.partition("=")
    scenes = [scene.strip() for scene in wanted.split(",") if scene.strip()]
    if not separator or not name.strip() or not scenes:
        raise ConfigError(f"--split {text}: expected NAME=SCENE,SCENE or NAME=SHARE, as in test=0.2")
    try:
        share = float(wanted)
    except ValueError:
        share = 0.0
    return {name.strip(): share if 0 < share < 1 else scenes}


def parse_splits(texts: Iterable[str]) -> Split:
    """Read several of what `parse_split` reads; the last of a name counts."""
    return {name: wanted for text in texts for name, wanted in parse_split(text).items()}
