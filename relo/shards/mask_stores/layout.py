"""Masks beside the frames of the ReLoBlur layout: a PNG a pair, written at once, and a table `masks.json`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relo import __version__, atomic
from relo.capture.session import Problem
from relo.errors import ReloError, ShardError
from relo.images import PNG_SIGNATURE, ImageError, read_image
from relo.masks.external import read_mask, write_mask
from relo.masks.quality import PAPER_COVERAGE, MaskQuality, mask_flags, mask_quality
from relo.progress import Progress
from relo.provenance import library_versions
from relo.shards.layouts.reloblur import LayoutPair, base_folder, find_pairs, mask_path
from relo.shards.mask_stores.base import ImportedFrom, NewMask

FORMAT = "relo-masks"
TABLE = "masks.json"


@dataclass(frozen=True)
class LayoutSample:
    """One pair of a layout folder; images are read when asked for.

    Attributes
    ----------
    pair : LayoutPair
    mask_file : Path
        There or not.
    """

    pair: LayoutPair
    mask_file: Path

    @property
    def scene(self) -> str:
        """Name of the scene, "sNN/MM"."""
        return self.pair.scene

    @property
    def split(self) -> str:
        """Split, "train" or "test"."""
        return self.pair.split

    @property
    def id(self) -> str:
        """Name within the scene."""
        return self.pair.id

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return frame_kind(self.pair.blur)[:2]

    @property
    def blur(self) -> np.ndarray:
        """(H, W, 3) uint8 or uint16."""
        return read_image(self.pair.blur)

    @property
    def sharp(self) -> np.ndarray:
        """(H, W, 3) uint8 or uint16."""
        return read_image(self.pair.sharp)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) uint8: 255 blurred, 0 not."""
        return read_mask(self.mask_file, self.size).mask

    @property
    def valid(self) -> np.ndarray:
        """(H, W) uint8, all 255: published frames hold nothing else."""
        return np.full(self.size, 255, np.uint8)


class LayoutMasks:
    """Masks of a folder in the ReLoBlur layout; see `MaskStore`.

    Parameters
    ----------
    src : Path
    out : Path, optional
        Folder that gets or has `masks/`; the one that holds `dataset` if not given.
    """

    def __init__(self, src: Path, out: Path | None) -> None:
        self.src = src
        found, self.problems = find_pairs(src)
        self._out = out or base_folder(src)
        self.location = self._out / "masks"
        self.pairs = [LayoutSample(pair, mask_path(pair, self._out)) for pair in found]
        self._entries = _read_table(self.location / TABLE)

    @property
    def fingerprint(self) -> str:
        """Hash over the frames' names and sizes in bytes."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            for path in (pair.pair.blur, pair.pair.sharp):
                digest.update(f"{_key(pair)} {path.name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def groups(self) -> list[list[LayoutSample]]:
        """Pairs of one scene and one size; what cannot be read goes to `problems`."""
        found: dict[tuple[Any, ...], list[LayoutSample]] = {}
        for pair in self.pairs:
            try:
                kind = frame_kind(pair.pair.blur)
                partner = frame_kind(pair.pair.sharp)
                if kind != partner:
                    raise ImageError(
                        f"is {_said(partner)}, its partner {pair.pair.blur.name} is {_said(kind)}",
                        file=pair.pair.sharp,
                        advice="Copy both again, or take the pair out.",
                    )
            except ReloError as error:
                self.problems.append(Problem.from_error(error, pair.pair.blur, pair.scene, pair.id, "masks"))
            else:
                found.setdefault((pair.split, pair.scene, kind[:2]), []).append(pair)
        return list(found.values())

    def kept(self, pair: LayoutSample) -> bool:
        """Whether there is a mask that can be read, whoever made it; downloads have left empty files."""
        if not pair.mask_file.is_file():
            return False
        if self._entries.get(_key(pair), {}).get("sha256") == atomic.file_sha256(pair.mask_file):
            return True
        try:
            return pair.mask.size > 0
        except ReloError:
            return False

    def imported(self, pair: LayoutSample) -> ImportedFrom | None:
        """Where the mask was imported from, if it was."""
        entry = self._entries.get(_key(pair), {}).get("imported")
        return None if entry is None else ImportedFrom(**entry)

    def flags(self, pair: LayoutSample) -> tuple[str, ...]:
        """The flags in `masks.json`."""
        return tuple(self._entries.get(_key(pair), {}).get("flags", ()))

    def coverage(self, pair: LayoutSample) -> float:
        """The coverage in `masks.json`."""
        covered = self._entries.get(_key(pair), {}).get("covered")
        return math.nan if covered is None else float(covered)

    def put(self, pair: LayoutSample, new: NewMask) -> None:
        """Write the mask's file; the table follows at the end."""
        sha256 = write_mask(pair.mask_file, new.mask)
        self._entries[_key(pair)] = _entry(new.quality, new.imported, sha256)

    def checkpoint(self, recipe: Mapping[str, Any]) -> None:
        """Write `masks.json` as far as it is known."""
        for entry in self._entries.values():
            if entry["made_with"] is None and entry["imported"] is None:
                entry["made_with"] = dict(recipe)
        self._write_table()

    def commit(self, recipe: Mapping[str, Any] | None, progress: Progress | None = None) -> LayoutMasks:
        """Write `masks.json`; masks that it does not know, or not as they are, are measured for it."""
        if recipe is not None:
            self.checkpoint(recipe)
        for done, pair in enumerate(self.pairs, 1):
            self._measure(pair)
            if progress:
                progress(done, len(self.pairs), _key(pair))
        self._write_table()
        return LayoutMasks(self.src, self._out)

    def _measure(self, pair: LayoutSample) -> None:
        """Bring the pair's entry up to the file that is there."""
        key = _key(pair)
        if not pair.mask_file.is_file():
            self._entries.pop(key, None)
            return
        sha256 = atomic.file_sha256(pair.mask_file)
        if self._entries.get(key, {}).get("sha256") == sha256:
            return
        try:
            self._entries[key] = _entry(mask_quality(pair.mask), None, sha256, found=True)
        except ReloError as error:
            self._entries.pop(key, None)
            self.problems.append(Problem.from_error(error, pair.mask_file, pair.scene, pair.id, "masks"))

    def _write_table(self) -> None:
        path = self.location / TABLE
        known = self._entries
        table = {
            "format": FORMAT,
            "version": 1,
            "relo_version": __version__,
            "libraries": library_versions(),
            "paper_mean_coverage": PAPER_COVERAGE,
            "mean_coverage": _mean(entry["covered"] for entry in known.values()),
            "scenes": {
                scene: _scene_numbers([known[_key(pair)]["covered"] for pair in pairs if _key(pair) in known])
                for scene, pairs in self._scenes().items()
            },
            "pairs": known,
        }
        text = json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            atomic.write_text(path, text)
        except OSError as error:
            raise ReloError(
                f"cannot be written ({error.strerror or error})",
                file=path,
                advice="Mend that and run the same command again: it continues.",
            ) from error

    def _scenes(self) -> dict[str, list[LayoutSample]]:
        scenes: dict[str, list[LayoutSample]] = {}
        for pair in self.pairs:
            scenes.setdefault(f"{pair.split}/{pair.scene}", []).append(pair)
        return scenes


