"""A made-up board, made once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.conftest import vlm  # noqa: F401  # a fixture
from tests.leaderboard.desk import Desk, make_desk
from tests.leaderboard.made import Made, make_board
from vrbench.leaderboard.board import Board
from vrbench.leaderboard.check import SubmissionChecker
from vrbench.leaderboard.validate import Validation, validate, write_leaderboards

CHECKERS: dict[str, SubmissionChecker] = {}


@pytest.fixture(scope="session")
def made_board(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A board of four tasks of 16 items and four submissions; not to be written to."""
    return make_board(tmp_path_factory.mktemp("made"), submissions=4)


@pytest.fixture(scope="session")
def green(made_board: Made) -> Validation:
    """The result of validating that board."""
    return validate(made_board.root, jobs=1, include_path=made_board.tasks)


@pytest.fixture(scope="session")
def published_board(made_board: Made, green: Validation, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A copy of that board with its leaderboard.json; not to be written to."""
    root = tmp_path_factory.mktemp("published") / "boards"
    shutil.copytree(made_board.root, root)
    write_leaderboards(replace(green, root=root))
    return Made(root, made_board.tasks, tuple(root / p.relative_to(made_board.root) for p in made_board.submissions))


@pytest.fixture
def board(made_board: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A copy of that board that a test may change; what scores the answers is built once for all tests."""
    root = Path(shutil.copytree(made_board.root, tmp_path / "boards"))
    monkeypatch.setattr("vrbench.leaderboard.validate.SubmissionChecker", built_once)
    return Made(root, made_board.tasks, tuple(root / p.relative_to(made_board.root) for p in made_board.submissions))


def built_once(board: Board, data_root: None, include_path: Path | None) -> SubmissionChecker:
    key = f"{include_path} {board.model_dump_json()}"
    if key not in CHECKERS:
        CHECKERS[key] = SubmissionChecker(board, data_root, include_path)
    return CHECKERS[key]


@pytest.fixture
def desk(made_board: Made, tmp_path: Path) -> Desk:
    """Its baseline and two runs, in folders that a test may change."""
    return make_desk(made_board, tmp_path)
