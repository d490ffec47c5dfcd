"""One process that does steps, one after the other, so that imports and caches are paid for once."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from vrbench.core.device import device_name
from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically
from vrbench.core.provenance import make_provenance, own_commit
from vrbench.reproduce.families import Value
from vrbench.reproduce.plan import StepRecord

GIB = 1 << 30


@dataclass(frozen=True)
class StepJob:
    """What a step's function gets.

    Attributes:
        step: name of the step.
        kind: of the step.
        arguments: of the step, with the paths of what other steps made.
        target: what is to be made; it may be there, half or wholly, from a process that was killed.
        scratch: folder for what is in the making and not to be kept.
        device: "cpu" or "cuda".
        data_root: folder with the hub's data sets, or "".
        command: the command line, for the record.
        digest: of the step, for the record.
        log: file for what is printed.
        done: file that says that the step is done.
    """

    step: str
    kind: str
    arguments: Mapping[str, Value]
    target: Path
    scratch: Path
    device: str
    data_root: str
    command: str
    digest: str
    log: Path
    done: Path


StepFunction = Callable[[StepJob], None]
"""Does a step; it goes on, or starts anew, where a killed process left it. Importable by name from another process."""


@dataclass(frozen=True)
class StepResult:
    """What came of a job: seconds, and the fault if there was one."""

    step: str
    seconds: float
    error: str = ""


def work(connection: Connection, functions: Mapping[str, StepFunction], environment: Mapping[str, str]) -> None:
    """Do jobs as they come, until the other end is closed.

    Args:
        connection: gives `StepJob` and takes `StepResult`.
        functions: kind of a step -> what does it.
        environment: variables to set before anything heavy is imported, such as CUDA_VISIBLE_DEVICES.
    """
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    own_commit()  # before the first step: what is committed while it runs did not do it
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_do(job, functions))


def _end_with_parent() -> None:
    """A process whose parent was killed must not go on writing where the next one writes."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _do(job: StepJob, functions: Mapping[str, StepFunction]) -> StepResult:
    """Do one job; its last act is to write that it is done."""
    start, started = time.perf_counter(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    error = ""
    with _logged(job.log):
        try:
            _forget_peak()
            functions[job.kind](job)
            _write_done(job, started, time.perf_counter() - start)
        except Exception as fault:
            traceback.print_exc()
            error = str(fault) if isinstance(fault, VrbenchError) else f"{type(fault).__name__}: {fault}".rstrip(": ")
        _forget()
    return StepResult(job.step, time.perf_counter() - start, error)


@contextlib.contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Everything that this process and its children print goes to the end of a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with file.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _write_done(job: StepJob, started: str, seconds: float) -> None:
    device, peak = _card(job.device)
    how = make_provenance(device, command=job.command, started=started, seconds=seconds)
    done = StepRecord(
        step=job.step, digest=job.digest, seconds=round(seconds, 3), device=device, peak_gib=peak, provenance=how
    )
    write_atomically(job.done, done.model_dump_json(indent=1) + "\n")


def _card(device: str) -> tuple[str, float | None]:
    """The card or processor, and the most memory that the last step held on the card."""
    if device != "cuda" and "torch" not in sys.modules:
        return platform.machine(), None
    import torch

    name = device_name(torch.device(device))
    return name, round(torch.cuda.max_memory_allocated() / GIB, 3) if device == "cuda" else None


def _forget_peak() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _forget() -> None:
    """Give back memory, and what was compiled for the last step's model."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if "torch._dynamo" in sys.modules:  # or nothing was compiled
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
