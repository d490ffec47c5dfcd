"""Whether the pieces of a layered checkpoint fit the model below them, judged from names and shapes alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vrbench.errors import VrbenchError
from vrbench.headers import Tensor, read_header

Shape = tuple[int, ...]
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
PROJECTOR = "projector.safetensors"
PROJECTOR_PREFIX = "multi_modal_projector."
TOWER = "tower.safetensors"
TOWER_PREFIX = "vision_tower."

# Wrappers that come and go between model classes, library versions and PEFT; without them names can be compared.
WRAPPERS = {"base_model", "model", "language_model", "vision_model"}
# Adapter options that change the merged weights beyond plain low-rank matrices, with the value that leaves them off.
PLAIN = {
    "bias": "none", "modules_to_save": None, "use_dora": False, "fan_in_fan_out": False, "lora_bias": False,
    "trainable_token_indices": None, "target_parameters": None, "alora_invocation_tokens": None,
    "layer_replication": None, "use_bdlora": None, "arrow_config": None,
}  # fmt: skip


def canonical(name: str) -> str:
    """A parameter's name without wrappers, such as 'layers.3.mlp.up_proj.weight' or 'vision_tower.encoder...'."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def shapes_of(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Shape]:
    """Canonical name -> shape."""
    return {prefix + canonical(name): tensor.shape for name, tensor in tensors.items()}


def layer_of(name: str) -> int | None:
    """The decoder layer that a canonical name belongs to; none outside the decoder (towers, projector, embeddings)."""
    found = re.match(r"layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def without_layers(shapes: Mapping[str, Shape], removed: Iterable[int]) -> dict[str, Shape]:
    """The shapes of the model after some decoder layers were removed and the rest renumbered."""
    gone = set(removed)
    kept: dict[str, Shape] = {}
    for name, shape in shapes.items():
        layer = layer_of(name)
        if layer is None:
            kept[name] = shape
        elif layer not in gone:
            now = layer - sum(g < layer for g in gone)
            kept[re.sub(r"^layers\.\d+", f"layers.{now}", name)] = shape
    return kept


def difference_faults(where: Path, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """What is missing, foreign, or of another shape in `found`; one sentence each, naming one example."""
    missing = sorted(set(expected) - set(found))
    foreign = sorted(set(found) - set(expected))
    other = sorted(n for n in set(found) & set(expected) if found[n] != expected[n])
    faults = []
    if missing:
        faults.append(f"{where} lacks {_first(missing)} of the model that it should be")
    if foreign:
        faults.append(f"{where} has {_first(foreign)}, which the model that it should be has not")
    if other:
        have, want = list(found[other[0]]), list(expected[other[0]])
        faults.append(f"{where} has another shape for {_first(other)}: {have}, where the model has {want}")
    return faults


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a PEFT folder.

    Raises:
        VrbenchError: it is not a JSON object.
    """
    path = folder / ADAPTER_CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VrbenchError(f"{path} cannot be read as JSON") from error
    if not isinstance(found, dict):
        raise VrbenchError(f"{path} is not a JSON object")
    return found


def adapter_faults(folder: Path, shapes: Mapping[str, Shape], depth: int) -> list[str]:
    """Why the LoRA adapter in a folder cannot be put on a model of these shapes; empty when it can.

    Args:
        shapes: canonical name -> shape of the model that the adapter goes on, pruning done.
        depth: its decoder layers.
    """
    try:
        config = read_adapter_config(folder)
        tensors = read_header(folder / ADAPTER)
    except VrbenchError as fault:
        return [str(fault)]
    path = folder / ADAPTER
    faults = _config_faults(folder / ADAPTER_CONFIG, config, depth)
    pairs: dict[str, dict[str, Shape]] = {}
    strange = []
    for name, tensor in tensors.items():
        found = re.fullmatch(r"(layers\.\d+\..+)\.lora_([AB])\.weight", canonical(name))
        if found:
            pairs.setdefault(found[1], {})[found[2]] = tensor.shape
        else:
            strange.append(name)
    if strange:
        faults.append(f"{path} has {_first(strange)}; LoRA on the LLM's decoder layers is all that is allowed")
    if not tensors:
        faults.append(f"{path} has no tensors")
    beyond = sorted({n for n in map(layer_of, (f"{m}." for m in pairs)) if n is not None and n >= depth})
    if beyond:
        faults.append(f"{path} tunes layers {beyond}; a model of depth {depth} has layers 0 to {depth - 1}")
    inside = {m: p for m, p in pairs.items() if (layer_of(m) or 0) < depth}
    return faults + _pair_faults(path, inside, shapes)


def _config_faults(path: Path, config: Mapping[str, Any], depth: int) -> list[str]:
    faults = []
    if config.get("peft_type") != "LORA":
        faults.append(f"{path} is of peft_type {config.get('peft_type')!r}; only 'LORA' can be loaded")
    for option, off in PLAIN.items():
        if config.get(option) not in (off, None, False, []):
            faults.append(f"{path} sets {option} to {config[option]!r}; only plain LoRA can be loaded")
    chosen = config.get("layers_to_transform") or []
    beyond = [n for n in ([chosen] if isinstance(chosen, int) else chosen) if not 0 <= n < depth]
    if beyond:
        faults.append(f"{path} names layers {beyond}; a model of depth {depth} has layers 0 to {depth - 1}")
    return faults


def _pair_faults(path: Path, pairs: Mapping[str, dict[str, Shape]], shapes: Mapping[str, Shape]) -> list[str]:
    """Whether every module has both matrices, is there in the model, and fits it."""
    single = sorted(m for m, p in pairs.items() if len(p) < 2)
    absent = sorted(m for m in pairs if f"{m}.weight" not in shapes)
    whole = [m for m in sorted(pairs) if m not in single and m not in absent]
    unfit = [m for m in whole if not _fits(pairs[m], shapes[f"{m}.weight"])]
    faults = []
    if single:
        faults.append(f"{path} has only one of the two matrices of {_first(single)}")
    if absent:
        faults.append(f"{path} is for another base: it tunes {_first(absent)}, which the base has not")
    if unfit:
        a, b, have = pairs[unfit[0]]["A"], pairs[unfit[0]]["B"], list(shapes[f"{unfit[0]}.weight"])
        faults.append(
            f"{path} is for another base: {_first(unfit)} is {have} there, the adapter is for {[b[0], a[-1]]}"
        )
    return faults


def _fits(pair: Mapping[str, Shape], weight: Shape) -> bool:
    a, b = pair["A"], pair["B"]
    return len(a) == len(b) == len(weight) == 2 and a[0] == b[1] and (b[0], a[1]) == weight


def part_faults(path: Path, shapes: Mapping[str, Shape], prefix: str) -> list[str]:
    """Why a file cannot replace the part of a model of these shapes whose names start with the prefix; empty if it can.

    Args:
        path: safetensors file of one part, such as the projector, under the part's own parameter names.
        shapes: canonical name -> shape of the whole model.
        prefix: such as "multi_modal_projector.".
    """
    try:
        found = shapes_of(read_header(path))
    except VrbenchError as fault:
        return [str(fault)]
    expected = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    return difference_faults(path, found, expected)


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"
