"""Where the tiles of a dataset lie in its file, and what is checked of each before HDF5 decodes it.

HDF5 and its filters believe what a stored tile says of itself. Blosc reads beyond the end of a tile that claims to
be longer than it is, and sets aside the gigabytes that a damaged header asks for; HDF5 takes a tile that decodes to
too few bytes for whole and reads on behind it. A few numbers of the header, compared with what the dataset and its
index say, tell all of that.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

GZIP, SHUFFLE, BLOSC, BLOSC2 = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, 32001, 32026
COMPRESSORS = (GZIP, BLOSC, BLOSC2)
PIPELINES = ((), (GZIP,), (SHUFFLE, GZIP), (BLOSC,), (BLOSC2,))

# Blosc's header has 16 bytes; a Blosc2 frame's 97, some hundred more with the shape in it, and 32 of its chunk.
_HEADER_BYTES = 512
_BLOSC2_MAGIC = b"\x9e\xa8b2frame\x00\xd2"


class DamagedTileError(ValueError):
    """A stored tile, or the index of the tiles, contradicts itself."""


@dataclass(frozen=True)
class Tiles:
    """Index of the tiles of a dataset.

    Attributes
    ----------
    offsets, sizes : int64 arrays, one axis an axis of the dataset
        Place and length of each tile in the file [bytes]; offset 0 where none is stored.
    raw : bool array
        Tiles that were stored as they are, because no filter made them smaller.
    nbytes : int
        Length of every tile when decoded [bytes].
    compressor : int
        One of `COMPRESSORS`, or 0.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    raw: np.ndarray
    nbytes: int
    compressor: int

    @property
    def missing(self) -> int:
        """Number of tiles that are not stored."""
        return int(np.count_nonzero(self.offsets == 0))


