"""What is put on a loaded base: a LoRA adapter merged into the decoder layers, or another projector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrbench.errors import VrbenchError
from vrbench.structure import ADAPTER, canonical


def merge_adapter(model: Any, folder: Path) -> Any:
    """Merge the plain LoRA adapter of a PEFT folder into the decoder layers; returns the model without PEFT's wrappers.

    Which modules are meant is read from the adapter's own tensors: the config's patterns (`target_modules`,
    `layers_to_transform`) could also match the vision tower, or, when empty, everything.

    Raises:
        VrbenchError: a tensor of the adapter has no decoder layer to go to, or a layer's matrix stayed unfilled.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    tensors = load_file(folder / ADAPTER)
    targets = _targets(model, tensors)
    config = LoraConfig.from_pretrained(folder)
    config.target_modules = sorted({full for full, _ in targets.values()})
    config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
    config.base_model_name_or_path = None  # the base is the model at hand, whatever it was called when this was trained
    config.inference_mode = True
    wrapped = get_peft_model(model, config)
    state = {f"base_model.model.{full}.{end}": tensors[name] for name, (full, end) in targets.items()}
    outcome = set_peft_model_state_dict(wrapped, state)
    unfilled = [name for name in outcome.missing_keys if ".lora_" in name]
    if unfilled or outcome.unexpected_keys:
        raise VrbenchError(f"{folder / ADAPTER} does not fit: {(unfilled + list(outcome.unexpected_keys))[0]!r}")
    return wrapped.merge_and_unload(safe_merge=True)


def _targets(model: Any, tensors: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Tensor's name -> (full name of the module in the model, 'lora_A.weight' or 'lora_B.weight')."""
    inside = {id(module) for layer in model.model.language_model.layers for module in layer.modules()}
    modules = {canonical(name): name for name, module in model.named_modules() if id(module) in inside}
    found: dict[str, tuple[str, str]] = {}
    for name in tensors:
        module, _, end = canonical(name).partition(".lora_")
        if module not in modules:
            raise VrbenchError(f"the adapter tunes {module!r}, which is in no decoder layer of the model")
        found[name] = (modules[module], f"lora_{end}")
    return found


def replace_projector(model: Any, file: Path) -> None:
    """Fill the projector from a safetensors file of its own parameter names; every parameter, or an error.

    Raises:
        VrbenchError: the file lacks a parameter, has a foreign one, or another shape.
    """
    from safetensors.torch import load_file

    try:
        model.model.multi_modal_projector.load_state_dict(load_file(file), strict=True)
    except RuntimeError as error:
        raise VrbenchError(f"{file} is not the projector of this model: {error}") from error
