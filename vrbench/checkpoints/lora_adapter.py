"""PEFT's LoRA adapters: config and tensors, and whether they fit the model below, from names and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vrbench.checkpoints.checkpoint import ADAPTER, ADAPTER_CONFIG
from vrbench.checkpoints.parameter_names import Shape, canonical_name, first_of, validate_unique_names
from vrbench.checkpoints.safetensors_index import TensorInfo, read_header
from vrbench.core.errors import VrbenchError
from vrbench.core.io import Json, require_json
from vrbench.core.layers import LayerSet

PLAIN_OPTIONS = {
    "bias": "none", "lora_bias": False, "trainable_token_indices": None,
    "target_parameters": None, "alora_invocation_tokens": None, "layer_replication": None, "use_bdlora": None,
    "arrow_config": None, "use_qalora": False, "velora_config": None, "kasa_config": None, "monteclora_config": None,
}  # fmt: skip
"""Adapter options that change the weights beyond low-rank matrices -> the value that turns them off."""

PICKLED = "adapter_model.bin"
BASE_CHANGING_INIT = re.compile(r"pissa_niter_\d+|loftq|corda|lora_ga")
"""Values of init_lora_weights that change the base by what a saved adapter does not hold."""

SAVE_PLAIN = "save the adapter with PEFT's `path_initial_model_for_weight_conversion`, or give the merged model"
MERGE = "what tunes more is run as a complete model: merge it into its base (PEFT's merge_and_unload) and save that"
ONLY_LORA = f"LoRA on the LLM's decoder layers is all that is allowed, besides a projector in modules_to_save; {MERGE}"
LORA_TENSOR = re.compile(
    r"(layers\.\d+\..+)\.lora_(?:([AB])(?:\.default)?\.weight|(magnitude_vector)(?:\.default)?(?:\.weight)?)"
)
"""A LoRA tensor of a decoder layer: the module, then which matrix, or DoRA's vector.

PEFT leaves the adapter's name out when it saves; other training scripts leave "default" in, which PEFT reads too.
"""

NAMED_TENSOR = re.compile(r"\.lora_(?:[AB]\.([^.]+)\.weight|magnitude_vector\.([^.]+)(?:\.weight)?)$")
"""The same with an adapter's name in it."""

DEFAULT_RANK = 8
"""Rank (r) and lora_alpha where a config leaves them out, as in PEFT's LoraConfig."""


