"""One tile of an 8-bit image: encoded so that HDF5's stock Blosc2 filter reads it, decoded faster than by it.

Noise is most of a photograph's bits, and a general compressor cannot see that colour channels and neighbours share
it. Two differences show it: each byte minus the one before it (red minus the last blue, green minus red, blue minus
green), then each of these three minus its left neighbour. Blosc2 undoes both with filters of its own ("bytedelta",
"shuffle"), but the HDF5 filter lets a writer choose one only, so tiles are encoded here and written past it.
`benchmarks/patches.py` compares sizes and speeds.

Layout of the bytes: C-Blosc2's README_CHUNK_FORMAT.rst and README_CFRAME_FORMAT.rst.
"""

from __future__ import annotations

import struct
import threading

import numpy as np
import zstandard

from relo.kernels import kernel
from relo.shards.stored import DamagedTileError

CHANNELS = 3

_SHUFFLE, _BYTEDELTA, _ZSTD = 1, 35, 5
# Order in which the writer applies them, each with the number of interleaved streams it works on.
_FILTERS = struct.pack("<8B8B", _BYTEDELTA, _SHUFFLE, _BYTEDELTA, 0, 0, 0, _ZSTD, 0, 1, 3, 3, 0, 0, 0, 0, 0)
_CHUNK_FLAGS = 0x85  # extended header, zstd, one stream a channel
_FRAME_HEADER, _FRAME_TRAILER = 97, 75
_STREAM_START = 36  # header of 32 bytes, and where the one block starts
# The index of chunks: one offset, 0, as a run of that value. Then the end of the frame, without metadata.
_TRAILER = (
    struct.pack("<4B3i", 5, 1, 7, 8, 8, 8, 40) + bytes(9) + b"\x01" + bytes(6) + bytes(8)
    + b"\x94\x01\x93\xcd\x00\x06\xde\x00\x00\xdc\x00\x00\xce\x00\x00\x00\x23\xd8\x00" + bytes(16)
)  # fmt: skip

_local = threading.local()


def compressor() -> zstandard.ZstdCompressor:
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


def encode(image: np.ndarray, y: int, x: int, height: int, width: int, packer: zstandard.ZstdCompressor) -> bytes:
    """Encode the tile of (H, W, 3) uint8 `image` at (y, x); what lies outside of the image is padded.

    Returns
    -------
    bytes
        A contiguous Blosc2 frame of one chunk of one block.
    """
    planes = np.empty((CHANNELS, height * width), np.uint8)
    _differences(image, y, x, height, width, planes)
    streams = []
    for plane in planes:
        packed = packer.compress(plane.data)
        if len(packed) >= plane.size:
            packed = plane.tobytes()  # a stream of the full length is taken as it is
        streams.append(struct.pack("<i", len(packed)) + packed)
    body = b"".join(streams)
    return _head(planes.size, _STREAM_START + len(body)) + body + _TRAILER


def decode_into(data: bytes, height: int, width: int, window: np.ndarray, top: int, left: int) -> bool:
    """Decode the part of a tile that lies in `window`.

    Parameters
    ----------
    data : bytes
        What `encode` has made of a tile of `height` x `width` pixels.
    window : (h, w, 3) uint8 array
        Written to.
    top, left : int
        Where the tile's first pixel lies in `window`; may be negative.

    Returns
    -------
    bool
        False if the tile is of another writer, which HDF5 has to decode.

    Raises
    ------
    DamagedTileError
        It is of `encode`, and damaged.
    """
    size = CHANNELS * height * width
    chunk = len(data) - _FRAME_HEADER - _FRAME_TRAILER
    start = _FRAME_HEADER + _STREAM_START
    if chunk <= _STREAM_START or data[:start] != _head(size, chunk):
        return False
    view, end = memoryview(data), _FRAME_HEADER + chunk
    planes = []
    for _ in range(CHANNELS):
        if start + 4 > end:
            raise DamagedTileError("a stream is missing")
        (length,) = struct.unpack_from("<i", data, start)
        start += 4
        if not 0 < length <= end - start:
            raise DamagedTileError("a stream leaves its tile")
        planes.append(_unpacked(view[start : start + length], height * width))
        start += length
    if start != end or data[end:] != _TRAILER:
        raise DamagedTileError("the end of a tile is missing")
    _sums(
        planes[0],
        planes[1],
        planes[2],
        width,
        window,
        top,
        left,
        min(height, window.shape[0] - top),
        min(width, window.shape[1] - left),
    )
    return True


