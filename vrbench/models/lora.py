"""What is put on a loaded base: a LoRA adapter on the decoder layers, or another projector."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vrbench.checkpoints.lora_adapter import PART, alpha_of, module_name, rank_of, read_adapter_config, saved_name
from vrbench.checkpoints.parameter_names import ADAPTER, canonical
from vrbench.core.errors import VrbenchError
from vrbench.models import components
from vrbench.models.parts import fill_parameters, projector_parameters, projector_prefix

CHANGE_THE_BASE = ("pissa", "olora")
"""Ways to begin a training (init_lora_weights) that take from the base what PEFT takes again when it loads."""


def merge_adapter(model: Any, folder: Path) -> Any:
    """Merge the adapter of a PEFT folder into the decoder layers; see `apply_adapter`."""
    return apply_adapter(model, folder, merge=True)


def apply_adapter(model: Any, folder: Path, merge: bool = True) -> Any:
    """Put the LoRA adapter of a PEFT folder (DoRA, rsLoRA too) on the decoder layers, and its projector if it has one.

    Which modules are meant is read from the adapter's own tensors: the config's patterns (`target_modules`,
    `layers_to_transform`) could also match the vision tower, or, when empty, everything.

    Args:
        model: any family's.
        folder: of PEFT's layout, checked by `vrbench.checkpoints.lora_adapter.adapter_faults`.
        merge: add the matrices to the weights; else they stay beside them, as in training. The answers are the same.

    Returns:
        The model without PEFT's outer wrappers; with merge=False its tuned linears are PEFT's.

    Raises:
        VrbenchError: a tensor of the adapter has no decoder layer to go to, a layer's matrix stayed unfilled, or a
            merged weight is not finite.
    """
    from peft import get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    tensors = load_file(folder / ADAPTER)
    saved = {saved_name(name): tensors.pop(name) for name in list(tensors) if "lora_" not in name}
    if saved:
        projector = projector_parameters(model)
        fill_parameters({name: p for name, p in projector.items() if name in saved}, saved, str(folder / ADAPTER))
    targets = _targets(model, tensors)
    wrapped = get_peft_model(model, _config(folder, targets))
    state = {f"base_model.model.{full}.{end}": tensors[name] for name, (full, end) in targets.items()}
    outcome = set_peft_model_state_dict(wrapped, state)
    unfilled = [name for name in outcome.missing_keys if ".lora_" in name]
    if unfilled or outcome.unexpected_keys:
        raise VrbenchError(f"{folder / ADAPTER} does not fit: {(unfilled + list(outcome.unexpected_keys))[0]!r}")
    if not merge:
        return wrapped.eval().get_base_model()
    try:
        return wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:  # what is merged is looked at before it takes the weights' place
        raise VrbenchError(f"{folder / ADAPTER} cannot be merged: {error}") from error


def _config(folder: Path, targets: dict[str, tuple[str, str]]) -> Any:
    """PEFT's config with the modules that the adapter has tensors for, each with its rank and alpha, and no pattern.

    Only what decides the answers is taken over: `adapters.PLAIN` is refused before, and the rest is about training.
    """
    from peft import LoraConfig

    said = read_adapter_config(folder)
    named = {re.escape(full): module_name(name) for name, (full, _) in targets.items()}
    start = said.get("init_lora_weights")
    return LoraConfig(
        target_modules=sorted({full for full, _ in targets.values()}),
        rank_pattern={full: rank_of(said, name) for full, name in named.items()},
        alpha_pattern={full: alpha_of(said, name) for full, name in named.items()},
        use_rslora=bool(said.get("use_rslora")),
        use_dora=bool(said.get("use_dora")),
        init_lora_weights=start if start in CHANGE_THE_BASE else False,
        inference_mode=True,
    )


def _targets(model: Any, tensors: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Tensor's name -> (full name of the module in the model, such as 'lora_A.weight')."""
    inside = {id(module) for layer in components.decoder_layers(model) for module in layer.modules()}
    modules = {canonical(name): name for name, module in model.named_modules() if id(module) in inside}
    found: dict[str, tuple[str, str]] = {}
    for name in tensors:
        part = PART.fullmatch(canonical(name))
        if part is None or part[1] not in modules:
            module = canonical(name).partition(".lora_")[0]
            raise VrbenchError(f"the adapter tunes {module!r}, which is in no decoder layer of the model")
        found[name] = (modules[part[1]], f"lora_{part[2]}.weight" if part[2] else "lora_magnitude_vector")
    return found


def remove_adapter(model: Any, layers: Iterable[int]) -> None:
    """Take an adapter that was not merged out of some decoder layers, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in layers:
        module = components.decoder_layers(model)[layer]
        for name, inner in list(module.named_modules()):
            if isinstance(inner, BaseTunerLayer):
                parent, _, last = name.rpartition(".")
                setattr(module.get_submodule(parent), last, inner.get_base_layer())


def replace_projector(model: Any, file: Path) -> None:
    """Fill the projector from a safetensors file of its own parameter names; every parameter, or an error.

    Raises:
        VrbenchError: the file lacks a parameter, has a foreign one, or another shape.
    """
    from safetensors.torch import load_file

    prefix = projector_prefix(model)
    fill_parameters(
        projector_parameters(model), {canonical(prefix + n): t for n, t in load_file(file).items()}, str(file)
    )
