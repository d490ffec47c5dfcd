"""A checkpoint in memory: its base first, then what was done to it."""

from __future__ import annotations

from typing import Any

import torch

from vrbench.checkpoint import Checkpoint
from vrbench.errors import VrbenchError
from vrbench.models import random_weights
from vrbench.models.adapter import merge_adapter, replace_projector
from vrbench.models.families import FAMILIES
from vrbench.models.pocket import assemble
from vrbench.models.prune import remove_layers
from vrbench.models.random_shapes import RECIPE
from vrbench.models.vlm import VLM
from vrbench.structure import ADAPTER, PROJECTOR, TOWER

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_vlm(checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32") -> VLM:
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
    model, tokenizer, image_processor = _build(checkpoint, torch.float32 if checkpoint.base else dtype, device)
    _convert(model, dtype)
    vlm = VLM(model.to(device), tokenizer, image_processor, checkpoint.family)
    if vlm.depth != checkpoint.depth:
        raise VrbenchError(f"{checkpoint.id} has {vlm.depth} decoder layers; its lineage says {checkpoint.depth}")
    return vlm


def _build(checkpoint: Checkpoint, dtype: torch.dtype, device: str | torch.device) -> tuple[Any, Any, Any]:
    """(model, tokenizer, image processor): the base, then removed layers, then the adapter, then the projector."""
    load = FAMILIES[checkpoint.family].load
    if checkpoint.has(RECIPE):
        return random_weights.load(checkpoint.path, dtype, device)
    if checkpoint.base is None:
        return load(checkpoint.path, dtype)
    if checkpoint.has(TOWER):
        return load(assemble(checkpoint.path), dtype)
    model, tokenizer, image_processor = _build(checkpoint.base, dtype, device)
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
