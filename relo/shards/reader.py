"""Read shards: lazily, a window at a time, safe under fork and spawn.

A shard's file is opened in the process that reads it, at its first access; at most a few stay open.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the compression filters
import numpy as np

from relo.errors import ShardError
from relo.postprocess.flow.model import FlowModel
from relo.shards import schema

_MAX_OPEN = 16
_open_files: OrderedDict[tuple[int, str], h5py.File] = OrderedDict()


def _file(path: Path) -> h5py.File:
    """Handle of a shard that belongs to this process: a forked child must not share its parent's."""
    key = (os.getpid(), str(path))
    if key in _open_files:
        _open_files.move_to_end(key)
        return _open_files[key]
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ShardError(
            "cannot be opened as HDF5: missing, damaged or half copied", file=path, advice="Copy or make it again."
        ) from error
    _open_files[key] = file
    while len(_open_files) > _MAX_OPEN:
        (process, _), oldest = _open_files.popitem(last=False)
        if process == os.getpid():
            oldest.close()
    return file


def close_files() -> None:
    """Close every shard this process holds open."""
    while _open_files:
        (process, _), file = _open_files.popitem()
        if process == os.getpid():
            file.close()


@contextmanager
def _reading(path: Path, what: str = "the file") -> Iterator[None]:
    """HDF5 answers damage with many kinds of error; here they become one that names the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        advice = "Delete this shard and process again."
        raise ShardError(f"{what} cannot be decoded: the file is damaged", file=path, advice=advice) from error


@dataclass(frozen=True)
class Shard:
    """One shard file.

    Attributes
    ----------
    path : Path
    scene, split : str
    count : int
        Number of pairs.
    size : (H, W)
    ids : tuple of str
    """

    path: Path
    scene: str
    split: str
    count: int
    size: tuple[int, int]
    ids: tuple[str, ...]

    @classmethod
    def open(cls, path: str | Path) -> Shard:
        """Check the structure of the file at `path`.

        Raises
        ------
        ShardError
            It is no shard, of another version, or its datasets do not fit together.
        """
        path = Path(path)
        with _reading(path):
            return cls._checked(path, _file(path))

    @classmethod
    def _checked(cls, path: Path, file: h5py.File) -> Shard:
        if file.attrs.get("format") != schema.FORMAT:
            raise ShardError("is no relo shard (attribute format is missing)", file=path)
        if file.attrs.get("version") != schema.VERSION:
            raise ShardError(
                f"has format version {file.attrs.get('version')}, this relo reads version {schema.VERSION}",
                file=path,
                advice="Install the relo version that made it, or process again.",
            )
        missing = [name for name in ("blur", "sharp", "mask", "valid", "pairs") if name not in file]
        missing += [name for name in ("scene", "split", "config_sha256") if name not in file.attrs]
        if missing:
            raise ShardError(f"lacks {', '.join(missing)}", file=path, advice="Make the shard again.")
        shape = file["blur"].shape
        count, size = len(file["pairs"]), tuple(file["valid"].shape)
        expected = {"blur": (count, *size, 3), "sharp": (count, *size, 3), "mask": (count, *size)}
        if "short" in file:
            expected["short"] = (count, *size, 3)
        wrong = [name for name, wanted in expected.items() if file[name].shape != wanted]
        if len(shape) != 4 or wrong or "id" not in (file["pairs"].dtype.names or ()):
            raise ShardError(f"has {', '.join(wrong) or 'pairs'} of a wrong shape", file=path)
        ids = tuple(name.decode() for name in file["pairs"]["id"])
        height, width = size
        return cls(path, str(file.attrs["scene"]), str(file.attrs["split"]), count, (height, width), ids)

    @property
    def file(self) -> h5py.File:
        """Open HDF5 file of this process; do not keep it."""
        return _file(self.path)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes as plain Python values; `config`, `sources` and `libraries` decoded from JSON."""
        with _reading(self.path):
            attrs = {name: _plain(value) for name, value in self.file.attrs.items()}
            for name in ("config", "sources", "libraries"):
                if name in attrs:
                    attrs[name] = json.loads(attrs[name])
            return attrs

    @property
    def pairs(self) -> np.ndarray:
        """(N,) table of the numbers of each pair, see `relo.shards.schema.PAIR_DTYPE`."""
        return np.asarray(self.file["pairs"][()])

    @property
    def bits(self) -> int:
        """Depth of the images, 8 or 16."""
        return 8 * int(self.file["blur"].dtype.itemsize)

    @property
    def valid(self) -> np.ndarray:
        """(H, W) uint8: 255 where both cameras see."""
        with _reading(self.path):
            return np.asarray(self.file["valid"][()])

    @property
    def flow_model(self) -> FlowModel | None:
        """Geometric calibration that was applied to the blurred frames; None for imported data."""
        with _reading(self.path):
            group = self.file.get("calibration/flow")
            if group is None:
                return None
            residual = np.asarray(group["residual"][()]) if "residual" in group else None
            height, width = (int(value) for value in group.attrs["shape"])
            return FlowModel(
                shape=(height, width),
                coefficients=np.asarray(group["coefficients"][()]),
                residual=residual,
                method=_plain(group.attrs["method"]),
                note=_plain(group.attrs["note"]),
            )

    @property
    def flow(self) -> np.ndarray:
        """(H, W, 2) float32 flow from camera S to camera B at sensor resolution [px]; zero for imported data."""
        model = self.flow_model
        return (FlowModel.identity(self.size) if model is None else model).dense()


