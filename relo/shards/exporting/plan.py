"""Which file each image of a dataset goes to in a public layout, and what their names cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from relo import __version__
from relo.errors import ConfigError, ShardError
from relo.shards import schema
from relo.shards.importing.config import ONES
from relo.shards.layouts import pairs, reloblur, webdataset
from relo.shards.layouts.manifest import FORMAT, file_name, file_names, scene_folders
from relo.shards.reader import Dataset, Sample, read_index

Layout = Literal["reloblur", "pairs", "webdataset"]
LAYOUTS: tuple[Layout, ...] = ("reloblur", "pairs", "webdataset")

_Key = tuple[str, str]


@dataclass(frozen=True)
class ExportPlan:
    """What an export is going to write.

    Attributes
    ----------
    dataset : Dataset
    layout : {"reloblur", "pairs", "webdataset"}
    masks : bool
        Whether masks are written; not where every one of them stands for none.
    folders : mapping of scene -> folder
    files : mapping of (scene, id) -> name
        Of a file without ending, or the key in a tar file.
    tars : mapping of file -> its samples
        Of webdataset, else empty.
    """

    dataset: Dataset
    layout: Layout
    masks: bool
    folders: Mapping[str, str]
    files: Mapping[_Key, str]
    tars: Mapping[Path, Sequence[Sample]]

    def roles(self, sample: Sample) -> list[str]:
        """Images of a sample that are written: "blur", "sharp", "short", "mask"."""
        there = [role for role in schema.IMAGES if role in sample.shard.file]
        return [*there, "mask"] if self.masks else there

    def key(self, sample: Sample) -> str:
        """Name of a sample's members in a tar file, up to their first dot."""
        return self.files[sample.scene, sample.id]

    def paths(self, sample: Sample) -> dict[str, Path]:
        """File of each image of a sample, below the output folder."""
        place = reloblur.frame_paths if self.layout == "reloblur" else pairs.frame_paths
        found = place(sample.split, self.folders[sample.scene], self.key(sample))
        return {role: found[role] for role in self.roles(sample)}

    def all_files(self) -> list[str]:
        """Every file, below the output folder."""
        paths = self.tars or [path for sample in self.dataset for path in self.paths(sample).values()]
        return sorted(path.as_posix() for path in paths)


def make_export_plan(dataset: Dataset, layout: Layout, pairs_a_tar: int) -> ExportPlan:
    """Name every file.

    Raises
    ------
    ReloError
        The dataset is empty, has two pairs of one name, or splits that the layout does not know.
    """
    if not len(dataset):
        raise ShardError("holds no pair", file=dataset.root)
    other = [split for split in dataset.splits if split not in reloblur.SPLITS]
    if other and layout != "webdataset":
        known = ", ".join(reloblur.SPLITS)
        advice = "Export one split with --split, or move its scenes with 'relo shards split'."
        raise ConfigError(f"has a split '{other[0]}', the layout knows {known}", file=dataset.root, advice=advice)
    ids = _ids(dataset)
    masks = layout == "webdataset" or any(shard.file.attrs.get("mask_version") != ONES for shard in dataset.shards)
    if layout == "webdataset":
        return ExportPlan(dataset, layout, masks, {}, _keys(ids), _tars(dataset, pairs_a_tar))
    folders = scene_folders(ids, 2 if layout == "reloblur" else None)
    files = {(scene, name): file for scene, names in ids.items() for name, file in file_names(names).items()}
    return ExportPlan(dataset, layout, masks, folders, files, {})


def make_manifest(plan: ExportPlan, pairs_a_tar: int) -> dict[str, Any]:
    """Content of `relo-export.json`."""
    dataset = plan.dataset
    index = read_index(dataset.root) if (dataset.root / schema.DATASET_FILE).is_file() else {}
    versions = {shard.attrs.get("mask_version", "") for shard in dataset.shards}
    version = versions.pop() if len(versions) == 1 else ""
    tars = bool(plan.tars)
    return {
        "format": FORMAT,
        "version": 1,
        "relo_version": __version__,
        "layout": plan.layout,
        "fingerprint": dataset.fingerprint,
        "splits": dataset.splits,
        "pairs": len(dataset),
        "pairs_a_tar": pairs_a_tar if tars else None,
        "licence": str(index.get("licence", "")),
        "origin": str(index.get("origin", "")),
        "mask_version": version if isinstance(version, str) else "relo",
        "scenes": {folder: scene for scene, folder in sorted(plan.folders.items()) if folder != scene},
        "ids": {
            f"{plan.folders[scene]}/{file}": name
            for (scene, name), file in sorted(plan.files.items())
            if not tars and file != name
        },
        "files": plan.all_files(),
        "incomplete": [],
    }


def _ids(dataset: Dataset) -> dict[str, list[str]]:
    """Names of the pairs of each scene."""
    ids: dict[str, list[str]] = {}
    for shard in dataset.shards:
        ids.setdefault(shard.scene, []).extend(shard.ids)
    for scene, names in ids.items():
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ShardError(f"holds two pairs that are called {scene}/{twice}", file=dataset.root)
    return ids


def _keys(ids: Mapping[str, Sequence[str]]) -> dict[_Key, str]:
    """A key for each pair, without dots and different from all others."""
    wanted = {
        (scene, name): f"{file_name(scene)}-{file_name(name)}" for scene in sorted(ids) for name in ids[scene]
    }
    keys: dict[_Key, str] = {}
    taken: set[str] = set()
    for pair, first in wanted.items():
        key, number = first, 0
        while key.lower() in taken:
            number += 1
            key = f"{first}-{number}"
        keys[pair] = key
        taken.add(key.lower())
    return keys


def _tars(dataset: Dataset, count: int) -> dict[Path, list[Sample]]:
    """Tar files of each split, `count` pairs each."""
    tars: dict[Path, list[Sample]] = {}
    for split in dataset.splits:
        samples = list(dataset.select(split=split))
        for number, start in enumerate(range(0, len(samples), count)):
            tars[webdataset.tar_path(file_name(split), number)] = samples[start : start + count]
    return tars
