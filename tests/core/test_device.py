"""Which device is meant."""

from __future__ import annotations

import pytest

from vrbench.core.device import chosen_device, device_faults
from vrbench.core.errors import VrbenchError


@pytest.mark.parametrize(("cards", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_a_card_where_there_is_one(monkeypatch: pytest.MonkeyPatch, cards: bool, expected: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cards)
    assert chosen_device("auto") == expected
    assert chosen_device("cpu") == "cpu"


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_faults("cpu") == device_faults("auto") == []
    with pytest.raises(VrbenchError, match="torch sees no CUDA card"):
        chosen_device("cuda")
    with pytest.raises(VrbenchError, match="device 'gpu' is unknown; there are auto, cpu, cuda"):
        chosen_device("gpu")
