"""LoRA adapters of a PEFT folder on the decoder layers of a loaded model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vrbench.checkpoints.checkpoint import ADAPTER
from vrbench.checkpoints.lora_adapter import (
    LORA_TENSOR,
    lora_alpha,
    lora_rank,
    module_name,
    read_adapter_config,
    saved_name,
)
from vrbench.checkpoints.parameter_names import canonical_name
from vrbench.core.errors import VrbenchError
from vrbench.models import components

INIT_CHANGES_BASE = ("pissa", "olora")
"""Values of init_lora_weights that subtract from the base what PEFT subtracts again on loading."""


def apply_adapter(model: Any, folder: Path, widen: Callable[[Any], None], merge: bool = True) -> Any:
    """Apply the LoRA adapter of a PEFT folder (also DoRA, rsLoRA), and the projector that it may hold.

    The modules are those that the adapter has tensors for: patterns of the config (`target_modules`,
    `layers_to_transform`) could also match the vision tower, or, when empty, everything.

    Args:
        model: of any family.
        folder: in PEFT's layout, checked by `vrbench.checkpoints.lora_adapter.validate_adapter`.
        widen: called with the weight of each of these modules, before anything is added to it.
        merge: add the matrices to the weights; else they stay beside them, as in training, with the same answers.

    Returns:
        The model without PEFT's outer wrappers; with merge=False its tuned linears are PEFT's.

    Raises:
        VrbenchError: a tensor of the adapter belongs to no decoder layer, a matrix stayed unfilled, or a merged weight
            is not finite.
    """
    from peft import get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    file = folder / ADAPTER
    tensors = load_file(file)
    saved = {saved_name(name): tensors.pop(name) for name in list(tensors) if "lora_" not in name}
    if saved:
        projector = components.projector_parameters(model)
        components.fill_parameters({name: p for name, p in projector.items() if name in saved}, saved, str(file))
    targets = _targets(model, tensors)
    for full in {full for full, _ in targets.values()}:
        widen(model.get_submodule(full).weight)
    wrapped = get_peft_model(model, _lora_config(folder, targets))
    state = {f"base_model.model.{full}.{end}": tensors[name] for name, (full, end) in targets.items()}
    outcome = set_peft_model_state_dict(wrapped, state)
    unfilled = [name for name in outcome.missing_keys if ".lora_" in name]
    if unfilled or outcome.unexpected_keys:
        raise VrbenchError(f"{file} does not fit: {(unfilled + list(outcome.unexpected_keys))[0]!r}")
    if not merge:
        return wrapped.eval().get_base_model()
    try:
        return wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:  # a merged weight is not finite
        raise VrbenchError(f"{file} cannot be merged: {error}") from error


def remove_adapter(model: Any, layers: Iterable[int]) -> None:
    """Remove an adapter that was not merged from some decoder layers, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in layers:
        module = components.decoder_layers(model)[layer]
        for name, inner in list(module.named_modules()):
            if isinstance(inner, BaseTunerLayer):
                parent, _, last = name.rpartition(".")
                setattr(module.get_submodule(parent), last, inner.get_base_layer())


def _lora_config(folder: Path, targets: dict[str, tuple[str, str]]) -> Any:
    """Return PEFT's config for the adapter's modules, each with its rank and alpha, without patterns.

    Options that do not change the answers are left out; those that cannot be loaded were refused before.
    """
    from peft import LoraConfig

    stored = read_adapter_config(folder)
    named = {re.escape(full): module_name(name) for name, (full, _) in targets.items()}
    init = stored.get("init_lora_weights")
    return LoraConfig(
        target_modules=sorted({full for full, _ in targets.values()}),
        rank_pattern={full: lora_rank(stored, name) for full, name in named.items()},
        alpha_pattern={full: lora_alpha(stored, name) for full, name in named.items()},
        use_rslora=bool(stored.get("use_rslora")),
        use_dora=bool(stored.get("use_dora")),
        init_lora_weights=init if init in INIT_CHANGES_BASE else False,
        inference_mode=True,
    )


def _targets(model: Any, tensors: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return tensor name -> (the module's full name in the model, the tensor's name in it, such as 'lora_A.weight')."""
    inside = {id(module) for layer in components.decoder_layers(model) for module in layer.modules()}
    modules = {canonical_name(name): name for name, module in model.named_modules() if id(module) in inside}
    found: dict[str, tuple[str, str]] = {}
    for name in tensors:
        part = LORA_TENSOR.fullmatch(canonical_name(name))
        if part is None or part[1] not in modules:
            module = canonical_name(name).partition(".lora_")[0]
            raise VrbenchError(f"the adapter tunes {module!r}, which is in no decoder layer of the model")
        found[name] = (modules[part[1]], f"lora_{part[2]}.weight" if part[2] else "lora_magnitude_vector")
    return found
