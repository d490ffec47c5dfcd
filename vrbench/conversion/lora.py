"""The LoRA adapter of a source: pairs of matrices for the language model's layers, validated, and merged row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints import lora_adapter
from vrbench.checkpoints.checkpoint import ADAPTER_CONFIG
from vrbench.checkpoints.parameter_names import validate_unique_names
from vrbench.conversion.weight_files import open_tensors, read_tensor_info, validate_dtypes
from vrbench.core.errors import VrbenchError, raise_errors

if TYPE_CHECKING:
    import torch

FILES = ("adapter_model.safetensors", "adapter_model.bin")
DEFAULTS: dict[str, Any] = lora_adapter.PLAIN_OPTIONS | {"modules_to_save": None, "use_dora": False}
"""Options of an adapter that would change how it is merged, with the value that turns them off."""

INIT_KEEPS_BASE = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that do not change the base's own weights."""

MATRIX = re.compile(r"base_model\.model\.(model\.layers\.\d+\..+)\.lora_([AB])(?:\.default)?\.weight")

MERGED_NUMBERS = 1 << 18
"""Numbers that are merged together: 1 MB in float32."""


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
        file: its weights.
        pairs: name of the changed weight in the converted model -> its pair.
    """

    file: Path
    pairs: dict[str, LoraPair]

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers that it changes."""
        return tuple(sorted({int(name.split(".layers.")[1].split(".")[0]) for name in self.pairs}))


def _adapter_file(folder: Path) -> Path:
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        raise VrbenchError(f"{folder} has an adapter_config.json but no {' or '.join(FILES)}")
    if len(found) > 1:
        raise VrbenchError(f"{folder} has its adapter twice, as {' and '.join(FILES)}; remove one of them")
    return found[0]


def read_adapter(folder: Path) -> SourceAdapter:
    """Return the adapter of a folder, from its config and its matrices' names and shapes.

    Raises:
        VrbenchError: every reason why it cannot be merged into a language model's layers.
    """
    file = _adapter_file(folder)
    config = lora_adapter.read_adapter_config(folder)
    tensors = read_tensor_info(file)
    found: dict[str, dict[str, str]] = {}
    unknown = []
    for name in tensors:
        match = MATRIX.fullmatch(name)
        if match:
            found.setdefault(f"language_model.{match[1]}.weight", {})[match[2]] = name
        else:
            unknown.append(name)
    modules = {lora_adapter.module_name(next(iter(pair.values()))): pair for pair in found.values()}
    errors = _validate_config(folder / ADAPTER_CONFIG, config) + validate_dtypes(file, tensors)
    if unknown or not tensors:
        content = f"other than LoRA on the language model's layers: {', '.join(unknown)}" if unknown else "no tensors"
        errors.append(f"{file} has {content}")
    errors += validate_unique_names(file, tensors, lora_adapter.without_default)
    errors += [f"{file} has only one matrix of {name}" for name, pair in found.items() if len(pair) < 2]
    errors += lora_adapter.validate_ranks(
        file, config, {m: {end: tensors[name].shape for end, name in pair.items()} for m, pair in modules.items()}
    )
    raise_errors(errors)
    scales = {target: lora_adapter.lora_scale(config, lora_adapter.module_name(p["A"])) for target, p in found.items()}
    return SourceAdapter(file, {target: LoraPair(p["A"], p["B"], scales[target]) for target, p in found.items()})


def _validate_config(path: Path, config: Mapping[str, Any]) -> list[str]:
    errors = list(lora_adapter.validate_options(path, config, DEFAULTS, "only plain LoRA can be merged"))
    init = config.get("init_lora_weights")
    if init not in INIT_KEEPS_BASE:
        errors.append(f"{path} has init_lora_weights {init!r}, which changes the base too; {lora_adapter.SAVE_PLAIN}")
    return errors


def validate_shapes(adapter: SourceAdapter, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return all pairs that change a weight which the model does not have, or has in another shape."""
    tensors = read_tensor_info(adapter.file)
    changes = {name: (*tensors[pair.b].shape[:1], *tensors[pair.a].shape[1:]) for name, pair in adapter.pairs.items()}
    absent = [name for name in changes if name not in shapes]
    unfit = [
        f"{name} is {list(shapes[name])}, the adapter is for {list(change)}"
        for name, change in changes.items()
        if name in shapes and change != shapes[name]
    ]
    errors = []
    if absent:
        errors.append(f"{adapter.file} is for another base: it changes {', '.join(absent)}, which the base lacks")
    if unfit:
        errors.append(f"{adapter.file} is for another base: {'; '.join(unfit)}")
    return errors


def merge_lora(weight: torch.Tensor, adapter: SourceAdapter, pair: LoraPair) -> torch.Tensor:
    """Return a weight [out, in] with its change, computed in float32 and rounded once, to the weight's own dtype.

    The scale is multiplied last, as PEFT does it.

    Raises:
        VrbenchError: the result is not finite.
    """
    import torch

    with open_tensors(adapter.file) as get:
        a, b = get(pair.a).float(), get(pair.b).float()
    merged = torch.empty_like(weight)
    step = max(1, MERGED_NUMBERS // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        merged[rows] = (b[rows] @ a).mul_(pair.scale).add_(weight[rows])
        if not all(bool(end.isfinite()) for end in merged[rows].aminmax()):
            raise VrbenchError(f"merging the adapter gives numbers that are not finite in {weight.dtype}")
    return merged
