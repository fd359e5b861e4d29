"""Reading: lazily, by windows, from any process, and one line for whatever is wrong with a folder."""

from __future__ import annotations

import json
import multiprocessing
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.datasets import write_shard

from relo.errors import ShardError
from relo.shards import Shard, open_dataset, reader
from relo.shards.reader import close_files


def edit_index(root: Path, **changes: Any) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(path: Path, *words: str, split: str | None = None) -> None:
    """Opening `path` gives one line that holds the path and `words`."""
    with pytest.raises(ShardError) as caught:
        open_dataset(path, split)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def test_samples(make_dataset):
    root = make_dataset([{"scene": "b", "pairs": 2, "short": True}, {"scene": "a", "split": "test", "bits": 16}])
    dataset = open_dataset(str(root))
    assert len(dataset) == 5
    assert [(sample.scene, sample.id) for sample in dataset] == [
        ("b", "0000"), ("b", "0001"), ("a", "0000"), ("a", "0001"), ("a", "0002"),
    ]  # fmt: skip
    assert (dataset.scenes, dataset.splits) == (["a", "b"], ["test", "train"])
    first, last = dataset[0], dataset[-1]
    assert (last.scene, last.id, last.split) == ("a", "0002", "test")
    for sample, dtype in ((first, np.uint8), (last, np.uint16)):
        assert sample.size == (48, 64)
        assert sample.blur.shape == sample.sharp.shape == (48, 64, 3)
        assert sample.blur.dtype == sample.sharp.dtype == dtype
        assert sample.mask.shape == sample.valid.shape == (48, 64)
        assert set(np.unique(sample.mask)) == set(np.unique(sample.valid)) == {0, 255}
        assert sample.mask.dtype == np.uint8
    assert last.blur.max() > 255
    assert first.short is not None and (first.short == first.sharp // 2).all()
    assert last.short is None
    assert (dataset.shards[0].bits, dataset.shards[1].bits) == (8, 16)
    with pytest.raises(IndexError):
        dataset[5]


def test_numbers_of_a_pair(make_dataset):
    sample = open_dataset(make_dataset([{"flags": {1: "gain"}}]))[1]
    row = sample.row
    assert row["id"] == "0001" and row["flags"] == "gain"
    assert type(row["t_long"]) is float and row["t_long"] == 0.04
    attrs = sample.shard.attrs
    assert attrs["config"] == {"shards": {"bits": 8}, "masks": {"method": "lbfmg"}}
    assert list(attrs["sources"]) == ["scenes/scene_00/0000_B.dng"]


def test_flow(make_dataset):
    with_flow, without = open_dataset(make_dataset([{}, {"calibration": False}])).shards
    assert with_flow.flow.shape == (48, 64, 2)
    assert with_flow.flow.dtype == np.float32
    assert without.flow_model is None
    assert not without.flow.any()
    # dx = 8 + 0.5 * u^2 v ... of the fixture; its first monomial is u^3
    assert not np.allclose(with_flow.flow[..., 0], with_flow.flow[0, 0, 0])


@pytest.mark.parametrize(
    "window", [(0, 0, 48, 64), (0, 0, 1, 1), (47, 63, 1, 1), (10, 60, 38, 4), (13, 17, 20, 30)]
)
@pytest.mark.parametrize("name", ["blur", "sharp", "short", "mask", "valid"])
def test_windows(make_dataset, window: tuple[int, int, int, int], name: str):
    sample = open_dataset(make_dataset([{"short": True}]))[1]
    y, x, height, width = window
    crop = sample.crop(name, *window)
    assert crop.shape[:2] == (height, width)
    assert (crop == getattr(sample, name)[y : y + height, x : x + width]).all()


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, -1, 5, 5), (44, 0, 5, 5), (0, 60, 5, 5), (0, 0, 49, 64)])
def test_windows_that_leave_the_frame(make_dataset, window: tuple[int, int, int, int]):
    sample = open_dataset(make_dataset())[0]
    with pytest.raises(IndexError, match="leaves the frame"):
        sample.crop("blur", *window)


