"""Tiles: what is written past HDF5's filters must come back through them, whatever the image and its size."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.shards import ShardWriter, tile_codec, tiles
from relo.shards.stored import DamagedTileError


def images(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Images that compress in different ways: not at all, to nothing, in one channel only."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*size, 3), np.uint8)
    ramp = np.broadcast_to((np.arange(size[1]) % 256)[None, :, None], noise.shape).astype(np.uint8)
    mixed = ramp.copy()
    mixed[..., 1] = noise[..., 1]
    return {
        "noise": noise,
        "black": np.zeros_like(noise),
        "white": np.full_like(noise, 255),
        "ramp": ramp,
        "mixed": mixed,
    }


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 300), (127, 129), (128, 128), (300, 260)])
@pytest.mark.parametrize("kind", ["noise", "black", "white", "ramp", "mixed"])
def test_hdf5_reads_every_tile(tmp_path: Path, size: tuple[int, int], kind: str):
    image = images(size)[kind]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = tiles.create_images(file, "blur", size, image.dtype)
        tiles.write_image(dataset, 0, image)
        tiles.write_image(dataset, 1, image[::-1])
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file["blur"][0] == image).all()
        assert (file["blur"][1] == image[::-1]).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32), st.sampled_from([1, 4, 60, 255]))
def test_any_size_and_roughness(height: int, width: int, seed: int, roughness: int):
    rng = np.random.default_rng(seed)
    image = np.cumsum(rng.integers(0, roughness + 1, (height, width, 3)), axis=1).astype(np.uint8)
    with h5py.File("tiles.h5", "w", driver="core", backing_store=False) as file:
        dataset = tiles.create_images(file, "blur", (height, width), image.dtype)
        tiles.write_image(dataset, 0, image)
        assert (dataset[0] == image).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_was_written_can_be_read_back_and_hashed_meanwhile(tmp_path: Path, dtype: type):
    image = images((150, 200))["mixed"].astype(dtype)
    with ShardWriter(
        tmp_path / "a.h5", size=(150, 200), scene="a", split="train", bits=8 * image.dtype.itemsize, short=True
    ) as writer:
        for number in range(2):
            writer.append(f"{number}", blur=image, sharp=image[::-1], short=image // 2)
            assert (writer.read("blur", number) == image).all()
        writer.set_mask(1, np.full((150, 200), 255, np.uint8))
    with h5py.File(tmp_path / "a.h5") as file:
        stored = [name.decode() for name in file["pairs"]["sha256"]]
        assert stored == [tiles.stored_sha256(file, index) for index in range(2)]
        assert stored[0] != stored[1]


def test_the_same_image_gives_the_same_bytes(tmp_path: Path):
    found = []
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            tiles.write_image(
                tiles.create_images(file, "blur", (200, 200), np.dtype(np.uint8)), 0, images((200, 200))["mixed"]
            )
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]


def test_a_view_that_is_not_contiguous(tmp_path: Path):
    image = images((150, 150))["mixed"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = tiles.create_images(file, "blur", (150, 150), image.dtype)
        tiles.write_image(dataset, 0, image[::-1, ::-1, ::-1])
        assert (dataset[0] == image[::-1, ::-1, ::-1]).all()


def test_what_others_write_is_read_too(tmp_path: Path):
    image = images((200, 200))["mixed"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = tiles.create_images(file, "blur", (200, 200), image.dtype, count=1)
        dataset[0] = image
        assert (dataset[0] == image).all()


def test_16_bits(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 65536, (140, 130, 3), np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = tiles.create_images(file, "blur", (140, 130), image.dtype)
        tiles.write_image(dataset, 0, image)
        assert (dataset[0] == image).all()


def test_photographs_take_much_less_than_with_a_general_compressor(tmp_path: Path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256]
    scene = 120 + 60 * np.sin(x / 31) * np.cos(y / 23)
    grain = rng.normal(0, 6, (256, 256, 1)) + rng.normal(0, 2, (256, 256, 3))  # most of it in all channels alike
    image = np.clip(scene[..., None] * [1, 0.9, 0.7] + grain, 0, 255).astype(np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        tiles.write_image(tiles.create_images(file, "blur", (256, 256), image.dtype), 0, image)
        file.create_dataset("plain", data=image, chunks=(128, 128, 3), **tiles.PLAIN_COMPRESSION)
        assert file["blur"].id.get_storage_size() < 0.75 * file["plain"].id.get_storage_size()


def test_the_hash_is_that_of_the_stored_tiles_in_order(tmp_path: Path):
    image = images((130, 200))["mixed"]
    mask = np.zeros((130, 200), np.uint8)
    mask[:10] = 255
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("blur", "sharp"):
            dataset = tiles.create_images(file, name, mask.shape, image.dtype)
            tiles.write_image(dataset, 0, image)
        tiles.create_masks(file, mask.shape, count=1)
        expected = hashlib.sha256()
        for name in ("blur", "sharp"):
            for y in (0, 128):
                for x in (0, 128):
                    expected.update(file[name].id.read_direct_chunk((0, y, x, 0))[1])
        assert tiles.stored_sha256(file, 0) == expected.hexdigest(), "a mask that was never written counts as empty"
        file["mask"][0] = mask
        file.flush()
        for y in (0, 128):
            for x in (0, 128):
                expected.update(file["mask"].id.read_direct_chunk((0, y, x))[1])
        assert tiles.stored_sha256(file, 0) == expected.hexdigest()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_tiles_are_told_and_hurt_nobody(data: st.DataObject):
    image = images((40, 50))[data.draw(st.sampled_from(["noise", "ramp", "mixed"]))]
    good = tile_codec.encode(image, 0, 0, 40, 50, tile_codec.compressor())
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.sampled_from([len(good), len(good), len(good) - 1, len(good) // 2, 10, 0]))])
    window = np.zeros_like(image)
    try:
        ours = tile_codec.decode_into(cut, 40, 50, window, 0, 0)
    except DamagedTileError:
        return
    assert ours or cut[:133] != good[:133] or len(cut) != len(good)
    if cut == good:
        assert (window == image).all()


@pytest.mark.parametrize(("top", "left"), [(0, 0), (-7, -9), (3, 5), (-39, -49), (29, 39)])
def test_a_part_of_a_tile(top: int, left: int):
    image = images((40, 50))["mixed"]
    data = tile_codec.encode(image, 0, 0, 40, 50, tile_codec.compressor())
    window = np.full((30, 40, 3), 7, np.uint8)
    expected = window.copy()
    rows, columns = slice(max(0, top), min(30, top + 40)), slice(max(0, left), min(40, left + 50))
    expected[rows, columns] = image[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    assert tile_codec.decode_into(data, 40, 50, window, top, left)
    assert (window == expected).all()
