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
from tests.leaderboard.desk import ABOUT, Desk, set_results, set_samples, set_settings, tree
from tests.leaderboard.made import BOARD, Made
from vrbench import cli
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.run_storage import load_run
from vrbench.leaderboard.pack import check, pack

ROOT = Path(__file__).parents[2]


def vrbench(*words: object, code: str = MAIN, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", code, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(program, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def submit(desk: Desk, *words: str, code: str = MAIN) -> subprocess.CompletedProcess[str]:
    given = ("--baseline", desk.full, "--name", "my-lab/region", "--board", BOARD, "--boards", desk.root)
    return vrbench("submit", desk.region, *given, *words, code=code)


class TestSubmit:
    def test_it_packs_without_torch_and_says_what_to_do_next(self, desk: Desk) -> None:
        done = submit(desk, code=TELL_HEAVY + MAIN)
        assert (done.returncode, done.stderr.strip()) == (0, "")
        (path,) = (desk.root / BOARD / "submissions" / "my-lab__region").glob("*")
        assert done.stdout.startswith(f"packed {path}: 6 files, 0.0 MiB\n")
        for words in (f"vrbench leaderboard validate {desk.root / BOARD} --write", f"git add {path}", "pull request"):
            assert words in done.stdout

    def test_the_commands_that_it_prints_can_be_run(self, desk: Desk, made_board: Made) -> None:
        git = ["git", "-C", str(desk.root)]
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run([*git, "init", "-q"], check=True)
        printed = [shlex.split(line) for line in submit(desk).stdout.splitlines() if line.startswith("  ")]
        assert [words[:2] for words in printed] == [
            ["git", "switch"], ["vrbench", "leaderboard"], ["git", "add"], ["git", "commit"], ["git", "push"],
        ]  # fmt: skip
        for program, *words in printed[:-1]:
            if program == "git":
                subprocess.run([*git, *who, *words], check=True, capture_output=True)
            else:
                assert vrbench(*words, "--include-path", made_board.tasks).returncode == 0
        command = [*git, "show", "--stat=200", "--format=%s%n%D"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert shown.startswith("Submit my-lab/region to board made\nHEAD -> submit-my-lab-region-")
        assert shown.count("submissions/my-lab__region/") == 6
        assert f"{BOARD}/leaderboard.json" in shown

    def test_twice_the_same_is_told(self, desk: Desk) -> None:
        submit(desk)
        before = tree(desk.root)
        again = submit(desk)
        assert again.returncode == 0
        assert "holds the same submission already; nothing was changed" in again.stdout
        assert tree(desk.root) == before

    def test_every_fault_is_one_line_and_nothing_is_written(self, desk: Desk) -> None:
        set_settings(desk.region, limit=16)
        set_results(desk.region, "made_mme", version="0")
        before = tree(desk.root)
        done = submit(desk)
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2
        assert len(lines) == 2
        assert all(line.startswith("vrbench: ") for line in lines)
        assert tree(desk.root) == before

    def test_away_from_a_checkout_it_says_which_folder_it_needs(self, desk: Desk, tmp_path: Path) -> None:
        done = vrbench("submit", desk.region, "--baseline", desk.full, "--name", "a/b", cwd=tmp_path)
        assert done.returncode == 2
        assert "there is no board at 'leaderboards/pocket'" in done.stderr

    def test_its_help_ends_with_an_example(self) -> None:
        done = vrbench("submit", "--help")
        assert re.search(r"Example: vrbench submit \S+\s+--baseline", done.stdout)


class TestCheck:
    def told(self, desk: Desk, made_board: Made) -> list[str]:
        before = tree(desk.root)
        found = check(desk.region, desk.full, ABOUT, desk.root, include_path=made_board.tasks)
        assert tree(desk.root) == before
        return found

    def test_a_true_run_would_be_taken(self, desk: Desk, made_board: Made) -> None:
        assert self.told(desk, made_board) == []
        done = self.command(desk, made_board)
        assert (done.exit_code, done.stdout) == (0, "board made would take it; leave out --check to pack it\n")

    def test_a_changed_score_is_found_that_packing_does_not_see(self, desk: Desk, made_board: Made) -> None:
        old = load_run(desk.region).samples["made_mme"][0].score
        set_samples(desk.region, "made_mme", score=1.0 - old)
        assert any(
            "made_mme: the score of 1 sample is not what follows" in said for said in self.told(desk, made_board)
        )
        assert pack(desk.region, desk.full, ABOUT, desk.root).is_new

    def test_what_is_seen_without_scoring_is_told_with_it(self, desk: Desk, made_board: Made) -> None:
        old = load_run(desk.region).samples["made_mme"][0].score
        set_samples(desk.region, "made_mme", score=1.0 - old)
        set_settings(desk.region, dtype="bfloat16")
        said = self.told(desk, made_board)
        assert sum("made_mme: the score of 1 sample" in one for one in said) == 1
        assert sum("it was computed in bfloat16, its baseline in float32" in one for one in said) == 1

    def test_another_submission_of_the_same_revision_is_told(self, desk: Desk, made_board: Made) -> None:
        submit(desk, "--description", "other words")
        assert any("with other description" in said for said in self.told(desk, made_board))

    def test_what_cannot_be_looked_at_is_told(self, desk: Desk, made_board: Made) -> None:
        shutil.rmtree(desk.region)
        assert ["no run at" in said for said in self.told(desk, made_board)] == [True]

    def test_a_board_whose_tasks_are_not_here_is_told(self, desk: Desk) -> None:
        said = check(desk.region, desk.full, ABOUT, desk.root)
        assert "board made has the task made_mme, for which there is no task file here" in said

    def test_the_command_tells_every_fault(self, desk: Desk, made_board: Made) -> None:
        set_settings(desk.region, limit=3, dtype="bfloat16")
        done = self.command(desk, made_board)
        assert isinstance(done.exception, VrbenchError)  # which the program prints, and exits with 2
        assert error_messages(done.exception) == self.told(desk, made_board)
        assert len(error_messages(done.exception)) >= 2

    def command(self, desk: Desk, made_board: Made) -> Result:
        words = ["submit", desk.region, "--baseline", desk.full, "--name", ABOUT.name, "--board", BOARD, "--check"]
        words += ["--boards", desk.root, "--include-path", made_board.tasks]
        return CliRunner().invoke(cli.app, [str(word) for word in words])


class TestPin:
    def test_what_changes_is_told_and_what_is_still_open(self, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "leaderboards" / "paper", tmp_path / "paper")
        file = tmp_path / "paper" / "board.yaml"
        file.write_text(re.sub(r"definition_digest: \w+", "definition_digest: null", file.read_text()))
        done = vrbench("leaderboard", "pin", "paper", "--boards", tmp_path)
        assert done.returncode == 0
        assert "tasks.gqa.definition_digest: not pinned -> f1685141" in done.stdout
        assert "board paper: family llava-1.5-7b has no baseline yet" in done.stdout
        assert file.read_text() == (ROOT / "leaderboards" / "paper" / "board.yaml").read_text()

    def test_a_board_of_other_tasks_is_refused(self, desk: Desk) -> None:
        done = vrbench("leaderboard", "pin", BOARD, "--boards", desk.root)
        assert done.returncode == 2
        assert "there is no task file for made_mme" in done.stderr

    def test_unless_its_task_files_are_given(self, desk: Desk, made_board: Made) -> None:
        done = vrbench("leaderboard", "pin", BOARD, "--boards", desk.root, "--include-path", made_board.tasks)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_schema_of_a_submission_fits_what_is_packed(desk: Desk) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    submit(desk)
    schema = json.loads(vrbench("schema", "submission").stdout)
    (file,) = (desk.root / BOARD / "submissions" / "my-lab__region").glob("*/submission.json")
    jsonschema.validate(json.loads(file.read_text()), schema)
