"""Execute a plan's steps in several processes, each step once; an interrupted plan resumes where it stopped."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from vrbench.core.cache import cache_folder
from vrbench.reproduce.packing import RecordFolder, unpack
from vrbench.reproduce.plan import (
    Plan,
    PlanStep,
    finished_steps,
    lock_folder,
    merge_with_stored,
    save_plan,
    step_digests,
)
from vrbench.reproduce.schedule import (
    EXCLUSIVE_KINDS,
    StepQueue,
    discard_weights,
    reset_step,
    select_steps,
    steps_to_repeat,
)
from vrbench.reproduce.worker import ExecutionOptions, StepFunction, StepJob, work


@dataclass(frozen=True)
class StepEvent:
    """A change in the state of a step.

    Attributes:
        kind: "existing" if it was done before, or what happens to it now.
        step: its name.
        seconds: wall time, once it ended.
        gpu: index in `ExecutionOptions.gpus`; 0 on a CPU.
        error: why it failed, or which failed step it needs.
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
        whole = merge_with_stored(plan, folder)
        unpack(folder)
        done, wanted = set(finished_steps(whole, RecordFolder(folder))), select_steps(plan, options.only)
        repeated = set(steps_to_repeat(whole, folder, wanted, done))
        for step in whole.steps:
            if step.name in repeated:
                reset_step(step, folder)
        save_plan(whole, folder)
        yield from _Execution(whole, folder, functions, options, wanted | repeated, done - repeated).events()


@dataclass
class _Worker:
    """A process, this end of its pipe, its GPU, and the step that it is doing."""

    process: BaseProcess
    connection: Connection
    gpu: int
    step: str = ""

    def result(self) -> tuple[float, str]:
        """Return seconds and error of the step that has just ended."""
        try:
            seconds, error = self.connection.recv()
            return float(seconds), str(error)
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            return 0.0, f"its process {how}"

    def end(self) -> None:
        """End the process: by closing its pipe if it is idle, else by force."""
        self.connection.close()
        if self.step:
            self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@dataclass
class _Execution:
    plan: Plan
    folder: Path
    functions: Mapping[str, StepFunction]
    options: ExecutionOptions
    wanted: set[str]
    done: set[str]
    workers: dict[int, _Worker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = {step.name: step for step in self.plan.steps}
        self.digests = step_digests(self.plan)
        self.queue = StepQueue([s for s in self.plan.steps if s.name in self.wanted - self.done])

    def events(self) -> Iterator[StepEvent]:
        yield from (StepEvent("existing", name) for name in self.steps if name in self.wanted & self.done)
        try:
            while self.queue or self.queue.running:
                yield from self._start_steps()
                yield from self._collect_results()
        finally:
            for worker in self.workers.values():
                worker.end()

    def _start_steps(self) -> Iterator[StepEvent]:
        """Give a step to each idle process, as long as there are steps that can be done."""
        for number in range(self.options.jobs):
            if number in self.workers and self.workers[number].step:
                continue
            name = self.queue.next()
            if name is None:
                return
            if self.steps[name].kind in EXCLUSIVE_KINDS:  # idle processes free their GPU memory too
                for worker in self.workers.values():
                    worker.end()
                self.workers.clear()
            if number not in self.workers:
                self.workers[number] = self._new_worker(number)
            worker = self.workers[number]
            worker.step = name
            worker.connection.send(StepJob(self._filled(name), self.digests[name], self.folder, self.options))
            yield StepEvent("started", name, gpu=worker.gpu)

    def _new_worker(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would share what torch has initialized
        here, there = context.Pipe()
        gpu = number % max(1, len(self.options.gpus))
        arguments = (there, dict(self.functions), self._environment(gpu))
        process = context.Process(target=work, args=arguments, name=f"vrbench-{number}")  # it has children of its own
        process.start()
        there.close()
        return _Worker(process, here, gpu)

    def _environment(self, gpu: int) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        defaults = {
            "OMP_NUM_THREADS": str(max(1, cores // self.options.jobs)),
            "TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "inductor"),
        }
        found = {name: os.environ.get(name, value) for name, value in defaults.items()}
        visible = {"CUDA_VISIBLE_DEVICES": self.options.gpus[gpu]} if self.options.gpus else {}
        return {**found, "TOKENIZERS_PARALLELISM": "false", **visible}

    def _filled(self, name: str) -> PlanStep:
        """Return the step with the paths of other steps' outputs in its arguments."""
        step = self.steps[name]
        paths = {f"{{{need}}}": str(self.steps[need].output(self.folder)) for need in step.needs}
        arguments = {key: paths.get(str(value), value) for key, value in step.arguments.items()}
        return step.model_copy(update={"arguments": arguments})

    def _collect_results(self) -> Iterator[StepEvent]:
        """Wait until a step ends; yield its outcome, and the steps that are skipped because of it."""
        busy = {number: worker for number, worker in self.workers.items() if worker.step}
        ready = wait([worker.connection for worker in busy.values()])
        for number, worker in busy.items():
            if worker.connection not in ready:
                continue
            name, (seconds, error) = worker.step, worker.result()
            worker.step = ""
            if error:
                yield StepEvent("failed", name, seconds, worker.gpu, error)
                yield from (StepEvent("skipped", other, error=f"needs {name}") for other in self.queue.fail(name))
                self.workers.pop(number).end()  # its memory may be in any state; a new process takes its place
            else:
                self.queue.succeed(name)
                self.done.add(name)
                shutil.rmtree(self.folder / "scratch" / name, ignore_errors=True)
                yield StepEvent("done", name, seconds, worker.gpu)
        if self.options.discard:
            discard_weights(self.plan, self.folder, self.done)


def gpu_names(count: int, visible: str | None) -> tuple[str, ...]:
    """Return the name that CUDA_VISIBLE_DEVICES has for each of `count` GPUs that torch sees.

    Args:
        count: GPUs that torch sees.
        visible: CUDA_VISIBLE_DEVICES as it is now; None where it is not set.
    """
    names: Sequence[str] = [name.strip() for name in visible.split(",")] if visible else []
    return tuple(names[:count]) if len(names) >= count else tuple(str(i) for i in range(count))
