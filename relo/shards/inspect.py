"""Look into a dataset folder or a shard: contents, statistics, damage.

Nothing here stops at the first damaged file: what is wrong becomes a `Damage`, the rest is still looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relo.atomic import file_sha256
from relo.errors import ShardError
from relo.progress import Progress
from relo.shards import schema
from relo.shards.reader import Sample, Shard, close_files, read_index

# What h5py raises for a damaged file, depending on which bytes are hit.
_UNREADABLE = (ShardError, OSError, RuntimeError, KeyError, ValueError, TypeError)


@dataclass(frozen=True)
class Damage:
    """Something in a dataset that cannot be used: which file, which pair (or ""), what is wrong."""

    file: str
    pair: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{f', pair {self.pair}' if self.pair else ''}: {self.reason}"


@dataclass(frozen=True)
class ShardSummary:
    """What one shard holds.

    Attributes
    ----------
    file : str
        Name within the dataset folder.
    scene, split : str
    pairs : int
    width, height : int
        Of the frames [px].
    bits : int
        8 or 16.
    short : bool
        Whether it holds synthetic short exposures.
    bytes : int
        Size on disk [bytes].
    config_sha256 : str
    coverage : tuple of float
        Mask coverage of each pair, [0, 1]; NaN where unknown.
    flags : tuple of str
        Every flag of every pair.
    """

    file: str
    scene: str
    split: str
    pairs: int
    width: int
    height: int
    bits: int
    short: bool
    bytes: int
    config_sha256: str
    coverage: tuple[float, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What a dataset folder, or one shard, holds.

    Attributes
    ----------
    shards : tuple of ShardSummary
        Those that can be opened.
    quarantined : int
        Pairs that were left out when the dataset was made.
    damage : tuple of Damage
        Shards that cannot be opened.
    """

    shards: tuple[ShardSummary, ...]
    quarantined: int
    damage: tuple[Damage, ...]

    @property
    def pairs(self) -> int:
        """Number of pairs in all shards."""
        return sum(shard.pairs for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards on disk [bytes]."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def scenes(self) -> list[str]:
        """Names of the scenes, sorted."""
        return sorted({shard.scene for shard in self.shards})

    @property
    def splits(self) -> dict[str, int]:
        """Pairs of each split."""
        return _sorted(sum((Counter({shard.split: shard.pairs}) for shard in self.shards), Counter()))

    @property
    def flags(self) -> dict[str, int]:
        """How many pairs carry each flag."""
        return _sorted(Counter(flag for shard in self.shards for flag in shard.flags))

    @property
    def coverage(self) -> tuple[float, float, float] | None:
        """Mean, smallest and largest mask coverage, [0, 1]; None where no pair has one."""
        values = np.array([value for shard in self.shards for value in shard.coverage])
        values = values[np.isfinite(values)]
        return (float(values.mean()), float(values.min()), float(values.max())) if values.size else None


def split_flags(flags: str) -> tuple[str, ...]:
    """Take the flags of a row of /pairs apart: "a,b" -> ("a", "b")."""
    return tuple(flag.strip() for flag in flags.split(",") if flag.strip())


def inspect_shards(path: str | Path) -> Inspection:
    """Summarise a dataset folder or one `.h5` file without decoding any image.

    Raises
    ------
    ShardError
        `path` is neither.
    """
    root, entries = _entries(Path(path))
    shards, damage = [], []
    for entry in entries:
        try:
            shards.append(_summarise(_open(root, entry)))
        except _UNREADABLE as error:
            damage.append(Damage(str(entry.get("file")), "", _reason(error)))
    return Inspection(tuple(shards), _quarantined(Path(path)), tuple(damage))


def verify_shards(path: str | Path, progress: Progress | None = None) -> list[Damage]:
    """Recompute every checksum of `dataset.json` and decode every image of every pair.

    Parameters
    ----------
    path : path
        A dataset folder, or one `.h5` file, which has no recorded checksum.
    progress : callable (done, total, what), optional
        Counts pairs.

    Returns
    -------
    list of Damage
        Empty if all is well.
    """
    close_files()  # a handle from before would hide what has happened to its file since
    root, entries = _entries(Path(path))
    damage: list[Damage] = []
    total = sum(_count(entry) for entry in entries)
    done = 0
    for entry in entries:
        name = str(entry.get("file"))
        try:
            expected = entry.get("sha256")
            if expected is not None and file_sha256(_shard_path(root, entry)) != expected:
                damage.append(Damage(name, "", "sha256 differs from dataset.json"))
            shard = _open(root, entry)
            damage += [Damage(name, "", reason) for reason in _contradictions(shard, entry)]
            total += shard.count - _count(entry)
            _probe(lambda shard=shard: shard.valid, name, "", damage)  # type: ignore[misc]
        except _UNREADABLE as error:
            damage.append(Damage(name, "", _reason(error)))
            done += _count(entry)
            continue
        for index in range(shard.count):
            sample = Sample(shard, index)
            _probe(lambda sample=sample: _decode(sample), name, sample.id, damage)  # type: ignore[misc]
            done += 1
            if progress:
                progress(done, total, f"{shard.scene}/{sample.id}")
    return damage


def _entries(path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Folder and the shards to look at: those of the index, or the one file."""
    if path.is_dir():
        entries = read_index(path)["shards"]
        if not all(isinstance(entry, dict) for entry in entries):
            raise ShardError("lists a shard that is no object", file=path / schema.DATASET_FILE)
        return path, entries
    if not path.is_file():
        raise ShardError("does not exist", file=path, advice="Give the folder that 'relo process' has made.")
    return path.parent, [{"file": path.name}]


def _quarantined(path: Path) -> int:
    count = read_index(path).get("quarantined") if path.is_dir() else 0
    return count if isinstance(count, int) else 0


def _shard_path(root: Path, entry: dict[str, Any]) -> Path:
    name = entry.get("file")
    if not isinstance(name, str) or Path(name).name != name:
        raise ShardError(f"dataset.json names '{name}', which is no file of this folder")
    if not (root / name).is_file():
        raise ShardError("is missing", advice="Copy it again, or run 'relo process' again.")
    return root / name


def _open(root: Path, entry: dict[str, Any]) -> Shard:
    return Shard.open(_shard_path(root, entry))


def _summarise(shard: Shard) -> ShardSummary:
    pairs = shard.pairs
    flags = [split_flags(value.decode(errors="replace")) for value in pairs["flags"]]
    return ShardSummary(
        file=shard.path.name,
        scene=shard.scene,
        split=shard.split,
        pairs=shard.count,
        width=shard.size[1],
        height=shard.size[0],
        bits=shard.bits,
        short="short" in shard.file,
        bytes=shard.path.stat().st_size,
        config_sha256=str(shard.file.attrs["config_sha256"]),
        coverage=tuple(float(value) for value in pairs["blur_fraction"]),
        flags=tuple(flag for row in flags for flag in row),
    )


def _contradictions(shard: Shard, entry: dict[str, Any]) -> list[str]:
    found = {"scene": shard.scene, "split": shard.split, "pairs": shard.count}
    return [
        f"holds {key} '{value}', dataset.json says '{entry[key]}'"
        for key, value in found.items()
        if key in entry and entry[key] != value
    ]


def _decode(sample: Sample) -> None:
    for name in ("blur", "sharp", "short"):
        getattr(sample, name)
    if not np.isin(sample.mask, (0, 255)).all():
        raise ValueError("mask holds values other than 0 and 255")


def _probe(read: Callable[[], Any], file: str, pair: str, damage: list[Damage]) -> None:
    try:
        read()
    except _UNREADABLE as error:
        damage.append(Damage(file, pair, _reason(error)))


def _reason(error: BaseException) -> str:
    if isinstance(error, ShardError):
        return f"{error.reason}. {error.advice}" if error.advice else error.reason
    return f"cannot be read: {' '.join(str(error).split())}"


def _count(entry: dict[str, Any]) -> int:
    pairs = entry.get("pairs")
    return pairs if isinstance(pairs, int) and pairs > 0 else 0


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))
