"""A dataset folder that is about to be written: whether it may be, and with what it was begun."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from relo.errors import ConfigError, ShardError
from relo.shards import schema
from relo.shards.card import CARD_FILE, has_card
from relo.shards.reader import Shard, close_files, read_index

_WRITTEN = (schema.DATASET_FILE, schema.QUARANTINE_FILE, schema.REPORT_FILE)
_SHARD_NAME = re.compile(r".+-\d{3,}\.h5")


def prepare_folder(
    out: Path, config: Mapping[str, Any], config_sha256: str, *, overwrite: bool = False, shared: bool = False
) -> None:
    """Make sure that `out` is ours to write to; remove what a run that was stopped has left unfinished.

    Parameters
    ----------
    out : Path
        A folder, locked by the caller.
    config, config_sha256
        Settings of what is going to be written; a dataset of other settings is refused.
    overwrite : bool
        Remove an earlier dataset instead.
    shared : bool
        Others write here, too: what is unfinished may be theirs and stays.

    Raises
    ------
    ReloError
        The folder holds other files, or a dataset of other settings.
    """
    refuse_foreign(out)
    if overwrite:
        _refuse_other_index(out)
    for path in sorted(out.iterdir()):
        if _is_ours(path) and (overwrite or (path.suffix == ".part" and not shared)):
            path.unlink()
    if overwrite:
        return
    earlier = _earlier_config(out)
    if earlier is not None and earlier.sha256 != config_sha256:
        differing = differences(earlier.settings, config)
        raise ConfigError(
            f"was made with other settings ({'; '.join(differing[:4]) or 'of another version'})",
            file=earlier.file,
            advice="Give another output folder, or --overwrite.",
        )


def refuse_foreign(out: Path) -> None:
    """Raise a ConfigError where a folder without `dataset.json` holds anything but what relo writes."""
    foreign = [path.name for path in sorted(out.iterdir()) if not _is_ours(path) and path.name[0] != "."]
    if foreign and not (out / schema.DATASET_FILE).is_file():
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise ConfigError(f"holds other files ({shown})", file=out, advice="Give a new or empty folder.")


def remove_stale(out: Path, keep: Iterable[Path], config_sha256: str) -> None:
    """Remove shards in `out` that were made with the same settings, of sources that are no longer there."""
    keep = set(keep)
    for path in sorted(out.glob("*.h5")):
        if path not in keep and _SHARD_NAME.fullmatch(path.name):
            try:
                same = Shard.open(path).attrs["config_sha256"] == config_sha256
            except ShardError:
                continue  # whatever it is, it is not listed
            finally:
                close_files()
            if same:
                path.unlink()


def file_stems(scenes: Iterable[str]) -> dict[str, str]:
    """Names for files of each scene: "s01/00" -> "s01_00", different also where case does not count.

    A scene whose name another one has taken gets the first digits of its hash.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for scene in sorted(scenes):
        stem = re.sub(r"[^\w.-]+", "_", scene)[:80].lstrip(".") or "scene"
        if stem.lower() in taken:
            stem += "-" + hashlib.sha256(scene.encode()).hexdigest()[:8]
        taken.add(stem.lower())
        stems[scene] = stem
    return stems


def storable(name: str) -> bool:
    """Whether a scene or a pair can be called that: readers refuse names that lead out of a folder."""
    return name.isprintable() and "\\" not in name and not name.startswith("/") and ".." not in name.split("/")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, as "stage.key: old -> new"."""
    found = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


def _is_ours(path: Path) -> bool:
    """Tell by its name, and of a card by its text, whether relo writes `path`, finished or not."""
    name = path.name.removesuffix(".part")
    if name == CARD_FILE:
        return path.suffix == ".part" or has_card(path.parent)
    return name in _WRITTEN or _SHARD_NAME.fullmatch(name) is not None


def _refuse_other_index(out: Path) -> None:
    """Nothing may be removed beside a `dataset.json` that is not relo's; a damaged one may be ours."""
    try:
        read_index(out)
    except ShardError as error:
        if isinstance(error.__cause__, ValueError) or not (out / schema.DATASET_FILE).is_file():
            return
        raise


class _EarlierConfig(NamedTuple):
    sha256: str
    settings: dict[str, Any]
    file: Path


def _earlier_config(out: Path) -> _EarlierConfig | None:
    """Settings that the folder's index, or else one of its shards, was made with; None in a new folder."""
    if (out / schema.DATASET_FILE).is_file():
        index = read_index(out)
        settings = dict(index.get("config") or {})
        return _EarlierConfig(str(index.get("config_sha256")), settings, out / schema.DATASET_FILE)
    path = min((path for path in out.glob("*.h5") if _is_ours(path)), default=None)
    if path is None:
        return None
    try:
        attrs = Shard.open(path).attrs
        return _EarlierConfig(str(attrs["config_sha256"]), dict(attrs["config"]), path)
    except (ShardError, KeyError, ValueError, TypeError) as error:
        advice = "Remove it, or give another output folder."
        raise ShardError("is no readable shard", file=path, advice=advice) from error
    finally:
        close_files()


def check_output(out: Path, sources: Iterable[Path]) -> None:
    """Raise a ConfigError where `out` is a file or one of `sources`."""
    if out.exists() and not out.is_dir():
        raise ConfigError("is a file, the output must be a folder", file=out)
    for source in sources:
        if out.resolve() == source.resolve():
            raise ConfigError("is the source itself", file=out, advice="Give another output folder.")
