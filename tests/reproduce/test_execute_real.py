"""A plan with the real steps: training, scores, surgery, measuring and the report, on a pocket family made tiny.

The steps' processes are forks of the tests' own, which has imported and drawn what they need; test_execute.py has the
processes that a user gets.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.context import ForkContext
from pathlib import Path

import pytest

from tests.reproduce import tiny_family
from tests.tiny import own_cache
from vrbench import run_all
from vrbench.core.layers import select_layers
from vrbench.core.run_storage import load_run
from vrbench.models.resolve import resolve_checkpoint
from vrbench.reproduce import build as building
from vrbench.reproduce import experiments
from vrbench.reproduce.build import ExperimentRequest, build
from vrbench.reproduce.execute import ExecutionOptions, StepEvent, execute
from vrbench.reproduce.families import FAMILIES
from vrbench.reproduce.plan import Plan, StepRecord
from vrbench.training import load
from vrbench.training.run import train

TASKS = "pocket_mme,pocket_grammar"
TUNED = {"full": "all", "sparse-uniform-2": "sparse-uniform:2"}
OTHERS = (
    "run-angular-2-s0", "run-base", "run-heal-region-loss-1-s0", "run-restore-top-2-s0",
    "run-prune-full-angular-2-s0",
)  # fmt: skip
WANTED = ",".join((*(f"run-{name}-s0" for name in TUNED), *OTHERS))


class Forks(ForkContext):
    """In place of a process that imports everything and is forked."""

    def set_forkserver_preload(self, module_names: list[str]) -> None:
        """Import nothing: this process has."""


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The base of a tiny pocket family, a cache of its own, and plans for its depth."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        own_cache(folder / "cache", patch)
        patch.setenv(tiny_family.FOLDER, str(folder / "llm"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setitem(FAMILIES, "pocket", FAMILIES["pocket"].model_copy(update={"depth": tiny_family.DEPTH}))
        patch.setattr(building, "REGION_SIZE", 2)
        patch.setattr(experiments, "COUNTS", (1, 2))
        patch.setattr(experiments, "REMOVED", (1, 2))
        patch.setattr(experiments, "HEALED", (1,))
        patch.setattr(experiments, "REMOVED_FIRST", 1)
        patch.setattr(experiments, "RESTORED_COUNTS", (2,))
        patch.setattr(multiprocessing, "get_context", lambda _: Forks())
        tiny_family.write_llm(folder / "llm")
        with tiny_family.in_it():
            train(load("pocket-base", tiny_family.BASE), folder / "base", device="cpu")
            run_all(folder / "base", TASKS, limit=4, out=folder / "warm", device="cpu")
        yield folder / "base"


def plan(tables: str, base: Path) -> Plan:
    return build(ExperimentRequest(tables, "pocket", 1, {"steps": "2", "base": str(base)}, TASKS, 4))


def done(of: Plan, folder: Path) -> list[StepEvent]:
    with closing(execute(of, folder, tiny_family.FUNCTIONS, ExecutionOptions(only=WANTED))) as happening:
        events = list(happening)
    assert [(e.step, e.error, _log(folder, e.step)) for e in events if e.kind == "failed"] == []
    return events


def _log(folder: Path, step: str) -> str:
    return (folder / "logs" / f"{step}.log").read_text()


def test_a_plan_with_real_steps(tiny: Path, tmp_path: Path) -> None:
    """All checks in one test, so that the plan is executed once however tests are spread over processes."""
    made = plan("layers,strategies,text,pruning,restoring", tiny)
    done(made, tmp_path)
    check_each_model_is_trained_on_its_layers_and_evaluated(tmp_path)
    check_the_lineage_has_the_dev_results_and_the_recipe(tmp_path)
    check_no_scratch_is_left(tmp_path)
    check_every_kind_of_step(tmp_path)
    check_a_complete_step_without_record_is_not_repeated(made, tmp_path)
    check_the_report_is_written(tmp_path)


def check_each_model_is_trained_on_its_layers_and_evaluated(folder: Path) -> None:
    for name, text in TUNED.items():
        run = load_run(folder / "runs" / f"run-{name}-s0")
        (step,) = run.record.checkpoint.lineage[0].steps
        with tiny_family.in_it():
            assert select_layers(step.layers, tiny_family.DEPTH) == select_layers(text, tiny_family.DEPTH)
            assert (
                run.record.checkpoint.digest
                == resolve_checkpoint(str(folder / "checkpoints" / f"train-{name}-s0")).digest
            )
        assert {r.task for r in run.record.results} == set(TASKS.split(",")) and run.record.settings.limit == 4
        assert list((folder / "runs" / f"run-{name}-s0" / "samples").glob("*.jsonl.gz"))


def check_the_lineage_has_the_dev_results_and_the_recipe(folder: Path) -> None:
    lineage = json.loads((folder / "checkpoints" / "train-full-s0" / "vrbench.json").read_text())
    note = json.loads(lineage["steps"][0]["note"])
    assert {"dev_right", "dev_ppl", "steps"} <= set(note) and note["steps"] == 2
    assert load(str(folder / "checkpoints" / "train-full-s0" / "recipe.yaml")).makes == "train-full-s0"


def check_no_scratch_is_left(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {
        ".lock", "plan.json", "checkpoints", "layers", "orders", "runs", "done", "logs", "scratch",
    }  # fmt: skip
    assert not list((folder / "scratch").iterdir())


def check_a_complete_step_without_record_is_not_repeated(made: Plan, folder: Path) -> None:
    weights = folder / "checkpoints" / "train-full-s0" / "adapter_model.safetensors"
    before = weights.stat().st_mtime_ns
    (folder / "done" / "train-full-s0.json").unlink()
    happened = done(made, folder)
    assert {e.step for e in happened if e.kind == "done"} == {"train-full-s0"}
    assert weights.stat().st_mtime_ns == before


def check_the_report_is_written(folder: Path) -> None:
    from vrbench.reproduce.report import write_report

    told = {path.name: path.read_text() for path in write_report(folder) if path.suffix == ".md"}
    assert "2 layers" in told["report.md"]


def check_every_kind_of_step(folder: Path) -> None:
    """Scores, orders, removals, healing and restoring: one way of each."""
    for name in OTHERS:
        assert load_run(folder / "runs" / name).record.status == "ok"
    chosen = select_layers(str(folder / "layers" / "layers-angular-s0.json"), tiny_family.DEPTH)
    tuned = load_run(folder / "runs" / "run-angular-2-s0").record.checkpoint.lineage[0].steps[0].layers
    assert tuned == str(chosen) and len(chosen) == 2
    healed = load_run(folder / "runs" / "run-heal-region-loss-1-s0").record.checkpoint
    assert healed.depth == tiny_family.DEPTH - 1
    assert [step.kind for line in healed.lineage[:3] for step in line.steps] == ["trained", "pruned", "trained"]
    order = json.loads((folder / "orders" / "order-full-angular-s0.json").read_text())["order"]
    removed = load_run(folder / "runs" / "run-prune-full-angular-2-s0").record.checkpoint.lineage[0].steps[0]
    assert select_layers(removed.layers, tiny_family.DEPTH).indices == tuple(sorted(order[:2]))
    restored = load_run(folder / "runs" / "run-restore-top-2-s0").record.checkpoint.lineage[0].steps[0]
    assert restored.kind == "restored" and select_layers(restored.layers, tiny_family.DEPTH) == select_layers(
        "top:2", tiny_family.DEPTH
    )
    base = load_run(folder / "runs" / "run-base").record
    assert {result.task for result in base.results} == {"pocket_grammar"}
    marks = [StepRecord.model_validate_json(p.read_text()) for p in (folder / "done").iterdir()]
    assert all(mark.seconds > 0 and mark.device for mark in marks)
