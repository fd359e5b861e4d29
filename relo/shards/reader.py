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
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import hdf5plugin  # noqa: F401 - registers the compression filters
import numpy as np

from relo.errors import ShardError
from relo.shards import probe, schema, stored
from relo.shards.checks import ADVICE
from relo.shards.stored import TileReader

if TYPE_CHECKING:
    from relo.postprocess.flow.model import FlowModel

_MAX_OPEN = 16
_LARGEST_FLOW_PX = 1e6
_IMAGES = (*schema.IMAGES, "mask", "valid")


@dataclass
class _Handle:
    """An open file: what it was when it was opened, and the datasets that have been read."""

    file: h5py.File
    stamp: probe.Stamp
    datasets: dict[str, tuple[h5py.Dataset, TileReader | None]] = field(default_factory=dict)


_Key = tuple[int, str]  # process and path: a forked child must not share its parent's handles
_open_files: OrderedDict[_Key, _Handle] = OrderedDict()
# What has been checked stays checked when a file is closed to make room for another, and in forked children.
_tile_readers: dict[str, tuple[probe.Stamp, dict[str, TileReader]]] = {}


def _handle(path: Path) -> _Handle:
    """Handle of a shard that belongs to this process."""
    key = (os.getpid(), str(path))
    if key in _open_files:
        _open_files.move_to_end(key)
        return _open_files[key]
    stamp = probe.file_stamp(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "cannot be opened as HDF5: missing, damaged or half copied"
        raise ShardError(reason, file=path, advice=ADVICE) from error
    _open_files[key] = handle = _Handle(file, stamp)
    while len(_open_files) > _MAX_OPEN:
        (process, _), oldest = _open_files.popitem(last=False)
        if process == os.getpid():
            oldest.file.close()
    return handle


def _dataset(path: Path, name: str) -> tuple[h5py.Dataset, TileReader | None]:
    """Dataset `name`, and what checks its tiles before they are decoded; None where opening has checked all."""
    handle = _handle(path)
    if name not in handle.datasets:
        dataset = handle.file[name]
        handle.datasets[name] = dataset, _tile_reader(path, handle, name, dataset) if name != "valid" else None
    return handle.datasets[name]


def _tile_reader(path: Path, handle: _Handle, name: str, dataset: h5py.Dataset) -> TileReader:
    key = str(path)
    if key not in _tile_readers or _tile_readers[key][0] != handle.stamp:
        _tile_readers[key] = handle.stamp, {}
    readers = _tile_readers[key][1]
    if name not in readers:
        readers[name] = TileReader(dataset)
    return readers[name]


def _forget_changed(path: Path) -> None:
    """Close a file that is not what it was when this process opened it."""
    key = (os.getpid(), str(path))
    if key in _open_files and _open_files[key].stamp != probe.file_stamp(path):
        _open_files.pop(key).file.close()


def close_files() -> None:
    """Close every shard this process holds open."""
    while _open_files:
        (process, _), handle = _open_files.popitem()
        if process == os.getpid():
            handle.file.close()
    _tile_readers.clear()


@contextmanager
def _reading(path: Path, what: str = "the file") -> Iterator[None]:
    """HDF5 answers damage with many kinds of error; here they become one that names the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"{what} cannot be decoded: the file is damaged"
        raise ShardError(reason, file=path, advice=ADVICE) from error


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
        probe.require_sound(path)
        _forget_changed(path)
        with _reading(path):
            file = _handle(path).file
            height, width = file["valid"].shape
            ids = tuple(name.decode() for name in file["pairs"]["id"])
            return cls(path, file.attrs["scene"], file.attrs["split"], len(ids), (height, width), ids)

    @property
    def file(self) -> h5py.File:
        """Open HDF5 file of this process; do not keep it."""
        return _handle(self.path).file

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
        with _reading(self.path):
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
        from relo.postprocess.flow.model import FlowModel

        with _reading(self.path):
            group = self.file.get("calibration/flow")
            if group is None:
                return None
            residual = self._residual(group["residual"]) if "residual" in group else None
            height, width = (int(value) for value in group.attrs["shape"])
            coefficients = np.asarray(group["coefficients"][()])
            if not (np.abs(coefficients) < _LARGEST_FLOW_PX).all():
                raise ValueError("no rig is that far off")
            return FlowModel(
                shape=(height, width),
                coefficients=coefficients,
                residual=residual,
                method=_plain(group.attrs["method"]),
                note=_plain(group.attrs["note"]),
            )

    @property
    def flow(self) -> np.ndarray:
        """(H, W, 2) float32 flow from camera S to camera B at sensor resolution [px]; zero for imported data."""
        from relo.postprocess.flow.model import FlowModel

        model = self.flow_model
        return (FlowModel.identity(self.size) if model is None else model).dense()

    def _residual(self, dataset: h5py.Dataset) -> np.ndarray:
        """Dense rest of the flow; too large to have been decoded when the shard was opened."""
        if dataset.chunks is not None:
            stored.check_small(dataset, stored.index_tiles(dataset, self.path.stat().st_size))
        return np.asarray(dataset[()])


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
        with _reading(self.shard.path, f"pair {self.id}"):
            handle = _handle(self.shard.path)
            if name in handle.datasets or (name in _IMAGES and name in handle.file):
                return self._window(name, y, x, height, width)
        raise KeyError(f"the shard has no '{name}'")

    def _read(self, name: str) -> np.ndarray:
        with _reading(self.shard.path, f"pair {self.id}"):
            return self._window(name, 0, 0, *self.size)

    def _window(self, name: str, y: int, x: int, height: int, width: int) -> np.ndarray:
        dataset, reader = _dataset(self.shard.path, name)
        if reader is None:
            return np.asarray(dataset[y : y + height, x : x + width])
        return reader.read(dataset, self.index, y, x, height, width)


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
    except (ValueError, RecursionError) as error:
        advice = "Run 'relo process' with --overwrite."
        raise ShardError(f"is no valid JSON ({error})", file=path, advice=advice) from error
    except OSError as error:
        raise ShardError(f"cannot be read ({error.strerror})", file=path, advice="Check its rights.") from error
    if not isinstance(index, dict) or index.get("format") != schema.DATASET_FORMAT:
        raise ShardError("is no index of a relo dataset", file=path)
    if index.get("version") != schema.DATASET_VERSION or not isinstance(index.get("shards"), list):
        found = ascii(index.get("version"))[:40]
        raise ShardError(f"has version {found}, expected {schema.DATASET_VERSION}", file=path)
    return index


def listed_file(root: Path, entry: Any) -> Path:
    """Path of a shard that `dataset.json` lists, within the folder `root`.

    Raises
    ------
    ShardError
        The entry names no file, or one outside of the folder.
    """
    name = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
        reason = f"lists a shard without file: {ascii(name)[:60]} is no file of this folder"
        raise ShardError(reason, file=root / schema.DATASET_FILE, advice=ADVICE)
    return root / name


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
        files = [listed_file(path, entry) for entry in entries]
        checksums = [entry.get("sha256") for entry in entries]
        if not all(isinstance(sha256, str) and sha256.isascii() for sha256 in checksums):
            raise ShardError("lists a shard without file or sha256", file=path / schema.DATASET_FILE, advice=ADVICE)
        shards = [Shard.open(file) for file in files]
        fingerprint = hashlib.sha256(" ".join(checksums).encode()).hexdigest()
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
