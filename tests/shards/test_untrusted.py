"""Shards that nobody vouches for: every way to lie about a file's structure, and damage at random."""

from __future__ import annotations

import json
import os
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from support.datasets import write_shard
from support.fuzzing import fuzz, metadata, mutation
from support.program import environment, relo

from relo.errors import ShardError
from relo.shards import Shard, open_dataset, probe, stored
from relo.shards.reader import close_files

Edit = Callable[[h5py.File], Any]


@pytest.fixture
def shard(tmp_path: Path):
    path = tmp_path / "shard.h5"
    write_shard(path, pairs=2, short=True)
    yield path
    close_files()


def edit(path: Path, how: Edit) -> None:
    close_files()
    with h5py.File(path, "r+") as file:
        how(file)


def replaced(name: str, **keywords: Any) -> Edit:
    """Put another dataset in the place of `name`."""

    def how(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **keywords)

    return how


def linked(name: str, link: Any) -> Edit:
    def how(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = link

    return how


def attribute(name: str, value: Any) -> Edit:
    return lambda file: file.attrs.__setitem__(name, value)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 48, 64), np.uint8)
    layout[:] = h5py.VirtualSource("other.h5", "mask", (2, 48, 64))
    del file["mask"]
    file.create_virtual_dataset("mask", layout)


def external(file: h5py.File) -> None:
    del file["valid"]
    file.create_dataset("valid", shape=(48, 64), dtype=np.uint8, external=[("/etc/passwd", 0, 48 * 64)])


