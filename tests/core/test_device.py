"""Which device is meant."""

from __future__ import annotations

import pytest
import torch

from vrbench.core import device
from vrbench.core.device import device_kind, is_out_of_memory, resolve_device, validate_device
from vrbench.core.errors import VrbenchError


@pytest.mark.parametrize(("cards", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_a_card_where_there_is_one(monkeypatch: pytest.MonkeyPatch, cards: bool, expected: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cards)
    monkeypatch.setattr("torch.cuda.device_count", lambda: int(cards))
    assert resolve_device("auto") == expected
    assert resolve_device("cpu") == "cpu"


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert validate_device("cpu") == validate_device("auto") == []
    with pytest.raises(VrbenchError, match="torch sees no CUDA GPU"):
        resolve_device("cuda")
    with pytest.raises(VrbenchError, match="device 'gpu' is unknown; there are auto, cpu, cuda, cuda:N"):
        resolve_device("gpu")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True), (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes cannot be multiplied"), False), (OSError("disk full"), False),
    ],
)  # fmt: skip
def test_out_of_memory_errors_are_recognized(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_a_real_failed_allocation_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 56)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("name", "count", "error"),
    [
        ("cuda:1", 2, ""),
        ("cuda:2", 2, "device is cuda:2, but torch sees 2 GPUs here: cuda:0 to cuda:1"),
        ("cuda:0", 0, "torch sees no CUDA GPU here"),
        ("cuda:", 1, "is unknown; there are auto, cpu, cuda, cuda:N"),
        ("cuda:1x", 2, "is unknown"),
    ],
)
def test_a_gpu_has_a_number(monkeypatch: pytest.MonkeyPatch, name: str, count: int, error: str) -> None:
    monkeypatch.setattr(device, "count_gpus", lambda: count)
    errors = validate_device(name)
    assert error in errors[0] if error else not errors
    assert device_kind(name) == "cuda"
