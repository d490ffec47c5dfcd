"""How large a LoRA adapter is in each decoder layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vrbench.checkpoints.lora_adapter import PART, module_name, read_adapter_config, scale_of
from vrbench.checkpoints.parameter_names import ADAPTER, canonical, layer_of
from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from vrbench.checkpoints.resolve import Checkpoint


def lora_norms(ckpt: Checkpoint) -> list[float]:
    """The size of what a LoRA adapter adds to each decoder layer; 0 for a layer without one.

    With A_m [r, in] and B_m [out, r] the adapter's matrices on the linear m of the layer, and s_m its scale (alpha / r,
    or alpha / sqrt(r) with rsLoRA), it is

        sum over m of ||s_m B_m A_m||

    in the Frobenius norm: the numerator of the parameter change ratio, of the adapter alone, with no weights read. It
    is the root of the trace of (A A^T)(B^T B), so that no matrix of the model's size is made.

    Args:
        ckpt: a checkpoint whose folder, or one that it was made from, holds the adapter; the nearest counts.

    Raises:
        VrbenchError: there is no adapter, or it is of another kind (DoRA), whose matrices alone do not say how much
            changes.
    """
    holder, layers = adapted(ckpt)
    norms = dict.fromkeys(range(holder.depth), 0.0)
    for module, norm in _norms(holder.path).items():
        layer = layer_of(f"{module}.")
        assert layer is not None  # or the adapter would have faults
        norms[layer] += norm
    return [norms[layer] for layer in layers]


def adapted(ckpt: Checkpoint) -> tuple[Checkpoint, list[int]]:
    """The nearest checkpoint below that holds a LoRA adapter, and for each of ckpt's layers which of its it is.

    Raises:
        VrbenchError: there is none, or it is a DoRA.
    """
    here, layers = ckpt, list(range(ckpt.depth))
    while not here.has(ADAPTER):
        for change in reversed(here.changes):
            if change.kind == "pruned":
                kept = change.layers.complement().indices
                layers = [kept[layer] for layer in layers]
        if here.base is None:
            raise VrbenchError(f"{ckpt.id} has no LoRA adapter of its own or below it; take 'change' with its base")
        here = here.base
    if read_adapter_config(here.path).get("use_dora"):
        raise VrbenchError(
            f"the adapter of {here.id} is a DoRA, whose matrices alone do not say what changes; take 'change'"
        )
    return here, layers


def _norms(folder: Path) -> dict[str, float]:
    """Module of a decoder layer -> the norm of what the adapter adds to it."""
    from safetensors.torch import load_file

    matrices: dict[str, dict[str, torch.Tensor]] = {}
    names: dict[str, str] = {}
    for name, tensor in load_file(folder / ADAPTER).items():
        part = PART.fullmatch(canonical(name))
        if part and part[2]:
            matrices.setdefault(part[1], {})[part[2]] = tensor.double()
            names[part[1]] = module_name(name)
    config = read_adapter_config(folder)
    norms = {}
    for module, of in matrices.items():
        a, b = of["A"], of["B"]
        squared = float(((a @ a.T) * (b.T @ b)).sum())
        norms[module] = scale_of(config, names[module]) * math.sqrt(max(0.0, squared))
    return norms
