"""The part of a run that a board takes is the run of its tasks alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from vrbench.errors import VrbenchError
from vrbench.leaderboard.board import load_board
from vrbench.leaderboard.part import part_of
from vrbench.records import Run, load_run

POCKET = Path(__file__).parents[2] / "leaderboards" / "pocket"


def only(pattern: str) -> Run:
    (file,) = POCKET.glob(f"{pattern}/run.json")
    return load_run(file.parent)


def test_eight_tasks_become_the_seven_of_the_board() -> None:
    whole, submitted = only("runs/pocket-full/*"), only("submissions/vrbench__pocket-full/*")
    part = part_of(whole, load_board(POCKET).tasks)
    assert part.record.inputs_digest == submitted.record.inputs_digest != whole.record.inputs_digest
    assert part.record.settings.tasks == submitted.record.settings.tasks
    assert set(part.samples) == set(part.record.settings.tasks) == {r.task for r in part.record.results}
    assert "pocket_pydoc" in whole.samples and "pocket_pydoc" not in part.samples


def test_a_run_of_the_tasks_alone_stays_as_it_is() -> None:
    submitted = only("submissions/vrbench__pocket-full/*")
    assert part_of(submitted, load_board(POCKET).tasks) is submitted
    assert part_of(submitted, ["mme", *submitted.samples]) is submitted  # what is missing is told of the whole


def test_a_run_of_other_inputs_than_it_says_is_refused() -> None:
    whole = only("runs/pocket-full/*")
    results = tuple(r.model_copy(update={"data_digest": "0" * 64}) for r in whole.record.results)
    changed = whole.model_copy(update={"record": whole.record.model_copy(update={"results": results})})
    with pytest.raises(VrbenchError, match="its inputs_digest is not that of these tasks"):
        part_of(changed, load_board(POCKET).tasks)
