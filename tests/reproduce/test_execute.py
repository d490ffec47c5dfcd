"""Execution: order, failures, resuming after kill -9, GPUs, and disk; with steps that only write what they did."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.reproduce import fake_steps
from tests.reproduce.fake_steps import begun, diary, plan, step
from vrbench.core.errors import VrbenchError
from vrbench.reproduce.execute import ExecutionOptions, StepEvent, execute, gpu_names
from vrbench.reproduce.plan import Plan, StepRecord, load_plan

SMALL = plan(
    step("train-a", minutes=2.0),
    step("run-a", "train-a"),
    step("layers-x", "train-a"),
    step("train-b", "layers-x", what="{layers-x}"),
    step("run-b", "train-b"),
)


@pytest.fixture(autouse=True)
def fast_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_steps.use_light_workers(monkeypatch)


def events(of: Plan, folder: Path, **options: object) -> list[StepEvent]:
    with closing(execute(of, folder, fake_steps.FUNCTIONS, ExecutionOptions(**options))) as happening:  # type: ignore[arg-type]
        return list(happening)


def ended(happened: list[StepEvent]) -> dict[str, str]:
    return {event.step: event.kind for event in happened if event.kind != "started"}


class TestOrder:
    def test_every_step_is_done_once_after_what_it_needs(self, tmp_path: Path) -> None:
        happened = events(SMALL, tmp_path, jobs=2)
        assert set(ended(happened).values()) == {"done"}
        order = [(line[0], line[1]) for line in diary(tmp_path)]
        assert len(order) == len(set(order)) == 2 * len(SMALL.steps)
        for one in SMALL.steps:
            assert all(order.index(("end", need)) < order.index(("begin", one.name)) for need in one.needs)

    def test_a_step_gets_the_paths_of_what_others_made(self, tmp_path: Path) -> None:
        events(SMALL, tmp_path)
        assert (tmp_path / "layers" / "layers-x.json").read_text() == str(tmp_path / "checkpoints" / "train-a")
        made = (tmp_path / "checkpoints" / "train-b" / "model.safetensors").read_text()
        assert str(tmp_path / "layers" / "layers-x.json") in made

    def test_what_the_longest_chain_waits_for_comes_first(self, tmp_path: Path) -> None:
        of = plan(
            step("train-long", minutes=5.0),
            step("train-first", minutes=1.0),
            step("train-second", "train-first", minutes=6.0),
        )
        events(of, tmp_path, jobs=1)
        assert begun(tmp_path) == ["train-first", "train-second", "train-long"]

    def test_the_profile_runs_when_nothing_else_does(self, tmp_path: Path) -> None:
        of = plan(step("profile"), step("train-a", seconds=0.1), step("train-b", seconds=0.1), step("run-a", "train-a"))
        events(of, tmp_path, jobs=3)
        assert [(line[0], line[1]) for line in diary(tmp_path)][-2:] == [("begin", "profile"), ("end", "profile")]

    def test_only_some_steps_and_what_they_need(self, tmp_path: Path) -> None:
        events(SMALL, tmp_path, only="run-a")
        assert begun(tmp_path) == ["train-a", "run-a"]

    def test_no_such_step(self, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match=r"no step fits 'fun-\*'; .* such as train-a"):
            events(SMALL, tmp_path, only="fun-*")


class TestRecords:
    def test_done_tells_how_and_what_was_printed_is_in_the_log(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        events(plan(step("train-a", seconds=0.2)), tmp_path, command="vrbench reproduce x")
        done = StepRecord.model_validate_json((tmp_path / "done" / "train-a.json").read_text())
        assert 0.2 <= done.seconds < 5 and done.step == "train-a" and done.peak_gib is None
        assert done.provenance.command == "vrbench reproduce x" and done.provenance.packages["torch"]
        assert (tmp_path / "logs" / "train-a.log").read_text() == "the step's own words\n"
        assert "own words" not in "".join(capfd.readouterr())

    def test_each_process_has_one_card_in_turn(self, tmp_path: Path) -> None:
        of = plan(*(step(f"train-{i}", seconds=0.3) for i in range(4)))
        happened = events(of, tmp_path, jobs=4, gpus=("5", "7"))
        by_process = {line[2]: line[3] for line in diary(tmp_path)}
        assert sorted(by_process.values()) == ["5", "5", "7", "7"]
        assert sorted(e.gpu for e in happened if e.kind == "done") == [0, 0, 1, 1]

    def test_steps_share_the_processors_and_the_variables_here_stay(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr("vrbench.reproduce.execute.usable_cores", lambda: 9)
        before = dict(os.environ)
        events(SMALL, tmp_path, jobs=2, gpus=("3",))
        assert {tuple(line[3:]) for line in diary(tmp_path)} == {("3", "4")}
        assert dict(os.environ) == before

    def test_each_step_has_a_process_of_its_own(self, tmp_path: Path) -> None:
        events(SMALL, tmp_path, jobs=1)
        assert len({line[2] for line in diary(tmp_path)}) == len(SMALL.steps)

    @pytest.mark.parametrize(
        ("count", "visible", "names"),
        [(2, None, ("0", "1")), (2, "3,GPU-ab", ("3", "GPU-ab")), (1, "", ("0",)), (0, "", ())],
    )
    def test_the_names_of_cards(self, count: int, visible: str | None, names: tuple[str, ...]) -> None:
        assert gpu_names(count, visible) == names


class TestFailures:
    FAULTY = plan(
        step("train-a", fault="no luck"),
        step("run-a", "train-a"),
        step("layers-x", "train-a"),
        step("train-b", "layers-x", what="{layers-x}"),
        step("train-c"),
        step("run-c", "train-c"),
    )

    def test_what_needs_a_failed_step_is_skipped_and_the_others_go_on(self, tmp_path: Path) -> None:
        happened = events(self.FAULTY, tmp_path)
        assert ended(happened) == {
            "train-a": "failed", "run-a": "skipped", "layers-x": "skipped", "train-b": "skipped",
            "train-c": "done", "run-c": "done",
        }  # fmt: skip
        assert [e.error for e in happened if e.kind == "failed"] == ["no luck"]
        assert "Traceback" in (tmp_path / "logs" / "train-a.log").read_text()
        assert not (tmp_path / "done" / "train-a.json").exists()

    def test_a_failed_step_is_tried_again_the_next_time(self, tmp_path: Path) -> None:
        events(self.FAULTY, tmp_path)
        happened = events(self.FAULTY, tmp_path)
        assert [e.step for e in happened if e.kind == "existing"] == ["train-c", "run-c"]
        assert begun(tmp_path).count("train-a") == 2 and begun(tmp_path).count("train-c") == 1

    def test_a_process_that_dies_is_a_failed_step_and_another_takes_its_place(self, tmp_path: Path) -> None:
        of = plan(step("train-a", die=True, minutes=9.0), step("train-b"), step("train-c"))
        happened = events(of, tmp_path)
        assert ended(happened) == {"train-a": "failed", "train-b": "done", "train-c": "done"}
        assert [e.error for e in happened if e.kind == "failed"] == ["its process ended with code 3"]


class TestResuming:
    def test_a_killed_process_is_resumed_and_no_step_is_done_twice(self, tmp_path: Path) -> None:
        process = get_context("forkserver").Process(target=in_another_process, args=(tmp_path,))
        process.start()
        _wait_until(lambda: len(begun(tmp_path)) >= 3)  # train-a is done, train-b and train-c are at work
        process.kill()
        process.join()
        _wait_until_dead({int(line[2]) for line in diary(tmp_path)})
        assert [line[1] for line in diary(tmp_path) if line[0] == "end"] == ["train-a"]
        (tmp_path / "go").touch()
        happened = events(SLOW, tmp_path, jobs=2)
        assert {e.step for e in happened if e.kind == "existing"} == {"train-a"}
        finished = [line[1] for line in diary(tmp_path) if line[0] == "end"]
        assert sorted(finished) == sorted(one.name for one in SLOW.steps)

    def test_two_at_once_are_refused(self, tmp_path: Path) -> None:
        with closing(execute(SMALL, tmp_path, fake_steps.FUNCTIONS, ExecutionOptions())) as happening:
            next(happening)
            with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as other:
                with pytest.raises(VrbenchError, match="another process is at work"):
                    other.submit(events, SMALL, tmp_path).result()

    def test_closing_ends_the_processes(self, tmp_path: Path) -> None:
        happening = execute(plan(step("train-a", held=True)), tmp_path, fake_steps.FUNCTIONS, ExecutionOptions())
        next(happening)
        _wait_until(lambda: bool(diary(tmp_path)))
        happening.close()
        _wait_until_dead({int(diary(tmp_path)[0][2])})

    def test_steps_may_be_added(self, tmp_path: Path) -> None:
        events(plan(step("train-a"), step("run-a", "train-a")), tmp_path)
        events(plan(step("train-b"), tables=("strategies",), seeds=(0, 1)), tmp_path)
        assert begun(tmp_path) == ["train-a", "run-a", "train-b"]
        whole = load_plan(tmp_path)
        assert [one.name for one in whole.steps] == ["train-a", "run-a", "train-b"]
        assert whole.tables == ("layers", "strategies") and whole.seeds == (0, 1)

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (plan(step("train-a", steps=3)), "steps of train-a is 2 there, 3 here; name another --out"),
            (plan(step("train-a", steps=2, x=1)), "x of train-a is not set there, 1 here"),
            (plan(step("train-a", steps=2), limit=None), "limit is 4 there, not set here"),
            (plan(step("train-a", steps=2), overrides={"tune.lr": "1"}), "tune.lr is not set there, 1 here"),
        ],
    )
    def test_another_plan_in_the_same_folder_is_refused(self, tmp_path: Path, other: Plan, message: str) -> None:
        events(plan(step("train-a", steps=2)), tmp_path)
        before = (tmp_path / "plan.json").read_text()
        with pytest.raises(VrbenchError, match=message):
            events(other, tmp_path)
        assert (tmp_path / "plan.json").read_text() == before and begun(tmp_path) == ["train-a"]

    def test_another_estimate_is_no_other_plan(self, tmp_path: Path) -> None:
        events(plan(step("train-a", minutes=1.0)), tmp_path)
        assert ended(events(plan(step("train-a", minutes=3.0)), tmp_path)) == {"train-a": "existing"}

    def test_what_was_done_for_another_plan_is_not_taken_for_done(self, tmp_path: Path) -> None:
        events(SMALL, tmp_path)
        file = tmp_path / "done" / "run-b.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "digest": "0" * 64}))
        with pytest.raises(VrbenchError, match=r"run-b\.json was written for another plan"):
            events(SMALL, tmp_path)


class TestDiscarding:
    def test_weights_go_when_no_step_needs_them_and_lineage_stays(self, tmp_path: Path) -> None:
        events(SMALL, tmp_path, discard=True)
        for name in ("train-a", "train-b"):
            left = {path.name for path in (tmp_path / "checkpoints" / name).iterdir()}
            assert left == {"vrbench.json", "discarded"}

    def test_weights_stay_for_steps_that_are_not_asked_for_yet(self, tmp_path: Path) -> None:
        events(SMALL, tmp_path, discard=True, only="layers-x")
        assert (tmp_path / "checkpoints" / "train-a" / "model.safetensors").is_file()  # run-a needs it

    def test_what_lies_below_a_checkpoint_stays_with_it(self, tmp_path: Path) -> None:
        of = plan(step("train-a"), step("prune-a", "train-a"), step("run-a", "prune-a"))
        events(of, tmp_path, discard=True, only="prune-a")
        assert (tmp_path / "checkpoints" / "train-a" / "model.safetensors").is_file()

    def test_a_step_added_later_makes_its_checkpoint_again(self, tmp_path: Path) -> None:
        events(SMALL, tmp_path, discard=True)
        more = plan(*SMALL.steps, step("run-more", "train-a"))
        assert ended(events(more, tmp_path, discard=True))["run-more"] == "done"
        assert begun(tmp_path).count("train-a") == 2
        assert begun(tmp_path).count("run-b") == 2, "its checkpoint rests on the layers that were chosen from train-a"

    @pytest.mark.parametrize("discard", [False, True])
    def test_records_without_checkpoints_are_gone_on_from(self, tmp_path: Path, discard: bool) -> None:
        """As they are committed: done, but without the weights."""
        of = plan(*SMALL.steps, step("train-c"), step("run-c", "train-c"))
        events(of, tmp_path)
        shutil.rmtree(tmp_path / "checkpoints")
        assert set(ended(events(of, tmp_path, discard=discard)).values()) == {"existing"}
        more = plan(*of.steps, step("run-more", "train-a"))
        assert ended(events(more, tmp_path, discard=discard))["run-more"] == "done"
        assert begun(tmp_path).count("train-a") == 2
        assert begun(tmp_path).count("train-c") == 1, "nothing that is left needs it"

    def test_what_rests_on_a_checkpoint_that_is_made_again_is_made_again_too(self, tmp_path: Path) -> None:
        """Else an order of layers, or a run, would be that of other weights under the same name."""
        of = plan(
            step("train-a"), step("layers-x", "train-a"), step("prune-a", "train-a", "layers-x"),
            step("run-a", "train-a"), step("run-pruned", "prune-a"), step("train-b"), step("run-b", "train-b"),
        )  # fmt: skip
        events(of, tmp_path)
        shutil.rmtree(tmp_path / "checkpoints")
        more = plan(step("train-a"), step("run-more", "train-a"))
        assert set(ended(events(more, tmp_path)).values()) == {"done"}
        twice = {name for name in begun(tmp_path) if begun(tmp_path).count(name) == 2}
        assert twice == {"train-a", "layers-x", "prune-a", "run-a", "run-pruned"}

    def test_what_was_not_asked_for_pulls_in_what_it_needs(self, tmp_path: Path) -> None:
        of = plan(step("train-a"), step("train-b"), step("run-both", "train-a", "train-b"))
        events(of, tmp_path)
        shutil.rmtree(tmp_path / "checkpoints")
        assert ended(events(plan(step("train-a"), step("run-more", "train-a")), tmp_path))["run-both"] == "done"
        assert begun(tmp_path).count("train-b") == 2


SLOW = plan(
    step("train-a", minutes=9.0),
    step("train-b", "train-a", held=True),
    step("train-c", "train-a", held=True),
    step("train-d", "train-b"),
    step("run-d", "train-d"),
)


def in_another_process(folder: Path) -> None:
    """Execute a plan that comes to no end, its processes forked from one that imported nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vrbench.reproduce.execute.PRELOADED", [])
        events(SLOW, folder, jobs=2)


def _wait_until(so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not so():
        assert time.monotonic() < end
        time.sleep(0.02)


def _wait_until_dead(processes: set[int]) -> None:
    end = time.monotonic() + 10
    while any(_lives(process) for process in processes):
        assert time.monotonic() < end, "a process outlived the one that started it"
        time.sleep(0.05)


def _lives(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
