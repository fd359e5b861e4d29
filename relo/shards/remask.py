"""Compute blur masks anew, scene by scene, wherever masks are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from relo import __version__
from relo.capture.session import Problem
from relo.errors import ReloError
from relo.images import ImageError
from relo.masks.config import MaskConfig
from relo.masks.scene import scene_masks
from relo.progress import Progress
from relo.shards.mask_stores import MaskPair, MaskStore, NewMask

P = TypeVar("P", bound=MaskPair)


@dataclass
class MaskRun(Generic[P]):
    """What became of the masks.

    Attributes
    ----------
    store : MaskStore
        As it is now.
    done, skipped : int
        Pairs that got a mask, and that kept theirs.
    problems : list of Problem
        Pairs that could not be read.
    """

    store: MaskStore[P]
    done: int
    skipped: int
    problems: list[Problem]


class _UnreadableError(Exception):
    """A pair that has to be left out."""

    def __init__(self, pair: Any, error: ReloError) -> None:
        super().__init__(str(error))
        self.pair = pair
        self.error = error


def make_masks(
    store: MaskStore[P], config: MaskConfig, *, overwrite: bool = False, progress: Progress | None = None
) -> MaskRun[P]:
    """Compute the mask of every pair and store it; a pair that cannot be read is left out and told.

    Memory: the frames that `relo.masks` keeps of a scene, and of shards the masks, compressed.

    Parameters
    ----------
    store : MaskStore
    config : MaskConfig
    overwrite : bool
        Replace masks that are otherwise kept: imported ones in shards, any file in a layout.
    progress : callable (pairs done, pairs in all, what), optional

    Raises
    ------
    ReloError
        The masks cannot be written.
    """
    # The static pair is in neither place at full size; what is recorded should say so.
    config = config.model_copy(update={"static": False})
    recipe = {
        "method": config.method,
        "config": config.model_dump(mode="json"),
        "relo_version": __version__,
    }
    groups = store.groups()
    problems = list(store.problems)
    total = sum(len(group) for group in groups)
    before = done = skipped = 0
    for group in groups:
        kept = set() if overwrite else {pair for pair in group if store.kept(pair)}
        if len(kept) < len(group):
            made = _group_masks(store, group, kept, config, problems, progress, (before, total))
            done += len(made)
            store.checkpoint(recipe)
        skipped += len(kept)
        before += len(group)
    known = len(store.problems)
    after = store.commit(recipe, progress)
    return MaskRun(after, done, skipped, [*problems, *store.problems[known:]])


def mask_summary(store: MaskStore[Any]) -> dict[str, Any]:
    """Numbers of all masks in `store`: pairs, masks, mean coverage [0, 1] or None, pairs by mask flag."""
    coverage = [store.coverage(pair) for pair in store.pairs]
    finite = [value for value in coverage if np.isfinite(value)]
    flags = Counter(flag for pair in store.pairs for flag in store.flags(pair) if flag.startswith("mask-"))
    return {
        "pairs": len(store.pairs),
        "masks": len(finite),
        "mean_coverage": float(np.mean(finite)) if finite else None,
        "flags": dict(sorted(flags.items())),
        "imported": sum(store.imported(pair) is not None for pair in store.pairs),
    }


def _group_masks(
    store: MaskStore[P],
    group: list[P],
    kept: set[P],
    config: MaskConfig,
    problems: list[Problem],
    progress: Progress | None,
    counts: tuple[int, int],
) -> set[P]:
    """Masks of one scene; return the pairs that got one.

    A pair that turns out unreadable must not be part of any background: the scene is then begun again without it.
    """
    before, total = counts
    usable = list(group)
    while usable:
        made: set[P] = set()
        try:
            for finished, (pair, found) in enumerate(scene_masks(usable, _read, config, valid=usable[0].valid), 1):
                if pair not in kept:
                    store.put(pair, NewMask(found.mask, found.quality, None))
                    made.add(pair)
                if progress:
                    progress(before + finished, total, f"{pair.scene}/{pair.id}")
            return made
        except _UnreadableError as unreadable:
            usable.remove(unreadable.pair)
            pair, error = unreadable.pair, unreadable.error
            problems.append(Problem.from_error(error, Path(pair.scene), pair.scene, pair.id, "masks"))
    return set()


def _read(pair: MaskPair) -> tuple[np.ndarray, np.ndarray]:
    try:
        blur, sharp = pair.blur, pair.sharp
        if not blur.shape[:2] == sharp.shape[:2] == pair.size:
            raise ImageError(f"pair {pair.id} of {pair.scene} has frames of several sizes")
    except ReloError as error:
        raise _UnreadableError(pair, error) from error
    return blur, sharp
