"""What a board requires of a run's own files, each requirement by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.simulated import changed, result, run, samples
from vrbench.core.schemas import RunRecord
from vrbench.leaderboard import requirements
from vrbench.leaderboard.board import prompts_digest

DIGEST = "d" * 64
SETTINGS = SimpleNamespace(dtypes=("float32",))
BOARD: Any = SimpleNamespace(id="b", tasks={"t": None}, settings=SETTINGS)
PINNED: Any = SimpleNamespace(version="1", n=4, data_digest=DIGEST, definition_digest=DIGEST)
ROWS = samples([1.0, 0.0, 1.0, 1.0])


def record(**fields: Any) -> RunRecord:
    made = run("x", {"t": ("s", "mean", ROWS)}, dtype="float32").record
    return made.model_copy(update=fields)


def with_settings(**fields: Any) -> RunRecord:
    return record(settings=record().settings.model_copy(update=fields))


def test_image_settings_are_those_of_the_baseline() -> None:
    def check(ours: RunRecord, baseline: RunRecord | None) -> list[str]:
        return list(requirements._validate_settings(BOARD, ours, baseline))

    own = with_settings(image_settings="own")
    assert check(own, own) == check(record(), record()) == check(record(), None) == []
    for pair in ((own, record()), (record(), own), (own, None)):
        (message,) = check(*pair)
        assert "its image settings are" in message


def test_answers_are_of_vrbenchs_own_engine() -> None:
    theirs = with_settings(backend="vllm")
    (message,) = requirements._validate_settings(BOARD, theirs, theirs)
    assert message == "it was computed by vllm; a board takes answers of vrbench's own engine (no --backend)"


def test_each_task_is_there_once_and_finished() -> None:
    def check(made: RunRecord) -> list[str]:
        return list(requirements._validate_tasks(BOARD, made))

    (one,) = record().results
    settings = record().settings.model_copy(update={"tasks": ("t", "t")})
    assert check(record()) == []
    assert check(record(results=(one, one), settings=settings)) == ["it has t more than once"]
    assert check(record(status="error")) == ["a task did not finish"]
    failed = one.model_copy(update={"status": "error"})
    assert check(record(results=(failed,))) == check(record(results=(failed,), status="error")) == ["t did not finish"]


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({}, []),
        ({"n": 3, "n_unscored": 1}, []),
        ({"n": 5, "n_unscored": 1}, ["it has 6 of the task's 4 items"]),
        ({"n": 3, "n_unscored": 0}, ["it has 3 of the task's 4 items"]),
        ({"complete": False}, ["it has 4 of the task's 4 items"]),
        ({"version": "2"}, ["it was run at version 2"]),
        ({"version": "2", "status": "error", "n": 0}, ["it was run at version 2"]),
        ({"data_digest": "e" * 64}, ["its data is not the board's"]),
        ({"data_digest": ""}, ["its data is not the board's"]),
        ({"definition_digest": "e" * 64}, ["its definition is not the board's"]),
        ({"definition_digest": ""}, []),
    ],
)
def test_a_result_is_of_the_whole_task_as_the_board_has_it(fields: dict[str, Any], errors: list[str]) -> None:
    made = result("t", "s", "mean", ROWS, **{"data_digest": DIGEST, "definition_digest": DIGEST} | fields)
    found = list(requirements._validate_result(PINNED, made))
    assert [message[: len(error)] for message, error in zip(found, errors, strict=True)] == errors


def test_every_sample_has_a_response_unless_the_run_has_none() -> None:
    digest = prompts_digest(ROWS)
    family: Any = SimpleNamespace(prompts={"t": digest}, baseline=None, model="llava", depth=30)
    board: Any = SimpleNamespace(id="b", tasks={"t": PINNED}, settings=SETTINGS, families={"f": family})
    submission: Any = SimpleNamespace(board="b", family="f", revision=record().checkpoint.digest[:16])
    (made,) = changed(run("x", {"t": ("s", "mean", ROWS)}), definition_digest=DIGEST, data_digest=DIGEST).record.results

    def errors(*silent: int) -> list[str]:
        said = [() if i in silent else ("a",) for i in range(len(ROWS))]
        rows = [s.model_copy(update={"responses": r}) for s, r in zip(ROWS, said, strict=True)]
        return requirements.validate_requirements(board, submission, record(results=(made,)), {"t": rows})[1:]

    assert errors() == []
    assert errors(1, 3) == ["t: 2 samples have no raw response, such as '1'"]
    (message,) = errors(0, 1, 2, 3)
    assert "kept no raw responses of t" in message
    assert list(requirements._validate_prompts(family, "t", ROWS, False)) == []
