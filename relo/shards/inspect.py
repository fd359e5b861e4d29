"""Look into a dataset folder or a shard: contents, statistics, damage.

Nothing here stops at the first damaged file: what is wrong becomes a `Damage`, the rest is still looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relo.atomic import file_sha256
from relo.errors import ShardError
from relo.progress import Progress
from relo.shards import schema, tiles
from relo.shards.checks import ADVICE, MAX_PAIRS
from relo.shards.index import quarantine_entries
from relo.shards.reader import Sample, Shard, close_files, listed_file, read_index

# What h5py raises for a damaged file, depending on which bytes are hit.
_UNREADABLE = (ShardError, OSError, RuntimeError, KeyError, ValueError, TypeError)
_QUARANTINE_ADVICE = "Mend the line, or run the same 'relo process' again."


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
    """Take the flags of a row of /pairs apart: "a,b" -> ("a", "b"); what cannot be printed becomes "?"."""
    flags = "".join(letter if letter.isprintable() else "?" for letter in flags)
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
            damage.append(Damage(_name(entry), "", _reason(error)))
    return Inspection(tuple(shards), _quarantined(Path(path)), tuple(damage))


def verify_shards(path: str | Path, progress: Progress | None = None) -> list[Damage]:
    """Recompute every checksum, of shards and of pairs, and decode every image.

    A pair whose stored bytes are not those that were written is named without decoding it. Shards of an older relo
    have no checksums of pairs; there decoding alone tells.

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
        name = _name(entry)
        try:
            if "sha256" in entry and file_sha256(_shard_path(root, entry)) != entry["sha256"]:
                damage.append(Damage(name, "", f"sha256 differs from {schema.DATASET_FILE}. {ADVICE}"))
            shard = _open(root, entry)
            damage += [Damage(name, "", reason) for reason in _contradictions(shard, entry)]
            total += shard.count - _count(entry)
            checksums = _checksums(shard)
        except _UNREADABLE as error:
            damage.append(Damage(name, "", _reason(error)))
            done += _count(entry)
            continue
        for index in range(shard.count):
            sample = Sample(shard, index)
            reason = _damage_of_pair(sample, checksums[index])
            if reason:
                damage.append(Damage(name, sample.id, reason))
            done += 1
            if progress:
                progress(done, total, f"{shard.scene}/{sample.id}")
    return damage + (_damage_of_quarantine(root) if Path(path).is_dir() else [])


def _entries(path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Folder and the shards to look at: those of the index, or the one file."""
    if path.is_dir():
        entries = read_index(path)["shards"]
        if not all(isinstance(entry, dict) for entry in entries):
            reason = "lists a shard that is no object"
            raise ShardError(reason, file=path / schema.DATASET_FILE, advice=ADVICE)
        return path, entries
    if not path.is_file():
        raise ShardError("does not exist", file=path, advice="Give the folder that 'relo process' has made.")
    return path.parent, [{"file": path.name}]


def _quarantined(path: Path) -> int:
    count = read_index(path).get("quarantined") if path.is_dir() else 0
    return max(0, count) if isinstance(count, int) else 0


def _shard_path(root: Path, entry: dict[str, Any]) -> Path:
    path = listed_file(root, entry)
    if not path.is_file():
        raise ShardError("is missing", advice=ADVICE)
    return path


def _name(entry: dict[str, Any]) -> str:
    """What an entry of `dataset.json` says its file is, fit to be printed."""
    name = entry.get("file")
    return name if isinstance(name, str) and name.isprintable() else ascii(name)[:60]


def _open(root: Path, entry: dict[str, Any]) -> Shard:
    return Shard.open(_shard_path(root, entry))


def _summarise(shard: Shard) -> ShardSummary:
    pairs = shard.pairs
    flags = [split_flags(value.decode(errors="replace")) for value in pairs["flags"]]
    # Elsewhere than in [0, 1] it is as good as unknown.
    coverage = np.where(
        (pairs["blur_fraction"] >= 0) & (pairs["blur_fraction"] <= 1), pairs["blur_fraction"], np.nan
    )
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
        coverage=tuple(float(value) for value in coverage),
        flags=tuple(flag for row in flags for flag in row),
    )


def _contradictions(shard: Shard, entry: dict[str, Any]) -> list[str]:
    found = {"scene": shard.scene, "split": shard.split, "pairs": shard.count}
    return [
        f"holds {key} '{value}', dataset.json says '{_shown(entry[key])}'"
        for key, value in found.items()
        if key in entry and entry[key] != value
    ]


def _shown(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and len(text) <= 80 else f"{ascii(text)[:80]}"


def _checksums(shard: Shard) -> list[str]:
    """Recorded checksum of each pair, "" where an older relo has recorded none."""
    pairs = shard.pairs
    names = pairs.dtype.names or ()
    return [value.decode() for value in pairs["sha256"]] if "sha256" in names else [""] * shard.count


def _damage_of_pair(sample: Sample, checksum: str) -> str:
    """What is wrong with a pair, or ""; bytes that have changed are not given to a decoder."""
    try:
        if checksum and tiles.stored_sha256(sample.shard.file, sample.index) != checksum:
            return f"its stored images differ from its sha256 in /pairs. {ADVICE}"
        _decode(sample)
    except _UNREADABLE as error:
        return _reason(error)
    return ""


def _damage_of_quarantine(root: Path) -> list[Damage]:
    """Lines of `quarantine.jsonl` that are no JSON objects."""
    return [
        Damage(schema.QUARANTINE_FILE, "", f"line {number} is no JSON object. {_QUARANTINE_ADVICE}")
        for number, entry in quarantine_entries(root)
        if entry is None
    ]


def _decode(sample: Sample) -> None:
    for name in ("blur", "sharp", "short"):
        getattr(sample, name)
    if not np.isin(sample.mask, (0, 255)).all():
        raise ValueError("mask holds values other than 0 and 255")


def _reason(error: BaseException) -> str:
    if isinstance(error, ShardError):
        return f"{error.reason}. {error.advice}" if error.advice else error.reason
    return f"cannot be read: {' '.join(str(error).split())}"


def _count(entry: dict[str, Any]) -> int:
    pairs = entry.get("pairs")
    return min(pairs, MAX_PAIRS) if isinstance(pairs, int) and pairs > 0 else 0


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))
