"""The commands: what they print, what they exit with, and how little they import."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from benchmarks.startup import write_run
from tests import tiny
from vrbench import cli
from vrbench.core.run_storage import load_run
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks.spec import TaskSpec

HEAVY = ("torch", "transformers", "datasets", "lm_eval", "lmms_eval", "pandas", "matplotlib", "peft", "accelerate")
MAIN = "from vrbench.cli import main; main()"
Call = Callable[..., subprocess.CompletedProcess[str]]
TELL_HEAVY = f"""
import atexit, sys
atexit.register(lambda: print(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr))
"""


def vrbench(*command: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process; or other code, or with an environment, in one of its own."""
    if code or environment:
        program = [sys.executable, "-c", code or MAIN, *command]
        return subprocess.run(program, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["vrbench", *command])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    return subprocess.CompletedProcess(command, int(exit_.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of two made-up runs: a candidate, and its baseline."""
    folder = tmp_path_factory.mktemp("runs")
    return str(write_run(folder, "candidate", 0.85)), str(write_run(folder, "baseline", 0.9))


class TestLightness:
    def test_neither_the_package_nor_compare_imports_anything_heavy(self, runs: tuple[str, str]) -> None:
        command = ["compare", runs[0], "--baseline", runs[1], "--format"]
        each = "for form in ('table', 'markdown', 'latex', 'json'):"
        package = "import vrbench; vrbench.compare, vrbench.load_run"
        code = f"{package}\nfrom vrbench.cli import app\n{each}\n    app([*{command}, form], standalone_mode=False)"
        done = vrbench(code=TELL_HEAVY + code)
        assert (done.returncode, done.stderr.strip()) == (0, "")

    def test_compare_writes_a_report_where_it_is_told_to(self, runs: tuple[str, str], tmp_path: Path) -> None:
        done = vrbench("compare", runs[0], "--baseline", runs[1], "--format", "json", "--report", str(tmp_path / "r"))
        assert done.returncode == 0
        assert json.loads(done.stdout)["candidates"]
        names = {path.name for path in (tmp_path / "r").iterdir()}
        assert {"comparison.md", "comparison.html", "comparison.json", "retention.png"} <= names


class TestFaults:
    def test_all_faults_of_a_run_are_told_at_once_one_a_line(self, tmp_path: Path) -> None:
        done = vrbench(
            "run", "--ckpt", "pocket/fulll", "--ckpt", "pocket/nope", "--tasks", "pocket_mmme", "--limit", "0",
            "--batch-size", "none", "--out", "/proc/nowhere", "--data-root", str(tmp_path),
        )  # fmt: skip
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2
        assert all(line.startswith("vrbench: ") for line in lines)
        expected = ("limit is 0", "size is 'none'", "/proc/nowhere", "'pocket/fulll'", "'pocket/nope'", "'pocket_mmme'")
        for words in expected:
            assert sum(words in line for line in lines) == 1, (words, lines)

    def test_an_unknown_task_is_answered_with_the_nearest(self) -> None:
        done = vrbench("tasks", "pocket_mne")
        assert done.returncode == 2
        assert "pocket_mme" in done.stderr

    def test_no_such_run(self, runs: tuple[str, str]) -> None:
        done = vrbench("compare", "nowhere", "--baseline", runs[1])
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)

    def test_an_unknown_format_is_the_user_s_fault(self, runs: tuple[str, str]) -> None:
        done = vrbench("compare", runs[0], "--baseline", runs[1], "--format", "docx")
        assert done.returncode == 2
        assert "docx" in done.stderr

    def test_a_missing_option_is_the_user_s_fault(self) -> None:
        done = vrbench("run", "--tasks", "mme")
        assert done.returncode == 2
        assert "--ckpt" in done.stderr

    def test_our_own_fault_is_short_and_says_where_the_traceback_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vrbench.cli.task_listing.table_rows", lambda *_: 1 / 0)
        monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path))
        done = vrbench("tasks")
        assert done.returncode == 1
        assert "ZeroDivisionError" in done.stderr and "Traceback" not in done.stderr
        (kept,) = (tmp_path / "errors").iterdir()
        assert str(kept) in done.stderr
        assert "Traceback" in kept.read_text()

    def test_where_no_traceback_can_be_kept_it_is_printed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setattr("vrbench.cli.task_listing.table_rows", lambda *_: 1 / 0)
        monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "file"))
        done = vrbench("tasks")
        assert done.returncode == 1
        assert "Traceback" in done.stderr


class TestRun:
    """`vrbench run` on tiny models, in this process."""

    @pytest.fixture
    def call(self, tmp_path: Path) -> Call:
        common = ("--tasks", "pocket_mme,pocket_facts", "--limit", "4", "--out", str(tmp_path / "runs"))
        return lambda *command: vrbench("run", *common, *command)

    @pytest.mark.supports("llava", "run")
    @pytest.mark.supports("llava", "adapter")
    def test_a_candidate_is_measured_and_compared(self, call: Call, tiny_llava: Path, tmp_path: Path) -> None:
        tuned = tiny.save_adapter(tmp_path / "tuned", tiny_llava)
        done = call("--ckpt", str(tuned), "--baseline", str(tiny_llava))
        assert done.returncode == 0
        assert "tuned against llava" in done.stdout
        assert {p.name for p in (tmp_path / "runs").glob("comparison.*")} >= {"comparison.md", "comparison.html"}
        folders = [line.removeprefix("run: ") for line in done.stdout.splitlines() if line.startswith("run: ")]
        assert [load_run(f).record.checkpoint.id for f in folders] == ["llava", "tuned"]
        assert load_run(folders[0]).record.provenance.command.startswith("vrbench run --tasks")

    def test_without_a_baseline_the_scores_are_printed(self, call: Call, tiny_llava: Path, tmp_path: Path) -> None:
        done = call("--ckpt", str(tiny_llava))
        assert done.returncode == 0
        assert "pocket_mme" in done.stdout and "pocket_facts" in done.stdout
        assert not list((tmp_path / "runs").glob("comparison.*"))

    def test_a_task_that_dies_is_our_fault_and_the_others_go_on(
        self, call: Call, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = evaluate_task

        def run(spec: TaskSpec, *rest: Any) -> Any:
            if spec.id == "pocket_mme":
                raise RuntimeError("it died")
            return real(spec, *rest)

        monkeypatch.setattr("vrbench.evaluation.evaluate.evaluate_task", run)
        done = call("--ckpt", str(tiny_llava))
        assert done.returncode == 1
        assert "llava pocket_mme failed: RuntimeError: it died" in done.stderr
        assert "pocket_facts" in done.stdout

    def test_a_checkpoint_that_cannot_be_loaded_does_not_keep_the_others_from_being_measured(
        self, call: Call, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.models import load

        real, tuned = load.load_vlm, tiny.save_adapter(tmp_path / "tuned", tiny_llava)

        def failing(checkpoint: Any, *rest: Any, **more: Any) -> Any:
            if checkpoint.id == fails:
                raise MemoryError("not enough")
            return real(checkpoint, *rest, **more)

        monkeypatch.setattr(load, "load_vlm", failing)
        fails = "tuned"
        asked = ("--ckpt", str(tuned), "--baseline", str(tiny_llava), "--tasks", "pocket_facts")
        done = call(*asked)
        line = "vrbench: tuned could not be measured: it does not fit into memory (MemoryError: not enough)"
        assert (done.returncode, done.stderr.splitlines()[-1]) == (2, line)
        assert "pocket_facts" in done.stdout and done.stdout.count("run: ") == 1  # the baseline's scores
        fails = "llava"
        shutil.rmtree(tmp_path / "runs")
        done = call(*asked)
        assert done.returncode == 2 and "vrbench: llava could not be measured" in done.stderr
        assert "against" not in done.stdout and "tuned" in done.stdout

    def test_ctrl_c_says_how_to_go_on(self, call: Call, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stopped(*_: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr("vrbench.evaluation.evaluate.evaluate_task", stopped)
        done = call("--ckpt", str(tiny_llava))
        assert done.returncode == 130 and "Traceback" not in done.stderr
        said = "vrbench: stopped; run the same command again to resume; stored answers"
        assert done.stderr.splitlines()[-1].startswith(said)

    def test_what_is_not_there_is_left_out_and_said_in_table_and_record(
        self, call: Call, tiny_llava: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "hub").mkdir()
        options = ("--tasks", "pocket_facts,mme", "--data-root", str(tmp_path / "hub"), "--skip-missing")
        done = call("--ckpt", str(tiny_llava), *options)
        assert done.returncode == 0
        assert re.search(r"left out by --skip-missing, since their data are not there: mme \(not\s+whole", done.stdout)
        record = load_run(done.stdout.split("run: ")[1].strip()).record
        assert record.skipped["mme"].endswith(f"MME is not whole under the data root {tmp_path / 'hub'}")


class TestPrune:
    """`vrbench prune` on a tiny model, in this process."""

    def test_it_makes_a_checkpoint_with_the_folder_s_name(self, tiny_llava: Path, tmp_path: Path) -> None:
        out = tmp_path / "small"
        done = vrbench("prune", str(tiny_llava), "--num-layers", "1", "--num-images", "2", "--out", str(out))
        assert (done.returncode, done.stdout) == (0, f"checkpoint: {out}\n")
        made = resolve_checkpoint(str(out))
        assert (made.depth, made.lineage[0].id) == (tiny.DEPTH - 1, "small")

    def test_a_whole_model_by_angular_distance(self, tiny_llava: Path, tmp_path: Path) -> None:
        options = ("--by", "angular", "--outside-region", "--whole", "--num-layers", "1", "--num-images", "2")
        assert vrbench("prune", str(tiny_llava), *options, "-o", str(tmp_path / "small")).returncode == 0
        made = resolve_checkpoint(str(tmp_path / "small"))
        assert (made.depth, made.base, made.lineage[0].steps[0].method) == (tiny.DEPTH - 1, None, "angular")

    def test_faults_are_the_user_s(self, monkeypatch: pytest.MonkeyPatch, tiny_llava: Path, tmp_path: Path) -> None:
        common = ("prune", str(tiny_llava), "--out", str(tmp_path / "small"))
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        done = vrbench(*common, "--num-layers", "0", "--by", "size")
        assert done.returncode == 2 and "remove is 0" in done.stderr and "by is 'size'" in done.stderr
        done = vrbench(*common, "--num-layers", "1", "--device", "cuda")
        assert done.returncode == 2 and "torch sees no CUDA GPU" in done.stderr
        assert not (tmp_path / "small").exists()

    def test_one_order_gives_every_number_of_layers(self, tiny_llava: Path, tmp_path: Path) -> None:
        order, common = str(tmp_path / "order.json"), ("prune", str(tiny_llava), "--num-layers")
        options = ("--by", "divergence", "--num-images", "2", "--save-removal-order", order)
        done = vrbench(*common, "2", *options)
        assert (done.returncode, done.stdout) == (0, f"order: {order}\n")
        kept = json.loads(Path(order).read_text())["order"]
        for count in (1, 2):
            out = str(tmp_path / f"small-{count}")
            assert vrbench(*common, str(count), "--removal-order", order, "-o", out).returncode == 0
            assert set(resolve_checkpoint(out).removed[0]) == set(kept[:count])

    def test_layers_by_name_and_as_a_block(self, tiny_llava: Path, tmp_path: Path) -> None:
        common, named, block = ("prune", str(tiny_llava)), str(tmp_path / "named"), str(tmp_path / "block")
        assert vrbench(*common, "--layers", "1,3", "-o", named).returncode == 0
        assert resolve_checkpoint(named).removed[0].indices == (1, 3)
        assert vrbench(*common, "--num-layers", "2", "--block", "--num-images", "1", "-o", block).returncode == 0
        first, second = resolve_checkpoint(block).removed[0]
        assert second == first + 1
        done = vrbench(*common, "--num-layers", "1")
        said = "give either --out, the checkpoint folder to write, or --save-removal-order"
        assert done.returncode == 2 and said in done.stderr
        done = vrbench(*common, "--layers", "1", "--num-layers", "1", "-o", "x")
        assert done.returncode == 2 and "omit --num-layers" in done.stderr


class TestRestore:
    """`vrbench restore` on a tiny model, in this process."""

    def test_it_makes_a_checkpoint(self, tiny_llava: Path, tmp_path: Path) -> None:
        adapter, out = tiny.save_adapter(tmp_path / "a", tiny_llava), tmp_path / "restored"
        options = ("--layers", "1", "--from", str(tiny_llava), "-o", str(out), "--id", "mine")
        done = vrbench("restore", str(adapter), *options)
        assert (done.returncode, done.stdout) == (0, f"checkpoint: {out}\n")
        made = resolve_checkpoint(str(out))
        assert (made.lineage[0].id, made.lineage[0].steps[0].layers, made.origins.tuned) == ("mine", "1", (2,))

    def test_faults_are_the_user_s(self, tiny_llava: Path, tmp_path: Path) -> None:
        options = ("--layers", "9", "--from", str(tiny_llava), "-o", str(tmp_path / "r"))
        done = vrbench("restore", str(tiny_llava), *options)
        said = "vrbench: layer 9 does not exist; a model of depth 4 has layers 0 to 3\n"
        assert (done.returncode, done.stderr) == (2, said)


class TestConfig:
    """`--config`, seen through `run` refusing what it was told."""

    def told(self, tmp_path: Path, text: str, *command: str) -> tuple[int, str]:
        (tmp_path / "run.yaml").write_text(text)
        done = vrbench("run", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "runs"), *command)
        return done.returncode, done.stderr

    def test_it_gives_any_option(self, tmp_path: Path) -> None:
        code, said = self.told(tmp_path, "ckpt: [pocket/a, pocket/b]\ntasks: [mne]\nlimit: -3\nbatch-size: 0\n")
        assert code == 2
        for words in ("pocket/a", "pocket/b", "'mne'", "limit is -3", "batch size is 0"):
            assert words in said

    def test_the_command_line_wins(self, tmp_path: Path) -> None:
        _, said = self.told(tmp_path, "ckpt: pocket/a\ntasks: mne\nlimit: -3\n", "--limit", "-4", "--ckpt", "pocket/c")
        assert "limit is -4" in said and "pocket/c" in said
        assert "limit is -3" not in said and "pocket/a" not in said

    def test_unknown_keys_are_refused_with_the_nearest(self, tmp_path: Path) -> None:
        code, said = self.told(tmp_path, "ckpts: pocket/a\nlimt: 3\n")
        assert code == 2
        assert "did you mean 'ckpt'?" in said and "did you mean 'limit'?" in said

    def test_values_that_an_option_cannot_have_are_told_with_them(self, tmp_path: Path) -> None:
        code, said = self.told(tmp_path, "ckpt: pocket/a\ntasks: [mme, mmlu]\nlimmit: 3\nlimit: two\nseed: [1, x]\n")
        assert code == 2 and len(said.splitlines()) == 3
        for words in ("did you mean 'limit'?", "limit is 'two': ", "seed is [1, 'x']: "):
            assert words in said


def test_compare_prints_each_candidate_and_the_verdict_on_a_claim(runs: tuple[str, str]) -> None:
    done = vrbench("compare", runs[0], "--baseline", runs[1], "--claim", "visual>=50%", "--format", "json")
    found = json.loads(done.stdout)
    assert [c["label"] for c in found["candidates"]] == ["candidate"]
    assert [v["verdict"] for v in found["candidates"][0]["verdicts"]] == ["supported"]


def test_the_schema_is_that_of_run_json(runs: tuple[str, str]) -> None:
    schema = json.loads(vrbench("schema").stdout)
    record = json.loads((Path(runs[0]) / "run.json").read_text())
    assert set(schema["required"]) <= set(record) <= set(schema["properties"])
