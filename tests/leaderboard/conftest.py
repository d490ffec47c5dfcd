"""A made-up board, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.conftest import vlm  # noqa: F401  # a fixture
from tests.leaderboard.desk import Desk, make_desk
from tests.leaderboard.made import Made, make_board


@pytest.fixture(scope="session")
def made_board(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A board of four tasks of 16 items and four submissions; not to be written to."""
    return make_board(tmp_path_factory.mktemp("made"), submissions=4)


@pytest.fixture
def desk(made_board: Made, tmp_path: Path) -> Desk:
    """Its baseline and two runs, in folders that a test may change."""
    return make_desk(made_board, tmp_path)
