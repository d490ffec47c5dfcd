"""Pickled weights are tensors and nothing else, or they are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conversion.refusal import refused, told


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("name", ["merged-bin/pytorch_model-00001-of-00002.bin", "projector/mm_projector.bin",
                                  "lora/non_lora_trainables.bin", "lora/adapter_model.bin"])  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(name: str, zipped: bool, at: Path) -> None:
    file, mark = at / name, at.parent / "executed"
    content = {"model.norm.weight": Bomb(mark)}
    if name.endswith("adapter_model.bin"):
        (at / "lora" / "adapter_model.safetensors").unlink()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    source = name.split("/")[0]
    base = None if source == "merged-bin" else str(at / "base")
    found = refused(at, source, base, str(at / "tower"))
    assert sum(file.name in sentence for sentence in found) == 1, found
    if zipped:
        assert any(f"{file.name} is refused" in sentence for sentence in found), found
    assert not mark.exists()
    with file.open("rb") as stream_of_bytes, pytest.raises(FileExistsError):  # and it does run code
        mark.mkdir()
        torch.load(stream_of_bytes, weights_only=False)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps({"a": 1}), b"version https://git-lfs"])
def test_a_bin_file_that_is_none(content: bytes, at: Path) -> None:
    (at / "projector" / "mm_projector.bin").write_bytes(content)
    told(at, "projector", "mm_projector.bin", base=True)


def test_a_truncated_bin_file(at: Path) -> None:
    file = at / "merged-bin" / "pytorch_model-00001-of-00002.bin"
    file.write_bytes(file.read_bytes()[:-2000])
    assert any("cannot be read" in sentence for sentence in refused(at, "merged-bin", None, str(at / "tower")))


def test_a_table_of_other_things_than_tensors(at: Path) -> None:
    torch.save({"state": {"a": torch.ones(1)}}, at / "projector" / "mm_projector.bin")
    told(at, "projector", "is not a table of tensors by name", base=True)
