"""`vrbench submit` and `vrbench leaderboard pin`: what they print, what they exit with, and what they leave."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.cli.test_cli import MAIN, TELL_HEAVY
from tests.leaderboard.desk import ABOUT, Desk, set_samples, set_settings, tree
from tests.leaderboard.made import BOARD, Made
from vrbench import cli
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.run_storage import load_run

ROOT = Path(__file__).parents[2]


def vrbench(*words: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def submit_words(desk: Desk, *words: object) -> list[object]:
    given = ("--baseline", desk.full, "--name", ABOUT.name, "--board", BOARD, "--boards", desk.root)
    return ["submit", desk.region, *given, *words]


def errors_of(done: Result) -> list[str]:
    assert isinstance(done.exception, VrbenchError), done.output  # which the program prints, and exits with 2
    return error_messages(done.exception)


class TestSubmit:
    def test_it_packs_without_torch_and_prints_the_next_commands(self, desk: Desk) -> None:
        program = [sys.executable, "-c", TELL_HEAVY + MAIN, *map(str, submit_words(desk))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stderr.strip()) == (0, "")
        (path,) = (desk.root / BOARD / "submissions" / "my-lab__region").glob("*")
        assert done.stdout.startswith(f"packed {path}: 6 files, 0.0 MiB\n")
        for words in (f"vrbench leaderboard validate {desk.root / BOARD} --write", f"git add {path}", "pull request"):
            assert words in done.stdout

    def test_the_printed_commands_can_be_run(self, desk: Desk, made_board: Made) -> None:
        git = ["git", "-C", str(desk.root)]
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run([*git, "init", "-q"], check=True)
        printed = [shlex.split(line) for line in vrbench(*submit_words(desk)).stdout.splitlines() if line[:2] == "  "]
        assert [words[:2] for words in printed] == [
            ["git", "switch"], ["vrbench", "leaderboard"], ["git", "add"], ["git", "commit"], ["git", "push"],
        ]  # fmt: skip
        for program, *words in printed[:-1]:
            if program == "git":
                subprocess.run([*git, *who, *words], check=True, capture_output=True)
            else:
                assert vrbench(*words, "--include-path", made_board.tasks, "--jobs", "1").exit_code == 0
        command = [*git, "show", "--stat=200", "--format=%s%n%D"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert shown.startswith("Submit my-lab/region to board made\nHEAD -> submit-my-lab-region-")
        assert shown.count("submissions/my-lab__region/") == 6
        assert f"{BOARD}/leaderboard.json" in shown

    def test_the_same_submission_again_changes_nothing(self, desk: Desk) -> None:
        vrbench(*submit_words(desk))
        before = tree(desk.root)
        again = vrbench(*submit_words(desk))
        assert again.exit_code == 0
        assert "nothing was changed" in again.stdout
        assert tree(desk.root) == before


class TestCheck:
    """`--check` writes nothing and reports what `submit` reports, with `--rescore` and without."""

    def errors(self, desk: Desk, *words: object) -> list[str]:
        before = tree(desk.root)
        found = errors_of(vrbench(*submit_words(desk, "--check", *words)))
        assert found == errors_of(vrbench(*submit_words(desk, *words)))
        assert tree(desk.root) == before
        return found

    def test_a_valid_run_would_be_accepted(self, desk: Desk, made_board: Made) -> None:
        before = tree(desk.root)
        for words in ((), ("--rescore", "--include-path", made_board.tasks)):
            done = vrbench(*submit_words(desk, "--check", *words))
            assert done.exit_code == 0
            assert done.stdout.startswith("board made would accept it")
            assert ("--rescore" in done.stdout) == (not words)
        assert tree(desk.root) == before

    def test_changed_scores_are_reported_with_what_the_files_show(self, desk: Desk, made_board: Made) -> None:
        old = load_run(desk.region).samples["made_mme"][0].score
        set_samples(desk.region, "made_mme", score=1.0 - old)
        set_settings(desk.region, dtype="bfloat16")
        found = self.errors(desk, "--rescore", "--include-path", made_board.tasks)
        assert sum("made_mme: the score of 1 sample" in error for error in found) == 1
        assert sum("it was computed in bfloat16, its baseline in float32" in error for error in found) == 1
        assert not any("made_mme" in error for error in self.errors(desk))

    def test_another_submission_of_the_same_revision_is_reported(self, desk: Desk) -> None:
        vrbench(*submit_words(desk, "--description", "other words"))
        assert any("with other description" in error for error in self.errors(desk))

    def test_samples_that_cannot_be_read_back_are_reported(self, desk: Desk) -> None:
        set_samples(desk.region, "made_words", answer="x" * 2**20)
        assert any("line 1 has more than" in error for error in self.errors(desk))

    def test_a_run_or_tasks_that_are_missing_are_reported(self, desk: Desk) -> None:
        assert any("made_mme, for which there is no task file" in error for error in self.errors(desk, "--rescore"))
        shutil.rmtree(desk.region)
        assert ["no run at" in error for error in self.errors(desk, "--rescore")] == [True]


class TestPin:
    def test_what_changes_is_told_and_what_is_still_open(self, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "leaderboards" / "paper", tmp_path / "paper")
        file = tmp_path / "paper" / "board.yaml"
        file.write_text(re.sub(r"definition_digest: \w+", "definition_digest: null", file.read_text()))
        done = vrbench("leaderboard", "pin", "paper", "--boards", tmp_path)
        assert done.exit_code == 0
        assert "tasks.gqa.definition_digest: not pinned -> f1685141" in done.stdout
        assert "board paper: family llava-1.5-7b has no baseline yet" in done.stdout
        assert file.read_text() == (ROOT / "leaderboards" / "paper" / "board.yaml").read_text()

    def test_a_board_of_other_tasks_is_refused(self, desk: Desk) -> None:
        done = vrbench("leaderboard", "pin", BOARD, "--boards", desk.root)
        assert "there is no task file for made_mme" in errors_of(done)[0]

    def test_unless_its_task_files_are_given(self, desk: Desk, made_board: Made) -> None:
        done = vrbench("leaderboard", "pin", BOARD, "--boards", desk.root, "--include-path", made_board.tasks)
        assert done.exit_code == 0


def test_the_schema_of_a_submission_fits_what_is_packed(desk: Desk) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    vrbench(*submit_words(desk))
    schema = json.loads(vrbench("schema", "submission").stdout)
    (file,) = (desk.root / BOARD / "submissions" / "my-lab__region").glob("*/submission.json")
    jsonschema.validate(json.loads(file.read_text()), schema)
