"""Loading a checkpoint: its base first, then what its own folder changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.checkpoint import ADAPTER, TOWER, Checkpoint
from vrbench.checkpoints.code_versions import model_versions
from vrbench.checkpoints.families import FAMILIES, family_of
from vrbench.checkpoints.image_settings import HARNESS, PAD
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.core.device import select_cpu_kernels
from vrbench.core.errors import VrbenchError
from vrbench.models import attention, hf_folder, random_weights, remote_model, vision_attention
from vrbench.models.base_vlm import BaseVLM
from vrbench.models.hf_model import HFModel, PaddedLlava
from vrbench.models.llava_model import LlavaModel
from vrbench.models.overlay import apply_overlay
from vrbench.models.pocket import assemble
from vrbench.models.processors import padding_image_processor

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip


def load_vlm(
    checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32",
    merge: bool = True, images: str = HARNESS,
) -> BaseVLM:  # fmt: skip
    """Load the model of a checkpoint, ready to answer.

    Checkpoints with a base are put together in float32 and converted once, at the end, so that merging loses no
    precision.

    Args:
        checkpoint: a valid one, from `vrbench.models.resolve`.
        device: where to put it.
        dtype: of every weight, whatever the files hold.
        merge: add an adapter's matrices to the weights; else they stay beside them, slower and with the same answers.
        images: whose settings of the image processor apply, one of `image_settings.CHOICES`.

    Raises:
        VrbenchError: unknown dtype, or weights that do not fit after all.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise VrbenchError(f"dtype {dtype!r} is unknown; known are {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    device = torch.device(device)
    select_gpu(device)
    model, tokenizer, processor = _load(checkpoint, torch.float32 if checkpoint.base else dtype, device, merge)
    _convert(model, dtype)
    vlm = _wrap(checkpoint, model.to(device), tokenizer, processor, images)
    attention.use_fast_kernels(vlm.language_model)
    vision_attention.use_batched_attention(vlm.model)
    vlm.code, vlm.has_adapter = model_versions(checkpoint), checkpoint.has_adapter
    if vlm.depth != checkpoint.depth:
        raise VrbenchError(f"{checkpoint.id} has {vlm.depth} decoder layers; its lineage says {checkpoint.depth}")
    return vlm


def select_gpu(device: torch.device) -> None:
    """Make a GPU that has a number the one that is meant where none is named, and where graphs are captured."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def load_llava(checkpoint: Checkpoint, device: str | torch.device, dtype: str | torch.dtype) -> LlavaModel:
    """Load a model like `load_vlm`, for callers that need prompts with shared prefixes.

    Raises:
        VrbenchError: as `load_vlm`, or the model's prompts cannot share rows.
    """
    if not family_of(checkpoint).prefix_sharing:
        able = ", ".join(name for name, family in FAMILIES.items() if family.prefix_sharing)
        raise VrbenchError(f"{checkpoint.id} is of family {checkpoint.family!r}; this is supported for {able} only")
    vlm = load_vlm(checkpoint, device, dtype)
    if not isinstance(vlm, LlavaModel):
        kind = vlm.text_config.model_type
        raise VrbenchError(
            f"{checkpoint.id} has a decoder of type {kind!r} whose prompts cannot share rows, which this needs"
        )
    return vlm


def load_model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """Load the bare model of a checkpoint, on the CPU, every weight in a dtype; as in `load_vlm` otherwise."""
    model = _load(checkpoint, torch.float32 if checkpoint.base else dtype, "cpu")[0]
    _convert(model, dtype)
    return model.eval()


def first_folder(checkpoint: Checkpoint) -> Path:
    """Return the folder of the whole model that is loaded first, with tokenizer and processor."""
    if checkpoint.base is None:
        return checkpoint.path
    return assemble(checkpoint.path) if checkpoint.has(TOWER) else first_folder(checkpoint.base)


def _load(
    checkpoint: Checkpoint, dtype: torch.dtype, device: str | torch.device, merge: bool = True
) -> tuple[Any, Any, Any]:
    """Return (model, tokenizer, processor or image processor) of the base, then all that the checkpoint changes."""
    select_cpu_kernels()
    if checkpoint.has(RANDOM_WEIGHTS):
        return random_weights.load(checkpoint.path, dtype, device)
    if checkpoint.base is None or checkpoint.has(TOWER):
        return (remote_model if checkpoint.root.code else hf_folder).load(first_folder(checkpoint), dtype)
    merge_base = merge or checkpoint.has(ADAPTER)  # PEFT's linears hold one adapter
    model, tokenizer, processor = _load(checkpoint.base, dtype, device, merge_base)
    model = apply_overlay(model, checkpoint, merge, lambda backbone: _load(backbone, dtype, device)[0])
    return model, tokenizer, processor


def _wrap(checkpoint: Checkpoint, model: Any, tokenizer: Any, processor: Any, images: str) -> BaseVLM:
    """Return the model with the inference backend of its family."""
    family, name = family_of(checkpoint), checkpoint.family
    prompt_format = family.prompt_format
    if images != HARNESS:
        prompt_format = replace(prompt_format, image_settings={})
    if not family.prefix_sharing:
        return HFModel(model, tokenizer, processor, name, prompt_format)
    image_processor = padding_image_processor(processor) if images == PAD else processor
    vlm = LlavaModel(model, tokenizer, image_processor, name, prompt_format)
    return vlm if vlm.shares_prefixes else PaddedLlava(vlm)


def _convert(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert every parameter, and no buffer: rotary frequencies stay in float32, as transformers loads them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
