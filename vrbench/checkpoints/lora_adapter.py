"""Whether a PEFT adapter fits the model below it, judged from its config, its tensors' names and their shapes alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vrbench.checkpoints.parameter_names import (
    ADAPTER,
    ADAPTER_CONFIG,
    Shape,
    canonical,
    first_of,
    layer_of,
    twin_faults,
)
from vrbench.checkpoints.safetensors_index import Tensor, read_header
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_text
from vrbench.core.layers import LayerSet

# Adapter options that change the weights beyond low-rank matrices, with the value that leaves them off.
PLAIN = {
    "bias": "none", "lora_bias": False, "trainable_token_indices": None,
    "target_parameters": None, "alora_invocation_tokens": None, "layer_replication": None, "use_bdlora": None,
    "arrow_config": None, "use_qalora": False, "velora_config": None, "kasa_config": None, "monteclora_config": None,
}  # fmt: skip
PICKLED = "adapter_model.bin"
UNREPEATABLE = re.compile(r"pissa_niter_\d+|loftq|corda|lora_ga")
"""Ways to begin a training (init_lora_weights) that change the base by what a saved adapter does not hold."""

SAVE_PLAIN = "save the adapter with PEFT's `path_initial_model_for_weight_conversion`, or give the merged model"
MERGE = "what tunes more is run as a whole model: merge it into its base (PEFT's merge_and_unload) and save that"
PART = re.compile(
    r"(layers\.\d+\..+)\.lora_(?:([AB])(?:\.default)?\.weight|(magnitude_vector)(?:\.default)?(?:\.weight)?)"
)
"""A tensor of LoRA on a decoder layer: the module, then which matrix, or DoRA's vector.

PEFT leaves the adapter's name out when it saves; training scripts of others leave "default" in, which PEFT reads too.
"""

NAMED = re.compile(r"\.lora_(?:[AB]\.([^.]+)\.weight|magnitude_vector\.([^.]+)(?:\.weight)?)$")
"""The same with an adapter's name in it."""

USUAL = 8
"""Rank (r) and lora_alpha where a config leaves them out, as in PEFT's LoraConfig."""


@dataclass
class Parts:
    """An adapter's tensors, sorted by what they are.

    Attributes:
        modules: module in a decoder layer, such as 'layers.3.mlp.up_proj' -> shapes of "A", "B" and, with DoRA,
            "magnitude_vector".
        names: the same module -> its name in the file, which is the one that the config's patterns are for.
        saved: canonical name -> shape of the tensors that replace a parameter of the model (modules_to_save).
        strange: names of all others.
    """

    modules: dict[str, dict[str, Shape]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    saved: dict[str, Shape] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)


def parts_of(tensors: Mapping[str, Tensor]) -> Parts:
    """An adapter's tensors, sorted by what they are."""
    found = Parts()
    for name, tensor in tensors.items():
        part = PART.fullmatch(canonical(name))
        if part:
            found.modules.setdefault(part[1], {})[part[2] or part[3]] = tensor.shape
            found.names[part[1]] = module_name(name)
        elif "lora_" in name:
            found.strange.append(name)
        else:
            found.saved[saved_name(name)] = tensor.shape
    return found


def saved_name(name: str) -> str:
    """The canonical name of the parameter that a tensor of modules_to_save replaces."""
    return canonical(re.sub(r"\.modules_to_save(\.default)?\.", ".", name))


def module_name(name: str) -> str:
    """The module that a LoRA tensor belongs to, as PEFT names it, such as 'model.layers.3.mlp.up_proj'."""
    return name.partition(".lora_")[0].removeprefix("base_model.model.")


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """The rank that a config states for a module, by PEFT's rules."""
    return int(_value(config.get("rank_pattern"), module, config.get("r", USUAL)))


def alpha_of(config: Mapping[str, Any], module: str) -> float:
    """The alpha that a config states for a module, by PEFT's rules."""
    return float(_value(config.get("alpha_pattern"), module, config.get("lora_alpha", USUAL)))