def test_a_window_of_nothing_known(make_dataset):
    sample = open_dataset(make_dataset())[0]
    with pytest.raises(KeyError, match="no 'short'"):
        sample.crop("short", 0, 0, 4, 4)


def test_a_window_decodes_only_its_tiles(tmp_path: Path):
    path = tmp_path / "big.h5"
    write_shard(path, size=(300, 300), pairs=1)
    with h5py.File(path) as file:
        far = file["blur"].id.get_chunk_info_by_coord((0, 256, 256, 0))
    with path.open("r+b") as stream:
        stream.seek(far.byte_offset)
        stream.write(b"\xff" * far.size)
    sample = open_dataset(path)[0]
    assert sample.crop("blur", 0, 0, 200, 200).shape == (200, 200, 3)
    with pytest.raises(ShardError, match=r"big\.h5: pair 0000 cannot be decoded.*relo process"):
        sample.crop("blur", 200, 200, 90, 90)
    close_files()


def test_splits(make_dataset):
    root = make_dataset([{"scene": "a"}, {"scene": "b", "split": "test", "pairs": 1}])
    assert [sample.scene for sample in open_dataset(root, "test")] == ["b"]
    assert len(open_dataset(root).select(scenes=["a"])) == 3
    assert len(open_dataset(root).select(split="train", scenes=["b"])) == 0
    refused(root, "no split 'val'", "test, train", split="val")


def test_fingerprint_follows_the_content(make_dataset):
    one, same = (open_dataset(make_dataset([{"seed": 1}], name=name)).fingerprint for name in ("one", "same"))
    other = open_dataset(make_dataset([{"seed": 2}], name="other")).fingerprint
    assert one == same != other


def test_a_single_shard(make_dataset):
    root = make_dataset()
    dataset = open_dataset(root / "shard-000.h5")
    assert (len(dataset), dataset.root) == (3, root)


# Processes and handles


def _total(root: str) -> int:
    return sum(int(sample.blur.sum()) for sample in open_dataset(root))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 dislikes threads before fork
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_read_what_their_parent_has_open(make_dataset, method: str):
    root = make_dataset([{"scene": scene} for scene in "abc"])
    expected = _total(str(root))  # the parent's handles stay open
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(_total, [str(root)] * 4) == [expected] * 4
        pool.close()
        pool.join()
    assert _total(str(root)) == expected


def _opens_its_own(path: str) -> bool:
    inherited = {id(handle.file) for handle in reader._open_files.values()}
    return id(Shard.open(path).file) not in inherited


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_shares_no_handle_with_its_parent(make_dataset):
    path = str(make_dataset() / "shard-000.h5")
    assert _opens_its_own(path)
    assert not _opens_its_own(path)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_opens_its_own, [path])
        pool.close()
        pool.join()


def _read(sample: Any) -> int:
    return int(sample.blur.sum())


def test_samples_travel_to_other_processes(make_dataset):
    dataset = open_dataset(make_dataset())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_read, list(dataset)) == [int(sample.blur.sum()) for sample in dataset]
        pool.close()
        pool.join()


def test_few_files_stay_open(tmp_path: Path):
    for number in range(40):
        write_shard(tmp_path / f"{number:02d}.h5", size=(8, 16), pairs=1)
    shards = [Shard.open(path) for path in sorted(tmp_path.glob("*.h5"))]
    for shard in shards:
        assert shard.valid.shape == (8, 16)
    assert 0 < _open_files_below(tmp_path) <= 16
    close_files()
    assert _open_files_below(tmp_path) == 0


def _open_files_below(folder: Path) -> int:
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    return sum(link.is_relative_to(folder) for link in links)


# Wrong folders and files


def test_no_such_path(tmp_path: Path):
    refused(tmp_path / "nowhere", "does not exist", "relo process")


