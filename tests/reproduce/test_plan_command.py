"""`vrbench reproduce`: what it prints, what it refuses, and what it exits with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.reproduce import fake_steps
from vrbench.cli import app, reproduce_steps
from vrbench.cli.reproduce import print_costs, print_plan
from vrbench.reproduce.execute import ExecutionOptions, StepEvent, execute
from vrbench.reproduce.worker import StepJob

HEAVY = ("torch", "transformers", "datasets", "lm_eval", "pandas", "matplotlib", "scipy", "peft", "accelerate")
MAIN = f"""
import atexit, sys
atexit.register(lambda: print(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr))
from vrbench.cli import main
main()
"""


@pytest.fixture(autouse=True)
def light_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_steps.use_light_workers(monkeypatch)


def vrbench(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *command], capture_output=True, text=True, env={**os.environ}, check=False
    )


class TestDryRun:
    @pytest.mark.parametrize("family", ["pocket", "llava-1.5-7b"])
    def test_it_is_light_and_quick_without_data_or_base(self, family: str, tmp_path: Path) -> None:
        begin = os.times().children_user
        done = vrbench("reproduce", "all", "--family", family, "--dry-run", "--out", str(tmp_path / "out"))
        assert (done.returncode, done.stderr.strip()) == (0, "")
        assert os.times().children_user - begin < 1  # seconds of a processor
        assert not (tmp_path / "out").exists()

    def test_it_tells_steps_minutes_their_source_and_where_results_go(self) -> None:
        told = CliRunner().invoke(app, ["reproduce", "layers,text", "--seeds", "1", "--dry-run"]).stdout
        assert "  train-sparse-uniform-8-s0\n" in told
        assert "  run-sparse-uniform-8-s0  after train-sparse-uniform-8-s0\n" in told
        assert re.search(r"^train +7 +0 +\d+\.\d$", told, re.MULTILINE)
        assert re.search(r"^all +15 +0 +\d+\.\d$", told, re.MULTILINE)
        assert re.search(r"About \d+ minutes of wall time on one GPU with 4 parallel workers", told)
        assert "Estimated from: four trainings of 1,200 x 32 samples that shared an NVIDIA H200" in told
        assert told.rstrip().endswith("Results go to reproduce/pocket.")

    def test_a_trial_is_called_one(self) -> None:
        command = ["reproduce", "layers", "--set", "steps=20", "--limit", "20", "--dry-run"]
        told = CliRunner().invoke(app, command).stdout
        assert "fewer than 50 training steps this is a trial" in told and "20 items a task" in told

    def test_what_is_made_again_for_want_of_weights_is_told_and_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        of = fake_steps.plan(
            fake_steps.step("train-a"), fake_steps.step("train-b"), fake_steps.step("run-a", "train-a")
        )
        with closing(execute(of, tmp_path, fake_steps.FUNCTIONS, ExecutionOptions())) as happening:
            list(happening)
        shutil.rmtree(tmp_path / "checkpoints")
        more = fake_steps.plan(*of.steps, fake_steps.step("run-more", "train-a"))
        print_plan(more, tmp_path, "*", None)
        told = capsys.readouterr().out
        assert "  train-a  (again: its weights are missing)\n  train-b  (done)\n" in told
        assert re.search(r"^train +2 +1 ", told, re.MULTILINE) and re.search(r"^run +2 +0 ", told, re.MULTILINE)
        assert "  run-a  after train-a  (again: a step that it needs is repeated)\n" in told


class TestFaults:
    def test_what_is_missing_is_told_at_once_before_anything_is_done(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        done = CliRunner().invoke(
            app,
            ["reproduce", "all", "--family", "llava-1.5-7b", "--device", "cpu", "--out", str(out), "--jobs", "0",
             "--data-root", str(tmp_path / "nowhere"), "--set", f"data.images={tmp_path / 'gone'}"],
        )  # fmt: skip
        faults = str(done.exception).splitlines()
        expected = ("table profile", "--set data.conversations=PATH", "data.images is", "--set base=FOLDER",
                    "data root", "jobs is 0")  # fmt: skip
        assert [sum(words in fault for fault in faults) for words in expected] == [1] * len(expected), faults
        assert len(faults) == len(expected) and not out.exists()

    def test_a_misspelt_recipe_key_is_answered_with_the_nearest(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(app, ["reproduce", "text", "--set", "tune.lrr=3", "--out", str(tmp_path / "out")])
        assert re.search(r"'tune\.lrr'; did you mean '?lr", str(done.exception))


def failing(job: StepJob) -> None:
    """`fake_steps.train`, but the model with one layer cannot be had."""
    if job.step.name == "train-sparse-uniform-1-s0":
        raise OSError("disk full")
    fake_steps.train(job)


class TestExecution:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reproduce_steps, "validate_plan", lambda *_: [])
        monkeypatch.setattr("vrbench.reproduce.report.write_report", lambda folder: [folder / "report.md"])

    def reproduce(self, folder: Path) -> Result:
        return CliRunner().invoke(
            app, ["reproduce", "layers", "--seeds", "1", "--device", "cpu", "--out", str(folder), "--jobs", "2"]
        )

    def test_it_ends_with_what_was_spent_and_the_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reproduce_steps, "FUNCTIONS", fake_steps.FUNCTIONS)
        done = self.reproduce(tmp_path)
        assert done.exit_code == 0
        assert re.search(r"^train +7 +0\.\d +-$", done.stdout, re.MULTILINE)
        assert re.search(r"this session: \d+\.\d minutes of wall time, 2 parallel workers", done.stdout)
        assert "GPU minutes" not in done.stdout
        assert done.stdout.rstrip().endswith(f"report: {tmp_path / 'report.md'}")
        assert "100%" in done.stderr and "14/14" in done.stderr

    def test_a_failed_step_is_told_and_the_exit_code_is_1(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reproduce_steps, "FUNCTIONS", {**fake_steps.FUNCTIONS, "train": failing})
        done = self.reproduce(tmp_path)
        assert done.exit_code == 1
        assert "vrbench: step train-sparse-uniform-1-s0 failed: OSError: disk full (see logs/" in done.stderr
        assert "vrbench: 1 steps that need a failed step were skipped" in done.stderr
        assert "report: " in done.stdout
        assert (tmp_path / "done" / "run-full-s0.json").exists()


def test_what_was_spent_is_told_by_kind_and_by_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = fake_steps.plan(fake_steps.step("train-a"), fake_steps.step("run-a", "train-a"))
    options = ExecutionOptions(jobs=4, gpus=("0", "1"))
    with closing(execute(of, tmp_path, fake_steps.FUNCTIONS, options)) as happening:
        list(happening)
    events = [
        StepEvent("done", "train-a", 90.0, 0),
        StepEvent("failed", "run-a", 30.0, 1),
        StepEvent("existing", "x", 0.0, 0),
    ]
    print_costs(of, tmp_path, options, events, 120.0)
    told = capsys.readouterr().out
    assert "this session: 2.0 minutes of wall time, 4 parallel workers, 2 GPUs: 4.0 GPU minutes" in told
    assert "minutes of steps by GPU, which several may share: 0: 1.5, 1: 0.5" in told