def unknown_filter(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((48, 64))
    plist.set_filter(32768, h5py.h5z.FLAG_OPTIONAL, ())
    del file["valid"]
    h5py.h5d.create(file.id, b"valid", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((48, 64)), plist)


def table_of(file: h5py.File) -> np.ndarray:
    assert file["pairs"].nbytes < 1e6
    return file["pairs"][()]


def without(*columns: str) -> Edit:
    def how(file: h5py.File) -> None:
        table = table_of(file)
        names = [name for name in table.dtype.names if name not in columns]
        del file["pairs"]
        file["pairs"] = table[names].astype([(name, table.dtype[name]) for name in names])

    return how


def column(name: str, kind: str) -> Edit:
    def how(file: h5py.File) -> None:
        table = table_of(file)
        kinds = [(other, kind if other == name else table.dtype[other]) for other in table.dtype.names]
        del file["pairs"]
        file["pairs"] = np.zeros(len(table), kinds)

    return how


def named(index: int, pair_id: bytes) -> Edit:
    def how(file: h5py.File) -> None:
        table = table_of(file)
        table["id"][index] = pair_id
        file["pairs"][...] = table

    return how


def stored_instead(name: str, data: bytes, mask: int = 0) -> Edit:
    """Put `data` in the place of the first stored tile of `name`."""
    return lambda file: file[name].id.write_direct_chunk((0,) * file[name].ndim, data, filter_mask=mask)


def header_of(name: str, position: int, fields: str, *values: int) -> Edit:
    """Change the header of the first stored tile of `name`."""

    def how(file: h5py.File) -> None:
        data = bytearray(file[name].id.read_direct_chunk((0,) * file[name].ndim)[1])
        struct.pack_into(fields, data, position, *values)
        file[name].id.write_direct_chunk((0,) * file[name].ndim, bytes(data))

    return how


def flow(name: str, value: Any) -> Edit:
    return lambda file: file["calibration/flow"].attrs.__setitem__(name, value)


TILES = {"chunks": (1, 48, 64, 3), "maxshape": (None, 48, 64, 3)}
HUGE = (10**9, 48, 64, 3)

STRUCTURES: dict[str, tuple[Edit, str]] = {
    "external link": (linked("mask", h5py.ExternalLink("other.h5", "/mask")), "/mask is an external link"),
    "soft link": (linked("mask", h5py.SoftLink("/valid")), "/mask is a soft link"),
    "link to nothing": (linked("calibration/x", h5py.SoftLink("/none")), "/calibration/x is a soft link"),
    "second name": (lambda file: file.__setitem__("again", file["valid"]), "is another name"),
    "circle": (lambda file: file["calibration"].__setitem__("up", file["/"]), "is another name"),
    "named type": (lambda file: file.__setitem__("kind", np.dtype("f8")), "/kind is neither dataset nor group"),
    "virtual": (virtual, "/mask lies in other files"),
    "external storage": (external, "/valid lies in other files"),
    "text for numbers": (replaced("mask", data=np.full((2, 48, 64), b"x")), "/mask has a wrong data type"),
    "objects": (replaced("mask", shape=(2, 48, 64), dtype=h5py.ref_dtype), "/mask has a wrong data type"),
    "big-endian": (replaced("valid", shape=(48, 64), dtype=">u2"), "/valid has a wrong data type"),
    "wide mask": (
        replaced("mask", shape=(2, 48, 64), dtype="u2", chunks=(1, 48, 64)),
        "mask of a wrong data type",
    ),
    "mixed depths": (replaced("sharp", shape=(2, 48, 64, 3), dtype="u2", **TILES), "sharp of a wrong data type"),
    "floats": (replaced("blur", shape=(2, 48, 64, 3), dtype="f4", **TILES), "of a wrong data type"),
    "group": (lambda file: (file.__delitem__("valid"), file.create_group("valid")), "valid as a group"),
    "empty": (replaced("valid", data=h5py.Empty("u1")), "/valid is empty"),
    "flat": (replaced("valid", data=np.zeros(48 * 64, "u1")), "valid of a wrong shape"),
    "other size": (replaced("valid", data=np.zeros((64, 48), "u1")), "of a wrong shape"),
    "no tiles": (replaced("mask", data=np.zeros((2, 48, 64), "u1")), "/mask is not stored as relo stores it"),
    "tiles of many": (
        replaced("mask", shape=(2, 48, 64), dtype="u1", chunks=(2, 48, 64)),
        "/mask has tiles of 2 x",
    ),
    "absurd count": (replaced("blur", shape=HUGE, dtype="u1", **TILES), "blur of a wrong shape"),
    "absurd pairs": (
        replaced(
            "pairs", shape=(10**9,), dtype=[("id", "S8"), ("flags", "S8"), ("blur_fraction", "f8")], chunks=(9,)
        ),
        "/pairs has an absurd size",
    ),
    "absurd tile": (
        replaced("sharp", shape=(2, 48, 64, 3), dtype="u1", chunks=(1, 9000, 9000, 3), maxshape=(None,) * 4),
        "/sharp has tiles of an absurd size",
    ),
    "absurd frame": (
        replaced("valid", shape=(65_000, 65_000), dtype="u1", chunks=(64, 64)),
        "/valid has an absurd",
    ),
    "absurd extra": (lambda file: file.create_dataset("x", (10**12,), "u1", chunks=(9,)), "/x has an absurd size"),
    "nothing stored": (replaced("sharp", shape=(2, 48, 64, 3), dtype="u1", **TILES), "/sharp lacks 2 tiles"),
    "unknown filter": (unknown_filter, "filters that relo does not use (32768)"),
    "other filter": (
        replaced("valid", data=np.zeros((48, 64), "u1"), compression="lzf"),
        "filters that relo does not use (32000)",
    ),
    "no column": (without("flags", "blur_fraction"), "/pairs lacks flags, blur_fraction"),
    "column of text": (column("blur_fraction", "S8"), "/pairs has a column of a wrong type: blur_fraction"),
    "column of arrays": (column("psnr", "(3,)f8"), "/pairs has a column of a wrong type: psnr"),
    "no table": (replaced("pairs", data=np.zeros(2)), "/pairs is no table"),
    "column of no text": (named(0, b"\xff\xfe"), "/pairs has a column that is no text: id"),
    "name of a path": (named(1, b"../../x"), "a name that cannot be one: pair '../../x'"),
    "name of two lines": (named(1, b"a\nb"), r"a name that cannot be one: pair 'a\nb'"),
    "scene of a path": (attribute("scene", "/etc"), "a name that cannot be one: attribute scene"),
    "no scene": (lambda file: file.attrs.__delitem__("scene"), "lacks scene"),
    "scene of numbers": (attribute("scene", 3), "an attribute of a wrong type: scene"),
    "scene of an object": (lambda file: attribute("scene", file.ref)(file), "an attribute of a wrong type: scene"),
    "empty attribute": (attribute("split", h5py.Empty("f8")), "an empty attribute: split"),
    "version of text": (attribute("version", "1"), "has format version '1'"),
    "version of floats": (attribute("version", 1.0), "has format version 1.0"),
    "no JSON": (attribute("config", "{"), "an attribute that is no JSON: config"),
    "no object": (attribute("sources", "[]"), "an attribute that is no JSON object: sources"),
    "deep JSON": (attribute("libraries", "[" * 100_000), "an attribute that is no JSON: libraries"),
    "numbers for JSON": (attribute("config", [1, 2]), "an attribute of a wrong type: config"),
    "no UTF-8": (lambda file: file.create_group(b"\xff\xfe"), "a name that is no text"),
    "many objects": (lambda file: [file.create_group(f"g{k}") for k in range(1100)], "more than 1000 objects"),
    "many attributes": (lambda file: [attribute(f"a{k}", k)(file) for k in range(300)], "attributes at /"),
    "absurd flow": (flow("shape", [65_535, 65_535]), "calibration/flow of a wrong shape"),
    "flow of floats": (flow("shape", [48.0, 64.0]), "calibration/flow of a wrong shape"),
    "flow of one number": (flow("shape", 48), "calibration/flow of a wrong shape"),
    "note of numbers": (flow("note", 3), "calibration/flow of a wrong shape"),
    "other coefficients": (replaced("calibration/flow/coefficients", data=np.zeros((2, 9))), "of a wrong shape"),
    "other rest": (lambda file: file.create_dataset("calibration/flow/residual", data=np.zeros(3)), "wrong shape"),
    "no coefficients": (lambda file: file.__delitem__("calibration/flow/coefficients"), "of a wrong shape"),
    "short gzip": (stored_instead("valid", zlib.compress(b"abc")), "/valid cannot be decoded"),
    "bomb": (stored_instead("valid", zlib.compress(bytes(3_000_000), 9)), "/valid cannot be decoded"),
    "no gzip": (stored_instead("valid", b"abcdefgh"), "/valid cannot be decoded"),
    "short raw tile": (stored_instead("valid", b"abcdefgh", mask=1), "of an impossible length"),
    "short raw tile of an image": (stored_instead("mask", b"short", mask=1), "/mask lists a tile of an impossible"),
    "long tile": (stored_instead("mask", bytes(20_000)), "/mask lists a tile of an impossible length"),
}


@pytest.mark.parametrize("case", STRUCTURES)
def test_structures_that_no_shard_has(shard: Path, case: str):
    how, words = STRUCTURES[case]
    edit(shard, how)
    with pytest.raises(ShardError) as caught:
        open_dataset(shard)
    message = str(caught.value)
    assert message.startswith(f"{shard}: ") and "\n" not in message
    assert words in message
    assert caught.value.advice
    answer = relo("inspect", shard, "--verify")
    assert answer.code == 3 and words in answer.out and answer.err == ""


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("mask", header_of("mask", 4, "<I", 2**31 - 100)),  # two gigabytes, says the tile
        ("mask", header_of("mask", 4, "<II", 64, 64)),  # HDF5 would read on behind what it decodes to
        ("mask", header_of("mask", 12, "<I", 2**31)),  # Blosc would read on behind what is stored
        ("mask", header_of("mask", 0, "<B", 1)),
        ("mask", stored_instead("mask", b"short")),
        ("blur", header_of("blur", 16, ">Q", 2**40)),
        ("blur", header_of("blur", 30, ">q", 2**31)),
        ("blur", header_of("blur", 58, ">i", 64)),
        ("blur", header_of("blur", 11, ">i", 2**31 - 1)),
        ("blur", header_of("blur", 97 + 4, "<i", 2**30)),
        ("blur", header_of("blur", 0, "<B", 0)),
    ],
)
def test_headers_of_tiles_are_checked_before_they_are_decoded(shard: Path, name: str, header: Edit):
    edit(shard, header)
    with pytest.raises(ShardError, match=r"shard\.h5: .*(header|impossible length|cannot be decoded)"):
        getattr(open_dataset(shard)[0], name)
    assert open_dataset(shard)[0].sharp.shape == (48, 64, 3)


