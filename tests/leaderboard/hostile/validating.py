"""Submissions to a made-up board, right but for a few places whose digests agree, as `validate` looks at them."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.leaderboard.hostile import hostile, oracle
from tests.leaderboard.made import Made
from vrbench.leaderboard.board import load_board
from vrbench.leaderboard.check import SubmissionChecker, check_submissions
from vrbench.leaderboard.rows import build_leaderboard
from vrbench.leaderboard.schema import Leaderboard

READ, REFUSED = "read", "refused"
Change = tuple[str, Any]
"""File of a submission, or "responses", and what becomes of it."""

NUMBERS = (
    0.0, -0.0, 1e-3, -1e-320, -1e308, -1e15, 1e308, 1e-308, 5e-324, -5e-324, -745.2, -710.0, 1e300, -1e200, 2.0**53,
)  # fmt: skip
ANSWERS = (
    *hostile.TEXTS, "nan", "inf", "-inf", "1e400", "1/0", "9" * 400, "9" * 4400, "A", "(A)", "Yes", "no", "²", "٣", "½",
)  # fmt: skip


def answers() -> st.SearchStrategy[Any]:
    """What a stranger says that a model answered to one request."""
    number = st.sampled_from(NUMBERS) | st.floats(allow_nan=False, allow_infinity=False)
    text = st.sampled_from(ANSWERS) | st.text(max_size=20)
    return text | st.tuples(number, st.booleans()).map(list) | number


def changes(right: dict[str, Any]) -> st.SearchStrategy[list[Change]]:
    """One to three files of a submission changed.

    Args:
        right: file -> its JSON, as it is.
    """
    files = [st.tuples(st.just(name), hostile.changed(content)) for name, content in right.items()]
    said = st.tuples(st.just("responses"), st.lists(answers(), min_size=1, max_size=4))
    return st.lists(st.one_of(*files, said), min_size=1, max_size=3)


class Board:
    """A made-up board of which one submission is changed in every case."""

    def __init__(self, made: Made, scratch: Path) -> None:
        """Build what scores its answers.

        Args:
            scratch: empty folder for the changed copies.
        """
        self.made = made
        self.scratch = scratch
        self.board = load_board(made.board)
        self.checker = SubmissionChecker(self.board, include_path=made.tasks)
        self.own = made.submissions[1]
        self.right = {
            name: json.loads((self.own / name).read_text(encoding="utf-8")) for name in ("run.json", "submission.json")
        }

    def cases(self) -> st.SearchStrategy[list[Change]]:
        """Changes to one submission."""
        return changes(self.right)

    def check(self, case: list[Change]) -> str:
        """A changed submission is refused in harmless words, or has a row that can be written."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.made.root, self.scratch)
        folder = self.scratch / self.own.relative_to(self.made.root)
        for name, content in case:
            if name == "responses":
                _say(folder, content)
            else:
                _write(folder / name, content)
        _agree(folder)
        (looked,) = check_submissions(self.checker, self.scratch, [folder], 1)
        for reason in looked.reasons:
            assert oracle.is_harmless_line(reason) and len(reason) < 2_000, repr(reason)
        if looked.row is None:
            assert looked.reasons
            return REFUSED
        text = build_leaderboard(self.board, self.checker.specs, [looked.row]).json_text
        assert Leaderboard.model_validate_json(text, strict=True).rows[0].key == looked.row.key
        return READ


def _write(file: Path, content: Any) -> None:
    file.write_bytes(hostile.written(content).encode("utf-8", "surrogatepass"))


def _say(folder: Path, said: list[Any]) -> None:
    """Put answers in place of a few, each where it has the type that is asked for, and of all in one task."""
    for number, file in enumerate(sorted((folder / "samples").iterdir())):
        rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        for place, row in enumerate(rows):
            fitting = [answer for answer in said if type(answer) is type(row["responses"][0])]
            if fitting and (place % 3 == 0 or number == len(said) % 3):
                row["responses"] = [fitting[place % len(fitting)] for _ in row["responses"]]
        content = "".join(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n" for row in rows)
        file.write_bytes(gzip.compress(content.encode(), mtime=0))


def _agree(folder: Path) -> None:
    """Make the digests agree, as far as there still are places for them."""
    _tell(folder / "run.json", lambda told: _with_digests(told, folder))
    digest = hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()
    _tell(folder / "submission.json", lambda told: told.update({"run_digest": digest}))


def _with_digests(told: Any, folder: Path) -> None:
    for result in told["results"]:
        file = folder / "samples" / f"{result['task']}.jsonl.gz"
        result["samples_digest"] = hashlib.sha256(gzip.decompress(file.read_bytes())).hexdigest()


def _tell(file: Path, change: Callable[[Any], None]) -> None:
    """Change what a JSON file says, if it can be read and has such a place."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        change(told)
        file.write_text(json.dumps(told), encoding="utf-8")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return


def faked(board: Board, said: Any) -> str:
    """Answers that are all the same, in a submission whose every stored figure follows from them."""
    from vrbench.core.run_storage import load_run, save_run
    from vrbench.leaderboard.mismatches import ONLY_IN_RUN
    from vrbench.leaderboard.schema import Submission

    shutil.rmtree(board.scratch, ignore_errors=True)
    shutil.copytree(board.made.root, board.scratch)
    folder = board.scratch / board.own.relative_to(board.made.root)
    run = load_run(folder)
    samples, results = dict(run.samples), []
    for result in run.record.results:
        rows = [
            row.model_copy(update={"responses": tuple(said for _ in row.responses)})
            if type(row.responses[0]) is type(said)
            else row
            for row in run.samples[result.task]
        ]
        rescored, samples[result.task] = board.checker.rescorers[result.task].score(rows, run.record.settings.seed)
        results.append(rescored.model_copy(update={n: getattr(result, n) for n in ONLY_IN_RUN}))
    file = save_run(folder, run.record.model_copy(update={"results": tuple(results)}), samples, compressed=True)
    told = json.loads((folder / "submission.json").read_text())
    told["run_digest"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "submission.json").write_text(Submission.model_validate(told).model_dump_json())
    (looked,) = check_submissions(board.checker, board.scratch, [folder], 1)
    return REFUSED if looked.row is None else READ
