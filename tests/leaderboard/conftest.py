"""A made-up board, made once."""

from __future__ import annotations

import pytest

from tests.engine.conftest import vlm  # noqa: F401  # a fixture
from tests.leaderboard.made import Made, make_board


@pytest.fixture(scope="session")
def made_board(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A board of four tasks of 16 items and four submissions; not to be written to."""
    return make_board(tmp_path_factory.mktemp("made"), submissions=4)