def frame_kind(path: Path) -> tuple[int, int, int]:
    """Height, width [px] and bits a channel of an image file; of a PNG the header says it.

    Raises
    ------
    ImageError
        The file is missing or cannot be decoded.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(25)
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})", file=path, advice="Check its rights.") from error
    if head.startswith(PNG_SIGNATURE) and len(head) == 25:
        width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
        return height, width, max(8, head[24])
    image = read_image(path)
    return image.shape[0], image.shape[1], 8 * image.dtype.itemsize


def _said(kind: tuple[int, int, int]) -> str:
    return f"{kind[1]}x{kind[0]} of {kind[2]} bits"


def _key(pair: LayoutSample) -> str:
    return f"{pair.split}/{pair.scene}/{pair.id}"


def _entry(
    quality: MaskQuality, imported: ImportedFrom | None, sha256: str, *, found: bool = False
) -> dict[str, Any]:
    """One entry of `masks.json`, which knows no NaN; `found` is a mask of unknown origin."""
    return {
        "covered": quality.covered,
        "agreement": quality.agreement if math.isfinite(quality.agreement) else None,
        "fragments": quality.fragments,
        "border": quality.border,
        "flags": list(mask_flags(quality)),
        "imported": None if imported is None else imported.as_dict(),
        "made_with": "unknown" if found else None,
        "sha256": sha256,
    }


def _read_table(path: Path) -> dict[str, dict[str, Any]]:
    """Entries of `masks.json`, by "split/scene/id"; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] == FORMAT and all(isinstance(entry, dict) for entry in table["pairs"].values()):
            return dict(table["pairs"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ShardError(
            "is damaged", file=path, advice="Remove it: the masks beside it are kept, and measured for a new one."
        ) from error
    raise ShardError("is no table of relo's", file=path, advice="Give another output folder.")


def _scene_numbers(covered: list[float]) -> dict[str, Any]:
    return {
        "pairs": len(covered),
        "mean_coverage": _mean(covered),
        "min_coverage": min(covered, default=None),
        "max_coverage": max(covered, default=None),
    }


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
