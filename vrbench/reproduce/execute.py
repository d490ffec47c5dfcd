"""Execute a plan's steps, each once and in a process of its own; an interrupted plan resumes where it stopped."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vrbench.core.cache import cache_folder
from vrbench.core.cpu_count import usable_cores
from vrbench.reproduce.packing import unpack
from vrbench.reproduce.plan import Plan, PlanStep, lock_folder, record_file, save_plan, step_digests
from vrbench.reproduce.schedule import chain_minutes, discard_weights, remaining_work, reset_step
from vrbench.reproduce.worker import ExecutionOptions, StepFunction, StepJob, run_step

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

EXCLUSIVE_KINDS = frozenset({"profile"})
"""Kinds of steps that measure time and memory: nothing else runs meanwhile, so they come last."""

PRELOADED = ["vrbench.reproduce.preload"]
"""Imported once, by the process that the steps' processes are forked from."""

PRELOADED_ON_CPU = [*PRELOADED, "vrbench.evaluation.lm_eval_adapter", "vrbench.evaluation.lmms_eval_adapter"]
"""With the harnesses, which take seconds; where there is a GPU, what they import might start CUDA before the fork."""


@dataclass(frozen=True)
class StepEvent:
    """A change in the state of a step.

    Attributes:
        kind: "existing" if it was done before, or what happens to it now.
        step: its name.
        seconds: wall time, once it ended.
        gpu: index in `ExecutionOptions.gpus`; 0 on a CPU.
        error: why it failed.
    """

    kind: Literal["existing", "started", "done", "failed", "skipped"]
    step: str
    seconds: float = 0.0
    gpu: int = 0
    error: str = ""


def execute(
    plan: Plan, folder: Path, functions: Mapping[str, StepFunction], options: ExecutionOptions
) -> Generator[StepEvent, None, None]:
    """Do a plan's steps in a folder, and yield what happens.

    When a step fails, the steps that need it are skipped and the others are done. Closing the generator ends all
    processes.

    Args:
        plan: what to do; steps that only the folder's own plan has stay in plan.json.
        folder: of the plan; see `vrbench.reproduce.plan`.
        functions: kind of a step -> its function.
        options: of the execution.

    Raises:
        VrbenchError: the folder holds another plan, another process works there, or no step fits `options.only`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        work = remaining_work(plan, folder, options.only)
        unpack(folder)
        for step in work.repeated:
            reset_step(step, folder)
        save_plan(work.plan, folder)
        yield from (StepEvent("existing", step.name) for step in work.steps if step.name in work.done)
        digests, outputs = step_digests(work.plan), {step.name: step.output(folder) for step in work.plan.steps}
        jobs = {step.name: StepJob(_filled(step, outputs), digests[step.name], folder, options) for step in work.left}
        done = set(work.done)
        for event in _run_all(work.left, jobs, functions):
            if event.kind == "done":
                done.add(event.step)
                if options.discard:
                    discard_weights(work.plan, folder, done)
            yield event


def _filled(step: PlanStep, outputs: Mapping[str, Path]) -> PlanStep:
    """Return the step with the paths of other steps' outputs in its arguments."""
    paths = {f"{{{need}}}": str(outputs[need]) for need in step.needs}
    arguments = {key: paths.get(str(value), value) for key, value in step.arguments.items()}
    return step.model_copy(update={"arguments": arguments})


@dataclass(frozen=True)
class _RunningStep:
    """A step's process, this end of its pipe, its GPU, and when it was started."""

    step: PlanStep
    process: BaseProcess
    connection: Connection
    gpu: int
    start: float

    def outcome(self, folder: Path) -> StepEvent:
        """Wait for the end of the process, and return whether its record is there or why it failed."""
        try:
            error = str(self.connection.recv())
        except EOFError:  # it was done, or died
            error = ""
        self.process.join()
        seconds = time.perf_counter() - self.start
        if not error and not record_file(self.step.name, folder).is_file():
            code = self.process.exitcode or 0
            error = f"its process {f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'}"
        return StepEvent("failed" if error else "done", self.step.name, seconds, self.gpu, error)

    def kill(self) -> None:
        self.process.terminate()
        self.process.join(10)
        self.process.kill()
        self.process.join()