def test_tiles_that_nothing_made_smaller(tmp_path: Path):
    """HDF5 stores what a filter cannot shrink as it is, and says so in the index."""
    path = tmp_path / "noise.h5"
    write_shard(path, pairs=1)
    noise = np.random.default_rng(0).integers(0, 2, (48, 64), np.uint8) * np.uint8(255)
    edit(path, stored_instead("mask", noise.tobytes(), mask=1))
    assert (open_dataset(path)[0].mask == noise).all()


@pytest.mark.parametrize(
    "compression", [dict(hdf5plugin.Blosc2(cname="zstd")), dict(hdf5plugin.Blosc(cname="lz4"))]
)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiles_that_others_have_written(tmp_path: Path, compression: dict[str, Any], depth: Any):
    """h5py alone writes other frames than relo does; their headers say the same."""
    path = tmp_path / "repacked.h5"
    with h5py.File(path, "w") as file:
        image = (1000 * np.random.default_rng(1).random((1, 300, 200, 3))).astype(depth)
        file.create_dataset("blur", data=image, chunks=(1, 128, 128, 3), **compression)
    with h5py.File(path, "r") as file:
        data = file["blur"]
        stored.TileReader(data).check(data, 0, 0, 0, 300, 200)
        assert (data[0] == image[0]).all()


