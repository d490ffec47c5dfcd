"""Whatever a submission says and answers, `validate` refuses it in harmless words or gives it a row; it never dies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.leaderboard.hostile.validating import ANSWERS, READ, REFUSED, Board, faked
from tests.leaderboard.made import make_board
from vrbench.core.errors import VrbenchError

EXAMPLES = 12


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A made-up board of two submissions."""
    folder = tmp_path_factory.mktemp("validating")
    return Board(make_board(folder / "made", submissions=2, items=8), folder / "scratch")


def test_a_changed_submission_is_refused_or_has_a_row(board: Board) -> None:
    seen: set[str] = set()

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(st.data())
    def each(data: st.DataObject) -> None:
        seen.add(board.check(data.draw(board.cases())))

    each()
    assert seen == {READ, REFUSED}


@pytest.mark.parametrize("said", [*ANSWERS[::18], "nan", "9" * 4400, "²"])
def test_an_answer_that_is_odd_is_scored_as_any_other(said: str, board: Board) -> None:
    assert faked(board, said) == READ


@pytest.mark.parametrize("said", [(number, True) for number in (0.0, -1e308, 5e-324, -745.2)])
def test_options_of_odd_likelihoods_are_scored_or_refused(said: tuple[float, bool], board: Board) -> None:
    assert faked(board, said) in (READ, REFUSED)


@pytest.mark.parametrize("said", [-1e308, -1e15, 1.0])
def test_a_text_of_impossible_likelihood_is_refused(said: float, board: Board) -> None:
    assert board.check([("responses", [said])]) == REFUSED
    with pytest.raises((VrbenchError, ArithmeticError, ValueError)):
        faked(board, said)


@pytest.mark.parametrize("seconds", [-1.0, 5e-324, 1e308])
def test_seconds_that_cannot_be_make_no_figure(seconds: float, board: Board) -> None:
    run = json.loads(json.dumps(board.right["run.json"]))
    for result in run["results"]:
        result["seconds"] = seconds
    assert board.check([("run.json", run)]) == READ


@pytest.mark.parametrize(
    "note", ['{"seconds": 1e308}', '{"seconds": -1}', '{"seconds": NaN}', "[" * 5_000, '{"device": 1}']
)
def test_a_note_that_cannot_be_makes_no_figure(note: str, board: Board) -> None:
    run = json.loads(json.dumps(board.right["run.json"]))
    for lineage in run["checkpoint"]["lineage"]:
        for step in lineage["steps"]:
            step["note"] = note
        lineage["steps"] *= 1
    run["checkpoint"]["lineage"][0]["steps"] *= 3
    assert board.check([("run.json", run)]) in (READ, REFUSED)


def test_a_submission_of_nothing_is_refused(board: Board, tmp_path: Path) -> None:
    assert board.check([("run.json", {}), ("submission.json", [])]) == REFUSED
