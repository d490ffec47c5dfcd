"""A maintainer's own run is packed whole or not at all, for what was submitted and by those who may."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.leaderboard.desk import tree
from tests.leaderboard.made import BOARD, Made
from vrbench.cli import app
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.run_storage import load_run, save_run
from vrbench.core.schemas import Run
from vrbench.leaderboard.board import load_board
from vrbench.leaderboard.reproductions import pack_reproduction, read_reproduction
from vrbench.leaderboard.validate import validate


@pytest.fixture
def run(board: Made, tmp_path: Path) -> Run:
    """The submission's own run, standing in for the maintainer's, as `vrbench run` writes it."""
    submitted = load_run(board.submissions[1])
    save_run(tmp_path / "run", submitted.record, submitted.samples)
    return load_run(tmp_path / "run")


def refused(run: Run, board: Made, by: str = "maker", name: str = BOARD) -> list[str]:
    before = tree(board.root)
    with pytest.raises(VrbenchError) as caught:
        pack_reproduction(run.path, by, name, board.root)
    assert tree(board.root) == before
    return error_messages(caught.value)


def test_a_run_lies_where_validating_looks_and_makes_the_row_reproduced(board: Made, run: Run) -> None:
    (packed,) = pack_reproduction(run.path, "maker", BOARD, board.root)
    source = board.submissions[1]
    assert packed.is_new
    assert packed.path == board.board / "reproductions" / source.parent.name / source.name
    told, again = read_reproduction(packed.path, load_board(board.board))
    assert (told.by, again.record, again.samples) == ("maker", run.record, run.samples)
    made = validate(board.root, include_path=board.tasks, jobs=1)
    assert made.rejections == {}
    status = {row.name: (row.status.kind, row.status.by) for row in made.boards[BOARD].rows}
    assert status["tiny-region-1"] == ("reproduced", "maker")


def test_the_same_run_changes_nothing_and_another_is_refused(board: Made, run: Run) -> None:
    pack_reproduction(run.path, "maker", BOARD, board.root)
    before = tree(board.root)
    assert [packed.is_new for packed in pack_reproduction(run.path, "maker", BOARD, board.root)] == [False]
    assert tree(board.root) == before
    other = run.record.provenance.model_copy(update={"started": "2026-03-01T00:00:00+00:00"})
    save_run(run.path, run.record.model_copy(update={"provenance": other}), run.samples)
    (said,) = refused(run, board)
    assert "holds another run already" in said


def test_a_checkpoint_submitted_under_two_names_is_reproduced_under_both(board: Made, run: Run) -> None:
    first = board.submissions[1]
    shutil.copytree(first, first.parents[1] / "lab9__same" / first.name)
    packed = pack_reproduction(run.path, "maker", BOARD, board.root)
    assert {place.path.parent.name for place in packed} == {first.parent.name, "lab9__same"}


def test_reused_answers_of_changed_code_are_refused(board: Made, run: Run) -> None:
    (by,) = run.record.provenance.answered
    provenance = run.record.provenance.model_copy(update={"answered": (by.model_copy(update={"dirty": True}),)})
    save_run(run.path, run.record.model_copy(update={"provenance": provenance}), run.samples)
    (said,) = refused(run, board)
    assert said.startswith("3 of its 3 answers were computed from a checkout with uncommitted changes")


def test_all_that_stands_against_it_is_told_at_once(board: Made, run: Run) -> None:
    record = run.record
    ref = record.checkpoint.model_copy(update={"digest": hashlib.sha256(b"other").hexdigest()})
    settings = record.settings.model_copy(update={"limit": 5})
    provenance = record.provenance.model_copy(update={"dirty": True})
    left = record.results[1:]
    changed = record.model_copy(
        update={"checkpoint": ref, "settings": settings, "provenance": provenance, "results": left}
    )
    save_run(run.path, changed, {result.task: run.samples[result.task] for result in left})
    said = refused(run, board, by="lab1")
    lacking = record.results[0].task
    assert [any(words in sentence for sentence in said) for words in (
        "'lab1' is not a maintainer of board made; those are maker",
        "limit 5", "uncommitted changes", f"lacks {lacking}",
        f"({ref.digest[:16]}) was not submitted to board made",
    )] == [True] * 5  # fmt: skip
    assert len(said) == 5


def test_a_board_that_is_not_there(board: Made, run: Run) -> None:
    assert "other" in refused(run, board, name="other")[0]


def test_the_command_says_what_to_do_next(board: Made, run: Run) -> None:
    words = ["leaderboard", "reproduced", str(run.path), "--by", "maker", "--board", BOARD, "--boards", str(board.root)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "packed " in done.output
    assert done.output.splitlines()[-1] == f"next: vrbench leaderboard validate {board.board} --write"
    assert "already" in CliRunner().invoke(app, words).output
