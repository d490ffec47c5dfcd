"""`vrbench leaderboard build` and `serve`: pages are made, shown to this machine, and the program ends when told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from tests.cli.test_cli import MAIN
from tests.leaderboard.made import make_board
from vrbench import cli
from vrbench.leaderboard.validate import ValidationOptions, validate, write_leaderboards

ROOT = Path(__file__).parents[2]
BOARDS = ROOT / "leaderboards"

LISTENS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
"""Undoes a shell that starts the tests in the background, where Ctrl-C is not listened to."""


def test_build_says_what_to_open(tmp_path: Path) -> None:
    out = tmp_path / "site"
    done = CliRunner().invoke(cli.app, ["leaderboard", "build", "--out", str(out), "--boards", str(BOARDS)])
    assert (done.exit_code, done.stdout) == (0, f"open {out / 'index.html'}\n")
    assert "Pocket" in (out / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_serve_shows_the_pages_until_it_is_told_to_end(tmp_path: Path, end: signal.Signals) -> None:
    board = make_board(tmp_path, submissions=1)
    write_leaderboards(validate(board.root, ValidationOptions(include_path=board.tasks, jobs=1)))
    words = ["leaderboard", "serve", "--no-browser", "--boards", str(board.root), "--include-path", str(board.tasks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    program = subprocess.Popen(
        [sys.executable, "-c", LISTENS + MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert program.stdout is not None
        said = program.stdout.readline()
        assert said.startswith("serving http://127.0.0.1:")
        with urlopen(said.split()[1].rstrip(";"), timeout=20) as page:
            assert b"made" in page.read()
        program.send_signal(end)
        assert program.wait(timeout=20) == 0
        assert program.stderr is not None
        assert program.stderr.read() == ""
        assert not list(tmp_path.glob("vrbench-site-*"))
    finally:
        program.kill()
        program.communicate()
