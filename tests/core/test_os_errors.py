"""Errors of the machine: one sentence each, whichever library raised them, and nothing half-written behind them."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from vrbench import cli
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json_object, write_atomically

PROGRAM = [sys.executable, "-m", "vrbench"]


class Wrapped(Exception):
    """Stands for a library's own class, such as safetensors'."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/b"), "a/b: the disk quota is used up"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: the file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: permission is denied"),
        (OSError(errno.EMFILE, "Too many open files", "/x"), "/x: this process has too many open files; raise"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "y"), "y: the file name is too long"),
        (OSError(errno.EFBIG, "File too large"), "the file would be larger than is allowed"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "the program that reads the output has ended"),
        (MemoryError(), "there is not enough memory"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full (database or disk is full)"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "permission is denied (attempt"),
        (sqlite3.OperationalError("disk I/O error"), "the device cannot be read or written"),
        (Wrapped("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full ("),
        (Wrapped("Error while serializing: I/O error: File too large (os error 27)"), "the file would be larger"),
        (OSError("[Errno 24] Too many open files: 'x'"), "this process has too many open files ("),
        (OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"), "the disk is full ("),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 704 vs 598"), "the disk is full ("),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), ""),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), ""),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), ""),
        (OSError("image file is truncated (3 bytes not processed)"), ""),
        (ValueError("28"), ""),
    ],
)
def test_an_error_of_the_machine_is_one_sentence_whoever_wraps_it(error: Exception, said: str) -> None:
    assert os_errors.describe_os_error(error).startswith(said) and bool(os_errors.describe_os_error(error)) == bool(
        said
    )
    wrapped = VrbenchError("the data could not be had")
    wrapped.__cause__ = error
    assert os_errors.describe_os_error(wrapped) == os_errors.describe_os_error(error)
    if said:
        with pytest.raises(type(error)):
            os_errors.reraise_os_error(error)
    os_errors.reraise_os_error(KeyError("x"))


def test_a_path_that_is_no_folder_is_told_by_the_program_and_is_no_file_to_a_reader(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_json_object(tmp_path / "file" / "config.json") is None
    error = NotADirectoryError(errno.ENOTDIR, "Not a directory", "x")
    assert (
        os_errors.describe_os_error(error, paths=True)
        == "x: a part of the path is a file and not a folder; choose another path"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["restore", "pocket/full", "--layers", "3", "--from", "smollm2-135m-instruct", "--out", "{}"],
        ["prune", "pocket/full", "--layers", "3", "--out", "{}"],
        ["prune", "pocket/full", "--num-layers", "1", "--save-removal-order", "{}.json"],
        ["train", "pocket-region", "--out", "{}"],
        ["layers", "change", "--n", "1", "--ckpt", "pocket/full", "--plot", "{}.png"],
        ["layers", "middle", "--n", "1", "--depth", "9", "--out", "{}.json"],
        ["compare", "nowhere", "--baseline", "nowhere", "--report", "{}"],
        ["convert", "nowhere", "{}"],
        ["leaderboard", "build", "--out", "{}"],
        ["reproduce", "layers", "--seeds", "1", "--out", "{}"],
        ["profile", "--shape", "tiny", "--out", "{}"],
        ["run", "--ckpt", "pocket/full", "--tasks", "pocket_facts", "--out", "{}"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_what_cannot_be_written_is_said_before_the_work_in_every_command(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    place = str(tmp_path / "file" / "below")
    with pytest.raises(VrbenchError) as told:
        cli.app([part.format(place) for part in command], standalone_mode=False)
    assert f"{place}" in str(told.value) and "cannot be written to: Not a directory" in str(told.value)


def test_output_that_cannot_be_written_is_told_and_exits_with_2() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("vrbench: ") and "the disk is full" in done.stderr and done.stderr.count("\n") == 1


def test_output_that_nobody_reads_is_told_and_exits_with_2() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*PROGRAM, "version"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("vrbench: the program that reads the output has ended")


def test_a_file_that_does_not_fit_is_named_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    write_atomically(tmp_path / "run.json", "old")
    code = (
        "from pathlib import Path; from vrbench.core import io, os_errors\n"
        'try: io.write_atomically(Path("run.json"), "x" * 9000)\n'
        "except OSError as error: print(os_errors.describe_os_error(error))"
    )
    environment = {"PYTHONPATH": str(Path(os_errors.__file__).parents[2])}
    command = ["bash", "-c", f"ulimit -f 2 && exec {sys.executable} -B -c '{code}'"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("run.json: the file would be larger than is allowed; raise the limit")
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert (tmp_path / "run.json").read_text() == "old"


def test_a_store_that_cannot_be_written_is_not_called_damaged(tmp_path: Path) -> None:
    from vrbench.evaluation.answer_store import AnswerStore

    with AnswerStore(tmp_path / "a.sqlite", "c" * 64) as store:
        store._database.execute("PRAGMA max_page_count = 8")
        with pytest.raises(VrbenchError, match=r"a.sqlite cannot be used: the disk is full .*; make room") as caught:
            store.put({str(i): "x" * 5000 for i in range(50)}, {})
        assert os_errors.describe_os_error(caught.value)  # as one of the machine, no task is blamed for it
        assert len(store) == 0  # a transaction is whole or not there
