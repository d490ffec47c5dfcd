"""Where a model is computed: the names that commands accept, and what "auto" means here."""

from __future__ import annotations

from vrbench.core.errors import raise_all

DEVICES = ("auto", "cpu", "cuda")


def device_faults(name: str) -> list[str]:
    """Why a device cannot be used here, one sentence each; empty when it can."""
    if name not in DEVICES:
        return [f"device {name!r} is unknown; there are {', '.join(DEVICES)}"]
    if name == "cuda" and not _has_card():
        return ["device is cuda, but torch sees no CUDA card here; use --device cpu, or auto"]
    return []


def chosen_device(name: str) -> str:
    """Either "cpu" or "cuda"; "auto" is a card when there is one.

    Raises:
        VrbenchError: no such name, or "cuda" where there is no card.
    """
    raise_all(device_faults(name))
    if name == "auto":
        return "cuda" if _has_card() else "cpu"
    return name


def _has_card() -> bool:
    import torch

    return torch.cuda.is_available()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of the GPU or of the machine is exhausted."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or should_reduce_batch_size(error) or "out of memory" in str(error)
