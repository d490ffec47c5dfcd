"""Which of the processes of one evaluation this is, and starting one for each GPU.

The processes are started by `torchrun` or `accelerate launch`, which tell each its rank, on one machine or on several
with a shared `--out`. Each answers a share of the requests, and rank 0 scores and writes the record; they exchange
answers through files (`ranked_store`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vrbench.core.cpu_count import usable_cores
from vrbench.core.device import count_gpus
from vrbench.core.errors import RunAborted, VrbenchError
from vrbench.core.provenance import VLLM, now

if TYPE_CHECKING:
    from vrbench.evaluation.run_config import RunConfig

_log = logging.getLogger(__name__)

BLOCKS = 4
"""Blocks of neighbouring requests that each rank gets: neighbours share beginnings and images."""

MIN_BLOCK = 8
"""With fewer requests in a block, the rounding of blocks would give some ranks much more than others."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local: number of this process on its machine, which is that of its GPU.
        local_size: number of processes on this machine.
        started: when the run began; what is written later counts as computed by it.
        together: whether all share one model and compute each answer together, instead of a share of the answers.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    local_size: int = field(default=1, compare=False)
    started: str = field(default="", compare=False)
    together: bool = False

    @classmethod
    def of_environment(cls, together: bool = False) -> Ranks:
        """Return what `torchrun` or `accelerate launch` say of this process; one process without them."""
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        rank, size, local, local_size = (int(os.environ.get(name) or start) for name, start in names.items())
        return cls(rank, size, local, local_size, now(), together and size > 1)

    def errors(self, config: RunConfig) -> Iterator[str]:
        """Yield which options do not go with so many processes, one sentence each."""
        device, several = config.device, self.size > 1
        if several and config.device_map is not None:
            yield "a device map uses all GPUs in one process; leave out --gpus and torchrun"
        if several and config.backend == VLLM:
            yield (
                "--backend vllm answers with one process; leave out --gpus and torchrun, and give each GPU "
                "(CUDA_VISIBLE_DEVICES) a run with tasks of its own"
            )
        if config.tp and not several and "WORLD_SIZE" not in os.environ:
            yield "tp needs several processes; use --gpus N, or torchrun --nproc-per-node N -m vrbench run ... --tp"
        if config.tp and device not in ("auto", "cuda") and count_gpus():
            yield f"device is {device}, but with tp each process takes the GPU of its own number; leave it out"
        elif several and device.startswith("cuda:"):
            yield (
                f"device is {device}, but there are {self.size} processes and each uses a GPU of its own; use --device "
                f"cuda, or one process"
            )
        elif several and device in ("auto", "cuda") and 0 < count_gpus() < self.local_size:
            yield (
                f"{self.local_size} processes were started on this machine, and each uses a GPU of its own, but torch "
                f"sees {count_gpus()}; start no more than that"
            )

    def device(self, device: str) -> str:
        """Return the device of this process."""
        return f"cuda:{self.local}" if self.size > 1 and device == "cuda" else device

    def owns(self, number: int, count: int) -> bool:
        """Whether this process answers the request of a number, out of so many."""
        if self.together:
            return True
        blocks = max(1, min(BLOCKS, count // (MIN_BLOCK * self.size)))
        return number * blocks * self.size // count % self.size == self.rank

    @contextmanager
    def fatal_errors(self) -> Iterator[None]:
        """End the process at an error if others wait for it in a computation: torchrun then ends those too."""
        try:
            yield
        except Exception as error:
            if not self.together:
                raise
            is_input_error = isinstance(error, VrbenchError)
            _log.error("vrbench: process %d ends the run: %s", self.rank, error, exc_info=not is_input_error)
            raise RunAborted(f"process {self.rank}: {error}") from error


SINGLE_PROCESS = Ranks()


def gpu_count(gpus: str, device: str, started: int = 0) -> int:
    """Return how many processes `--gpus` asks for; "auto" and "all" mean one for each visible GPU.

    Args:
        gpus: "auto", "all" or a number.
        device: what `--device` asks for.
        started: processes that `torchrun` or `accelerate launch` has started on this machine; none are to be added.

    Raises:
        VrbenchError: it is no number of GPUs that there are, or several with a device that is one.
    """
    if started:
        if gpus not in ("auto", "all", str(started)):
            raise VrbenchError(f"gpus is {gpus!r}, but {started} processes were started here; leave --gpus out")
        return 1
    visible = max(1, count_gpus())
    uses_several = device in ("auto", "cuda")
    if gpus == "auto":
        return visible if uses_several else 1
    if gpus != "all" and not (gpus.isdecimal() and 1 <= int(gpus) <= visible):
        if gpus.isdecimal() and int(gpus) and not count_gpus():
            raise VrbenchError(f"gpus is {gpus!r}, but torch sees no CUDA GPU here; leave --gpus out")
        raise VrbenchError(f"gpus is {gpus!r}; it is auto, all or a number from 1 to {visible}, the GPUs seen here")
    count = visible if gpus == "all" else int(gpus)
    if count > 1 and not uses_several:
        raise VrbenchError(f"gpus is {gpus!r}, but device is {device}; use --device cuda, or leave --gpus out")
    return count


def run_with_torchrun(processes: int, arguments: Sequence[str]) -> int:
    """Run `vrbench` with some arguments in so many processes of this machine.

    Returns:
        The exit code of the process that failed first, or 128 + the signal that ended them (130 at Ctrl-C); 0 if all
        went well.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    try:
        main(["--standalone", "--nproc-per-node", str(processes), "-m", "vrbench", *arguments])
    except ChildFailedError as error:
        code: int = error.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code  # a signal, as in shells
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