def _run_all(
    steps: Sequence[PlanStep], jobs: Mapping[str, StepJob], functions: Mapping[str, StepFunction]
) -> Generator[StepEvent, None, None]:
    """Do steps as soon as what they need is done; the one with the longest chain of steps behind it comes first."""
    left, chains = {step.name: step for step in steps}, chain_minutes(steps)
    sorter = TopologicalSorter({name: left.keys() & set(step.needs) for name, step in left.items()})
    sorter.prepare()
    ready: list[PlanStep] = []
    running: list[_RunningStep] = []

    def next_step() -> PlanStep | None:
        """Return what can be started now; a step that runs alone waits for all others."""
        first = max(ready, key=lambda step: (step.kind not in EXCLUSIVE_KINDS, chains[step.name]), default=None)
        kinds = {first.kind, *(one.step.kind for one in running)} if first else set()
        return None if running and kinds & EXCLUSIVE_KINDS else first

    try:
        while True:
            ready += (left[name] for name in sorter.get_ready())
            while (step := next_step()) and len(running) < jobs[step.name].options.jobs:
                ready.remove(step)
                del left[step.name]
                running.append(_start(step, jobs[step.name], functions, [one.gpu for one in running]))
                yield StepEvent("started", step.name, gpu=running[-1].gpu)
            if not running:
                break
            ended = wait([one.connection for one in running])
            for one in [one for one in running if one.connection in ended]:
                event = one.outcome(jobs[one.step.name].folder)
                running.remove(one)
                if event.kind == "done":
                    sorter.done(event.step)
                    shutil.rmtree(jobs[event.step].scratch, ignore_errors=True)
                yield event
    finally:
        for one in running:
            one.kill()
    yield from (StepEvent("skipped", name) for name in left)  # a step that they need has failed


def _start(step: PlanStep, job: StepJob, functions: Mapping[str, StepFunction], busy: Sequence[int]) -> _RunningStep:
    """Start a step's process on the GPU that has the fewest; `busy` has the GPU of each running step."""
    gpu = min(range(max(1, len(job.options.gpus))), key=busy.count)
    can_fork = sys.platform == "linux"  # elsewhere libraries that torch uses may not survive a fork
    context: ForkServerContext | SpawnContext
    context = multiprocessing.get_context("forkserver") if can_fork else multiprocessing.get_context("spawn")
    context.set_forkserver_preload(PRELOADED if job.options.gpus else PRELOADED_ON_CPU)
    here, there = context.Pipe(duplex=False)
    environment, before = _environment(job.options, gpu), dict(os.environ)
    process = context.Process(target=run_step, args=(job, functions[step.kind], environment, there))
    os.environ.update(environment)  # the first start imports `PRELOADED`, with the number of threads that is set here
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    there.close()
    return _RunningStep(step, process, here, gpu, time.perf_counter())


def _environment(options: ExecutionOptions, gpu: int) -> dict[str, str]:
    defaults = {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // options.jobs)),
        "TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "inductor"),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # with it, asking whether there is a GPU does not hinder a fork
    }
    visible = {"CUDA_VISIBLE_DEVICES": options.gpus[gpu]} if options.gpus else {}
    return {**defaults, **os.environ, "TOKENIZERS_PARALLELISM": "false", **visible}


def gpu_names(count: int, visible: str | None) -> tuple[str, ...]:
    """Return the name that CUDA_VISIBLE_DEVICES has for each of `count` GPUs that torch sees.

    Args:
        count: GPUs that torch sees.
        visible: CUDA_VISIBLE_DEVICES as it is now; None where it is not set.
    """
    names: Sequence[str] = [name.strip() for name in visible.split(",")] if visible else []
    return tuple(names[:count]) if len(names) >= count else tuple(str(i) for i in range(count))
