"""The device that a model runs on: accepted names, what "auto" means here, and how records name it."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.errors import raise_errors

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "cuda:N")


def validate_device(name: str) -> list[str]:
    """Return why a device cannot be used here, one message each; empty when it can."""
    if name in ("auto", "cpu"):
        return []
    number = re.fullmatch(r"cuda(?::(\d+))?", name)
    if number is None:
        return [f"device {name!r} is unknown; there are {', '.join(DEVICES)}"]
    count = count_gpus()
    if not count:
        return [f"device is {name}, but torch sees no CUDA GPU here; use --device cpu, or auto"]
    if int(number[1] or 0) >= count:
        return [f"device is {name}, but torch sees {count} GPU{'s' * (count > 1)} here: cuda:0 to cuda:{count - 1}"]
    return []


def resolve_device(name: str) -> str:
    """Return "cpu", "cuda" or "cuda:N"; "auto" is "cuda" when there is a GPU.

    Raises:
        VrbenchError: no such name, or no such GPU.
    """
    raise_errors(validate_device(name))
    if name == "auto":
        return "cuda" if count_gpus() else "cpu"
    return name


def device_kind(name: str) -> str:
    """Return "cpu" or "cuda" of a resolved device: which GPU of a machine computes determines no answer."""
    return name.partition(":")[0]


def count_gpus() -> int:
    """Return how many GPUs torch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's with the number of threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def select_cpu_kernels() -> None:
    """Let MKL choose its kernels before several threads ask at once; called before a model is made.

    At the first cos, sqrt, erf or the like of a process, oneMKL 2024.2 on an Intel CPU may give one of several threads
    a kernel of low accuracy (https://github.com/pytorch/pytorch/issues/188792): rotary embeddings of the first batch
    are then off by 1e-4, and log-likelihoods by up to 2e-2 nats. Here the first call is that of one thread.
    """
    import torch

    torch.ones(1).cos()


def processor_name() -> str:
    """Return the CPU's model name, as far as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of the GPU or of the machine is exhausted."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or should_reduce_batch_size(error) or "out of memory" in str(error)
