"""Models made by code in their folder, which the user allowed to run: validation and loading."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from vrbench.checkpoints import prompts
from vrbench.checkpoints.parameter_names import canonical_name, first_of
from vrbench.checkpoints.remote_code import AUTO_MAP_FILES
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json
from vrbench.models import components
from vrbench.models.hf_folder import is_buffer, unsupported_reason
from vrbench.models.processors import build_processor

TRUSTED: dict[str, Any] = {"local_files_only": True, "trust_remote_code": True}
MODEL_CLASSES = ("AutoModelForImageTextToText", "AutoModelForCausalLM")
"""transformers' classes of a model with a head, as `auto_map` of config.json names them."""


def validate(folder: Path) -> tuple[int, list[str]]:
    """Run a folder's code; return its model's number of decoder layers, and why it cannot be used. Loads no weight."""
    try:
        model = _empty_model(folder)
        depth = _depth(model)
        return depth, [f"{folder}: {error}" for error in (*_validate_model(model), *_validate_processor(folder))]
    except VrbenchError as error:
        return 0, [f"{folder}: {error}"]


def load(folder: Path, dtype: Any) -> tuple[Any, Any, Any]:
    """Load the model, tokenizer and processor that a folder's own code makes, on the CPU, in a torch.dtype.

    Raises:
        VrbenchError: the code fails, or weights and model do not fit each other.
    """
    processor = _load_processor(folder)
    try:
        model, info = _model_class(folder).from_pretrained(folder, dtype=dtype, output_loading_info=True, **TRUSTED)
    except Exception as error:  # the folder's code may raise anything
        raise VrbenchError(f"{folder}: its own code fails to load it: {_reason(error)}") from error
    for keys, problem in (("missing_keys", "has no weights for"), ("unexpected_keys", "has weights for no")):
        wrong = [name for name in sorted(map(str, info[keys])) if not is_buffer(canonical_name(name))]
        if wrong:
            raise VrbenchError(f"{folder} {problem} {first_of(wrong)}")
    if info["mismatched_keys"]:
        raise VrbenchError(f"{folder} has another shape for {sorted(map(str, info['mismatched_keys']))[0]}")
    return model, processor.tokenizer, processor


def _model_class(folder: Path) -> Any:
    import transformers

    named = read_json(folder / "config.json").get("auto_map") or {}
    for name in MODEL_CLASSES:
        if name in named:
            return getattr(transformers, name)
    raise VrbenchError(f"auto_map of config.json names none of {', '.join(MODEL_CLASSES)}, so that it cannot answer")


def _empty_model(folder: Path) -> Any:
    import torch
    from transformers import AutoConfig

    model_class = _model_class(folder)
    try:
        config = AutoConfig.from_pretrained(folder, **TRUSTED)
        with torch.device("meta"):
            return model_class.from_config(config, trust_remote_code=True)
    except Exception as error:  # the folder's code may raise anything
        raise VrbenchError(f"its own code fails to make the model: {_reason(error)}") from error


def _depth(model: Any) -> int:
    try:
        layers = len(components.decoder_layers(model))
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise VrbenchError(f"the decoder of its {type(model).__name__} cannot be found: {_reason(error)}") from error
    if not layers:
        raise VrbenchError(f"the decoder of its {type(model).__name__} has no layers")
    return layers


def _validate_model(model: Any) -> list[str]:
    name, unsupported = type(model).__name__, unsupported_reason(model.config)
    errors = [unsupported] if unsupported else []
    if not callable(getattr(model, "generate", None)):
        errors.append(f"its {name} has no generate, so that it cannot answer")
    takes = inspect.signature(model.forward).parameters
    if "logits_to_keep" not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        errors.append(f"forward of its {name} takes no logits_to_keep, so that likelihoods cannot be computed")
    return errors


def _validate_processor(folder: Path) -> list[str]:
    """Return an error unless the processor can encode one question about one image."""
    from PIL import Image

    try:
        processor = _load_processor(folder)
        prompt = prompts.chat(processor, [prompts.Turn("What is this?", n_images=1)])
    except VrbenchError as error:
        return [str(error)]
    try:
        inputs = processor(
            text=[prompt], images=[[Image.new("RGB", (64, 64))]], padding=True, padding_side="left",
            return_tensors="pt", add_special_tokens=True, images_kwargs={},
        )  # fmt: skip
        ids = inputs["input_ids"]
    except Exception as error:  # the folder's code may raise anything
        return [f"its processor does not take text and images as those of transformers do: {_reason(error)}"]
    return [] if len(inputs) > 2 and ids.dim() == 2 else ["its processor returns no inputs for an image"]


def _load_processor(folder: Path) -> Any:
    """Return the processor that the settings name: the folder's own, or one of transformers with a PIL image processor.

    Raises:
        VrbenchError: they name none, or it cannot be read or lacks a part.
    """
    import transformers
    from transformers import AutoProcessor
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    settings = [read_json(folder / file) for file in AUTO_MAP_FILES]
    own = any("AutoProcessor" in stated["auto_map"] for stated in settings if isinstance(stated.get("auto_map"), dict))
    name = next((stated["processor_class"] for stated in settings if stated.get("processor_class")), None)
    if not own and not hasattr(transformers, str(name)):
        raise VrbenchError(f"its processor_class {name!r} is neither its own nor one of transformers")
    try:
        if own:
            processor = AutoProcessor.from_pretrained(folder, **TRUSTED)
        else:
            load_images = partial(AutoImageProcessor.from_pretrained, folder, backend="pil", **TRUSTED)
            processor = build_processor(getattr(transformers, str(name)), folder, load_images, TRUSTED)
        parts = processor.tokenizer, processor.image_processor
    except Exception as error:  # the folder's code may raise anything
        raise VrbenchError(f"its processor cannot be read: {_reason(error)}") from error
    if None in parts:
        raise VrbenchError("its processor has no tokenizer or no image processor")
    return processor


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
