"""Datasets made from datasets: what goes in is checked, what comes out is written as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relo import atomic, locks
from relo.config import canonical_json
from relo.errors import ConfigError, ShardError
from relo.parallel import lost_interrupts
from relo.progress import Progress
from relo.shards import schema
from relo.shards.folder import check_output, prepare_folder, refuse_foreign
from relo.shards.index import read_quarantine, shard_entry, write_index
from relo.shards.reader import Shard, close_files, open_dataset, read_index
from relo.shards.rearranging.copy_pairs import Piece, Target, write_target


@dataclass
class Reorganised:
    """What became of the shards.

    Attributes
    ----------
    out : Path
    shards : list of Path
    done, skipped, dropped : int
        Pairs in `out` that were copied now, that were there before, and that were left out on demand.
    notes : list of str
    """

    out: Path
    shards: list[Path] = field(default_factory=list)
    done: int = 0
    skipped: int = 0
    dropped: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Input:
    """A dataset folder, or a single shard, with what its index says."""

    root: Path
    shards: tuple[Shard, ...]
    index: Mapping[str, Any]
    quarantine: tuple[dict[str, Any], ...]
    fingerprint: str

    @classmethod
    def open(cls, root: Path) -> Input:
        """Open `root`; nothing is checked against the recorded checksums yet."""
        dataset = open_dataset(root)
        index: Mapping[str, Any] = read_index(root) if root.is_dir() else {}
        quarantine = tuple(read_quarantine(root)) if root.is_dir() else ()
        return cls(root, tuple(dataset.shards), index, quarantine, dataset.fingerprint)

    @property
    def splits(self) -> dict[str, str]:
        """Split of each scene."""
        return {shard.scene: shard.split for shard in self.shards}

    def checked_sha256(self, shard: Shard) -> str:
        """SHA-256 of a shard, which must be the recorded one: a new checksum would hide that a file is damaged."""
        recorded = {entry["file"]: entry["sha256"] for entry in self.index.get("shards", [])}
        sha256 = atomic.file_sha256(shard.path)
        if recorded.get(shard.path.name, sha256) != sha256:
            advice = "It is damaged, or not the file it was: copy it again."
            raise ShardError(f"has another sha256 than {schema.DATASET_FILE} says", file=shard.path, advice=advice)
        return sha256

    def whole(self, shard: Shard) -> Piece:
        """All pairs of one of the shards."""
        return Piece(shard, tuple(range(shard.count)), self.checked_sha256(shard))

    @property
    def lines(self) -> list[str]:
        """Lines of `quarantine.jsonl`."""
        return [json.dumps(entry, sort_keys=True) for entry in self.quarantine]


@dataclass
class Job:
    """What is to be written: everything but the files themselves."""

    operation: str
    arguments: dict[str, Any]
    inputs: Sequence[Input]
    targets: list[Target]
    quarantine: list[str]
    licence: str = ""
    dropped: int = 0


def open_inputs(sources: Sequence[str | Path], out: str | Path) -> list[Input]:
    """Open every source of a reorganisation that writes to `out`, another folder."""
    roots = [Path(source) for source in sources]
    check_output(Path(out), [root if root.is_dir() else root.parent for root in roots])
    close_files()  # a handle from before would hide what has happened to its file since
    inputs = [Input.open(root) for root in roots]
    for item in inputs:
        torn = {shard.scene for shard in item.shards if item.splits[shard.scene] != shard.split}
        if torn:
            raise ShardError(f"has scene '{min(torn)}' in two splits", file=item.root, advice="Make it again.")
    return inputs


def _config(job: Job) -> dict[str, Any]:
    """Settings of the result: what was done, and with which settings the sources were made."""
    sources = [
        {
            "fingerprint": item.fingerprint,
            "config_sha256": str(item.index.get("config_sha256", "")),
            "config": item.index.get("config") or {},
        }
        for item in job.inputs
    ]
    return {"operation": job.operation, "arguments": job.arguments, "sources": sources}


def run_job(job: Job, out: Path, overwrite: bool, progress: Progress | None) -> Reorganised:
    """Write the targets and their index; a new folder that cannot be finished is left empty."""
    config = _config(job)
    sha256 = hashlib.sha256(canonical_json(config).encode()).hexdigest()
    total = sum(target.count for target in job.targets)
    result = Reorganised(out, [out / target.file for target in job.targets], dropped=job.dropped)
    try:
        with atomic.writing_to(out, "Mend that and run the same command again."), locks.locked(out):
            if _is_done(out, job.targets, config, sha256, overwrite):
                result.skipped = total
                return result
            paths = {piece.shard.path for target in job.targets for piece in target.pieces}
            atomic.require_space(out, sum(path.stat().st_size for path in paths) * 21 // 20)
            _write(out, job, config, sha256, progress)
            result.done = total
    finally:
        close_files()
    return result


def _write(out: Path, job: Job, config: Mapping[str, Any], sha256: str, progress: Progress | None) -> None:
    total = sum(target.count for target in job.targets)
    done = 0
    entries = []
    try:
        with lost_interrupts() as check:
            for target in job.targets:
                write_target(out, target, job.operation)
                entries.append(shard_entry(out / target.file, target.scene, target.split, target.count))
                done += target.count
                check()
                if progress:
                    progress(done, total, target.file)
    except BaseException:
        for target in job.targets:  # without its index a new folder is of no use
            (out / target.file).unlink(missing_ok=True)
        raise
    write_index(
        out,
        entries,
        config=config,
        config_sha256=sha256,
        quarantine_lines=job.quarantine,
        licence=job.licence or _joined(job.inputs, "licence"),
        origin=_joined(job.inputs, "origin"),
    )


def _joined(inputs: Sequence[Input], key: str) -> str:
    """What the sources say, each once; where some say nothing, that, too."""
    said = [str(item.index.get(key, "")) or "unknown" for item in inputs]
    return "" if set(said) == {"unknown"} else "; ".join(dict.fromkeys(said))


def _is_done(out: Path, targets: Sequence[Target], config: Mapping[str, Any], sha256: str, overwrite: bool) -> bool:
    """Make sure `out` is ours to write to; tell whether all is there already."""
    if overwrite or (out / schema.DATASET_FILE).is_file():
        prepare_folder(out, config, sha256, overwrite=overwrite)
        if overwrite:
            return False
        recorded = {entry["file"]: entry["sha256"] for entry in read_index(out)["shards"]}
        paths = [out / target.file for target in targets]
        return all(path.is_file() and atomic.file_sha256(path) == recorded.get(path.name) for path in paths)
    refuse_foreign(out)
    planned = {target.file for target in targets}
    for path in sorted(out.iterdir()):  # of a run that was killed, or somebody else's
        name = path.name.removesuffix(".part")
        if path.suffix in (".h5", ".part") and name not in planned and name.endswith(".h5"):
            raise ConfigError(f"holds other files ({path.name})", file=out, advice="Give a new or empty folder.")
    for name in planned:
        (out / name).unlink(missing_ok=True)
        atomic.part_name(out / name).unlink(missing_ok=True)
    return False
