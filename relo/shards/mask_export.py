"""Masks out to files that an image editor opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from relo import __version__, atomic
from relo.capture.session import Problem
from relo.errors import ConfigError, ReloError
from relo.images import write_image
from relo.masks.external import write_mask
from relo.progress import Progress
from relo.shards.mask_stores import MaskPair, MaskStore

FORMAT = "relo-mask-export"
MANIFEST = "masks.json"
OVERLAY_END = "_overlay"


@dataclass
class ExportResult:
    """Number of masks that were written, and the pairs without one."""

    done: int = 0
    problems: list[Problem] = field(default_factory=list)


def export_masks(
    store: MaskStore[Any],
    folder: Path,
    overlay: Callable[[MaskPair], np.ndarray],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write `<scene>/<id>_mask.png`, `<scene>/<id>_overlay.png` and `masks.json` to `folder`.

    Parameters
    ----------
    store : MaskStore
    folder : Path
    overlay : callable
        Gives the (H, W, 3) uint8 picture of a pair that shows its mask on the blurred frame.
    overwrite : bool
        Write into a folder that holds files; what was drawn there is lost.
    progress : callable (done, total, what), optional

    Raises
    ------
    ReloError
        The folder holds files, or cannot be written; two pairs have one name.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is a file, masks go to a folder", file=folder)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ConfigError(
            "is not empty",
            file=folder,
            advice="Give a new folder, or --overwrite: masks drawn there are then lost.",
        )
    with atomic.writing_to(folder, "Mend that and run the same command with --overwrite."):
        return _export(store, folder, overlay, progress)


def _export(
    store: MaskStore[Any], folder: Path, overlay: Callable[[MaskPair], np.ndarray], progress: Progress | None
) -> ExportResult:
    result = ExportResult()
    masks: dict[str, dict[str, Any]] = {}
    for done, pair in enumerate(store.pairs, 1):
        name = f"{file_stem(pair)}_mask.png"
        if name in masks:
            raise ReloError(f"holds two pairs that are called {pair.scene}/{pair.id}", file=store.src)
        try:
            mask, picture = pair.mask, overlay(pair)
        except ReloError as error:
            result.problems.append(Problem.from_error(error, store.src, pair.scene, pair.id, "export"))
        else:
            sha256 = write_mask(folder / name, mask)
            write_image(folder / f"{file_stem(pair)}{OVERLAY_END}.png", picture)
            masks[name] = {"scene": pair.scene, "split": pair.split, "id": pair.id, "sha256": sha256}
            result.done += 1
        if progress:
            progress(done, len(store.pairs), f"{pair.scene}/{pair.id}")
    manifest = {
        "format": FORMAT,
        "version": 1,
        "relo_version": __version__,
        "dataset": store.src.resolve().name,
        "fingerprint": store.fingerprint,
        "masks": masks,
    }
    atomic.write_text(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return result


def file_stem(pair: MaskPair) -> str:
    """`scene/id` as a path below a folder, never out of it."""
    path = PurePosixPath(pair.scene) / pair.id
    if path.is_absolute() or ".." in path.parts:
        raise ReloError(f"'{path}' is no name for a file", advice="Give the scene and the pair other names.")
    return str(path)
