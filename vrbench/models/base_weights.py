"""A complete model as it is loaded first: its weights as stored, and keeping it for the next checkpoint.

A checkpoint that changes a base gets a copy of the base's modules over the same weights. What it changes is replaced
and never overwritten, so that the base stays as it is, whatever happens to the checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.parameter_names import canonical_name
from vrbench.checkpoints.safetensors_index import read_header, weight_files

GPU_SHARE = 0.25
"""Share of a GPU's memory up to which a base's weights stay there while a checkpoint is answered."""


@dataclass
class WholeModel:
    """A complete model and what belongs to it.

    Attributes:
        model, tokenizer, processor: as the family's loader returns them.
        read: returns a weight as it is stored, by its parameter's name in `model`.
        names: address of a weight's values -> its parameter's name, until the weight is replaced.
        placed: address of a weight's values -> the same on the device where it is used.
    """

    model: Any
    tokenizer: Any
    processor: Any
    read: Callable[[str], torch.Tensor]
    names: dict[int, str] = field(default_factory=dict)
    placed: dict[int, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        self.names = self.names or {p.data_ptr(): name for name, p in self.model.named_parameters()}

    def widen(self, parameter: torch.nn.Parameter) -> None:
        """Give a parameter its stored values in float32, so that what is added to them is not rounded twice."""
        if parameter.dtype == torch.float32:  # also if it was replaced
            return
        stored = self.read(self.names[parameter.data_ptr()]).to(parameter.device)
        if not torch.allclose(stored.to(parameter.dtype), parameter, rtol=0, atol=0, equal_nan=True):
            raise RuntimeError(f"{self.names[parameter.data_ptr()]} is not what its file holds")
        parameter.data = stored.float()

    def copy(self) -> WholeModel:
        """Return the same model over the same weights; modules and configs are its own."""
        same = {id(p): torch.nn.Parameter(p.data, requires_grad=p.requires_grad) for p in self.model.parameters()}
        return replace(self, model=copy.deepcopy(self.model, dict(same)))

    def place(self, model: Any, device: torch.device, dtype: torch.dtype) -> Any:
        """Return a model made from this one on a device, every parameter in a dtype.

        No buffer is converted: rotary frequencies stay in float32, as transformers loads them.
        """
        for parameter in model.parameters():
            address = parameter.data_ptr()
            moved = (self.placed or {}).get(address)
            if moved is None:
                moved = parameter.data.to(dtype).to(device)
                if self.placed is not None and self._is_unchanged(parameter, dtype):
                    self.placed[address] = moved
            parameter.data = moved
        return model.to(device)

    def _is_unchanged(self, parameter: torch.nn.Parameter, dtype: torch.dtype) -> bool:
        return parameter.data_ptr() in self.names and parameter.dtype == dtype


def stored_weights(folder: Path, model: Any) -> Callable[[str], torch.Tensor]:
    """Return a function that reads one weight of a model from its folder's files, by its parameter's name."""
    files: dict[str, tuple[Path, str]] = {}

    def read(name: str) -> torch.Tensor:
        from safetensors import safe_open

        if not files:
            files.update((canonical_name(n), (file, n)) for file in weight_files(folder) for n in read_header(file))
        tied = (other for pair in model.all_tied_weights_keys.items() if name in pair for other in pair)
        file, stored = next(files[key] for key in map(canonical_name, (name, *tied)) if key in files)
        with safe_open(file, framework="pt") as tensors:
            found: torch.Tensor = tensors.get_tensor(stored)
        return found

    return read


class BaseCache:
    """Keeps the base that was loaded last, while other checkpoints of the same base are to come.

    Attributes:
        expected: digests of the bases of the checkpoints that are to come.
    """

    def __init__(self) -> None:
        self.expected: Sequence[str] = ()
        self._key: tuple[Any, ...] = ()
        self._kept: WholeModel | None = None

    def get(self, digest: str, device: torch.device, dtype: torch.dtype, load: Callable[[], WholeModel]) -> WholeModel:
        """Return a base that may be changed, loaded if it is not the one that is kept.

        Args:
            digest: of the base.
            device: where it will be used.
            dtype: of its weights.
            load: loads it.
        """
        kept, key = self._kept, (digest, device, dtype)
        if key != self._key or kept is None:
            self._kept = kept = None
            kept = load()
        if digest not in self.expected or not _may_stay(kept, device):
            self._kept, self._key = None, ()
            return kept
        self._kept, self._key = kept, key
        if kept.placed is None and _fits(kept.model, device):
            kept.placed = {}
        return kept.copy()


def _may_stay(base: WholeModel, device: torch.device) -> bool:
    """Whether a base may be kept where it was loaded."""
    where = next(base.model.parameters()).device
    return where.type == "cpu" or _fits(base.model, device)


def _fits(model: Any, device: torch.device) -> bool:
    """Whether a model's weights may stay on a device beside those of a checkpoint made from it."""
    if device.type != "cuda":
        return True
    held = sum(p.nbytes for p in model.parameters())
    return bool(held <= GPU_SHARE * torch.cuda.mem_get_info(device)[1])