def test_a_folder_without_index(tmp_path: Path):
    refused(tmp_path, "dataset.json", "relo process")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no valid JSON"),
        ("\udcff", "no valid JSON"),
        ("[]", "no index"),
        ('{"format": "coco"}', "no index"),
        ('{"format": "relo-dataset", "version": 9, "shards": []}', "version 9"),
        ('{"format": "relo-dataset", "version": 1}', "version"),
        ('{"format": "relo-dataset", "version": 1, "shards": [{"file": "a.h5"}]}', "without file or sha256"),
        ('{"format": "relo-dataset", "version": 1, "shards": ["a.h5"]}', "without file"),
        ('{"format": "relo-dataset", "version": 1, "shards": [{"file": 3, "sha256": ""}]}', "without file"),
    ],
)
def test_a_wrong_index(tmp_path: Path, text: str, words: str):
    (tmp_path / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    refused(tmp_path, words)


@pytest.mark.parametrize(
    "name", ["../elsewhere.h5", "{outside}", "sub/shard.h5", "..", ".", "", "sub/../shard-000.h5", "a\0.h5"]
)
def test_an_index_that_points_elsewhere(make_dataset, tmp_path: Path, name: str):
    root = make_dataset()
    outside = tmp_path / "elsewhere.h5"
    write_shard(outside)
    edit_index(root, shards=[{"file": name.format(outside=outside), "sha256": "00"}])
    refused(root)


def test_a_shard_that_is_missing(make_dataset):
    root = make_dataset([{}, {}])
    (root / "shard-001.h5").unlink()
    refused(root, "shard-001.h5", "missing")


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all", None], ids=["empty", "text", "truncated"])
def test_a_shard_that_is_damaged(make_dataset, content: bytes | None):
    root = make_dataset()
    path = root / "shard-000.h5"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    refused(root, "shard-000.h5", "cannot be opened")
    refused(path, "cannot be opened")


def change(path: Path, how: Any) -> None:
    close_files()
    with h5py.File(path, "r+") as file:
        how(file)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda file: file.attrs.__delitem__("format"), "no relo shard"),
        (lambda file: file.attrs.__setitem__("version", 2), "version 2"),
        (lambda file: file.__delitem__("mask"), "lacks mask"),
        (lambda file: file.attrs.__delitem__("scene"), "lacks scene"),
        (lambda file: file["mask"].resize(2, axis=0), "mask of a wrong shape"),
        (lambda file: file["blur"].resize(9, axis=0), "blur of a wrong shape"),
        (lambda file: (file.__delitem__("blur"), file.create_group("blur")), "damaged"),
        (lambda file: (file.__delitem__("pairs"), file.create_dataset("pairs", data=np.zeros(3))), "pairs"),
    ],
)
def test_a_shard_of_another_structure(make_dataset, how: Any, words: str):
    root = make_dataset()
    change(root / "shard-000.h5", how)
    refused(root, "shard-000.h5", words)


def test_a_foreign_hdf5_file(tmp_path: Path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["layer"] = np.zeros(3)
    refused(path, "no relo shard")
    close_files()


def test_whatever_is_damaged_is_told_on_one_line(make_dataset):
    """One sector of the disk lost, whichever: the data comes back, or a ShardError, and never anything else."""
    root = make_dataset([{"short": True, "pairs": 2, "size": (24, 32)}])
    path = root / "shard-000.h5"
    good = path.read_bytes()
    # HDF5 itself never comes back from a heap of strings that is all zeros: nothing a reader could do.
    heaps = [match.start() for match in re.finditer(b"GCOL", good)]
    found = 0
    for start in range(0, len(good), 512):
        if any(heap - 512 < start < heap + 4096 for heap in heaps):
            continue
        path.write_bytes(good[:start] + bytes(512) + good[start + 512 :])
        try:
            for sample in open_dataset(root):
                _ = sample.blur, sample.sharp, sample.mask, sample.short, sample.valid, sample.row
                _ = sample.crop("blur", 0, 0, 4, 4), sample.shard.attrs, sample.shard.flow
        except ShardError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            found += 1
        close_files()
    assert found > 20
