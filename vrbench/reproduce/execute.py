"""A plan's steps done by several processes, each step once; stopped at any moment, it goes on where it was."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from vrbench.core.cache import cache_folder
from vrbench.core.errors import VrbenchError
from vrbench.reproduce.discarding import again, discard, forget
from vrbench.reproduce.families import Value
from vrbench.reproduce.order import ALONE, StepQueue, chosen
from vrbench.reproduce.packing import RecordFolder, unpack
from vrbench.reproduce.plan import Plan, PlanStep
from vrbench.reproduce.plan_folder import digests, done_file, finished, joined, log_file, made_by, store
from vrbench.reproduce.worker import StepFunction, StepJob, StepResult, work


@dataclass(frozen=True)
class ExecutionOptions:
    """How a plan is executed.

    Attributes:
        device: "cpu" or "cuda".
        cards: names of the cards as CUDA_VISIBLE_DEVICES has them; empty on a CPU.
        jobs: processes; they take the cards in turn.
        only: globs on names of steps, comma-separated; these, and what they need, are done.
        discard: remove a checkpoint's weights once no step to come needs them.
        data_root: folder with the hub's data sets, or "".
        command: the command line, for the records.
    """

    device: str = "cpu"
    cards: tuple[str, ...] = ()
    jobs: int = 1
    only: str = "*"
    discard: bool = False
    data_root: str = ""
    command: str = "python"


@dataclass(frozen=True)
class StepEvent:
    """Something that happened to a step.

    Attributes:
        kind: "there" if it was done before, or what happens to it now.
        step: its name.
        seconds: that it took, once it ended.
        card: index in `Options.cards`; 0 on a CPU.
        error: why it failed, or which failed step it needs.
    """

    kind: Literal["there", "started", "done", "failed", "skipped"]
    step: str
    seconds: float = 0.0
    card: int = 0
    error: str = ""


def execute(
    plan: Plan, folder: Path, functions: Mapping[str, StepFunction], options: ExecutionOptions
) -> Generator[StepEvent, None, None]:
    """Do a plan's steps in a folder; what happens is told step by step.

    A step that fails is told, what needs it is skipped, and the others go on. Closing the iterator ends all processes.

    Args:
        plan: what to do; what the folder's own plan has besides stays in plan.json.
        folder: of the plan; see `vrbench.reproduce.plan`.
        functions: kind of a step -> what does it.
        options: how.

    Raises:
        VrbenchError: the folder holds another plan, another process works there, or no step fits `options.only`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        held = lock.acquire()
    except Timeout:
        raise VrbenchError(f"another process is at work in {folder}; wait for it, or name another --out") from None
    with held:
        whole = joined(plan, folder)
        unpack(folder)
        there = finished(whole, RecordFolder(folder))
        wanted = chosen(plan, options.only)
        steps = {step.name: step for step in whole.steps}
        for name in again(whole, folder, wanted, set(there)):
            forget(steps[name], folder)
            del there[name]
            wanted.add(name)
        store(whole, folder)
        yield from _Execution(whole, folder, functions, options, wanted, set(there)).events()


