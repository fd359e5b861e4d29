"""How images lie in a shard: datasets in tiles of 128 x 128 pixels, those of 8 bits encoded by `tile_codec`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from relo.shards.schema import IMAGES
from relo.shards.tile_codec import CHANNELS, compressor, decode_into, encode

TILE = 128
# Masks, previews and images of 16 bits: their low bytes hold noise that no difference makes smaller.
PLAIN_COMPRESSION = dict(hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.BITSHUFFLE))
# What HDF5 itself would use for an image that somebody writes without `write_image`.
_IMAGE_COMPRESSION = dict(hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE))


def create_images(
    file: h5py.File, name: str, size: tuple[int, int], dtype: np.dtype[Any], count: int = 0
) -> h5py.Dataset:
    """Create the dataset of (H, W, 3) images `name`, of uint8 or uint16; images are appended by `write_image`."""
    compression = _IMAGE_COMPRESSION if dtype == np.uint8 else PLAIN_COMPRESSION
    return _create(file, name, (*size, CHANNELS), dtype, count, compression)


def create_masks(file: h5py.File, size: tuple[int, int], count: int = 0) -> h5py.Dataset:
    """Create /mask, of (H, W) uint8 masks."""
    return _create(file, "mask", size, np.dtype(np.uint8), count, PLAIN_COMPRESSION)


def _create(
    file: h5py.File,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    count: int,
    compression: dict[str, Any],
) -> h5py.Dataset:
    tile = (min(TILE, shape[0]), min(TILE, shape[1]), *shape[2:])
    return file.create_dataset(
        name, shape=(count, *shape), maxshape=(None, *shape), chunks=(1, *tile), dtype=dtype, **compression
    )


def write_image(dataset: h5py.Dataset, index: int, image: np.ndarray) -> list[bytes]:
    """Store (H, W, 3) `image` as number `index` of a dataset of `create_images`, which grows where it must.

    Returns
    -------
    list of bytes
        Its tiles as they are stored, row by row.
    """
    if index >= len(dataset):
        dataset.resize(index + 1, axis=0)
    if not _is_tiled(dataset):
        dataset[index] = image
        return [data for _, _, data in stored_tiles(dataset, index)]
    image = np.ascontiguousarray(image)
    packer = compressor()
    _, height, width, _ = dataset.chunks
    written = []
    for y, x in product(range(0, image.shape[0], height), range(0, image.shape[1], width)):
        written.append(encode(image, y, x, height, width, packer))
        dataset.id.write_direct_chunk((index, y, x, 0), written[-1])
    return written


def read_image(dataset: h5py.Dataset, index: int) -> np.ndarray:
    """Image or mask `index` of a dataset that is being written here."""
    if not _is_tiled(dataset):
        return np.asarray(dataset[index])
    image = np.empty(dataset.shape[1:], np.uint8)
    _, height, width, _ = dataset.chunks
    for (_, y, x, _), _, data in stored_tiles(dataset, index):
        if not decode_into(data, height, width, image, y, x):
            return np.asarray(dataset[index])
    return image


def _is_tiled(dataset: h5py.Dataset) -> bool:
    """Whether tiles go past HDF5's filters: only where Blosc2 is the one that will read them."""
    filters = dataset.id.get_create_plist()
    return (
        dataset.dtype == np.uint8
        and filters.get_nfilters() == 1
        and filters.get_filter(0)[0] == hdf5plugin.BLOSC2_ID
    )


def stored_tiles(dataset: h5py.Dataset, index: int) -> Iterator[tuple[tuple[int, ...], int, bytes]]:
    """Yield (offset, filter mask, bytes) of the tiles of image `index`, row by row, without those never written."""
    ranges = [range(0, length, step) for length, step in zip(dataset.shape[1:], dataset.chunks[1:], strict=True)]
    for rest in product(*ranges):
        offset = (index, *rest)
        if dataset.id.get_chunk_info_by_coord(offset).byte_offset is None:
            continue
        mask, data = dataset.id.read_direct_chunk(offset)
        yield offset, mask, data


def stored_sha256(file: h5py.File, index: int) -> str:
    """SHA-256 of the tiles of pair `index` as they are stored: blur, sharp, short where there is one, mask.

    Nothing is decoded, and tiles that are copied to another shard keep it.
    """
    found = hashlib.sha256()
    for name in (*IMAGES, "mask"):
        if name in file:
            for _, _, data in stored_tiles(file[name], index):
                found.update(data)
    return found.hexdigest()