def compile_kernels() -> None:
    """Encode and decode a few pixels, so that the machine code is on disk for other processes."""
    image = np.zeros((4, 4, CHANNELS), np.uint8)
    decode_into(encode(image, 0, 0, 4, 4, compressor()), 4, 4, image, 0, 0)


def _unpacked(stream: memoryview, size: int) -> np.ndarray:
    """Differences of one channel; zstandard is not asked to believe a header that claims more than `size` bytes."""
    if len(stream) == size:
        return np.frombuffer(stream, np.uint8)
    try:
        if zstandard.frame_content_size(stream) != size:
            raise DamagedTileError("a stream has a wrong length")
        found = _decompressor().decompress(stream)
    except zstandard.ZstdError as error:
        raise DamagedTileError(str(error)) from error
    if len(found) != size:
        raise DamagedTileError("a stream has a wrong length")
    return np.frombuffer(found, np.uint8)


def _decompressor() -> zstandard.ZstdDecompressor:
    """One a thread: it must not be shared, and making it anew takes as long as a tile."""
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    return _local.decompressor


def _head(size: int, chunk: int) -> bytes:
    """All that comes before the streams: of the frame, of its one chunk of `chunk` bytes, and of its one block."""
    return (
        b"\x9e\xa8b2frame\x00"
        + struct.pack(">BiBQ", 0xD2, _FRAME_HEADER, 0xCF, _FRAME_HEADER + chunk + _FRAME_TRAILER)
        + b"\xa4\x12\x00\x15\x01"  # contiguous, 64-bit offsets, zstd at level 1
        + struct.pack(">BqBqBiBiBi", 0xD3, size, 0xD3, chunk, 0xD2, CHANNELS, 0xD2, size, 0xD2, size)
        + b"\xd1\x00\x01\xd1\x00\x01"  # threads to write and to read with
        + b"\xc2\xd8\x06"
        + _FILTERS
        + b"\x93\xcd\x00\x07\xde\x00\x00\xdc\x00\x00"  # no metalayers
        + struct.pack("<4B3i", 5, 1, _CHUNK_FLAGS, CHANNELS, size, size, chunk)
        + _FILTERS
        + struct.pack("<i", _STREAM_START)
    )


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


@kernel()
def _sums(
    reds: np.ndarray,
    greens: np.ndarray,
    blues: np.ndarray,
    width: int,
    window: np.ndarray,
    top: int,
    left: int,
    rows: int,
    columns: int,
) -> None:
    """Undo `_differences` for the first `rows` rows of a tile; of each, up to `columns` pixels go to `window`."""
    red_step = green_step = blue_step = red = green = blue = np.uint8(0)
    first = max(0, -left)
    for y in range(rows):
        inside = top + y >= 0
        for x in range(width):
            position = y * width + x
            red_step = np.uint8(red_step + reds[position])
            green_step = np.uint8(green_step + greens[position])
            blue_step = np.uint8(blue_step + blues[position])
            red = np.uint8(blue + red_step)
            green = np.uint8(red + green_step)
            blue = np.uint8(green + blue_step)
            if inside and first <= x < columns:
                window[top + y, left + x, 0] = red
                window[top + y, left + x, 1] = green
                window[top + y, left + x, 2] = blue
