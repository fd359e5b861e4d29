"""`ImportConfig`: everything that decides what shards a public layout becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from relo.config import Config, build_config
from relo.errors import ConfigError
from relo.shards.config import DEFAULT_SPLIT, ProcessConfig, assign_splits

Split = dict[str, float | list[str]]

# Masks that nobody has drawn: 255 everywhere.
ONES = "ones"
UNKNOWN = "unknown"


class MaskSettings(Config):
    """How published masks are read."""

    version: str = Field("", max_length=64, description="'v1', 'annotated' or a name of your own; '' if not said.")
    threshold: int = Field(0, ge=0, le=254, description="A pixel above this value, of 255, counts as blurred.")


class ImportConfig(Config):
    """Settings of `relo import`."""

    layout: Literal["reloblur", "gopro", "realblur", "pairs"]
    bits: Literal[8, 16] | None = Field(None, description="Depth of the images; that of the files if not given.")
    pairs: int = Field(64, ge=1, le=4096, description="Pairs a shard at most.")
    masks: MaskSettings = MaskSettings()
    convert: bool = Field(False, description="Take grey, palette and alpha images as RGB.")
    gamma: bool = Field(False, description="gopro: blurred frames from blur_gamma.")
    variant: Literal["", "J", "R"] = Field("", description="realblur: which rendering.")
    scene: str = Field("", description="pairs: scene of frames that lie in no folder of a scene.")
    split: Split = Field(default_factory=dict, description="Scenes, or shares of 'train', that go to other splits.")
    seed: int = Field(0, ge=0, description="Seeds the shares.")


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
