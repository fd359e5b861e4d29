"""Several dataset folders become one; scenes that contradict each other are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from relo.errors import ConfigError
from relo.progress import Progress
from relo.shards.folder import file_stems, storable
from relo.shards.reader import Shard
from relo.shards.rearranging.copy_pairs import Piece, Target
from relo.shards.rearranging.job import Job, Reorganised, open_inputs, run_job


def merge_datasets(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    prefixes: Sequence[str] = (),
    licence: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Reorganised:
    """Put the shards of several dataset folders into one.

    Parameters
    ----------
    sources : sequence of path
    out : path
        A new folder.
    prefixes : sequence of str, optional
        Put before the scenes' names, one a source: sessions tend to call their scenes alike.
    licence : str
        Of the result; those of the sources if not given.
    overwrite : bool
        Replace an earlier dataset.
    progress : callable (pairs done, pairs in all, file), optional

    Raises
    ------
    ReloError
        Scenes of one name contradict each other: other split, other frame size, or different pairs of one name.
    """
    if len(sources) < 2:
        raise ConfigError("merge needs two or more datasets")
    if prefixes and len(prefixes) != len(sources):
        raise ConfigError(f"{len(sources)} sources need as many --prefix, one each ('' for none)")
    for prefix in prefixes:
        if not storable(f"{prefix}x"):
            raise ConfigError(f"--prefix '{prefix}': no scene can be called that")
    inputs = open_inputs(sources, out)
    prefixes = prefixes or [""] * len(inputs)
    targets: list[Target] = []
    quarantine: list[str] = []
    seen = _Seen()
    names = _FileNames(shard.path.name for item in inputs for shard in item.shards)
    stems = file_stems({p + s.scene for item, p in zip(inputs, prefixes, strict=True) for s in item.shards})
    for number, (item, prefix) in enumerate(zip(inputs, prefixes, strict=True)):
        for shard in item.shards:
            scene = prefix + shard.scene
            chosen = seen.new_pairs(number, scene, shard)
            if chosen:
                name = names.free(stems[scene]) if prefix else names.take(shard.path.name, stems[scene])
                piece = Piece(shard, chosen, item.checked_sha256(shard))
                targets.append(Target(name, scene, shard.split, (piece,)))
        for entry in item.quarantine:
            scene = f"{prefix}{entry['scene']}" if entry.get("scene") else ""
            line = json.dumps({**entry, "scene": scene}, sort_keys=True)
            quarantine += [] if line in quarantine else [line]
    targets.sort(key=lambda target: (target.scene, target.file))
    job = Job("merge", {"prefixes": list(prefixes)}, inputs, targets, quarantine, licence)
    result = run_job(job, Path(out), overwrite, progress)
    if seen.repeated:
        result.notes.append(f"{seen.repeated} pairs were in several sources, equal to the bit, and are there once")
    return result


class _Seen:
    """Pairs and scenes that were met, to find those that contradict each other."""

    def __init__(self) -> None:
        self.repeated = 0
        self._scenes: dict[str, dict[int, set[tuple[int, int]]]] = {}
        self._splits: dict[str, str] = {}
        self._pairs: dict[tuple[str, str], bytes] = {}

    def new_pairs(self, source: int, scene: str, shard: Shard) -> tuple[int, ...]:
        """Indices of the pairs of `shard` that were not met before."""
        advice = "If they are different scenes, tell them apart with --prefix."
        if self._splits.setdefault(scene, shard.split) != shard.split:
            reason = f"has scene '{scene}' in split {shard.split}, another source in {self._splits[scene]}"
            raise ConfigError(reason, file=shard.path, advice=f"{advice} Else 'relo shards split' moves scenes.")
        sizes = self._scenes.setdefault(scene, {})
        sizes.setdefault(source, set()).add(shard.size)
        others = set().union(*(found for number, found in sizes.items() if number != source))
        if others and shard.size not in others:
            height, width = min(others)
            reason = (
                f"has scene '{scene}' with {shard.size[1]}x{shard.size[0]}, another source with {width}x{height}"
            )
            raise ConfigError(reason, file=shard.path, advice=advice)
        table, chosen = shard.pairs, []
        hashed = "sha256" in (table.dtype.names or ())
        for index, name in enumerate(shard.ids):
            row = table[index].tobytes()
            if self._pairs.setdefault((scene, name), row) is row:
                chosen.append(index)
            elif hashed and table["sha256"][index] and self._pairs[scene, name] == row:
                self.repeated += 1
            else:
                raise ConfigError(
                    f"has another pair {scene}/{name} than a source before", file=shard.path, advice=advice
                )
        return tuple(chosen)


class _FileNames:
    """Names of files, each given once."""

    def __init__(self, all_names: Iterable[str]) -> None:
        self._known = {name.lower() for name in all_names}
        self._given: set[str] = set()

    def take(self, name: str, stem: str) -> str:
        """`name`, or a free one of `stem` if it was given before."""
        if name.lower() in self._given:
            return self.free(stem)
        self._given.add(name.lower())
        return name

    def free(self, stem: str) -> str:
        """`stem`-000.h5 and so on: the first that no source has and that was not given."""
        number = 0
        while (name := f"{stem}-{number:03d}.h5").lower() in self._known | self._given:
            number += 1
        self._given.add(name.lower())
        return name
