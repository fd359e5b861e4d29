"""Change shards that are finished: a copy is edited and takes the place of the original at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relo import atomic, locks
from relo.errors import ConfigError, ShardError
from relo.parallel import lost_interrupts
from relo.progress import Progress
from relo.shards import schema, tiles
from relo.shards.card import has_card, write_card
from relo.shards.reader import Shard, close_files, open_dataset, read_index

Edit = Callable[[h5py.File, Shard], None]

# Attribute of a rewritten shard: the SHA-256 of the file it was made from.
REWRITTEN_FROM = "rewritten_from"


@dataclass
class RewriteResult:
    """What became of the shards.

    Attributes
    ----------
    out : Path
        Folder they are in.
    shards : list of Path
        All of them.
    done, skipped : int
        Pairs of the shards that were edited, and of those that were left as they were.
    """

    out: Path
    shards: list[Path] = field(default_factory=list)
    done: int = 0
    skipped: int = 0


def rewrite_shards(
    root: str | Path,
    out: str | Path | None,
    edit: Edit,
    *,
    skip: Callable[[Shard], bool] | None = None,
    progress: Progress | None = None,
) -> RewriteResult:
    """Apply `edit` to every shard of a dataset folder, or to a single shard.

    A shard is copied under its temporary name, edited there, and renamed: it is either the old or the new one.
    `dataset.json` follows after each shard in place, and at the end in a new folder; what was interrupted in place
    continues with the same call.

    Parameters
    ----------
    root : path
        A dataset folder or an `.h5` file. The index beside a single file follows too, where it lists that file.
    out : path or None
        A new folder, which also gets `quarantine.jsonl`; None changes the shards in place.
    edit : callable (file, shard)
        Changes the open copy `file`; reads frames of the original from `shard`.
    skip : callable (shard) -> bool, optional
        Shards that need no edit: left alone in place, copied to a new folder.
    progress : callable (pairs done, pairs in all, file), optional
        Called after each shard.

    Returns
    -------
    RewriteResult

    Raises
    ------
    ReloError
        `root` is no dataset, a shard's checksum is not the recorded one, `out` holds other files, another process
        writes there, or the disk is full.
    """
    root = Path(root)
    source = root if root.is_dir() else root.parent
    out = source if out is None else Path(out)
    in_place = out.resolve() == source.resolve()
    shards = open_dataset(root).shards
    close_files()
    if out.exists() and not out.is_dir():
        raise ConfigError("is a file, the output must be a folder", file=out)
    existed = out.is_dir()
    try:
        with atomic.writing_to(out, "Mend that and run the same command again."), locks.locked(out):
            if not in_place:
                _refuse_others(out, shards)
            return _rewrite_all(source, out, shards, _index(root, source, in_place), edit, skip, progress)
    except BaseException:
        if not existed:
            with suppress(OSError):  # it is of use
                out.rmdir()
        raise
    finally:
        close_files()


def set_columns(file: h5py.File, columns: Mapping[str, Sequence[Any]]) -> None:
    """Replace columns of /pairs in an open shard; those that an older relo did not know are added.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    columns : mapping of column -> N values
        Columns of `relo.shards.schema.PAIR_DTYPE`.
    """
    old = file["pairs"][()]
    kept = [(name, old.dtype[name]) for name in old.dtype.names if name not in (schema.PAIR_DTYPE.names or ())]
    table = np.zeros(len(old), np.dtype(schema.PAIR_DTYPE.descr + kept))
    for name in table.dtype.names or ():
        if name in columns:
            table[name] = columns[name]
        elif name in old.dtype.names:
            table[name] = old[name]
        elif table.dtype[name].kind == "f":
            table[name] = np.nan
    unknown = set(columns) - set(table.dtype.names or ())
    if unknown:
        raise KeyError(f"/pairs has no column {', '.join(sorted(unknown))}")
    attributes = dict(file["pairs"].attrs)
    del file["pairs"]
    file.create_dataset("pairs", data=table).attrs.update(attributes)


def _index(root: Path, source: Path, in_place: bool) -> dict[str, Any] | None:
    """Index that has to follow; None where a single file stands for itself."""
    if root.is_dir():
        return read_index(source)
    if in_place and (source / schema.DATASET_FILE).is_file():
        index = read_index(source)
        if _entry(index, root.name) is not None:
            return index
    return None


def _entry(index: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    entries = [] if index is None else index["shards"]
    return next((entry for entry in entries if isinstance(entry, dict) and entry.get("file") == name), None)


def _refuse_others(out: Path, shards: Sequence[Shard]) -> None:
    """Let only a folder pass that is empty or holds what a run that was killed has left of the same shards."""
    ours = {shard.path.name for shard in shards}
    ours |= {atomic.part_name(Path(name)).name for name in ours}
    foreign = [path.name for path in sorted(out.iterdir()) if path.name not in ours and path.name[0] != "."]
    if foreign:
        raise ConfigError(
            f"holds other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''})",
            file=out,
            advice="Give a new or empty folder.",
        )


def _rewrite_all(
    source: Path,
    out: Path,
    shards: Sequence[Shard],
    index: dict[str, Any] | None,
    edit: Edit,
    skip: Callable[[Shard], bool] | None,
    progress: Progress | None,
) -> RewriteResult:
    in_place = out.resolve() == source.resolve()
    result = RewriteResult(out)
    total = sum(shard.count for shard in shards)
    made: list[Path] = []
    try:
        with lost_interrupts() as check:
            for shard in shards:
                target = out / shard.path.name
                entry = _entry(index, shard.path.name)
                unchanged = skip is not None and skip(shard)
                atomic.part_name(target).unlink(missing_ok=True)  # of a run that was killed
                if not in_place:
                    made.append(target)
                sha256 = _checked_sha256(shard, entry)
                if in_place and entry is not None and entry.get("sha256") != sha256:
                    entry["sha256"] = sha256  # of a shard that a run had finished when it was killed
                    _write_index(out, index)
                if not in_place or not unchanged:
                    sha256 = _rewrite(shard, target, sha256, None if unchanged else edit)
                if entry is not None:
                    entry["sha256"] = sha256
                    if in_place:
                        _write_index(out, index)
                result.shards.append(target)
                result.skipped += shard.count if unchanged else 0
                result.done += 0 if unchanged else shard.count
                check()
                if progress:
                    progress(result.done + result.skipped, total, target.name)
        if not in_place and index is not None:
            quarantine = source / schema.QUARANTINE_FILE
            if quarantine.is_file():
                made.append(out / schema.QUARANTINE_FILE)
                atomic.write_text(made[-1], quarantine.read_text(encoding="utf-8"))
            _write_index(out, index)
    except BaseException:
        for path in made:  # without its index a new folder is of no use
            path.unlink(missing_ok=True)
        raise
    if index is not None and has_card(source):
        with suppress(ShardError):  # of a shard that was not asked for
            write_card(out)
    return result


def _rewrite(shard: Shard, target: Path, before: str, edit: Edit | None) -> str:
    """Make `target` from `shard`, whose SHA-256 is `before`; return the SHA-256 of `target`."""
    size = shard.path.stat().st_size
    # The copy, and one more set of images: noise does not compress.
    height, width = shard.size
    atomic.require_space(target.parent, size + shard.count * height * width * 3 * shard.bits // 8)
    with atomic.unfinished(target) as part:
        shutil.copyfile(shard.path, part)
        if edit is not None:
            with _opened(part) as file:
                edit(file, shard)
                file.flush()
                set_columns(
                    file, {"sha256": [tiles.stored_sha256(file, index).encode() for index in range(shard.count)]}
                )
                file.attrs[REWRITTEN_FROM] = before
        close_files()  # or readers here would go on with the old file
        return atomic.file_sha256(part)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """A shard open for writing; an error of the body is not replaced by one of closing."""
    file = h5py.File(path, "r+")
    try:
        yield file
        file.close()
    except BaseException:
        with suppress(OSError, RuntimeError):  # of a write that failed before
            file.close()
        raise


def _checked_sha256(shard: Shard, entry: dict[str, Any] | None) -> str:
    """SHA-256 of a shard, which must be the recorded one: a new checksum would hide that a file is damaged.

    Of a run that was killed between a shard and its index the shard says itself which file it was made from.
    """
    sha256 = atomic.file_sha256(shard.path)
    if entry is not None and entry.get("sha256") not in (sha256, shard.attrs.get(REWRITTEN_FROM)):
        advice = "It is damaged, or not the file it was: copy it again, or run 'relo process' again."
        raise ShardError(f"has another sha256 than {schema.DATASET_FILE} says", file=shard.path, advice=advice)
    return sha256


def _write_index(out: Path, index: dict[str, Any] | None) -> None:
    text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    atomic.write_text(out / schema.DATASET_FILE, text)