@dataclass
class _Worker:
    """A process, its end of the pipe, and what it works at."""

    process: multiprocessing.process.BaseProcess
    connection: Connection
    card: int
    step: str = ""


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
        self.digests = digests(self.plan)
        self.waiting = StepQueue([s for s in self.plan.steps if s.name in self.wanted - self.done], self.done)

    def events(self) -> Iterator[StepEvent]:
        yield from (StepEvent("there", step.name) for step in self.plan.steps if step.name in self.wanted & self.done)
        try:
            while self.waiting or self.waiting.running:
                yield from self._start()
                yield from self._collect()
        finally:
            for worker in self.workers.values():
                _end(worker)

    def _start(self) -> Iterator[StepEvent]:
        """Give a step to each process that has none, as long as there are steps that can be done."""
        for number in range(self.options.jobs):
            if number in self.workers and self.workers[number].step:
                continue
            name = self.waiting.next()
            if name is None:
                return
            if self.steps[name].kind in ALONE:  # nothing runs now; what idle processes hold of the cards goes too
                for worker in self.workers.values():
                    _end(worker)
                self.workers.clear()
            if number not in self.workers:
                self.workers[number] = self._worker(number)
            worker = self.workers[number]
            worker.step = name
            worker.connection.send(self._job(self.steps[name]))
            yield StepEvent("started", name, card=worker.card)

    def _worker(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would share what torch has begun
        here, there = context.Pipe()
        card = number % max(1, len(self.options.cards))
        arguments = (there, dict(self.functions), self._environment(card))
        process = context.Process(target=work, args=arguments, name=f"vrbench-{number}")  # it has children of its own
        process.start()
        there.close()
        return _Worker(process, here, card)

    def _environment(self, card: int) -> dict[str, str]:
        """What a process needs to know before it imports anything heavy."""
        threads = max(1, _cores() // self.options.jobs)
        wanted = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "TOKENIZERS_PARALLELISM": "false",
            "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor")),
        }
        if self.options.cards:
            wanted["CUDA_VISIBLE_DEVICES"] = self.options.cards[card]
        return wanted

    def _job(self, step: PlanStep) -> StepJob:
        return StepJob(
            step=step.name, kind=step.kind, arguments=self._filled(step), target=made_by(step, self.folder),
            scratch=self.folder / "scratch" / step.name, device=self.options.device, data_root=self.options.data_root,
            command=self.options.command, digest=self.digests[step.name], log=log_file(step.name, self.folder),
            done=done_file(step.name, self.folder),
        )  # fmt: skip

    def _filled(self, step: PlanStep) -> dict[str, Value]:
        """The arguments, with the paths of what other steps made."""
        paths = {f"{{{name}}}": str(made_by(self.steps[name], self.folder)) for name in step.needs}
        return {key: paths.get(str(value), value) for key, value in step.arguments.items()}

    def _collect(self) -> Iterator[StepEvent]:
        """Wait for at least one step to end, and say what came of it and of those that need it."""
        busy = {number: worker for number, worker in self.workers.items() if worker.step}
        if not busy:
            raise RuntimeError(f"{len(self.waiting)} steps wait for what nothing makes")
        ready = wait([worker.connection for worker in busy.values()])
        for number, worker in busy.items():
            if worker.connection not in ready:
                continue
            name, answer = worker.step, _answer(worker)
            worker.step = ""
            if answer.error:
                yield StepEvent("failed", name, answer.seconds, worker.card, answer.error)
                skipped = self.waiting.failed(name)
                yield from (StepEvent("skipped", other, error=f"needs {name}") for other in skipped)
                _end(self.workers.pop(number))  # its card and memory may be in any state; a new one takes its place
            else:
                self.waiting.succeeded(name)
                self.done.add(name)
                shutil.rmtree(self.folder / "scratch" / name, ignore_errors=True)
                yield StepEvent("done", name, answer.seconds, worker.card)
        if self.options.discard:
            discard(self.plan, self.folder, self.done)


def _answer(worker: _Worker) -> StepResult:
    try:
        answer = worker.connection.recv()
        assert isinstance(answer, StepResult)
        return answer
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return StepResult(worker.step, 0.0, f"its process {how}")


def _end(worker: _Worker) -> None:
    """End a process: at once if it works at something, and by closing its pipe if it waits."""
    worker.connection.close()
    if worker.step:
        worker.process.terminate()
    worker.process.join(10)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cards_of(count: int, visible: str | None) -> tuple[str, ...]:
    """How CUDA_VISIBLE_DEVICES names each of `count` cards that torch sees.

    Args:
        count: cards that torch sees.
        visible: CUDA_VISIBLE_DEVICES as it is now; None where it is not set.
    """
    names: Sequence[str] = [name.strip() for name in visible.split(",")] if visible else []
    return tuple(names[:count]) if len(names) >= count else tuple(str(i) for i in range(count))
