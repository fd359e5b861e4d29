"""`ImportConfig`: everything that decides what shards a public layout becomes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from relo.config import Config
from relo.shards.config import Split

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