@dataclass
class AdapterTensors:
    """An adapter's tensors, sorted by kind.

    Attributes:
        modules: module in a decoder layer, such as 'layers.3.mlp.up_proj' -> shapes of "A", "B" and, with DoRA,
            "magnitude_vector".
        names: the same module -> its name in the file, which is the one that the config's patterns are for.
        saved: canonical name -> shape of the tensors that replace a parameter of the model (modules_to_save).
        others: names of all others.
    """

    modules: dict[str, dict[str, Shape]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    saved: dict[str, Shape] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def _sort(tensors: Mapping[str, TensorInfo]) -> AdapterTensors:
    found = AdapterTensors()
    for name, tensor in tensors.items():
        part = LORA_TENSOR.fullmatch(canonical_name(name))
        if part:
            found.modules.setdefault(part[1], {})[part[2] or part[3]] = tensor.shape
            found.names[part[1]] = module_name(name)
        elif "lora_" in name:
            found.others.append(name)
        else:
            found.saved[saved_name(name)] = tensor.shape
    return found


def saved_name(name: str) -> str:
    """Return the canonical name of the parameter that a tensor of modules_to_save replaces."""
    return canonical_name(re.sub(r"\.modules_to_save(\.default)?\.", ".", name))


def module_name(name: str) -> str:
    """Return the module that a LoRA tensor belongs to, as PEFT names it, such as 'model.layers.3.mlp.up_proj'."""
    return name.partition(".lora_")[0].removeprefix("base_model.model.")


def lora_rank(config: Mapping[str, Any], module: str) -> int:
    """Return the rank that a config states for a module, by PEFT's rules."""
    return int(_pattern_value(config.get("rank_pattern"), module, config.get("r", DEFAULT_RANK)))


def lora_alpha(config: Mapping[str, Any], module: str) -> float:
    """Return the alpha that a config states for a module, by PEFT's rules."""
    return float(_pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", DEFAULT_RANK)))


def lora_scale(config: Mapping[str, Any], module: str) -> float:
    """Return the factor of B A: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023)."""
    rank = lora_rank(config, module)
    return lora_alpha(config, module) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, as PEFT's `get_pattern_key`."""
    matching = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(matching, default)


def read_adapter_config(folder: Path) -> Json:
    """Return `adapter_config.json` of a PEFT folder.

    Raises:
        VrbenchError: it is not a JSON object.
    """
    return require_json(folder / ADAPTER_CONFIG)


def adapter_method(config: Mapping[str, Any]) -> str:
    """Return the lineage's name for the kind of adapter: 'lora', or 'dora' and 'rslora' where options say so."""
    names = [name for name, option in (("dora", "use_dora"), ("rslora", "use_rslora")) if config.get(option)]
    return "+".join(names) or "lora"


def adapter_layers(folder: Path, depth: int) -> LayerSet:
    """Return the decoder layers that a valid adapter tunes, from its own tensors and not from its patterns."""
    layers = map(_layer_of, _sort(read_header(folder / ADAPTER)).modules)
    return LayerSet(tuple(layers), depth, allow_empty=True)


def validate_adapter(folder: Path, shapes: Mapping[str, Shape], depth: int, projector: Collection[str]) -> list[str]:
    """Return why the LoRA adapter in a folder cannot be applied to a model of these shapes; empty when it can.

    Args:
        folder: of PEFT's layout.
        shapes: canonical name -> shape of the model that the adapter is applied to, after pruning.
        depth: its decoder layers.
        projector: canonical names of the projector's parameters, which modules_to_save may replace.
    """
    path = folder / ADAPTER
    if (folder / PICKLED).is_file() and not path.is_file():
        return [f"{folder} has its adapter as {PICKLED}; save it with PEFT as {ADAPTER} (safe_serialization=True)"]
    try:
        config, tensors = read_adapter_config(folder), read_header(path)
    except VrbenchError as error:
        return [str(error)]
    parts = _sort(tensors)
    return [
        *_config_errors(folder / ADAPTER_CONFIG, config, depth),
        *validate_unique_names(path, tensors, without_default),
        *validate_ranks(path, config, {parts.names[m]: p for m, p in parts.modules.items()}),
        *_name_errors(path, parts),
        *([] if tensors else [f"{path} has no tensors"]),
        *_module_errors(path, parts.modules, shapes, depth, bool(config.get("use_dora"))),
        *_saved_errors(path, parts.saved, config, shapes, projector),
    ]


def without_default(name: str) -> str:
    """Return a tensor's name without PEFT's own words, so that two names for one tensor are equal."""
    return re.sub(r"(\.lora_(?:[AB]|magnitude_vector))\.default\b", r"\1", saved_name(name))


def _name_errors(path: Path, parts: AdapterTensors) -> Iterator[str]:
    adapters = {n for n in (a or b for name in parts.others for a, b in NAMED_TENSOR.findall(name)) if n != "default"}
    if adapters:
        yield (
            f"{path} holds its tensors under the adapter's name, {first_of(sorted(adapters))} (such as "
            f"{parts.others[0]!r}), which PEFT does not read; load it under that name, and save it with PEFT's "
            "save_pretrained, which leaves the name out"
        )
    elif parts.others:
        yield f"{path} has {first_of(parts.others)}; {ONLY_LORA}"


def _layer_of(module: str) -> int:
    return int(module.split(".")[1])


def _scale_errors(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield ranks and alphas that PEFT cannot use, or that would make the adapter nothing."""
    for key, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        patterns = config.get(pattern) or {}
        if not isinstance(patterns, dict) or not all(map(_is_expression, patterns)):
            what = "a mapping of regular expressions for modules' names to numbers"
            yield f"{path} has {pattern} {patterns!r}; it has to be {what}"
            continue
        stated = {key: config.get(key, DEFAULT_RANK)}
        stated |= {f"{pattern} {name!r}": value for name, value in patterns.items()}
        for name, value in stated.items():
            if key == "r" and (type(value) is not int or value < 1):
                yield f"{path} has {name} {value!r}; a rank has to be a whole number above 0"
            elif type(value) not in (int, float) or not math.isfinite(value) or value == 0:
                yield f"{path} has {name} {value!r}; an alpha has to be a number other than 0"


def _is_expression(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def validate_ranks(path: Path, config: Mapping[str, Any], modules: Mapping[str, Mapping[str, Shape]]) -> list[str]:
    """Return invalid ranks and alphas of a config, else the modules whose matrices have another rank than it states.

    Args:
        path: the adapter's weights, beside its config.
        config: as `read_adapter_config` gives it.
        modules: module as PEFT names it -> shapes of its matrices "A" [r, in] and "B" [out, r].
    """
    config_path = path.parent / ADAPTER_CONFIG
    errors = list(_scale_errors(config_path, config))
    if errors:
        return errors
    wrong: dict[tuple[int, int], list[str]] = {}
    for module, shapes in modules.items():
        stated = lora_rank(config, module)
        for rank in {*shapes.get("A", ())[:1], *shapes.get("B", ())[1:2]} - {stated}:
            wrong.setdefault((stated, rank), []).append(module)
    key = "rank_pattern or r" if config.get("rank_pattern") else "r"
    return [
        f"{config_path} says rank {stated} ({key}) for {first_of(names)}, whose matrices in {path.name} are of rank "
        f"{rank}; alpha / r would be wrong, set {key} to the rank that it was trained with"
        for (stated, rank), names in wrong.items()
    ]


def validate_options(path: Path, config: Mapping[str, Any], off: Mapping[str, Any], allowed: str) -> Iterator[str]:
    """Yield why a config is not one of LoRA, or has an option on.

    Args:
        path: the config's, for the message.
        config: as `read_adapter_config` gives it.
        off: option -> the value that turns it off.
        allowed: end of the message, such as "only plain LoRA can be merged".
    """
    if config.get("peft_type") != "LORA":
        yield f"{path} is of peft_type {config.get('peft_type')!r}, not 'LORA'; {allowed}"
    for option, value in off.items():
        if config.get(option) not in (value, None, False, []):
            yield f"{path} sets {option} to {config[option]!r}; {allowed}"


def _config_errors(path: Path, config: Mapping[str, Any], depth: int) -> Iterator[str]:
    yield from validate_options(path, config, PLAIN_OPTIONS, "only LoRA, DoRA and rsLoRA can be loaded")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and BASE_CHANGING_INIT.fullmatch(start):
        yield f"{path} has init_lora_weights {start!r}, whose base cannot be reproduced; {SAVE_PLAIN}"
    layers = config.get("layers_to_transform") or []
    beyond = [n for n in ([layers] if isinstance(layers, int) else layers) if not 0 <= n < depth]
    if beyond:
        yield f"{path} names layers {beyond}; a model of depth {depth} has layers 0 to {depth - 1}"


def _module_errors(
    path: Path, modules: Mapping[str, dict[str, Shape]], shapes: Mapping[str, Shape], depth: int, dora: bool
) -> Iterator[str]:
    """Yield layers beyond the depth, and modules of the others that lack a tensor or do not fit the model."""
    beyond = sorted({layer for layer in map(_layer_of, modules) if layer >= depth})
    inside = sorted(module for module in modules if _layer_of(module) < depth)
    single = [m for m in inside if not {"A", "B"} <= set(modules[m])]
    absent = [m for m in inside if f"{m}.weight" not in shapes]
    whole = [m for m in inside if m not in single and m not in absent]
    uneven = [m for m in whole if modules[m]["A"][:1] != modules[m]["B"][-1:]]
    unfit = [m for m in whole if m not in uneven and not _fits(modules[m], shapes[f"{m}.weight"])]
    other = [m for m in inside if ("magnitude_vector" in modules[m]) != dora]
    if beyond:
        yield f"{path} tunes layers {beyond}; a model of depth {depth} has layers 0 to {depth - 1}"
    if single:
        yield f"{path} has only one of the two matrices of {first_of(single)}"
    if absent:
        yield f"{path} is for another base: it tunes {first_of(absent)}, which the base does not have"
    if uneven:
        first, second = (list(modules[uneven[0]][matrix]) for matrix in "AB")
        yield f"{path} has matrices of different ranks for {first_of(uneven)}: A is {first}, B {second}"
    if unfit:
        a, b, have = modules[unfit[0]]["A"], modules[unfit[0]]["B"], list(shapes[f"{unfit[0]}.weight"])
        yield f"{path} is for another base: {first_of(unfit)} is {have} there, the adapter is for {[b[0], a[-1]]}"
    if other:
        has = "no magnitude vector" if dora else "a magnitude vector"
        yield f"{path} has {has} for {first_of(other)}, and its config sets use_dora to {str(dora).lower()}"


def _fits(parts: Mapping[str, Shape], weight: Shape) -> bool:
    a, b = parts["A"], parts["B"]
    fits = len(a) == len(b) == len(weight) == 2 and a[0] == b[1] and (b[0], a[1]) == weight
    return fits and parts.get("magnitude_vector", weight[:1]) in (weight[:1], (weight[0], 1))


def _saved_errors(
    path: Path, saved: Mapping[str, Shape], config: Mapping[str, Any], shapes: Mapping[str, Shape],
    projector: Collection[str],
) -> Iterator[str]:  # fmt: skip
    """Yield why modules_to_save is not the projector, or not all of what it names is in the file."""
    named = {name: [n for n in shapes if f".{name}." in f".{n}."] for name in config.get("modules_to_save") or []}
    foreign = sorted({name for name, of in named.items() if not of or not set(of) <= set(projector)})
    if foreign:
        yield (
            f"{path.parent / ADAPTER_CONFIG} has {first_of(foreign)} in modules_to_save; only the projector may be "
            f"tuned beside the LLM's layers; {MERGE}"
        )
    expected = {n for name, of in named.items() if name not in foreign for n in of}
    missing = sorted(expected - set(saved))
    others = sorted(n for n in set(saved) - expected if not any(f".{name}." in f".{n}." for name in foreign))
    unfit = sorted(n for n in expected & set(saved) if saved[n] != shapes[n])
    if missing:
        yield f"{path} lacks {first_of(missing)}, which its config has in modules_to_save"
    if others:
        yield f"{path} has {first_of(others)}; {ONLY_LORA}"
    if unfit:
        have, want = list(saved[unfit[0]]), list(shapes[unfit[0]])
        yield f"{path} is for another base: {first_of(unfit)} is {want} there, in the adapter {have}"
