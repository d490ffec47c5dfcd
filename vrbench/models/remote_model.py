"""Models whose own code the user allowed to run: judged by what that code makes, loaded by it, asked the plain way."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from vrbench.checkpoints import prompts
from vrbench.checkpoints.parameter_names import canonical, first_of
from vrbench.checkpoints.remote_code import SETTINGS_FILES
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json
from vrbench.models import components
from vrbench.models.hf_folder import is_buffer, unsupported_reason

TRUSTED: dict[str, Any] = {"local_files_only": True, "trust_remote_code": True}
HEADS = ("AutoModelForImageTextToText", "AutoModelForCausalLM")
"""Classes of transformers that give a model with a head, as `auto_map` of config.json names them."""


def validate(folder: Path) -> tuple[int, list[str]]:
    """Decoder layers of the model that a folder's code makes, and why it cannot be asked; loads no weight.

    Args:
        folder: of a whole model; its code is run.
    """
    try:
        model = _empty(folder)
        depth = _depth(model)
        return depth, [f"{folder}: {fault}" for fault in (*_model_faults(model), *_processor_faults(folder))]
    except VrbenchError as error:
        return 0, [f"{folder}: {error}"]


def load(folder: Path, dtype: Any) -> tuple[Any, Any, Any]:
    """The model, tokenizer and processor that a folder's own code makes, on the CPU.

    Args:
        folder: without faults; its code is run.
        dtype: a torch.dtype; every weight is converted to it, whatever the files hold.

    Raises:
        VrbenchError: the code fails, or weights and model do not fit each other.
    """
    processor = _processor(folder)
    kind = _head(folder)
    try:
        model, info = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True, **TRUSTED)
    except Exception as error:  # whatever the folder's code raises
        raise VrbenchError(f"{folder}: its own code fails to load it: {_reason(error)}") from error
    for what, told in (("missing_keys", "gave no weights for"), ("unexpected_keys", "has weights for no")):
        wrong = [name for name in sorted(map(str, info[what])) if not is_buffer(canonical(name))]
        if wrong:
            raise VrbenchError(f"{folder} {told} {first_of(wrong)}")
    if info["mismatched_keys"]:
        raise VrbenchError(f"{folder} has another shape for {sorted(map(str, info['mismatched_keys']))[0]}")
    return model, processor.tokenizer, processor


def _head(folder: Path) -> Any:
    import transformers

    named = read_json(folder / "config.json").get("auto_map") or {}
    for name in HEADS:
        if name in named:
            return getattr(transformers, name)
    raise VrbenchError(f"auto_map of config.json names none of {', '.join(HEADS)}, so that nothing can be asked")


def _empty(folder: Path) -> Any:
    """The model without weights."""
    import torch
    from transformers import AutoConfig

    kind = _head(folder)
    try:
        config = AutoConfig.from_pretrained(folder, **TRUSTED)
        with torch.device("meta"):
            return kind.from_config(config, trust_remote_code=True)
    except Exception as error:  # whatever the folder's code raises
        raise VrbenchError(f"its own code fails to make the model: {_reason(error)}") from error


def _depth(model: Any) -> int:
    try:
        layers = len(components.decoder_layers(model))
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise VrbenchError(f"the decoder of its {type(model).__name__} cannot be found: {_reason(error)}") from error
    if not layers:
        raise VrbenchError(f"the decoder of its {type(model).__name__} has no layers")
    return layers


def _model_faults(model: Any) -> list[str]:
    """Why a model cannot be asked as the others are."""
    name, refused = type(model).__name__, unsupported_reason(model.config)
    found = [refused] if refused else []
    if not callable(getattr(model, "generate", None)):
        found.append(f"its {name} has no generate, so that it cannot answer")
    takes = inspect.signature(model.forward).parameters
    if "logits_to_keep" not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        found.append(f"forward of its {name} takes no logits_to_keep, so that likelihoods cannot be asked")
    return found


def _processor_faults(folder: Path) -> list[str]:
    """Why its processor cannot be asked; it is given one question about one picture."""
    from PIL import Image

    try:
        processor = _processor(folder)
        prompt = prompts.chat(processor, "What is this?", 1)
    except VrbenchError as error:
        return [str(error)]
    try:
        inputs = processor(
            text=[prompt], images=[[Image.new("RGB", (64, 64))]], padding=True, padding_side="left",
            return_tensors="pt", add_special_tokens=True, images_kwargs={},
        )  # fmt: skip
        ids = inputs["input_ids"]
    except Exception as error:  # whatever the folder's code raises
        return [f"its processor does not take text and pictures as those of transformers do: {_reason(error)}"]
    return [] if len(inputs) > 2 and ids.dim() == 2 else ["its processor makes nothing of a picture"]


def _processor(folder: Path) -> Any:
    """The processor that the settings name: the folder's own, or one of transformers, then with PIL pictures.

    Raises:
        VrbenchError: they name none, or it cannot be read or lacks a part.
    """
    import transformers
    from transformers import AutoProcessor
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from vrbench.models.processors import build_processor

    settings = [read_json(folder / file) for file in SETTINGS_FILES]
    own = any("AutoProcessor" in said["auto_map"] for said in settings if isinstance(said.get("auto_map"), dict))
    name = next((said["processor_class"] for said in settings if said.get("processor_class")), None)
    if not own and not hasattr(transformers, str(name)):
        raise VrbenchError(f"its processor_class {name!r} is neither its own nor one of transformers")
    try:
        if own:
            processor = AutoProcessor.from_pretrained(folder, **TRUSTED)
        else:
            kind = getattr(transformers, str(name))
            pictures = partial(AutoImageProcessor.from_pretrained, folder, backend="pil", **TRUSTED)
            processor = build_processor(kind, folder, pictures, TRUSTED)
        parts = processor.tokenizer, processor.image_processor
    except Exception as error:  # whatever the folder's code raises
        raise VrbenchError(f"its processor cannot be read: {_reason(error)}") from error
    if None in parts:
        raise VrbenchError("its processor has no tokenizer or no image processor")
    return processor


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
