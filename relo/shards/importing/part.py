"""One shard of an import: the unit of work, of resuming and of parallel execution."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from relo import __version__, atomic
from relo.capture.session import Problem
from relo.config import canonical_json, config_sha256
from relo.errors import ReloError, ShardError
from relo.images import ImageError, to_bytes
from relo.masks.quality import mask_flags, mask_quality
from relo.parallel import one_opencv_thread
from relo.shards import schema
from relo.shards.importing.config import ONES, ImportConfig
from relo.shards.importing.plan import Folders, Part, source_name
from relo.shards.index import quarantine_line
from relo.shards.layouts.files import LayoutPair, read_frame, read_mask
from relo.shards.mask_stores import ImportedFrom
from relo.shards.mask_stores.shards import MASK_SOURCE
from relo.shards.reader import Shard, close_files
from relo.shards.writer import ShardWriter


@dataclass(frozen=True)
class PartTask:
    """What `import_part` needs; small, and sent to other processes as it is.

    `folders` and `masks` are those of the plan.
    """

    part: Part
    config: ImportConfig
    folders: Folders
    masks: Path | None


@dataclass
class PartResult:
    """What became of one shard.

    Attributes
    ----------
    done, skipped : int
        Pairs stored now, and by an earlier run.
    grey : int
        Masks with values between 0 and their largest.
    problems : list of Problem
        Files are named as the shards' sources are.
    """

    done: int = 0
    skipped: int = 0
    grey: int = 0
    problems: list[Problem] = field(default_factory=list)


def import_part(task: PartTask, step: Callable[[str, int], None] | None = None) -> PartResult:
    """Make one shard, unless it is there already."""
    part, config = task.part, task.config
    tell = step or (lambda what, pairs: None)
    sources = _sources(task)
    earlier = _finished(task, sources)
    if earlier is not None:
        tell(part.scene, len(part.pairs))
        return earlier
    made = PartResult()
    imported: dict[str, dict[str, str]] = {}
    writer = ShardWriter(
        part.path,
        size=part.size,
        scene=part.scene,
        split=part.split,
        config=config.model_dump(mode="json"),
        config_sha256=config_sha256(config),
        sources=sources,
        bits=config.bits or part.bits,
        short=part.short,
        mask_version=config.masks.version,
    )
    try:
        with one_opencv_thread():
            for pair in part.pairs:
                try:
                    images, grey = _read(pair, part, config)
                except ReloError as error:
                    problem = Problem.from_error(error, pair.blur, pair.scene, pair.id, "read")
                    made.problems.append(located(problem, task.folders))
                else:
                    made.grey += grey
                    writer.append(pair.id, **images, row={} if pair.mask is None else _numbers(images["mask"]))
                    if pair.mask is not None and task.masks is not None:
                        name = source_name(pair.mask, (("", task.masks),))
                        sha256 = sources[source_name(pair.mask, task.folders)]
                        imported[pair.id] = ImportedFrom(task.masks.resolve().name, name, sha256).as_dict()
                tell(f"{pair.scene}/{pair.id}", 1)
        writer.file.attrs[MASK_SOURCE] = canonical_json(_mask_source(config, imported))
        lines = [quarantine_line(problem, Path()) for problem in made.problems]
        writer.file.attrs[schema.QUARANTINED] = f"[{', '.join(lines)}]"
        made.done = len(writer)
        if made.done:
            writer.finish()
        else:
            part.path.unlink(missing_ok=True)
    finally:
        writer.discard()  # no effect once published
    return made


def _sources(task: PartTask) -> dict[str, str]:
    """SHA-256 of every file of the part."""
    sources = {}
    for pair in task.part.pairs:
        for path in pair.files:
            try:
                sources[source_name(path, task.folders)] = atomic.file_sha256(path)
            except OSError:
                sources[source_name(path, task.folders)] = "unreadable"  # reading it will say why
    return sources


def _finished(task: PartTask, sources: Mapping[str, str]) -> PartResult | None:
    """What an earlier run has made of the same files with the same settings."""
    part = task.part
    if not part.path.is_file():
        return None
    try:
        shard = Shard.open(part.path)
        attrs = shard.attrs
        same = (attrs["config_sha256"], attrs["sources"], attrs["split"], attrs["scene"]) == (
            config_sha256(task.config),
            dict(sources),
            part.split,
            part.scene,
        )
        entries = json.loads(attrs[schema.QUARANTINED])
        problems = [Problem(**{**entry, "file": Path(entry["file"])}) for entry in entries]
        if not same or shard.count + len(problems) != len(part.pairs):
            return None
        return PartResult(skipped=shard.count, problems=problems)
    except (ShardError, KeyError, ValueError, TypeError):
        return None
    finally:
        close_files()


def _read(pair: LayoutPair, part: Part, config: ImportConfig) -> tuple[dict[str, np.ndarray], bool]:
    """Images of a pair at the shard's depth, and whether its mask holds grey levels."""
    images = {}
    for role, path in (("blur", pair.blur), ("sharp", pair.sharp), ("short", pair.short)):
        if path is not None:
            image = read_frame(path)
            if image.shape[:2] != part.size:
                raise ImageError("is of another size than its header says", file=path, advice="Copy it again.")
            images[role] = _at_depth(image, config.bits)
    if pair.mask is None:
        return images | {"mask": np.full(part.size, 255, np.uint8)}, False
    mask, grey = read_mask(pair.mask, part.size, config.masks.threshold)
    return images | {"mask": mask}, grey


def _at_depth(image: np.ndarray, bits: int | None) -> np.ndarray:
    """The image with `bits` bits, its own if None; 65535 = 255 * 257, so that 16 bits lose nothing."""
    if bits == 8:
        return to_bytes(image)
    if bits == 16 and image.dtype == np.uint8:
        return image.astype(np.uint16) * np.uint16(257)
    return image


def _numbers(mask: np.ndarray) -> dict[str, Any]:
    """Columns of /pairs that a mask alone can fill."""
    quality = mask_quality(mask)
    columns = {"mask_fragments": quality.fragments, "mask_border": quality.border}
    return columns | {"flags": ",".join(mask_flags(quality))}


def _mask_source(config: ImportConfig, imported: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Where the masks come from; imported ones are kept when `relo masks` computes masks anew."""
    method = ONES if config.masks.version == ONES else "published"
    settings = config.masks.model_dump(mode="json")
    return {"method": method, "config": settings, "relo_version": __version__, "imported": imported}


def located(problem: Problem, folders: Folders) -> Problem:
    """The problem with its file named as the shards' sources are."""
    return replace(problem, file=Path(source_name(problem.file, folders)))
