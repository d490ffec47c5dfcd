"""The process of one step: what it prints goes into a log, and its record is written last."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from vrbench.core.device import device_name
from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically
from vrbench.core.provenance import make_provenance, now, own_commit
from vrbench.reproduce.plan import PlanStep, StepRecord, log_file, record_file

GIB = 1 << 30


@dataclass(frozen=True)
class ExecutionOptions:
    """How a plan is executed.

    Attributes:
        device: "cpu" or "cuda".
        gpus: GPUs as CUDA_VISIBLE_DEVICES names them; empty on a CPU.
        jobs: steps at a time; they are spread over the GPUs.
        only: globs on names of steps, comma-separated; these, and what they need, are done.
        discard: remove a checkpoint's weights once no remaining step needs them.
        data_root: folder with local data sets, or "".
        command: the command line, for the records.
    """

    device: str = "cpu"
    gpus: tuple[str, ...] = ()
    jobs: int = 1
    only: str = "*"
    discard: bool = False
    data_root: str = ""
    command: str = "python"


@dataclass(frozen=True)
class StepJob:
    """The arguments of a step's function.

    Attributes:
        step: the step; its arguments hold the paths of other steps' outputs.
        digest: of the step, for its record.
        folder: of the plan.
        options: of the execution.
    """

    step: PlanStep
    digest: str
    folder: Path
    options: ExecutionOptions

    @property
    def output(self) -> Path:
        """What is to be made; a process that was killed may have left it, whole or in part."""
        return self.step.output(self.folder)

    @property
    def scratch(self) -> Path:
        """Folder for intermediate files, which is removed afterwards."""
        return self.folder / "scratch" / self.step.name


StepFunction = Callable[[StepJob], None]
"""Does a step; resumes, or starts over, what a killed process left. Importable by name from another process."""


def run_step(job: StepJob, function: StepFunction, environment: Mapping[str, str], failure: Connection) -> None:
    """Do a step and write its record.

    Args:
        job: the step.
        function: does it.
        environment: variables to set before CUDA is started, such as CUDA_VISIBLE_DEVICES.
        failure: takes an error message if the step fails.
    """
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    own_commit()  # what is committed while the step runs did not do it
    _redirect_output(log_file(job.step.name, job.folder))
    start, started = time.perf_counter(), now()
    try:
        function(job)
        _write_record(job, started, time.perf_counter() - start)
    except Exception as error:
        traceback.print_exc()
        is_known = isinstance(error, VrbenchError)
        failure.send(str(error) if is_known else f"{type(error).__name__}: {error}".rstrip(": "))


def _exit_with_parent() -> None:
    """End this process if its parent is killed: the next one writes to the same files."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _redirect_output(log: Path) -> None:
    """Append everything that this process and its children print to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def _write_record(job: StepJob, started: str, seconds: float) -> None:
    device, peak = platform.machine(), None
    if job.options.device == "cuda" or "torch" in sys.modules:
        import torch

        device = device_name(torch.device(job.options.device))
        if job.options.device == "cuda":
            peak = round(torch.cuda.max_memory_allocated() / GIB, 3)
    how = make_provenance(device, command=job.options.command, started=started, seconds=seconds)
    record = StepRecord(
        step=job.step.name, digest=job.digest, seconds=round(seconds, 3), device=device, peak_gib=peak, provenance=how
    )
    write_atomically(record_file(job.step.name, job.folder), record.model_dump_json(indent=1) + "\n")
