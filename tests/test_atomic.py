"""Files are complete or absent."""

import hashlib
from pathlib import Path

import pytest

from relo import atomic


def test_success_publishes_and_replaces(tmp_path: Path):
    target = tmp_path / "new" / "folder" / "a.bin"
    for content in (b"one", b"two"):
        with atomic.unfinished(target) as part:
            assert part != target
            assert part.parent == target.parent
            part.write_bytes(content)
            assert not target.exists() or target.read_bytes() == b"one"
        assert target.read_bytes() == content
        assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_the_old_file(tmp_path: Path, error: type[BaseException]):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(error), atomic.unfinished(target) as part:
        part.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_failure_before_anything_was_written(tmp_path: Path):
    with pytest.raises(RuntimeError), atomic.unfinished(tmp_path / "a.bin"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_nothing_written_is_an_error_and_no_empty_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError), atomic.unfinished(tmp_path / "a.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_part_name_keeps_the_whole_name():
    assert atomic.part_name(Path("x/shard.h5")) == Path("x/shard.h5.part")


def test_write_text_touches_a_file_only_when_it_changes(tmp_path: Path):
    file = tmp_path / "a.txt"
    atomic.write_text(file, "grün\n")
    assert file.read_bytes() == "grün\n".encode()
    inode = file.stat().st_ino
    atomic.write_text(file, "grün\n")
    assert file.stat().st_ino == inode
    atomic.write_text(file, "blau\n")
    assert file.read_text() == "blau\n"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256(tmp_path: Path, size: int):
    data = bytes(range(256)) * (size // 256 + 1)
    file = tmp_path / "a.bin"
    file.write_bytes(data[:size])
    assert atomic.file_sha256(file) == hashlib.sha256(data[:size]).hexdigest()
