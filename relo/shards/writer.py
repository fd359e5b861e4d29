"""Write one shard: pair by pair into `NAME.h5.part`, then fsync and rename."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from relo import __version__, atomic
from relo.config import canonical_json
from relo.provenance import library_versions
from relo.shards import schema, tiles


class ShardWriter:
    """Writer of one shard; a context manager that publishes on success and leaves nothing on failure.

    Parameters
    ----------
    path : path
        Final name, ending in `.h5`.
    size : (H, W)
        Of every frame.
    scene, split : str
    config : mapping
        The resolved configuration that made the frames; stored as JSON.
    config_sha256 : str
    sources : mapping of name -> sha256
        Every file the shard was made from, relative to the session.
    bits : {8, 16}
        Depth of the images.
    valid : (H, W) uint8 array, optional
        255 where both cameras see; all 255 if not given.
    short : bool
        Whether the shard holds synthetic short exposures.
    mask_version : int or str
        1 for masks that relo has computed, counted up by each change; a word for others ("v1", "ones").

    Examples
    --------
    >>> with ShardWriter(path, size=(4, 6), scene="desk", split="train") as writer:  # doctest: +SKIP
    ...     writer.append("0000", blur=blur, sharp=sharp, mask=mask)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int],
        scene: str,
        split: str,
        config: Mapping[str, Any] | None = None,
        config_sha256: str = "",
        sources: Mapping[str, str] | None = None,
        bits: int = 8,
        valid: np.ndarray | None = None,
        short: bool = False,
        mask_version: int | str = 1,
    ) -> None:
        self.path = Path(path)
        self.size = size
        self._rows: list[dict[str, Any]] = []
        self._digests: list[Any] = []  # of each pair's images; see `tiles.stored_sha256`
        self._dtype = schema.image_dtype(bits)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = atomic.part_name(self.path)
        self.file = h5py.File(self._part, "w")
        # Kept open: HDF5 stores what is pending when a dataset is closed, and a thread that looks at the frames of
        # others, as dask's profiler, would decide when that is, and so what bytes the file has.
        self._datasets: dict[str, h5py.Dataset] = {}
        names = schema.IMAGES if short else schema.IMAGES[:2]
        attributes = {
            "format": schema.FORMAT,
            "version": schema.VERSION,
            "scene": scene,
            "split": split,
            "relo_version": __version__,
            "libraries": canonical_json(library_versions()),
            "config": canonical_json(dict(config or {})),
            "config_sha256": config_sha256,
            "sources": canonical_json(dict(sources or {})),
            "mask_version": mask_version,
        }
        try:
            for name in names:
                self._datasets[name] = tiles.create_images(self.file, name, size, self._dtype)
            self._datasets["mask"] = tiles.create_masks(self.file, size)
            self.set_valid(np.full(size, 255, np.uint8) if valid is None else valid)
            self.file.attrs.update(attributes)
        except BaseException:
            self.discard()
            raise

    def __len__(self) -> int:
        return len(self._rows)

    def set_valid(self, valid: np.ndarray) -> None:
        """Store the (H, W) uint8 map of pixels that both cameras see."""
        if valid.shape != self.size or valid.dtype != np.uint8:
            raise ValueError(f"valid must be {self.size} uint8, got {valid.shape} {valid.dtype}")
        self._valid = np.where(valid > 0, np.uint8(255), np.uint8(0))
        if "valid" in self.file:
            del self.file["valid"]
        dataset = self.file.create_dataset("valid", data=valid, compression="gzip", compression_opts=4)
        self._datasets["valid"] = dataset
        self.file.flush()

    def append(
        self,
        pair_id: str,
        *,
        blur: np.ndarray,
        sharp: np.ndarray,
        mask: np.ndarray | None = None,
        short: np.ndarray | None = None,
        row: Mapping[str, Any] | None = None,
    ) -> int:
        """Append one pair and flush it; the mask may follow by `set_mask`.

        Parameters
        ----------
        pair_id : str
        blur, sharp, short : (H, W, 3) array of the shard's dtype
        mask : (H, W) uint8 array of 0 and 255
        row : mapping, optional
            Columns of /pairs that are known.

        Returns
        -------
        int
            Index of the pair in the shard.
        """
        if len(pair_id.encode()) > 64:
            raise ValueError(f"pair id {pair_id!r} is longer than 64 bytes")
        index = len(self._rows)
        images = {"blur": blur, "sharp": sharp} | ({"short": short} if "short" in self.file else {})
        checked: dict[str, np.ndarray] = {}
        for name, image in images.items():
            if image is None or image.shape != (*self.size, 3) or image.dtype != self._dtype:
                found = "none" if image is None else f"{image.shape} {image.dtype}"
                raise ValueError(f"{name} of pair {pair_id} must be {(*self.size, 3)} {self._dtype}, got {found}")
            checked[name] = image
        atomic.require_space(self.path.parent, 2 * len(images) * blur.nbytes)
        digest = hashlib.sha256()
        for name, image in checked.items():
            for data in tiles.write_image(self._datasets[name], index, image):
                digest.update(data)
        self._datasets["mask"].resize(index + 1, axis=0)
        self._rows.append(schema.empty_row(pair_id) | dict(row or {}))
        self._digests.append(digest)
        if mask is not None:
            self.set_mask(index, mask)
        self.file.flush()
        return index

    def read(self, name: str, index: int) -> np.ndarray:
        """Image or mask `index` of dataset `name`, as written so far."""
        return tiles.read_image(self._datasets[name], index)

    def set_mask(self, index: int, mask: np.ndarray) -> None:
        """Store the (H, W) uint8 mask of pair `index`; values other than 0 and 255 are refused."""
        if mask.shape != self.size or mask.dtype != np.uint8 or not ((mask == 0) | (mask == 255)).all():
            raise ValueError(f"mask must be {self.size} uint8 of 0 and 255, got {mask.shape} {mask.dtype}")
        self._datasets["mask"][index] = mask
        covered, seen = np.count_nonzero(mask & self._valid), np.count_nonzero(self._valid)
        self._rows[index]["blur_fraction"] = covered / seen if seen else 0.0

    def update_row(self, index: int, **columns: Any) -> None:
        """Fill columns of /pairs of pair `index`."""
        unknown = set(columns) - set(schema.PAIR_DTYPE.names or ())
        if unknown:
            raise KeyError(f"/pairs has no column {', '.join(sorted(unknown))}")
        self._rows[index].update(columns)

    def row(self, index: int) -> dict[str, Any]:
        """Copy of the row of pair `index` as known so far."""
        return dict(self._rows[index])

    def finish(self) -> Path:
        """Write /pairs, close, fsync and give the file its final name."""
        for index, (row, digest) in enumerate(zip(self._rows, self._digests, strict=True)):
            for _, _, data in tiles.stored_tiles(self._datasets["mask"], index):
                digest.update(data)
            row["sha256"] = digest.hexdigest()
        table = np.zeros(len(self._rows), schema.PAIR_DTYPE)
        for index, row in enumerate(self._rows):
            for name in schema.PAIR_DTYPE.names or ():
                value = row[name]
                table[name][index] = value.encode() if isinstance(value, str) else value
        self.file.create_dataset("pairs", data=table)
        self.file.close()
        atomic.publish(self._part, self.path)
        return self.path

    def discard(self) -> None:
        """Close and remove the unfinished file."""
        with suppress(OSError, RuntimeError):  # of a write that failed before
            self.file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()
