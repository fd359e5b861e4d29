"""The files beside the shards: `quarantine.jsonl`, `dataset.json` and the card, written nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from relo import __version__, atomic
from relo.capture.session import Problem
from relo.errors import ShardError
from relo.shards import schema
from relo.shards.card import write_card
from relo.shards.reader import close_files


def shard_entry(path: Path, scene: str, split: str, pairs: int) -> dict[str, Any]:
    """Entry of a finished shard in `dataset.json`."""
    return {
        "file": path.name,
        "scene": scene,
        "split": split,
        "pairs": pairs,
        "sha256": atomic.file_sha256(path),
        "schema_version": schema.VERSION,
    }


def quarantine_line(problem: Problem, root: Path) -> str:
    """Line of `quarantine.jsonl`; the file is named within `root` where it lies there."""
    file = problem.file
    entry = asdict(problem)
    entry["file"] = (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
    return json.dumps(entry, sort_keys=True)


def write_index(
    out: Path,
    entries: Sequence[Mapping[str, Any]],
    *,
    config: Mapping[str, Any],
    config_sha256: str,
    quarantine_lines: Iterable[str],
    licence: str = "",
    origin: str = "",
) -> bool:
    """Write `quarantine.jsonl`, `dataset.json` and the card; tell whether one of them is new.

    Files that hold what they should are left alone. A `README.md` that is not relo's stays.

    Parameters
    ----------
    out : Path
        Dataset folder, which holds the shards.
    entries : sequence of mapping
        Of `shard_entry`, in the order in which the dataset is read.
    config, config_sha256
        Settings of whatever has made the shards.
    quarantine_lines : iterable of str
        Of `quarantine_line`.
    licence : str
        Of the frames; empty where nobody said.
    origin : str
        What the shards were made from, in words, and nothing that only this machine knows.
    """
    close_files()  # handles of files that have been replaced
    lines = [line.rstrip("\n") + "\n" for line in quarantine_lines]
    index = {
        "format": schema.DATASET_FORMAT,
        "version": schema.DATASET_VERSION,
        "relo_version": __version__,
        "config_sha256": config_sha256,
        "config": dict(config),
        "quarantined": len(lines),
        "licence": licence,
        "origin": origin,
        "shards": [dict(entry) for entry in entries],
    }
    texts = {
        schema.QUARANTINE_FILE: "".join(lines),
        schema.DATASET_FILE: json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
    }
    changed = False
    for name, text in texts.items():
        path = out / name
        changed |= not path.is_file() or path.read_bytes() != text.encode()
        atomic.write_text(path, text)
    return write_card(out) or changed


def read_quarantine(root: Path) -> list[dict[str, str]]:
    """Lines of `quarantine.jsonl` of a dataset folder; empty where there is none.

    Returns
    -------
    list of dict
        Keys scene, pair, file, stage, reason, advice; "" where a line lacks one.

    Raises
    ------
    ShardError
        A line is no JSON object.
    """
    keys = ("scene", "pair", "file", "stage", "reason", "advice")
    entries = []
    for number, entry in quarantine_entries(root):
        if entry is None:
            raise ShardError(
                f"line {number} is no JSON object",
                file=root / schema.QUARANTINE_FILE,
                advice="Mend the line, or run 'relo process' again.",
            )
        entries.append({key: str(entry.get(key) or "") for key in keys})
    return entries


def quarantine_entries(root: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, entry) of `quarantine.jsonl`, as it stands there; None for what is no JSON object."""
    path = root / schema.QUARANTINE_FILE
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        yield number, entry if isinstance(entry, dict) else None
