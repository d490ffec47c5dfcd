"""A checkpoint in memory: its base first, then what was done to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.families import FAMILIES, family_of, ready
from vrbench.checkpoints.image_settings import HARNESS
from vrbench.checkpoints.parameter_names import ADAPTER, TOWER
from vrbench.checkpoints.random_shapes import RECIPE
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.core.errors import VrbenchError
from vrbench.core.versions import of_model
from vrbench.models import random_weights
from vrbench.models.base_vlm import BaseVLM
from vrbench.models.llava_model import LlavaModel
from vrbench.models.overlay import apply_overlay
from vrbench.models.pocket import assemble

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_vlm(
    checkpoint: Checkpoint,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    merge: bool = True,
    images: str = HARNESS,
) -> BaseVLM:
    """The model of a checkpoint, ready to answer.

    Layered checkpoints are put together in float32 and converted once, at the end, so that merging costs no precision.

    Args:
        checkpoint: from `vrbench.checkpoints.resolve.resolve`, which has checked it.
        device: where it shall be.
        dtype: of every weight, whatever the files hold.
        merge: add an adapter's matrices to the weights; else they stay beside them, slower and with the same answers.
        images: whose settings of the image processor hold, one of `image_settings.CHOICES`.

    Raises:
        VrbenchError: unknown dtype, or weights that do not fit after all.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise VrbenchError(f"dtype {dtype!r} is unknown; there are {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    model, tokenizer, image_processor = _build(checkpoint, torch.float32 if checkpoint.base else dtype, device, merge)
    _convert(model, dtype)
    vlm = ready(checkpoint, model.to(device), tokenizer, image_processor, images)
    vlm.code, vlm.has_adapter = of_model(checkpoint), checkpoint.has_adapter
    if vlm.depth != checkpoint.depth:
        raise VrbenchError(f"{checkpoint.id} has {vlm.depth} decoder layers; its lineage says {checkpoint.depth}")
    return vlm


def load_model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The bare model of a checkpoint, on the CPU, every weight in a type; as in `load_vlm` otherwise."""
    model = _build(checkpoint, torch.float32 if checkpoint.base else dtype, "cpu")[0]
    _convert(model, dtype)
    return model.eval()


def _build(
    checkpoint: Checkpoint, dtype: torch.dtype, device: str | torch.device, merge: bool = True
) -> tuple[Any, Any, Any]:
    """(model, tokenizer, image processor): the base, then all that the checkpoint does to it."""
    if checkpoint.has(RECIPE):
        return random_weights.load(checkpoint.path, dtype, device)
    if checkpoint.base is None or checkpoint.has(TOWER):
        return family_of(checkpoint).load(first_folder(checkpoint), dtype)
    merge_below = merge or checkpoint.has(ADAPTER)  # PEFT's linears carry one adapter
    model, tokenizer, image_processor = _build(checkpoint.base, dtype, device, merge_below)
    model = apply_overlay(model, checkpoint, merge, lambda backbone: _build(backbone, dtype, device)[0])
    return model, tokenizer, image_processor


def first_folder(checkpoint: Checkpoint) -> Path:
    """The folder of the whole model that is loaded first, with tokenizer and image processor."""
    if checkpoint.base is None:
        return checkpoint.path
    return assemble(checkpoint.path) if checkpoint.has(TOWER) else first_folder(checkpoint.base)


def _convert(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert every parameter, and no buffer: rotary frequencies stay in float32, as transformers loads them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def load_packed(checkpoint: Checkpoint, device: str | torch.device, dtype: str | torch.dtype) -> LlavaModel:
    """As `load_vlm`, for what needs packed rows: training and the choice of layers by their loss.

    Raises:
        VrbenchError: as `load_vlm`, or the family's prompts cannot be packed.
    """
    if not family_of(checkpoint).packed:
        able = ", ".join(name for name, family in FAMILIES.items() if family.packed)
        raise VrbenchError(f"{checkpoint.id} is of family {checkpoint.family!r}; this can be done with {able} only")
    vlm = load_vlm(checkpoint, device, dtype)
    if not isinstance(vlm, LlavaModel):
        kind = vlm.text_config.model_type
        raise VrbenchError(
            f"{checkpoint.id} has a decoder of type {kind!r} whose prompts cannot share rows, which this needs"
        )
    return vlm
