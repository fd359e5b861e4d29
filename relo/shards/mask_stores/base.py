"""What a place for masks offers, whatever it is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from relo.capture.session import Problem
from relo.masks.quality import MaskQuality
from relo.progress import Progress


class MaskPair(Hashable, Protocol):
    """A pair with its mask; `relo.shards.Sample` is one. Images are read when asked for."""

    @property
    def scene(self) -> str:
        """Name of the scene."""

    @property
    def split(self) -> str:
        """Split the scene belongs to."""

    @property
    def id(self) -> str:
        """Name of the pair within its scene."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""

    @property
    def blur(self) -> np.ndarray:
        """(H, W, 3) uint8 or uint16, sRGB-encoded."""

    @property
    def sharp(self) -> np.ndarray:
        """(H, W, 3) of the same dtype."""

    @property
    def mask(self) -> np.ndarray:
        """(H, W) uint8: 255 blurred, 0 not; a ReloError where there is none yet."""

    @property
    def valid(self) -> np.ndarray:
        """(H, W) uint8: 255 where both cameras see."""


@dataclass(frozen=True)
class ImportedFrom:
    """Where a mask that was not computed comes from.

    Attributes
    ----------
    folder : str
        Name of the folder that was imported.
    file : str
        Within that folder.
    sha256 : str
        Of the file.
    """

    folder: str
    file: str
    sha256: str

    def as_dict(self) -> dict[str, str]:
        """Plain values, for JSON."""
        return asdict(self)


class NewMask(NamedTuple):
    """A mask to be stored.

    Attributes
    ----------
    mask : (H, W) uint8 array
        255 = blurred, 0 = not.
    quality : MaskQuality
    imported : ImportedFrom or None
        None for a mask that was computed.
    """

    mask: np.ndarray
    quality: MaskQuality
    imported: ImportedFrom | None


P = TypeVar("P", bound=MaskPair)


class MaskStore(Protocol[P]):
    """Pairs and their masks, to be changed one by one and published together.

    Attributes
    ----------
    src : Path
        What was opened.
    problems : list of Problem
        What was found to be no usable pair.
    location : Path
        Where the masks are.
    """

    src: Path
    problems: list[Problem]
    location: Path

    @property
    def pairs(self) -> Sequence[P]:
        """Every pair."""

    @property
    def fingerprint(self) -> str:
        """Hash that changes when the frames change; that of shards also when the masks do."""

    def groups(self) -> list[list[P]]:
        """Pairs of one scene, of one size and one depth; what cannot be read goes to `problems`."""

    def kept(self, pair: P) -> bool:
        """Whether the pair's mask stays as it is unless it is to be overwritten."""

    def imported(self, pair: P) -> ImportedFrom | None:
        """Where the pair's mask was imported from, if it was."""

    def flags(self, pair: P) -> tuple[str, ...]:
        """What is doubtful about the pair, as far as it is recorded."""

    def coverage(self, pair: P) -> float:
        """Share of the valid pixels that the recorded mask covers, [0, 1]; NaN where unknown."""

    def put(self, pair: P, new: NewMask) -> None:
        """Take over a new mask."""

    def checkpoint(self, recipe: Mapping[str, Any]) -> None:
        """Record what was put so far, where that is possible: a long run may be stopped."""

    def commit(self, recipe: Mapping[str, Any] | None, progress: Progress | None = None) -> MaskStore[P]:
        """Publish what was put.

        Parameters
        ----------
        recipe : mapping or None
            What the computed masks were made with: method, config, relo_version. None if all are imported.
        progress : callable (done, total, what), optional

        Returns
        -------
        MaskStore
            With what is there now.

        Raises
        ------
        ReloError
            The place cannot be written.
        """