def test_a_shard_of_today_and_one_with_a_dense_flow_pass(shard: Path):
    rest = np.random.default_rng(2).normal(size=(48, 64, 2)).astype(np.float32)

    def add(file: h5py.File) -> None:
        file["calibration/flow"].create_dataset(
            "residual", data=rest, chunks=True, compression="gzip", shuffle=True
        )
        file.create_dataset("notes/mine", data=np.arange(5.0))

    before = open_dataset(shard).shards[0].flow
    edit(shard, add)
    np.testing.assert_allclose(open_dataset(shard).shards[0].flow, before + rest, rtol=1e-6)


def test_a_damaged_dense_flow_is_told_when_it_is_read(shard: Path):
    def add(file: h5py.File) -> None:
        data = file["calibration/flow"].create_dataset(
            "residual", data=np.ones((48, 64, 2), "f4"), chunks=(48, 64, 2), compression="gzip", shuffle=True
        )
        data.id.write_direct_chunk((0, 0, 0), zlib.compress(b"abc"))

    edit(shard, add)
    opened = open_dataset(shard).shards[0]
    with pytest.raises(ShardError, match="damaged"):
        _ = opened.flow


def test_pipes_and_folders(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    for name in ("pipe.h5", "folder.h5"):
        with pytest.raises(ShardError, match="cannot be opened"):
            Shard.open(tmp_path / name)


# The helper process


def test_a_heap_of_zeros_comes_to_an_end(shard: Path):
    """HDF5 2.0 looks for ever for the strings in it."""
    data = bytearray(shard.read_bytes())
    heap = next(re.finditer(b"GCOL", data)).start()
    data[heap + 16 : heap + 4096] = bytes(4080)
    shard.write_bytes(data)
    begin = time.monotonic()
    with pytest.raises(ShardError, match="HDF5 does not come to an end"):
        open_dataset(shard)
    assert time.monotonic() - begin < 30
    good = shard.with_name("good.h5")
    write_shard(good)
    assert len(open_dataset(good)) == 3


def test_a_table_that_kills_hdf5(shard: Path):
    """A column whose offset lies beyond the row: numpy frees memory that was overwritten."""
    good = shard.read_bytes()
    begin = good.index(b"psnr_before\0")
    refused = 0
    for position in range(begin, begin + 64):
        shard.write_bytes(good[:position] + b"\xff" + good[position + 1 :])
        try:
            _ = open_dataset(shard)[0].row
        except ShardError:
            refused += 1
        close_files()
    assert refused > 20


def test_a_file_is_asked_about_once(shard: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    ask = probe._ask
    monkeypatch.setattr(probe, "_ask", lambda path: asked.append(path) or ask(path))
    os.utime(shard, (1e9, 1e9))
    for _ in range(3):
        Shard.open(shard)
    assert len(asked) == 1
    edit(shard, attribute("scene", "other"))
    os.utime(shard, (1e9 + 1, 1e9 + 1))
    assert Shard.open(shard).scene == "other"
    assert len(asked) == 2


def test_a_file_that_was_just_written_is_asked_about_again(shard: Path):
    """Two writes within one tick of the file system's clock have the same time stamp."""
    good = shard.read_bytes()
    stamp = shard.stat().st_mtime_ns
    Shard.open(shard)
    shard.write_bytes(bytes(len(good)))
    os.utime(shard, ns=(stamp, stamp))
    with pytest.raises(ShardError):
        Shard.open(shard)


def test_a_helper_that_was_killed_is_replaced(shard: Path):
    Shard.open(shard)
    probe._helpers[os.getpid()].kill()
    probe._helpers[os.getpid()].wait()
    assert Shard.open(shard).count == 2


ALONE = """
import sys
from relo.shards import Shard, probe
for path in sys.argv[1:]:
    Shard.open(path)
print(*(helper.pid for helper in probe._helpers.values()))
"""


def test_the_helper_ends_with_its_parent_in_silence(shard: Path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", ALONE, str(shard)],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(f"/proc/{int(done.stdout)}").exists()


# Damage at random


def test_random_damage(tmp_path: Path):
    sources = []
    for name, keywords in (("a.h5", {"short": True}), ("b.h5", {"bits": 16, "size": (140, 150)})):
        path = tmp_path / name
        write_shard(path, pairs=2, **keywords)
        sources.append((name, mutation(path.read_bytes(), metadata(path))))
    outcome = fuzz("shard", sources, 200, seed=1, folder=tmp_path)
    assert outcome.failures == []
    assert outcome.counts["read"] < 180 and len(outcome.counts) > 5
    assert outcome.peak_bytes < 1e9


def test_random_damage_and_inspect(tmp_path: Path):
    path = tmp_path / "a.h5"
    write_shard(path, pairs=2)
    outcome = fuzz("inspect", [("a.h5", mutation(path.read_bytes(), metadata(path)))], 60, 2, tmp_path)
    assert outcome.failures == []
    assert set(outcome.counts) == {"code 0", "code 3"}


def test_random_structures(shard: Path, tmp_path: Path):
    """Several lies at once."""
    good, folder = shard.read_bytes(), tmp_path / "edited"
    folder.mkdir()

    def mutate(rng: random.Random) -> bytes:
        shard.write_bytes(good)
        for case in rng.sample(sorted(STRUCTURES), 3):
            with suppress(Exception):  # one lie may stand in the way of another
                edit(shard, STRUCTURES[case][0])
        return shard.read_bytes()

    outcome = fuzz("shard", [("shard.h5", mutate)], 40, 3, folder)
    assert outcome.failures == []
    assert "read" not in outcome.counts


# The index


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"file": "../x.h5"}, "no file of this folder"),
        ({"file": "/etc/passwd"}, "no file of this folder"),
        ({"file": "a\nb.h5"}, "no file of this folder"),
        ({"file": 3}, "no file of this folder"),
        ({"sha256": 3}, "without file or sha256"),
        ({"sha256": None}, "without file or sha256"),
    ],
)
def test_entries_of_the_index(make_dataset, entry: dict[str, Any], words: str):
    root = make_dataset()
    index = json.loads((root / "dataset.json").read_text())
    index["shards"][0].update(entry)
    (root / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ShardError, match=words) as caught:
        open_dataset(root)
    assert "dataset.json" in str(caught.value) and "\n" not in str(caught.value)
    answer = relo("inspect", root, "--verify")
    assert answer.code == 3 and answer.err == "" and "damaged" in answer.out


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": 10**400}, {"pairs": -3}, {"pairs": float("nan")}, {"pairs": "many"}, {"pairs": [[]]},
        {"scene": None}, {"scene": "a\nb" * 100}, {"split": {"a": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_values_of_the_index_that_contradict_the_shard(make_dataset, change: dict[str, Any]):
    root = make_dataset()
    index = json.loads((root / "dataset.json").read_text())
    index["shards"][0].update(change)
    (root / "dataset.json").write_text(json.dumps(index))
    answer = relo("inspect", root, "--verify")
    assert answer.code == 3 and answer.err == ""
    lines = [line for line in answer.out.splitlines() if line.startswith("damaged")]
    assert len(lines) == 1 and "dataset.json says" in lines[0] and len(lines[0]) < 250


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1e999}', "1" * 5000, "null", "\ufeff{}"], ids=len)
def test_an_index_that_is_none(tmp_path: Path, text: str):
    (tmp_path / "dataset.json").write_text(text)
    assert relo("inspect", tmp_path, "--verify").error("dataset.json", "is no")


@pytest.mark.parametrize("value", [1e300, np.inf, np.nan])
def test_a_flow_that_no_rig_has(shard: Path, value: float):
    def spoil(file: h5py.File) -> None:
        file["calibration/flow/coefficients"][1, 3] = value

    edit(shard, spoil)
    with pytest.raises(ShardError, match=r"shard\.h5: .*damaged"):
        _ = open_dataset(shard).shards[0].flow
