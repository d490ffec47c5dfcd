"""Loading a checkpoint: its base first, then what its own folder changes."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.checkpoint import ADAPTER, TOWER, TUNED_TOWER, Checkpoint
from vrbench.checkpoints.code_versions import model_versions
from vrbench.checkpoints.digest import folder_digest
from vrbench.checkpoints.families import FAMILIES, family_of
from vrbench.checkpoints.image_settings import HARNESS, PAD
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.checkpoints.remote_code import LOCAL_ONLY
from vrbench.core.device import select_cpu_kernels
from vrbench.core.errors import VrbenchError
from vrbench.models import (
    attention,
    components,
    hf_folder,
    random_weights,
    remote_model,
    vision_kernels,
)  # fmt: skip
from vrbench.models.base_vlm import BaseVLM
from vrbench.models.base_weights import BaseCache, WholeModel, stored_weights
from vrbench.models.hf_model import HFModel, PaddedLlava
from vrbench.models.llava_model import LlavaModel
from vrbench.models.overlay import apply_overlay, remove_layers
from vrbench.models.pocket import assemble
from vrbench.models.processors import padding_image_processor

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip


def load_vlm(
    checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32",
    merge: bool = True, images: str = HARNESS, bases: BaseCache | None = None,
    spread: Callable[[Any], Any] | None = None,
) -> BaseVLM:  # fmt: skip
    """Load the model of a checkpoint, ready to answer.

    What a checkpoint changes of its base is computed in float32 and converted once, at the end, so that merging loses
    no precision.

    Args:
        checkpoint: a valid one, from `vrbench.models.resolve`.
        device: where to put it.
        dtype: of every weight, whatever the files hold.
        merge: add an adapter's matrices to the weights; else they stay beside them, slower and with the same answers.
        images: whose settings of the image processor apply, one of `image_settings.CHOICES`.
        bases: keeps the base for other checkpoints.
        spread: puts a model that is larger than one GPU from the CPU on several, as functions of `placement` do.

    Raises:
        VrbenchError: unknown dtype, or weights that do not fit after all.
    """
    dtype, device = _torch_dtype(dtype), torch.device(device)
    select_gpu(device)
    first = torch.device("cpu") if spread else device
    whole, model = _load(checkpoint, dtype, first, merge, bases)
    model = whole.place(model, first, dtype)
    attention.use_fast_kernels(components.decoder(model), device)
    vision_kernels.use_fast_kernels(model, device)
    if spread:
        model = spread(model)
    vlm = _wrap(checkpoint, model, whole.tokenizer, whole.processor, images)
    return _described(vlm, checkpoint)


def load_without_weights(
    checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32",
    images: str = HARNESS,
) -> BaseVLM:  # fmt: skip
    """Load all of a checkpoint but its weights: what makes prompts and reads answers that something else computes.

    Args:
        checkpoint: a valid one, without code of its own.
        device: where the answers are computed; nothing is put there.
        dtype: of every weight, where the answers are computed.
        images: as in `load_vlm`.

    Raises:
        VrbenchError: unknown dtype, or a tokenizer or processor that cannot be read.
    """
    from transformers import AutoConfig, GenerationConfig

    folder = first_folder(checkpoint)
    model = hf_folder.empty_model(AutoConfig.from_pretrained(folder, **LOCAL_ONLY))
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    _remove_layers(model, checkpoint)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(_torch_dtype(dtype))
    vlm = _wrap(checkpoint, model, *hf_folder.load_tokenizer(folder), images)
    _ = vlm.image_tokens  # counted where the vision tower is
    vlm.device = torch.device(device)
    return _described(vlm, checkpoint)


def _remove_layers(model: Any, checkpoint: Checkpoint) -> None:
    """Remove the layers that a checkpoint and its bases lack from the model that is loaded first."""
    if checkpoint is not first_loaded(checkpoint) and checkpoint.base is not None:
        _remove_layers(model, checkpoint.base)
        for layers in checkpoint.removed:
            remove_layers(model, layers)


def _torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise VrbenchError(f"dtype {dtype!r} is unknown; known are {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _described(vlm: BaseVLM, checkpoint: Checkpoint) -> BaseVLM:
    """Return a checkpoint's model with the versions of the code that makes its answers.

    Raises:
        VrbenchError: it has another number of decoder layers than the checkpoint.
    """
    vlm.code, vlm.has_adapter = model_versions(checkpoint), checkpoint.has_adapter
    vlm.tower_origin = _tower_origin(checkpoint).digest
    own = {"template": checkpoint.template} if checkpoint.template else {}
    vlm.prompts_digest = folder_digest(first_folder(checkpoint), [], {"code": checkpoint.root.code, **own})
    if vlm.depth != checkpoint.depth:
        raise VrbenchError(f"{checkpoint.id} has {vlm.depth} decoder layers; its lineage says {checkpoint.depth}")
    return vlm


def _tower_origin(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint, it or one below it, that has its vision tower."""
    if checkpoint.has(TUNED_TOWER) or checkpoint is first_loaded(checkpoint) or checkpoint.base is None:
        return checkpoint
    return _tower_origin(checkpoint.base)


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


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, device: str | torch.device = "cpu") -> Any:
    """Load the bare model of a checkpoint, every weight in a dtype; as in `load_vlm` otherwise."""
    device = torch.device(device)
    whole, model = _load(checkpoint, dtype, device)
    return whole.place(model, device, dtype).eval()


