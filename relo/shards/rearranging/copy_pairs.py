"""Pairs from finished shards to a new one, as they are stored: tiles are copied, none is decoded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relo import __version__, atomic
from relo.config import canonical_json
from relo.errors import ShardError
from relo.shards import schema
from relo.shards.mask_stores.shards import MASK_SOURCE
from relo.shards.reader import Shard
from relo.shards.rewrite import REWRITTEN_FROM
from relo.shards.tiles import stored_tiles

# Attribute of a shard that was put together from others: JSON, a list of what was done, the latest last.
REORGANISED = "reorganised"

_STACKED = (*schema.IMAGES, "mask")
# Attributes that are put together; in all others, shards that are joined agree.
_JOINED = ("sources", MASK_SOURCE, schema.QUARANTINED, REORGANISED, REWRITTEN_FROM)


@dataclass(frozen=True)
class Piece:
    """Pairs `indices` of a shard, and the SHA-256 of its file."""

    shard: Shard
    indices: tuple[int, ...]
    sha256: str

    @property
    def whole(self) -> bool:
        """Whether it is every pair, in order."""
        return self.indices == tuple(range(self.shard.count))


@dataclass(frozen=True)
class Target:
    """One shard to be: pieces that `joinable` allows, in order.

    Attributes
    ----------
    file : str
    scene, split : str
    pieces : tuple of Piece
    """

    file: str
    scene: str
    split: str
    pieces: tuple[Piece, ...]

    @property
    def count(self) -> int:
        """Number of pairs."""
        return sum(len(piece.indices) for piece in self.pieces)

    @property
    def unchanged(self) -> bool:
        """Whether the file is a copy of another."""
        first = self.pieces[0]
        same = (first.shard.scene, first.shard.split) == (self.scene, self.split)
        return len(self.pieces) == 1 and first.whole and same


def write_target(out: Path, target: Target, operation: str) -> None:
    """Write the shard `target` to the folder `out`, atomically.

    Every row of /pairs, every attribute, /valid and /calibration are carried over.

    Raises
    ------
    ShardError
        Images are not stored one a chunk, as no relo writes them.
    """
    with atomic.unfinished(out / target.file) as part:
        if target.unchanged:
            shutil.copyfile(target.pieces[0].shard.path, part)
            return
        with h5py.File(part, "w") as file:
            first = target.pieces[0].shard.file
            for name in first:
                if name in _STACKED:
                    _stack(file, name, target)
                elif name != "pairs":
                    first.copy(name, file)
            rows = [piece.shard.pairs[list(piece.indices)] for piece in target.pieces]
            table = file.create_dataset("pairs", data=np.concatenate(rows))
            table.attrs.update(first["pairs"].attrs)
            file.attrs.update(_attributes(target, operation))


def _stack(file: h5py.File, name: str, target: Target) -> None:
    """Copy one kind of image, tile by tile, with the filters that it is stored with."""
    first = target.pieces[0].shard.file[name]
    if first.chunks is None or first.chunks[0] != 1:
        advice = "Make the shard again."
        raise ShardError(
            f"stores several images of /{name} in a chunk", file=target.pieces[0].shard.path, advice=advice
        )
    shape = first.shape[1:]
    space = h5py.h5s.create_simple((target.count, *shape), (h5py.h5s.UNLIMITED, *shape))
    plan = first.id.get_create_plist()
    plan.set_obj_track_times(False)  # equal sources make equal files
    made = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), first.id.get_type(), space, plan))
    made.attrs.update(first.attrs)
    number = 0
    for piece in target.pieces:
        source = piece.shard.file[name]
        for index in piece.indices:
            for offset, mask, data in stored_tiles(source, index):
                made.id.write_direct_chunk((number, *offset[1:]), data, mask)
            number += 1


def _attributes(target: Target, operation: str) -> dict[str, Any]:
    """Attributes of the new shard: those of its pieces, which agree, and what has to be put together."""
    shards = [piece.shard for piece in target.pieces]
    attributes = dict(shards[0].file.attrs)
    sources: dict[str, str] = {}
    left_out: list[Any] = []
    done: list[Any] = []
    for shard in shards:
        sources |= _json(shard, "sources", {})
        left_out += [entry for entry in _json(shard, schema.QUARANTINED, []) if entry not in left_out]
        done += [entry for entry in _json(shard, REORGANISED, []) if entry not in done]
    made_from = [
        {"file": piece.shard.path.name, "sha256": piece.sha256, "pairs": len(piece.indices)}
        for piece in target.pieces
    ]
    done.append({"operation": operation, "relo_version": __version__, "from": made_from})
    attributes |= {"scene": target.scene, "split": target.split}
    attributes |= {"sources": canonical_json(sources), REORGANISED: canonical_json(done)}
    if schema.QUARANTINED in attributes:
        attributes[schema.QUARANTINED] = canonical_json(left_out)
    if MASK_SOURCE in attributes:
        attributes[MASK_SOURCE] = canonical_json(_mask_source(target))
    attributes.pop(REWRITTEN_FROM, None)
    if len(shards) == 1:
        attributes[REWRITTEN_FROM] = target.pieces[0].sha256
    return attributes


def _mask_source(target: Target) -> dict[str, Any]:
    """`mask_source` with the imported masks of those pairs that are there."""
    imported: dict[str, Any] = {}
    for piece in target.pieces:
        entries = _json(piece.shard, MASK_SOURCE, {}).get("imported", {})
        names = [piece.shard.ids[index] for index in piece.indices]
        imported |= {name: entries[name] for name in names if name in entries}
    return {**_json(target.pieces[0].shard, MASK_SOURCE, {}), "imported": imported}


def joinable(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Group pieces of a scene that one shard can hold: equal size, storage, calibration, settings and sources."""
    groups: list[tuple[str, dict[str, str], list[Piece]]] = []
    for piece in pieces:
        key, sources = _storage(piece.shard), _json(piece.shard, "sources", {})
        for other, known, members in groups:
            if key == other and all(known.get(name, value) == value for name, value in sources.items()):
                members.append(piece)
                known.update(sources)
                break
        else:
            groups.append((key, dict(sources), [piece]))
    return [members for _, _, members in groups]


def _storage(shard: Shard) -> str:
    """Hash over all that the shards of one file share: everything but the images, /pairs and `_JOINED`."""
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update("\0".join(map(str, values)).encode() + b"\n")

    def add_item(name: str, item: h5py.Group | h5py.Dataset) -> None:
        add(name, *sorted((key, str(value)) for key, value in item.attrs.items()))
        if name in _STACKED:
            plan = item.id.get_create_plist()
            filters = [plan.get_filter(number) for number in range(plan.get_nfilters())]
            add(name, item.dtype, item.shape[1:], item.chunks, filters)
        elif isinstance(item, h5py.Dataset):
            add(name, item.dtype, item.shape[1:] if name == "pairs" else item.shape)
            if name != "pairs":
                digest.update(np.ascontiguousarray(item[()]).tobytes())

    add(*sorted((key, str(value)) for key, value in shard.file.attrs.items() if key not in (*_JOINED, "split")))
    source = _json(shard, MASK_SOURCE, {})
    add(canonical_json({key: value for key, value in source.items() if key != "imported"}))
    shard.file.visititems(add_item)
    return digest.hexdigest()


def _json(shard: Shard, name: str, default: Any) -> Any:
    """A JSON attribute of a shard."""
    try:
        return json.loads(shard.file.attrs.get(name, "null")) or default
    except (ValueError, TypeError) as error:
        advice = "Copy or make the shard again."
        raise ShardError(f"has a damaged attribute {name}", file=shard.path, advice=advice) from error