def filters_of(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Identifiers of the filters of a dataset, in the order in which a writer applies them."""
    plist = dataset.id.get_create_plist()
    return tuple(int(plist.get_filter(position)[0]) for position in range(plist.get_nfilters()))


def index_tiles(dataset: h5py.Dataset, file_bytes: int) -> Tiles:
    """Read the whole index of a chunked dataset, whose shape and tile have been found plausible.

    Raises
    ------
    DamagedTileError
        A tile lies outside of the file or of the dataset, overlaps another, or has an impossible length.
    """
    shape, tile = np.array(dataset.shape), np.array(dataset.chunks)
    grid = tuple(int(count) for count in -(-shape // tile))
    filters = filters_of(dataset)
    nbytes = int(math.prod(dataset.chunks)) * dataset.dtype.itemsize
    found: list[tuple[int, int, int, tuple[int, ...]]] = []
    # An index that was damaged into a circle would never end.
    most = min(math.prod(grid), file_bytes)

    def keep(chunk: Any) -> None:
        if len(found) >= most:
            raise DamagedTileError("lists more tiles than fit into it")
        found.append((chunk.byte_offset, chunk.size, chunk.filter_mask, chunk.chunk_offset))

    dataset.id.chunk_iter(keep)
    offsets, sizes = np.zeros(grid, np.int64), np.zeros(grid, np.int64)
    raw = np.zeros(grid, bool)
    compressor = filters[-1] if filters else 0
    if found:
        starts = np.array([entry[0] for entry in found], np.uint64)
        lengths = np.array([entry[1] for entry in found], np.uint64)
        masks = np.array([entry[2] for entry in found], np.int64)
        corners = np.array([entry[3] for entry in found], np.uint64)
        if (corners % tile.astype(np.uint64)).any() or (corners >= shape.astype(np.uint64)).any():
            raise DamagedTileError("lists a tile outside of it")
        if (starts > file_bytes).any() or (lengths > file_bytes).any() or (starts + lengths > file_bytes).any():
            raise DamagedTileError("lists a tile beyond the end of the file")
        stored_raw = masks == 1 << len(filters) - 1 if filters else np.ones(len(found), bool)
        if (masks[~stored_raw] != 0).any() or (lengths[stored_raw] != nbytes).any():
            raise DamagedTileError("lists a tile of an impossible length")
        if (lengths == 0).any() or (lengths > 2 * nbytes + 4096).any():
            raise DamagedTileError("lists a tile of an impossible length")
        order = np.argsort(starts)
        if (starts[order][1:] < (starts + lengths)[order][:-1]).any():
            raise DamagedTileError("lists tiles that overlap")
        places = tuple((corners // tile.astype(np.uint64)).astype(np.int64).T)
        offsets[places], sizes[places], raw[places] = starts, lengths, stored_raw
        if np.count_nonzero(offsets) != len(found):
            raise DamagedTileError("lists a tile twice")
    return Tiles(offsets, sizes, raw, nbytes, compressor)


def check_header(descriptor: int, offset: int, size: int, nbytes: int, compressor: int) -> None:
    """Check the header of one compressed tile of an open file: `size` bytes at `offset`, which decode to `nbytes`.

    Raises
    ------
    DamagedTileError
    """
    if compressor not in (BLOSC, BLOSC2):
        return
    head = os.pread(descriptor, min(size, _HEADER_BYTES), offset)
    good = _is_blosc(head, size, nbytes) if compressor == BLOSC else _is_blosc2(head, size, nbytes)
    if not good:
        raise DamagedTileError("the header of a stored tile is damaged")


def _is_blosc(head: bytes, size: int, nbytes: int) -> bool:
    """Layout: C-Blosc's README_CHUNK_FORMAT.rst."""
    if len(head) < 16:
        return False
    version, _, _, itemsize, whole, block, packed = struct.unpack_from("<4B3I", head)
    return version == 2 and itemsize > 0 and whole == nbytes and 0 < block <= nbytes and packed == size


def _is_blosc2(head: bytes, size: int, nbytes: int) -> bool:
    """Layout: C-Blosc2's README_CFRAME_FORMAT.rst and README_CHUNK_FORMAT.rst."""
    if len(head) < 87 or not head.startswith(_BLOSC2_MAGIC):
        return False
    start, _, length = struct.unpack_from(">iBQ", head, 11)
    whole, _, _, _, itemsize, _, block, _, chunk = struct.unpack_from(">qBqBiBiBi", head, 30)
    if not 87 <= start <= len(head) - 16 or length != size or itemsize <= 0:
        return False
    inner_whole, inner_block, packed = struct.unpack_from("<3i", head, start + 4)
    # A frame that HDF5 itself wrote knows the tile's shape, and pads it to whole blocks.
    most = nbytes if start == 97 else 4 * nbytes
    return (
        nbytes <= whole <= most
        and whole == chunk == inner_whole
        and 0 < block <= whole
        and 0 < inner_block <= whole
        and 0 < packed <= size - start
    )


class TileReader:
    """Reads windows of an image dataset; each tile is checked before it is decoded for the first time.

    Tiles of relo's own codec are decoded here, others by HDF5.

    Parameters
    ----------
    dataset : h5py.Dataset
        (N, H, W) or (N, H, W, 3), in tiles of (1, h, w) or (1, h, w, 3).
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        descriptor = int(dataset.file.id.get_vfd_handle())
        self._tiles = index_tiles(dataset, os.fstat(descriptor).st_size)
        self._height, self._width = dataset.chunks[1:3]
        # Whether the tiles may be of relo's codec: told by the first one that is not.
        self._ours = self._tiles.compressor == BLOSC2 and dataset.dtype == np.uint8 and dataset.chunks[3:] == (3,)
        # Tiles without a header to check count as checked.
        self._new = (self._tiles.offsets > 0) & ~self._tiles.raw

    def read(self, dataset: h5py.Dataset, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Read the window [y, y + height) x [x, x + width) of image `index`.

        Raises
        ------
        DamagedTileError
        """
        if self._ours:
            window = np.empty((height, width, 3), np.uint8)
            if self._decode(dataset, index, y, x, window):
                return window
            self._ours = False
        self.check(dataset, index, y, x, height, width)
        return np.asarray(dataset[index, y : y + height, x : x + width])

    def _decode(self, dataset: h5py.Dataset, index: int, y: int, x: int, window: np.ndarray) -> bool:
        """Fill `window` without HDF5; False if a tile is missing or of another writer."""
        from relo.shards.tile_codec import decode_into  # loads a compiler, which checking a file can do without

        descriptor = int(dataset.file.id.get_vfd_handle())
        tiles, height, width = self._tiles, self._height, self._width
        for row in range(y // height, -(-(y + window.shape[0]) // height)):
            for column in range(x // width, -(-(x + window.shape[1]) // width)):
                place = (index, row, column, 0)
                offset, size = int(tiles.offsets[place]), int(tiles.sizes[place])
                if offset == 0 or tiles.raw[place]:
                    return False
                data = os.pread(descriptor, size, offset)
                if not decode_into(data, height, width, window, row * height - y, column * width - x):
                    return False
        return True

    def check(self, dataset: h5py.Dataset, index: int, y: int, x: int, height: int, width: int) -> None:
        """Check what the window [y, y + height) x [x, x + width) of image `index` touches.

        Raises
        ------
        DamagedTileError
        """
        rows = slice(y // self._height, -(-(y + height) // self._height))
        columns = slice(x // self._width, -(-(x + width) // self._width))
        window = self._new[index, rows, columns]
        if window.any():
            self._check_new(dataset, (index, rows, columns))
            window[...] = False

    def _check_new(self, dataset: h5py.Dataset, window: tuple[Any, ...]) -> None:
        tiles, descriptor = self._tiles, int(dataset.file.id.get_vfd_handle())
        new = self._new[window]
        for offset, size in zip(tiles.offsets[window][new], tiles.sizes[window][new], strict=True):
            check_header(descriptor, int(offset), int(size), tiles.nbytes, tiles.compressor)


def check_small(dataset: h5py.Dataset, tiles: Tiles) -> None:
    """Check every tile of a small dataset: its header, or where that does not tell, by inflating it here.

    Raises
    ------
    DamagedTileError
    """
    descriptor = int(dataset.file.id.get_vfd_handle())
    stored = (tiles.offsets > 0) & ~tiles.raw
    for offset, size in zip(tiles.offsets[stored], tiles.sizes[stored], strict=True):
        if tiles.compressor == GZIP:
            data = os.pread(descriptor, int(size), int(offset))
            if not _inflates_to(data, tiles.nbytes):
                raise DamagedTileError("a stored tile is damaged")
        else:
            check_header(descriptor, int(offset), int(size), tiles.nbytes, tiles.compressor)


def _inflates_to(data: bytes, nbytes: int) -> bool:
    """Whether `data` is gzip of exactly `nbytes`; a bomb is not inflated further than that."""
    inflater = zlib.decompressobj()
    try:
        return len(inflater.decompress(data, nbytes + 1)) == nbytes and inflater.eof
    except zlib.error:
        return False
