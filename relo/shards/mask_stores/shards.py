"""Masks in shards: new ones wait in memory, compressed, until every shard that changes is rewritten."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from relo.capture.session import Problem
from relo.config import canonical_json
from relo.errors import ConfigError, ShardError
from relo.masks.quality import MaskQuality, mask_flags
from relo.progress import Progress
from relo.shards.inspect import split_flags
from relo.shards.mask_stores.base import ImportedFrom, NewMask
from relo.shards.reader import Sample, Shard, open_dataset
from relo.shards.rewrite import rewrite_shards, set_columns

# Attribute of a shard: {"method", "config", "relo_version", "imported": {pair: {"folder", "file", "sha256"}}}.
MASK_SOURCE = "mask_source"


class _Waiting(NamedTuple):
    """A mask of one bit a pixel, deflated: a large one takes about 10 kB."""

    bits: bytes
    quality: MaskQuality
    imported: ImportedFrom | None

    @classmethod
    def from_new(cls, new: NewMask) -> _Waiting:
        return cls(zlib.compress(np.packbits(new.mask > 0).tobytes()), new.quality, new.imported)

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        bits = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        return np.unpackbits(bits, count=size[0] * size[1]).reshape(size) * np.uint8(255)


class ShardMasks:
    """Masks of a dataset folder or of one shard; see `MaskStore`.

    Parameters
    ----------
    src : Path
    out : Path, optional
        Where the changed copy goes; in place if not given.
    """

    def __init__(self, src: Path, out: Path | None) -> None:
        folder = src if src.is_dir() else src.parent
        self._out = None if out is None or out.resolve() == folder.resolve() else out
        self.src = self.location = src
        self.pairs: list[Sample] = list(open_dataset(src))
        self.problems: list[Problem] = []
        self._waiting: dict[Shard, dict[int, _Waiting]] = {}
        if self._out is not None:
            _refuse_used(self._out, {pair.shard.path.name for pair in self.pairs})
        self._sources = {pair.shard: mask_source(pair.shard) for pair in self.pairs}

    @property
    def fingerprint(self) -> str:
        """Hash over the shards' hashes."""
        return open_dataset(self.src).fingerprint

    def groups(self) -> list[list[Sample]]:
        """Pairs of one scene, of one size and one depth."""
        found: dict[tuple[Any, ...], list[Sample]] = {}
        for pair in self.pairs:
            found.setdefault((pair.split, pair.scene, pair.size, pair.shard.bits), []).append(pair)
        return list(found.values())

    def kept(self, pair: Sample) -> bool:
        """Whether the mask was imported: what somebody drew by hand is not lost to a rerun."""
        return self.imported(pair) is not None

    def imported(self, pair: Sample) -> ImportedFrom | None:
        """Where the mask was imported from, if it was."""
        entry = self._sources[pair.shard].get("imported", {}).get(pair.id)
        return None if entry is None else ImportedFrom(**entry)

    def flags(self, pair: Sample) -> tuple[str, ...]:
        """The pair's flags in /pairs."""
        return split_flags(pair.row["flags"])

    def coverage(self, pair: Sample) -> float:
        """The pair's `blur_fraction`."""
        return float(pair.row["blur_fraction"])

    def put(self, pair: Sample, new: NewMask) -> None:
        """Take over a new mask."""
        self._waiting.setdefault(pair.shard, {})[pair.index] = _Waiting.from_new(new)

    def checkpoint(self, recipe: Mapping[str, Any]) -> None:
        """Nothing: shards change once, at the end."""

    def commit(self, recipe: Mapping[str, Any] | None, progress: Progress | None = None) -> ShardMasks:
        """Rewrite the shards, here or as a copy."""

        def edit(file: h5py.File, shard: Shard) -> None:
            _store(file, shard, self._waiting[shard], recipe)

        def unchanged(shard: Shard) -> bool:
            return shard not in self._waiting

        if self._waiting or self._out is not None:
            rewrite_shards(self.src, self._out, edit, skip=unchanged, progress=progress)
        if self._out is None:
            return ShardMasks(self.src, None)
        return ShardMasks(self._out / self.src.name if self.src.is_file() else self._out, None)


def mask_source(shard: Shard) -> dict[str, Any]:
    """What a shard's masks were made with: method, config, relo_version; `imported` names those from files.

    Raises
    ------
    ShardError
        The attribute is damaged.
    """
    attrs = shard.attrs
    if MASK_SOURCE not in attrs:
        settings = attrs.get("config", {}).get("masks", {})
        return {
            "method": settings.get("method", "lbfmg"),
            "config": settings,
            "relo_version": attrs.get("relo_version", "unknown"),
        }
    try:
        return dict(json.loads(attrs[MASK_SOURCE]))
    except (ValueError, TypeError) as error:
        raise ShardError(
            f"has a damaged attribute {MASK_SOURCE}", file=shard.path, advice="Copy or make the shard again."
        ) from error


def _refuse_used(out: Path, shards: set[str]) -> None:
    """Say now what rewriting would say after all masks have been computed."""
    if out.is_file():
        raise ConfigError("is a file, the output must be a folder", file=out)
    foreign = [path for path in sorted(out.glob("*")) if path.name.removesuffix(".part") not in shards]
    if foreign:
        raise ConfigError(f"holds other files ({foreign[0].name})", file=out, advice="Give a new or empty folder.")


def _store(file: h5py.File, shard: Shard, new: Mapping[int, _Waiting], recipe: Mapping[str, Any] | None) -> None:
    """Put masks, their numbers and where they come from into an open shard."""
    source = mask_source(shard)
    imported = dict(source.get("imported", {}))
    table = file["pairs"][()]
    columns: dict[str, list[Any]] = {
        name: list(table[name]) if name in table.dtype.names else [float("nan")] * len(table)
        for name in ("blur_fraction", "mask_agreement", "mask_fragments", "mask_border", "flags")
    }
    for index, entry in new.items():
        file["mask"][index] = entry.mask(shard.size)
        quality = entry.quality
        others = [flag for flag in split_flags(table["flags"][index].decode()) if not flag.startswith("mask-")]
        columns["blur_fraction"][index] = quality.covered
        columns["mask_agreement"][index] = quality.agreement
        columns["mask_fragments"][index] = quality.fragments
        columns["mask_border"][index] = quality.border
        columns["flags"][index] = ",".join([*others, *mask_flags(quality)]).encode()
        imported.pop(shard.ids[index], None)
        if entry.imported is not None:
            imported[shard.ids[index]] = entry.imported.as_dict()
    set_columns(file, columns)
    before = file.attrs.get("mask_version", 1)
    file.attrs["mask_version"] = 1 if isinstance(before, str) else int(before) + 1  # a word names published masks
    file.attrs[MASK_SOURCE] = canonical_json({**source, **(recipe or {}), "imported": imported})
