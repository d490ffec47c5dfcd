"""The part of a run that a board takes is the run of its tasks alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from vrbench.core.errors import VrbenchError
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import Run
from vrbench.leaderboard.board import load_board
from vrbench.leaderboard.packing import part_of

POCKET = Path(__file__).parents[2] / "leaderboards" / "pocket"


def only(pattern: str) -> Run:
    (file,) = POCKET.glob(f"{pattern}/run.json")
    return load_run(file.parent)


def test_what_is_left_is_the_run_of_these_tasks_alone() -> None:
    whole = only("submissions/vrbench__pocket-full/*")
    six, five = sorted(whole.samples)[1:], sorted(whole.samples)[2:]
    part = part_of(whole, five)
    assert part.record.settings.tasks == tuple(five)
    assert set(part.samples) == set(five) == {result.task for result in part.record.results}
    assert part_of(part_of(whole, six), five) == part  # whose digest is thus that of its tasks
    assert len({run.record.inputs_digest for run in (whole, part_of(whole, six), part)}) == 3


def test_a_run_of_the_tasks_alone_stays_as_it_is() -> None:
    submitted = only("submissions/vrbench__pocket-full/*")
    assert part_of(submitted, load_board(POCKET).tasks) is submitted
    assert part_of(submitted, ["mme", *submitted.samples]) is submitted  # what is missing is told of the whole


def test_a_run_of_other_inputs_than_it_says_is_refused() -> None:
    whole = only("submissions/vrbench__pocket-full/*")
    results = tuple(r.model_copy(update={"data_digest": "0" * 64}) for r in whole.record.results)
    changed = whole.model_copy(update={"record": whole.record.model_copy(update={"results": results})})
    with pytest.raises(VrbenchError, match="its inputs_digest is not that of these tasks"):
        part_of(changed, sorted(whole.samples)[1:])
