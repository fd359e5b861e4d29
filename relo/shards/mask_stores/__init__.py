"""Where masks are kept: shards, or a folder of images; both are read and changed by the same calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relo.errors import ReloError
from relo.shards import schema
from relo.shards.mask_stores.base import ImportedFrom, MaskPair, MaskStore, NewMask

__all__ = ["ImportedFrom", "MaskPair", "MaskStore", "NewMask", "open_masks"]


def open_masks(src: str | Path, out: str | Path | None = None) -> MaskStore[Any]:
    """Open the masks of a dataset folder, of one shard, or of a folder in the ReLoBlur layout.

    Parameters
    ----------
    src : path
    out : path, optional
        Where new masks go; in place if not given. Shards are copied there, of a layout only the masks.

    Raises
    ------
    ReloError
        `src` is none of these.
    """
    src = Path(src)
    destination = None if out is None else Path(out)
    if not src.exists():
        raise ReloError("does not exist", file=src, advice="Give a dataset folder or one in the ReLoBlur layout.")
    if src.is_file() or (src / schema.DATASET_FILE).is_file():
        from relo.shards.mask_stores.shards import ShardMasks

        return ShardMasks(src, destination)
    from relo.shards.mask_stores.layout import LayoutMasks

    return LayoutMasks(src, destination)
