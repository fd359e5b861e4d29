"""Split, thin out and repack a dataset folder without reprocessing: no image is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from relo.capture.session import Problem
from relo.errors import ConfigError
from relo.progress import Progress
from relo.shards.config import Split, moved_splits
from relo.shards.folder import file_stems
from relo.shards.index import quarantine_line
from relo.shards.inspect import split_flags
from relo.shards.rearranging.copy_pairs import Piece, Target, joinable
from relo.shards.rearranging.job import Job, Reorganised, open_inputs, run_job


def split_dataset(
    src: str | Path,
    out: str | Path,
    wanted: Split,
    *,
    seed: int = 0,
    anew: bool = False,
    licence: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Reorganised:
    """Move scenes to other splits; a scene is in one split only.

    Parameters
    ----------
    src, out, licence, overwrite, progress
        As in `relo.shards.rearranging.merge.merge_datasets`.
    wanted : mapping of split -> scenes or share
        As in `relo.shards.config.moved_splits`.
    seed : int
        Of the shares.
    anew : bool
        Forget the present splits first: what is not named or drawn is in "train".
    """
    if not wanted:
        raise ConfigError("split needs --split", advice="For example --split test=0.2.")
    (item,) = open_inputs([src], out)
    splits = moved_splits(dict.fromkeys(item.splits, "train") if anew else item.splits, wanted, seed)
    targets = [Target(s.path.name, s.scene, splits[s.scene], (item.whole(s),)) for s in item.shards]
    arguments = {"split": dict(wanted), "seed": seed, "anew": anew}
    job = Job("split", arguments, [item], targets, item.lines, licence)
    return run_job(job, Path(out), overwrite, progress)


def drop_pairs(
    src: str | Path,
    out: str | Path,
    *,
    pairs: Sequence[str] = (),
    scenes: Sequence[str] = (),
    flags: Sequence[str] = (),
    listed: Sequence[str] = (),
    licence: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Reorganised:
    """Leave out pairs; `quarantine.jsonl` says which and by which rule.

    Parameters
    ----------
    src, out, licence, overwrite, progress
        As in `relo.shards.rearranging.merge.merge_datasets`.
    pairs : sequence of str
        Patterns of "scene/id", as in "desk/00*".
    scenes : sequence of str
        Patterns of scenes.
    flags : sequence of str
        Pairs with one of these flags in /pairs.
    listed : sequence of str
        "scene/id" or "scene", exactly.

    Raises
    ------
    ReloError
        A rule fits no pair, or nothing would be left.
    """
    (item,) = open_inputs([src], out)
    rules = [f"pair {glob}" for glob in pairs] + [f"scene {glob}" for glob in scenes]
    rules += [f"flag {flag}" for flag in flags] + [f"list {name}" for name in listed]
    if not rules:
        raise ConfigError("drop needs a rule", advice="Give --pair, --scene, --flag or --list.")
    used: set[str] = set()
    targets, lines = [], item.lines
    dropped = 0
    for shard in item.shards:
        kept = []
        for index, (name, flagged) in enumerate(zip(shard.ids, shard.pairs["flags"], strict=True)):
            fitting = [rule for rule in rules if _fits(rule, shard.scene, name, split_flags(flagged.decode()))]
            used.update(fitting)
            if fitting:
                reason, advice = (
                    f"was dropped on demand ({fitting[0]})",
                    "It is in the dataset this one was made from.",
                )
                problem = Problem(Path(shard.path.name), reason, advice, shard.scene, name, "drop")
                lines.append(quarantine_line(problem, Path()))
                dropped += 1
            else:
                kept.append(index)
        if kept:
            piece = Piece(shard, tuple(kept), item.checked_sha256(shard))
            targets.append(Target(shard.path.name, shard.scene, shard.split, (piece,)))
    unused = [rule for rule in rules if rule not in used]
    if unused:
        raise ConfigError(f"no pair fits '{unused[0]}'", file=item.root, advice="Look with 'relo inspect'.")
    if not targets:
        raise ConfigError("nothing would be left", file=item.root)
    job = Job("drop", {"rules": rules}, [item], targets, lines, licence, dropped)
    return run_job(job, Path(out), overwrite, progress)


def _fits(rule: str, scene: str, name: str, flags: Sequence[str]) -> bool:
    kind, _, wanted = rule.partition(" ")
    if kind == "flag":
        return wanted in flags
    if kind == "list":
        return wanted in (scene, f"{scene}/{name}")
    return fnmatchcase(scene if kind == "scene" else f"{scene}/{name}", wanted)


def reshard_dataset(
    src: str | Path,
    out: str | Path,
    count: int,
    *,
    licence: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Reorganised:
    """Store `count` pairs a shard at most; a shard still holds one scene.

    Shards of a scene that differ in size, storage, calibration or settings are not joined.

    Parameters
    ----------
    src, out, licence, overwrite, progress
        As in `relo.shards.rearranging.merge.merge_datasets`.
    count : int
    """
    (item,) = open_inputs([src], out)
    stems = file_stems(item.splits)
    targets = []
    for scene in sorted(item.splits):
        shards = [shard for shard in item.shards if shard.scene == scene]
        number = 0
        for group in joinable([item.whole(shard) for shard in shards]):
            flat = [(piece, index) for piece in group for index in piece.indices]
            for start in range(0, len(flat), count):
                pieces = _pieces(flat[start : start + count])
                targets.append(Target(f"{stems[scene]}-{number:03d}.h5", scene, item.splits[scene], pieces))
                number += 1
    job = Job("reshard", {"pairs": count}, [item], targets, item.lines, licence)
    return run_job(job, Path(out), overwrite, progress)


def _pieces(flat: Sequence[tuple[Piece, int]]) -> tuple[Piece, ...]:
    """Pairs in order, again as runs of one shard each."""
    found: dict[Path, tuple[Piece, list[int]]] = {}
    for piece, index in flat:
        found.setdefault(piece.shard.path, (piece, []))[1].append(index)
    return tuple(Piece(piece.shard, tuple(indices), piece.sha256) for piece, indices in found.values())
