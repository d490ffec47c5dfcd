"""`vrbench leaderboard build` and `serve`: pages are made, shown to this machine, and the program ends when told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from tests.cli.test_cli import MAIN
from tests.leaderboard.made import BOARD, Made
from vrbench import cli
from vrbench.leaderboard.site.content import load_content
from vrbench.tasks import registry

ROOT = Path(__file__).parents[2]

LISTENS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
"""Undoes a shell that starts the tests in the background, where Ctrl-C is not listened to."""


def test_build_prints_what_to_open(published_board: Made, tmp_path: Path) -> None:
    words = ["leaderboard", "build", "--out", tmp_path / "site", "--boards", published_board.root]
    done = CliRunner().invoke(cli.app, [*map(str, words), "--include-path", str(published_board.tasks)])
    assert (done.exit_code, done.stdout) == (0, f"open {tmp_path / 'site' / 'index.html'}\n")
    assert "A made-up board" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_the_committed_boards_have_all_that_their_pages_need() -> None:
    assert [content.board.id for content in load_content(ROOT / "leaderboards", registry.load())] == ["pocket", "paper"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_serve_shows_the_pages_until_it_is_interrupted(
    published_board: Made, tmp_path: Path, end: signal.Signals
) -> None:
    root = Path(shutil.copytree(published_board.root, tmp_path / "boards"))
    file = root / BOARD / "board.yaml"
    file.write_text(file.read_text().replace(": true", ": false"), encoding="utf-8")  # no samples, so no harness
    words = ["leaderboard", "serve", "--no-browser", "--boards", str(root)]
    words += ["--include-path", str(published_board.tasks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    program = subprocess.Popen(
        [sys.executable, "-c", LISTENS + MAIN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    try:
        assert program.stdout is not None and program.stderr is not None
        printed = program.stdout.readline()
        assert printed.startswith("serving http://127.0.0.1:")
        with urlopen(printed.split()[1].rstrip(";"), timeout=20) as page:
            assert b"made" in page.read()
        program.send_signal(end)
        assert program.wait(timeout=20) == 0
        assert program.stderr.read() == ""
        assert not list(tmp_path.glob("vrbench-site-*"))
    finally:
        program.kill()
        program.communicate()
