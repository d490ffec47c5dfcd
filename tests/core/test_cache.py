"""A digest is remembered as long as the file stays what it was."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from vrbench.core import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(path: Path, content: bytes) -> Path:
    """A file that was written just now."""
    path.write_bytes(content)
    return path


def test_it_is_the_sha256(tmp_path: Path) -> None:
    file = written(tmp_path / "x", b"abc" * 1_000_000)
    assert cache.file_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192, 8193, 40_000])
def test_it_is_the_sha256_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(cache, "BLOCK", 4096)
    file = written(tmp_path / "x", os.urandom(size))
    assert cache.file_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_several_files_are_hashed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [written(tmp_path / str(i), bytes([i])) for i in range(3)]
    expected = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    together = threading.Barrier(3, timeout=20)  # breaks unless all three are under way at once
    real = cache._sha256

    def met(path: Path) -> str:
        together.wait()
        return real(path)

    monkeypatch.setattr(cache, "_sha256", met)
    monkeypatch.setattr(cache, "usable_cores", lambda: 3)
    assert cache.file_digests([*files, files[0]]) == expected


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cache.file_digests([written(tmp_path / "x", b"abc"), tmp_path / "gone"])


def test_a_settled_file_is_read_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SETTLED_AFTER_SECONDS", -1.0)
    file = written(tmp_path / "x", b"abc")
    first = cache.file_digest(file)
    monkeypatch.setattr(cache, "_sha256", lambda _: pytest.fail("read again"))
    assert cache.file_digest(file) == first
    assert len(list((folder / "sha256").iterdir())) == 1


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SETTLED_AFTER_SECONDS", -1.0)
    file = written(tmp_path / "x", b"abc")
    first = cache.file_digest(file)
    time.sleep(0.02)
    file.write_bytes(b"abd")
    assert cache.file_digest(file) != first


def test_a_file_that_just_changed_is_not_remembered(tmp_path: Path, folder: Path) -> None:
    cache.file_digest(written(tmp_path / "x", b"abc"))
    assert not (folder / "sha256").exists()


def test_a_spoilt_memory_is_not_believed(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SETTLED_AFTER_SECONDS", -1.0)
    file = written(tmp_path / "x", b"abc")
    first = cache.file_digest(file)
    (memory,) = (folder / "sha256").iterdir()
    memory.write_text(first[:10])
    assert cache.file_digest(file) == first


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SETTLED_AFTER_SECONDS", -1.0)
    monkeypatch.setenv("VRBENCH_CACHE", os.devnull)
    file = written(tmp_path / "x", b"abc")
    assert cache.file_digest(file) == hashlib.sha256(b"abc").hexdigest()
