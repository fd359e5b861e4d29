"""How images lie in a shard: tiles of 128 x 128 pixels, compressed so that HDF5's stock Blosc2 filter reads them.

Noise is most of a photograph's bits, and a general compressor cannot see that colour channels and neighbours share
it. Two differences show it: each byte minus the one before it (red minus the last blue, green minus red, blue minus
green), then each of these three minus its left neighbour. Blosc2 undoes both with filters of its own ("bytedelta",
"shuffle"), but the HDF5 filter lets a writer choose one only, so tiles are encoded here and written past it.
`benchmarks/patches.py` compares sizes and speeds.

Layout of the bytes: C-Blosc2's README_CHUNK_FORMAT.rst and README_CFRAME_FORMAT.rst.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from itertools import product
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import zstandard

from relo.kernels import kernel
from relo.shards.schema import IMAGES

TILE = 128
# Masks, previews and images of 16 bits: their low bytes hold noise that no difference makes smaller.
PLAIN_COMPRESSION = dict(hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.BITSHUFFLE))
# What HDF5 itself would use for an image that somebody writes without `write_image`.
_IMAGE_COMPRESSION = dict(hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE))

_CHANNELS = 3
_SHUFFLE, _BYTEDELTA, _ZSTD = 1, 35, 5
# Order in which the writer applies them, each with the number of interleaved streams it works on.
_FILTERS = struct.pack("<8B8B", _BYTEDELTA, _SHUFFLE, _BYTEDELTA, 0, 0, 0, _ZSTD, 0, 1, 3, 3, 0, 0, 0, 0, 0)
_CHUNK_FLAGS = 0x85  # extended header, zstd, one stream a channel
_FRAME_HEADER, _FRAME_TRAILER = 97, 75
_STREAM_START = 36  # header of 32 bytes, and where the one block starts


def create_images(
    file: h5py.File, name: str, size: tuple[int, int], dtype: np.dtype[Any], count: int = 0
) -> h5py.Dataset:
    """Create the dataset of (H, W, 3) images `name`, of uint8 or uint16; images are appended by `write_image`."""
    compression = _IMAGE_COMPRESSION if dtype == np.uint8 else PLAIN_COMPRESSION
    return _create(file, name, (*size, _CHANNELS), dtype, count, compression)


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


def write_image(dataset: h5py.Dataset, index: int, image: np.ndarray) -> None:
    """Store (H, W, 3) `image` as number `index` of a dataset of `create_images`, which grows where it must."""
    if index >= len(dataset):
        dataset.resize(index + 1, axis=0)
    if not _is_tiled(dataset):
        dataset[index] = image
        return
    image = np.ascontiguousarray(image)
    _, height, width, _ = dataset.chunks
    compressor = _compressor()
    for y, x in product(range(0, image.shape[0], height), range(0, image.shape[1], width)):
        dataset.id.write_direct_chunk((index, y, x, 0), _encode(image, y, x, height, width, compressor))


def _is_tiled(dataset: h5py.Dataset) -> bool:
    """Whether tiles go past HDF5's filters: only where Blosc2 is the one that will read them."""
    filters = dataset.id.get_create_plist()
    return (
        dataset.dtype == np.uint8
        and filters.get_nfilters() == 1
        and filters.get_filter(0)[0] == hdf5plugin.BLOSC2_ID
    )


def _compressor() -> zstandard.ZstdCompressor:
    """Zstandard that seldom takes a chance repetition in noise for one: Huffman coding is what shrinks it."""
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST,
        min_match=7,
        window_log=14,
        hash_log=8,
        chain_log=8,
        search_log=1,
        write_content_size=1,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _encode(
    image: np.ndarray, y: int, x: int, height: int, width: int, compressor: zstandard.ZstdCompressor
) -> bytes:
    """One tile as a Blosc2 frame of one chunk of one block; what lies outside of the image is padded."""
    planes = np.empty((_CHANNELS, height * width), np.uint8)
    _differences(image, y, x, height, width, planes)
    streams = []
    for plane in planes:
        packed = compressor.compress(plane.data)
        if len(packed) >= plane.size:
            packed = plane.tobytes()  # a stream of the full length is taken as it is
        streams.append(struct.pack("<i", len(packed)) + packed)
    body = b"".join(streams)
    size, packed_size = planes.size, _STREAM_START + len(body)
    chunk = struct.pack("<4B3i", 5, 1, _CHUNK_FLAGS, _CHANNELS, size, size, packed_size) + _FILTERS
    return _framed(chunk + struct.pack("<i", _STREAM_START) + body, size)


def _framed(chunk: bytes, size: int) -> bytes:
    """Wrap one chunk of `size` bytes of image into a contiguous frame."""
    length = _FRAME_HEADER + len(chunk) + _FRAME_TRAILER
    head = (
        b"\x9e\xa8b2frame\x00"
        + struct.pack(">Bi", 0xD2, _FRAME_HEADER)
        + struct.pack(">BQ", 0xCF, length)
        + b"\xa4\x12\x00\x15\x01"  # contiguous, 64-bit offsets, zstd at level 1
        + struct.pack(">BqBq", 0xD3, size, 0xD3, len(chunk))
        + struct.pack(">BiBiBi", 0xD2, _CHANNELS, 0xD2, size, 0xD2, size)
        + b"\xd1\x00\x01\xd1\x00\x01"  # threads to write and to read with
        + b"\xc2\xd8\x06"
        + _FILTERS
        + b"\x93\xcd\x00\x07\xde\x00\x00\xdc\x00\x00"  # no metalayers
    )
    # The index of chunks: one offset, 0, as a run of that value.
    offsets = struct.pack("<4B3i", 5, 1, 7, 8, 8, 8, 40) + bytes(9) + b"\x01" + bytes(6) + bytes(8)
    trailer = b"\x94\x01\x93\xcd\x00\x06\xde\x00\x00\xdc\x00\x00\xce\x00\x00\x00\x23\xd8\x00" + bytes(16)
    return head + chunk + offsets + trailer


@kernel()
def _differences(image: np.ndarray, top: int, left: int, height: int, width: int, planes: np.ndarray) -> None:
    """Differences of a tile's bytes, channel by channel: what Blosc2's bytedelta, shuffle, bytedelta leave."""
    last_y, last_x = image.shape[0] - 1, image.shape[1] - 1
    blue = red_before = green_before = blue_before = np.uint8(0)
    position = 0
    for y in range(top, top + height):
        for x in range(left, left + width):
            row, column = min(y, last_y), min(x, last_x)
            red, green = image[row, column, 0], image[row, column, 1]
            red_step = np.uint8(red - blue)
            blue = image[row, column, 2]
            green_step, blue_step = np.uint8(green - red), np.uint8(blue - green)
            planes[0, position] = np.uint8(red_step - red_before)
            planes[1, position] = np.uint8(green_step - green_before)
            planes[2, position] = np.uint8(blue_step - blue_before)
            red_before, green_before, blue_before = red_step, green_step, blue_step
            position += 1


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
