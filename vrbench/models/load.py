"""A checkpoint in memory: its base first, then what was done to it."""

from __future__ import annotations

from typing import Any

import torch

from vrbench.checkpoint import Checkpoint
from vrbench.errors import VrbenchError
from vrbench.models.adapter import merge_adapter, replace_projector
from vrbench.models.families import FAMILIES, ready
from vrbench.models.loaded import LoadedModel
from vrbench.models.pocket import assemble
from vrbench.models.prune import remove_layers
from vrbench.models.vlm import VLM
from vrbench.structure import ADAPTER, PROJECTOR, TOWER

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_vlm(
    checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32"
) -> LoadedModel:
    """The model of a checkpoint, ready to answer.

    Layered checkpoints are put together in float32 and converted once, at the end, so that merging costs no precision.

    Args:
        checkpoint: from `vrbench.checkpoint.resolve`, which has checked it.
        device: where it shall be.
        dtype: of every weight, whatever the files hold.

    Raises:
        VrbenchError: unknown dtype, or weights that do not fit after all.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise VrbenchError(f"dtype {dtype!r} is unknown; there are {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    model, tokenizer, image_processor = _build(checkpoint, torch.float32 if checkpoint.base else dtype)
    _convert(model, dtype)
    vlm = ready(checkpoint.family, model.to(device), tokenizer, image_processor)
    if vlm.depth != checkpoint.depth:
        raise VrbenchError(f"{checkpoint.id} has {vlm.depth} decoder layers; its lineage says {checkpoint.depth}")
    return vlm


def _build(checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """(model, tokenizer, image processor): the base, then removed layers, then the adapter, then the projector."""
    load = FAMILIES[checkpoint.family].load
    if checkpoint.base is None:
        return load(checkpoint.path, dtype)
    if checkpoint.has(TOWER):
        return load(assemble(checkpoint.path), dtype)
    model, tokenizer, image_processor = _build(checkpoint.base, dtype)
    for layers in checkpoint.removed:
        remove_layers(model, layers)
    if checkpoint.has(ADAPTER):
        model = merge_adapter(model, checkpoint.path)
    if checkpoint.has(PROJECTOR):
        replace_projector(model, checkpoint.path / PROJECTOR)
    return model, tokenizer, image_processor


def _convert(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert every parameter, and no buffer: rotary frequencies stay in float32, as transformers loads them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def load_packed(checkpoint: Checkpoint, device: str | torch.device, dtype: str | torch.dtype) -> VLM:
    """As `load_vlm`, for what needs packed rows: training and the choice of layers by their loss.

    Raises:
        VrbenchError: as `load_vlm`, or the family's prompts cannot be packed.
    """
    if FAMILIES[checkpoint.family].manner is not None:
        able = ", ".join(name for name, family in FAMILIES.items() if family.manner is None)
        raise VrbenchError(f"{checkpoint.id} is of family {checkpoint.family!r}; this can be done with {able} only")
    vlm = load_vlm(checkpoint, device, dtype)
    assert isinstance(vlm, VLM)  # as its family says
    return vlm
