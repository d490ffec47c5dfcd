"""The LoRA half of a source: pairs of matrices for the language model's layers, judged, and merged row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints import lora_adapter, parameter_names
from vrbench.checkpoints.safetensors_index import Tensor
from vrbench.conversion import names
from vrbench.conversion.weight_files import open_tensors, read_tensor_info, validate_dtypes
from vrbench.core.errors import VrbenchError, raise_errors

if TYPE_CHECKING:
    import torch

FILES = ("adapter_model.safetensors", "adapter_model.bin")
OFF: dict[str, Any] = lora_adapter.PLAIN | {"modules_to_save": None, "use_dora": False}
"""Options of an adapter that would merge in another way, with the value that leaves them off."""

BESIDE_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin a training (init_lora_weights) that leave the base's own weights alone; others take from them."""


@dataclass(frozen=True)
class LoraPair:
    """Two matrices that change one weight: W + scale * B A. Names are those in the adapter's file."""

    a: str
    b: str
    scale: float


@dataclass(frozen=True)
class SourceAdapter:
    """A LoRA adapter.

    Attributes:
        file: where its matrices are.
        pairs: name of the changed weight in the target -> its pair.
    """

    file: Path
    pairs: dict[str, LoraPair]

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers that it changes."""
        return tuple(sorted({int(name.split(".layers.")[1].split(".")[0]) for name in self.pairs}))


def adapter_file(folder: Path) -> Path:
    """The adapter's weights in a folder.

    Raises:
        VrbenchError: there is none, or one of each format.
    """
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        raise VrbenchError(f"{folder} has an adapter_config.json but no {' or '.join(FILES)}")
    if len(found) > 1:
        raise VrbenchError(f"{folder} holds its adapter twice, as {' and '.join(FILES)}; remove one of them")
    return found[0]


def read_adapter(folder: Path) -> SourceAdapter:
    """The adapter of a folder, from its config and its matrices' names and shapes.

    Raises:
        VrbenchError: every reason why it cannot be merged into a language model's layers, in one sentence each.
    """
    file = adapter_file(folder)
    config = lora_adapter.read_adapter_config(folder)
    tensors = read_tensor_info(file)
    found: dict[str, dict[str, str]] = {}
    strange, twice = [], []
    for name in tensors:
        match = re.fullmatch(r"base_model\.model\.(model\.layers\.\d+\..+)\.lora_([AB])(?:\.default)?\.weight", name)
        if match:
            ends = found.setdefault(f"{names.LLM}{match[1]}.weight", {})
            if match[2] in ends:
                twice.append(f"{ends[match[2]]!r} and {name!r}")
            ends[match[2]] = name
        else:
            strange.append(name)
    faults = _config_faults(folder / parameter_names.ADAPTER_CONFIG, config) + validate_dtypes(file, tensors)
    if strange or not tensors:
        what = f"other than LoRA on the language model's layers: {', '.join(strange)}" if strange else "no tensors"
        faults.append(f"{file} holds {what}")
    faults += [f"{file} holds one matrix under two names, {both}; which one is meant cannot be told" for both in twice]
    faults += [f"{file} has only one matrix of {name}" for name, ends in found.items() if len(ends) < 2]
    faults += lora_adapter.rank_faults(file, config, _shapes(tensors, found))
    raise_errors(faults)
    return SourceAdapter(
        file,
        {
            n: LoraPair(e["A"], e["B"], lora_adapter.scale_of(config, lora_adapter.module_name(e["A"])))
            for n, e in found.items()
        },
    )


def _config_faults(path: Path, config: Mapping[str, Any]) -> list[str]:
    faults = []
    if config.get("peft_type") != "LORA":
        faults.append(f"{path} is of peft_type {config.get('peft_type')!r}; only LORA can be merged")
    for option, off in OFF.items():
        if config.get(option) not in (off, None, False, [], {}):
            faults.append(f"{path} sets {option} to {config[option]!r}; only plain LoRA can be merged")
    start = config.get("init_lora_weights")
    if start not in BESIDE_THE_BASE:
        faults.append(f"{path} has init_lora_weights {start!r}, which changes the base too; {lora_adapter.SAVE_PLAIN}")
    return faults


def _shapes(
    tensors: Mapping[str, Tensor], found: Mapping[str, dict[str, str]]
) -> dict[str, dict[str, parameter_names.Shape]]:
    """Module as PEFT names it -> shapes of its matrices."""
    return {
        lora_adapter.module_name(name): {end: tensors[n].shape for end, n in ends.items()}
        for ends in found.values() for name in list(ends.values())[:1]
    }  # fmt: skip


def shape_faults(adapter: SourceAdapter, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Pairs that change a weight which the model has not, or has in another shape; every one is named."""
    tensors = read_tensor_info(adapter.file)
    absent = [name for name in adapter.pairs if name not in shapes]
    unfit = []
    for name, pair in adapter.pairs.items():
        change = (*tensors[pair.b].shape[:1], *tensors[pair.a].shape[1:])
        if name not in absent and change != shapes[name]:
            unfit.append(f"{name} is {list(shapes[name])}, the adapter is for {list(change)}")
    faults = []
    if absent:
        faults.append(f"{adapter.file} is for another base: it changes {', '.join(absent)}, which the base has not")
    if unfit:
        faults.append(f"{adapter.file} is for another base: {'; '.join(unfit)}")
    return faults


@contextmanager
def matrices(adapter: SourceAdapter, pair: LoraPair) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A [rank, in] and B [out, rank] in float32; the adapter's file is open only as long as they are used."""
    with open_tensors(adapter.file) as get:
        yield get(pair.a).float(), get(pair.b).float()


def merged(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Some rows of a weight with their change, computed in float32 and rounded once, to the weight's own dtype.

    Args:
        weight: [rows, in].
        a: [rank, in].
        b: [rows, rank].
        scale: of their product; multiplied last, as PEFT does it.

    Raises:
        VrbenchError: the result is not finite.
    """
    result = (b @ a).mul_(scale).add_(weight).to(weight.dtype)
    if not all(bool(end.isfinite()) for end in result.aminmax()):
        raise VrbenchError(f"merging the adapter gives numbers that are not finite in {weight.dtype}")
    return result