@dataclass(frozen=True)
class Sample:
    """One pair of a shard; every image is read when asked for.

    Attributes
    ----------
    shard : Shard
    index : int
        Position within the shard.
    """

    shard: Shard
    index: int

    @property
    def id(self) -> str:
        """Name of the pair within its scene."""
        return self.shard.ids[self.index]

    @property
    def scene(self) -> str:
        """Name of the scene."""
        return self.shard.scene

    @property
    def split(self) -> str:
        """Split the scene belongs to."""
        return self.shard.split

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.shard.size

    @property
    def blur(self) -> np.ndarray:
        """(H, W, 3) uint8 or uint16, sRGB-encoded: camera B, corrected and aligned."""
        return self._read("blur")

    @property
    def sharp(self) -> np.ndarray:
        """(H, W, 3) uint8 or uint16, sRGB-encoded: camera S."""
        return self._read("sharp")

    @property
    def short(self) -> np.ndarray | None:
        """(H, W, 3) synthetic short exposure, or None."""
        return self._read("short") if "short" in self.shard.file else None

    @property
    def mask(self) -> np.ndarray:
        """(H, W) uint8: 255 where camera B saw motion blur, else 0."""
        return self._read("mask")

    @property
    def valid(self) -> np.ndarray:
        """(H, W) uint8: 255 where both cameras see."""
        return self.shard.valid

    @property
    def row(self) -> dict[str, Any]:
        """This pair's numbers in /pairs as plain Python values."""
        with _reading(self.shard.path):
            record = self.shard.file["pairs"][self.index]
            return {name: _plain(record[name]) for name in record.dtype.names}

    def crop(self, name: str, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Read only the window [y, y + height) x [x, x + width) of "blur", "sharp", "short", "mask" or "valid"."""
        rows, columns = slice(y, y + height), slice(x, x + width)
        if y < 0 or x < 0 or y + height > self.size[0] or x + width > self.size[1]:
            raise IndexError(f"window {rows}, {columns} leaves the frame of {self.size}")
        if name not in self.shard.file:
            raise KeyError(f"the shard has no '{name}'")
        with _reading(self.shard.path, f"pair {self.id}"):
            if name == "valid":
                return np.asarray(self.shard.file["valid"][rows, columns])
            return np.asarray(self.shard.file[name][self.index, rows, columns])

    def _read(self, name: str) -> np.ndarray:
        with _reading(self.shard.path, f"pair {self.id}"):
            return np.asarray(self.shard.file[name][self.index])


class Dataset:
    """Every pair of a dataset folder, in order of shard and position.

    Parameters
    ----------
    root : Path
    shards : list of Shard
    fingerprint : str
        Hash that changes when any shard changes.
    """

    def __init__(self, root: Path, shards: list[Shard], fingerprint: str) -> None:
        self.root = root
        self.shards = shards
        self.fingerprint = fingerprint

    @cached_property
    def _samples(self) -> list[tuple[int, int]]:
        return [(number, index) for number, shard in enumerate(self.shards) for index in range(shard.count)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        number, position = self._samples[index]
        return Sample(self.shards[number], position)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @property
    def scenes(self) -> list[str]:
        """Names of the scenes, sorted."""
        return sorted({shard.scene for shard in self.shards})

    @property
    def splits(self) -> list[str]:
        """Names of the splits, sorted."""
        return sorted({shard.split for shard in self.shards})

    def select(self, *, split: str | None = None, scenes: list[str] | None = None) -> Dataset:
        """The part of the dataset that belongs to `split` and to `scenes`."""
        shards = [
            shard
            for shard in self.shards
            if (split is None or shard.split == split) and (scenes is None or shard.scene in scenes)
        ]
        return Dataset(self.root, shards, self.fingerprint)


def read_index(root: Path) -> dict[str, Any]:
    """Content of a dataset folder's `dataset.json`.

    Raises
    ------
    ShardError
        It is missing or no index of this version.
    """
    path = root / schema.DATASET_FILE
    if not path.is_file():
        raise ShardError(
            f"holds no {schema.DATASET_FILE}", file=root, advice="Give a folder that 'relo process' has made."
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        advice = "Run 'relo process' with --overwrite."
        raise ShardError(f"is no valid JSON ({error})", file=path, advice=advice) from error
    if not isinstance(index, dict) or index.get("format") != schema.DATASET_FORMAT:
        raise ShardError("is no index of a relo dataset", file=path)
    if index.get("version") != schema.DATASET_VERSION or not isinstance(index.get("shards"), list):
        raise ShardError(f"has version {index.get('version')}, expected {schema.DATASET_VERSION}", file=path)
    return index


def open_dataset(path: str | Path, split: str | None = None) -> Dataset:
    """Open a dataset folder, or a single shard.

    Parameters
    ----------
    path : path
        A folder with `dataset.json`, or an `.h5` file.
    split : str, optional
        Only the shards of this split.

    Raises
    ------
    ShardError
        The path is no dataset, a shard is missing or damaged, or no shard belongs to `split`.
    """
    path = Path(path)
    if path.is_dir():
        entries = read_index(path)["shards"]
        try:
            files = [(path / entry["file"], str(entry["sha256"])) for entry in entries]
        except (TypeError, KeyError) as error:
            raise ShardError("lists a shard without file or sha256", file=path / schema.DATASET_FILE) from error
        outside = next((file for file, _ in files if file.parent != path), None)
        if outside is not None:
            raise ShardError(f"lists '{outside}', a file of another folder", file=path / schema.DATASET_FILE)
        shards = [Shard.open(file) for file, _ in files]
        fingerprint = hashlib.sha256(" ".join(sha256 for _, sha256 in files).encode()).hexdigest()
        dataset = Dataset(path, shards, fingerprint)
    elif path.is_file():
        shard = Shard.open(path)
        dataset = Dataset(path.parent, [shard], str(shard.file.attrs["config_sha256"]))
    else:
        raise ShardError("does not exist", file=path, advice="Give the folder that 'relo process' has made.")
    if split is not None:
        splits = dataset.splits
        dataset = dataset.select(split=split)
        if not dataset.shards:
            raise ShardError(f"has no split '{split}' (it has: {', '.join(splits) or 'none'})", file=path)
    return dataset


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