def first_loaded(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint that is loaded as a whole, before others change it: itself or one of its bases."""
    while checkpoint.base is not None and not checkpoint.has(TOWER):
        checkpoint = checkpoint.base
    return checkpoint


def first_folder(checkpoint: Checkpoint) -> Path:
    """Return the folder of the whole model that is loaded first, with tokenizer and processor."""
    first = first_loaded(checkpoint)
    return first.path if first.base is None else assemble(first.path)


def with_template(tokenizer: Any, checkpoint: Checkpoint) -> Any:
    """Return a tokenizer, or a copy with the chat template that the checkpoint was trained with, if it has its own."""
    if checkpoint.template is not None:
        tokenizer = copy(tokenizer)
        tokenizer.chat_template = checkpoint.template
    return tokenizer


def _load(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, merge: bool = True,
    bases: BaseCache | None = None,
) -> tuple[WholeModel, Any]:  # fmt: skip
    """Return the model that is loaded first, and with all that the checkpoint changes; the first is not used again."""
    first = first_loaded(checkpoint)
    if checkpoint is not first and checkpoint.base is not None:
        merge_base = merge or checkpoint.has(ADAPTER)  # PEFT's linears hold one adapter
        whole, model = _load(checkpoint.base, dtype, device, merge_base, bases)

        def exact(backbone: Checkpoint) -> Any:
            return _load(backbone, torch.float32, device)[1]

        return whole, apply_overlay(model, checkpoint, merge, exact, whole.widen)
    if bases is None or first.root.code:
        whole = _load_whole(first, dtype, device)
    else:
        whole = bases.get(first.digest, device, dtype, lambda: _load_whole(first, dtype, device))
    return whole, whole.model


def _load_whole(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> WholeModel:
    """Load a complete model, on the CPU unless its weights are random."""
    select_cpu_kernels()
    if checkpoint.has(RANDOM_WEIGHTS):
        model, tokenizer, processor = random_weights.load(checkpoint.path, dtype, device)
        return WholeModel(model, tokenizer, processor, random_weights.reader(checkpoint.path, model))
    folder = first_folder(checkpoint)
    model, tokenizer, processor = (remote_model if checkpoint.root.code else hf_folder).load(folder, dtype)
    return WholeModel(model, tokenizer, processor, stored_weights(folder, model))


def _wrap(checkpoint: Checkpoint, model: Any, tokenizer: Any, processor: Any, images: str) -> BaseVLM:
    """Return the model with the inference backend of its family."""
    family, name, tokenizer = family_of(checkpoint), checkpoint.family, with_template(tokenizer, checkpoint)
    prompt_format = family.prompt_format
    if images != HARNESS:
        prompt_format = replace(prompt_format, image_settings={})
    if not family.prefix_sharing:
        return HFModel(model, tokenizer, processor, name, prompt_format)
    image_processor = padding_image_processor(processor) if images == PAD else processor
    vlm = LlavaModel(model, tokenizer, image_processor, name, prompt_format)
    return vlm if vlm.shares_prefixes else PaddedLlava(vlm)