def scale_of(config: Mapping[str, Any], module: str) -> float:
    """What B A is multiplied with: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023)."""
    rank = rank_of(config, module)
    return alpha_of(config, module) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _value(patterns: Mapping[str, Any] | None, module: str, usual: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT's `get_pattern_key` looks."""
    matching = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(matching, usual)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a PEFT folder.

    Raises:
        VrbenchError: it is not a JSON object.
    """
    path = folder / ADAPTER_CONFIG
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"{path} cannot be read as JSON") from error
    if not isinstance(found, dict):
        raise VrbenchError(f"{path} is not a JSON object")
    return found


def method_of(config: Mapping[str, Any]) -> str:
    """What an adapter's lineage calls it: 'lora', or 'dora' and 'rslora' where PEFT's options say so."""
    names = [name for name, option in (("dora", "use_dora"), ("rslora", "use_rslora")) if config.get(option)]
    return "+".join(names) or "lora"


def adapter_layers(folder: Path, depth: int) -> LayerSet:
    """The decoder layers that an adapter without faults tunes, read from its own tensors and not from its patterns."""
    layers = {layer_of(f"{module}.") for module in parts_of(read_header(folder / ADAPTER)).modules}
    return LayerSet(tuple(sorted(n for n in layers if n is not None)), depth, allow_empty=True)


def adapter_faults(
    folder: Path, shapes: Mapping[str, Shape], depth: int, projector: Callable[[], Collection[str]]
) -> list[str]:
    """Why the LoRA adapter in a folder cannot be put on a model of these shapes; empty when it can.

    Args:
        folder: of PEFT's layout.
        shapes: canonical name -> shape of the model that the adapter goes on, pruning done.
        depth: its decoder layers.
        projector: gives the canonical names of the projector's parameters, which modules_to_save may replace.
    """
    if (folder / PICKLED).is_file() and not (folder / ADAPTER).is_file():
        return [f"{folder} has its adapter as {PICKLED}; save it with PEFT as {ADAPTER} (safe_serialization=True)"]
    try:
        config = read_adapter_config(folder)
        tensors = read_header(folder / ADAPTER)
    except VrbenchError as fault:
        return [str(fault)]
    path = folder / ADAPTER
    parts = parts_of(tensors)
    faults = _config_faults(folder / ADAPTER_CONFIG, config, depth) + twin_faults(path, tensors, _unnamed)
    faults += rank_faults(path, config, {parts.names[m]: p for m, p in parts.modules.items()})
    other_names = {n for n in (a or b for name in parts.strange for a, b in NAMED.findall(name)) if n != "default"}
    if other_names:
        faults.append(
            f"{path} holds its tensors under the adapter's name, {first_of(sorted(other_names))} (such as "
            f"{parts.strange[0]!r}), and PEFT reads none of them so; load it under that name, and save it with PEFT's "
            "save_pretrained, which leaves the name out"
        )
    elif parts.strange:
        faults.append(
            f"{path} has {first_of(parts.strange)}; LoRA on the LLM's decoder layers is all that is allowed, beside a "
            f"projector in modules_to_save; {MERGE}"
        )
    if not tensors:
        faults.append(f"{path} has no tensors")
    beyond = sorted({n for n in map(layer_of, (f"{m}." for m in parts.modules)) if n is not None and n >= depth})
    if beyond:
        faults.append(f"{path} tunes layers {beyond}; a model of depth {depth} has layers 0 to {depth - 1}")
    inside = {m: p for m, p in parts.modules.items() if (layer_of(f"{m}.") or 0) < depth}
    faults += _module_faults(path, inside, shapes, bool(config.get("use_dora")))
    if parts.saved or config.get("modules_to_save"):
        faults += _saved_faults(path, parts.saved, config, shapes, projector())
    return faults


def _unnamed(name: str) -> str:
    """A tensor's name without PEFT's own words in it, so that two for one thing are seen."""
    return re.sub(r"(\.lora_(?:[AB]|magnitude_vector))\.default\b", r"\1", saved_name(name))


def scale_faults(path: Path, config: Mapping[str, Any]) -> list[str]:
    """What a config says of rank and alpha that PEFT cannot use, or that would make the adapter nothing."""
    faults = []
    for key, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        patterns = config.get(pattern) or {}
        if not isinstance(patterns, dict) or not all(map(_is_expression, patterns)):
            what = "a mapping of regular expressions for modules' names to numbers"
            faults.append(f"{path} has {pattern} {patterns!r}; it has to be {what}")
            continue
        stated = {key: config.get(key, USUAL), **{f"{pattern} {name!r}": value for name, value in patterns.items()}}
        for name, value in stated.items():
            if key == "r" and (type(value) is not int or value < 1):
                faults.append(f"{path} has {name} {value!r}; a rank has to be a whole number above 0")
            elif type(value) not in (int, float) or not math.isfinite(value) or value == 0:
                faults.append(f"{path} has {name} {value!r}; an alpha has to be a number other than 0")
    return faults


def _is_expression(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def rank_faults(path: Path, config: Mapping[str, Any], modules: Mapping[str, Mapping[str, Shape]]) -> list[str]:
    """Faults of rank and alpha in a config, else the modules whose matrices have another rank than it says.

    Args:
        path: the adapter's weights, beside its config.
        config: as `read_adapter_config` gives it.
        modules: module as PEFT names it -> shapes of its matrices "A" [r, in] and "B" [out, r].
    """
    faults = scale_faults(path.parent / ADAPTER_CONFIG, config)
    if faults:
        return faults
    wrong: dict[tuple[int, int], list[str]] = {}
    for module, of in modules.items():
        said = rank_of(config, module)
        for have in {n for shape, at in (("A", 0), ("B", 1)) for n in of.get(shape, ())[at : at + 1]} - {said}:
            wrong.setdefault((said, have), []).append(module)
    key = "rank_pattern or r" if config.get("rank_pattern") else "r"
    return [
        f"{path.parent / ADAPTER_CONFIG} says rank {said} ({key}) for {first_of(names)}, whose matrices in {path.name} "
        f"are of rank {have}; alpha / r would be wrong, set {key} to the rank that it was trained with"
        for (said, have), names in wrong.items()
    ]


def _config_faults(path: Path, config: Mapping[str, Any], depth: int) -> list[str]:
    faults = []
    if config.get("peft_type") != "LORA":
        faults.append(f"{path} is of peft_type {config.get('peft_type')!r}; only 'LORA' can be loaded")
    for option, off in PLAIN.items():
        if config.get(option) not in (off, None, False, []):
            faults.append(f"{path} sets {option} to {config[option]!r}; only LoRA, DoRA and rsLoRA can be loaded")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and UNREPEATABLE.fullmatch(start):
        faults.append(f"{path} has init_lora_weights {start!r}, whose base cannot be made again; {SAVE_PLAIN}")
    chosen = config.get("layers_to_transform") or []
    beyond = [n for n in ([chosen] if isinstance(chosen, int) else chosen) if not 0 <= n < depth]
    if beyond:
        faults.append(f"{path} names layers {beyond}; a model of depth {depth} has layers 0 to {depth - 1}")
    return faults


def _module_faults(
    path: Path, modules: Mapping[str, dict[str, Shape]], shapes: Mapping[str, Shape], dora: bool
) -> list[str]:
    """Whether every module has all its tensors, is there in the model, and fits it."""
    single = sorted(m for m, p in modules.items() if not {"A", "B"} <= set(p))
    absent = sorted(m for m in modules if f"{m}.weight" not in shapes)
    whole = [m for m in sorted(modules) if m not in single and m not in absent]
    uneven = [m for m in whole if modules[m]["A"][:1] != modules[m]["B"][-1:]]
    unfit = [m for m in whole if m not in uneven and not _fits(modules[m], shapes[f"{m}.weight"])]
    other = sorted(m for m, p in modules.items() if ("magnitude_vector" in p) != dora)
    faults = []
    if single:
        faults.append(f"{path} has only one of the two matrices of {first_of(single)}")
    if absent:
        faults.append(f"{path} is for another base: it tunes {first_of(absent)}, which the base has not")
    if uneven:
        first, second = (list(modules[uneven[0]][matrix]) for matrix in "AB")
        faults.append(f"{path} has matrices of different ranks for {first_of(uneven)}: A is {first}, B {second}")
    if unfit:
        a, b, have = modules[unfit[0]]["A"], modules[unfit[0]]["B"], list(shapes[f"{unfit[0]}.weight"])
        faults.append(
            f"{path} is for another base: {first_of(unfit)} is {have} there, the adapter is for {[b[0], a[-1]]}"
        )
    if other:
        has = "no magnitude vector" if dora else "a magnitude vector"
        faults.append(f"{path} has {has} for {first_of(other)}, and its config sets use_dora to {str(dora).lower()}")
    return faults


def _fits(parts: Mapping[str, Shape], weight: Shape) -> bool:
    a, b = parts["A"], parts["B"]
    fits = len(a) == len(b) == len(weight) == 2 and a[0] == b[1] and (b[0], a[1]) == weight
    return fits and parts.get("magnitude_vector", weight[:1]) in (weight[:1], (weight[0], 1))


def _saved_faults(
    path: Path, saved: Mapping[str, Shape], config: Mapping[str, Any], shapes: Mapping[str, Shape],
    projector: Collection[str],
) -> list[str]:  # fmt: skip
    """Whether what an adapter replaces as a whole (modules_to_save) is the projector, and all of what it names."""
    chosen = config.get("modules_to_save") or []
    named = {name: [n for n in shapes if f".{name}." in f".{n}."] for name in chosen}
    foreign = sorted({name for name, of in named.items() if not of or not set(of) <= set(projector)})
    faults = []
    if foreign:
        faults.append(
            f"{path.parent / ADAPTER_CONFIG} has {first_of(foreign)} in modules_to_save; only the projector may be "
            f"tuned beside the LLM's layers; {MERGE}"
        )
    expected = {n for name, of in named.items() if name not in foreign for n in of}
    missing = sorted(expected - set(saved))
    others = sorted(n for n in set(saved) - expected if not any(f".{name}." in f".{n}." for name in foreign))
    unfit = sorted(n for n in expected & set(saved) if saved[n] != shapes[n])
    if missing:
        faults.append(f"{path} lacks {first_of(missing)}, which its config has in modules_to_save")
    if others:
        faults.append(
            f"{path} has {first_of(others)}; LoRA on the LLM's decoder layers is all that is allowed, beside a "
            f"projector in modules_to_save; {MERGE}"
        )
    if unfit:
        have, want = list(saved[unfit[0]]), list(shapes[unfit[0]])
        faults.append(f"{path} is for another base: {first_of(unfit)} is {want} there, in the adapter {have}")
    return faults
