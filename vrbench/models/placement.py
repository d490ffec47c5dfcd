"""Where a model's weights lie if it is larger than one GPU: its layers on several (accelerate), or a share of each.

Layers are moved after the model was put together on the CPU, so that whatever makes a checkpoint (adapters, removed
layers) works as on one GPU. accelerate's hooks then move what a layer reads to its device.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch

from vrbench.models import components
from vrbench.models.prefix_attention import USES_SEGMENTS

_log = logging.getLogger(__name__)

WEIGHTS_SHARE = 0.8
"""Share of the memory in use on a GPU that weights may take where layers are spread; the rest is for answers."""


def spread_layers(model: Any, gpu_memory: float) -> Any:
    """Spread a model on the CPU over all visible GPUs, as evenly as accelerate can; what does not fit stays there.

    Args:
        model: of any family, on the CPU, in its final dtype.
        gpu_memory: share of each GPU's memory that may be used, weights included.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    free = map(torch.cuda.mem_get_info, range(torch.cuda.device_count()))
    room: dict[int | str, int] = {
        gpu: max(0, int(WEIGHTS_SHARE * (gpu_memory * total - (total - left))))
        for gpu, (left, total) in enumerate(free)
    }
    whole = sum(tensor.nbytes for tensor in model.state_dict().values())
    settings = {"no_split_module_classes": list(getattr(model, "_no_split_modules", None) or [])}
    balanced = get_balanced_memory(model, {**room, "cpu": 2 * whole}, **settings)
    devices = infer_auto_device_map(model, balanced, **settings)
    named = {name: f"cuda:{device}" if isinstance(device, int) else device for name, device in devices.items()}
    model = dispatch(model, named, "cuda:0")
    if "cpu" in named.values():
        _log.warning("vrbench: %s; weights that wait are copied to a GPU in each pass, which is slow", describe(model))
    return model


def dispatch(model: Any, devices: Mapping[str, str], main: str, **settings: Any) -> Any:
    """Put modules on devices and attach accelerate's hooks; parts that are called alone return to their inputs' device.

    Args:
        devices: name of a module -> its device; "cpu" where its weights wait until they are needed.
        main: device of inputs and results.
        settings: of accelerate's `dispatch_model`.
    """
    from accelerate import dispatch_model
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    skip = getattr(model, "_skip_keys_device_placement", None)
    model = dispatch_model(model, dict(devices), main, skip_keys=skip, **settings)
    if not is_dispatched(model):  # all of it is on one device
        return model
    setattr(components.decoder(model), USES_SEGMENTS, False)  # which are on one device
    called = [model.model, components.decoder(model), model.get_output_embeddings(), model.get_input_embeddings()]
    for module in (*called, components.vision_tower(model), *components.projector(model)):
        if not hasattr(module, "_hf_hook"):
            add_hook_to_module(module, AlignDevicesHook(main, skip_keys=skip))
        module._hf_hook.io_same_device = True
    return model


def share_tensors(model: Any, device: str) -> Any:
    """Keep this process's share of each matrix that transformers' tensor-parallel plan names, and the rest whole.

    Args:
        model: whole, on the CPU; the same in each process of a `torchrun`.
        device: of this process.

    Returns:
        The model on its device; a pass of it takes all processes, and gives each the same result.
    """
    from transformers.distributed import DistributedConfig

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:  # a plan may share them in two ways
        head.weight = torch.nn.Parameter(head.weight.data, requires_grad=False)
    settings, _, mesh = type(model).prepare_distribute_model(DistributedConfig(tp_plan="auto"))
    return type(model).maybe_distribute_model(model, settings, mesh).to(device)


def sharing_errors(config: Any, processes: int) -> list[str]:
    """Return why a decoder cannot be shared among so many processes.

    Args:
        config: transformers' config of the complete model.
    """
    text = config.get_text_config()
    plan = getattr(text, "base_model_tp_plan", None)
    if not plan:
        return [f"transformers has no tensor-parallel plan for a decoder of type {text.model_type!r}; use a device map"]
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    sizes = {"key and value heads": heads} if _shares_heads(plan) else {}
    sizes |= {"attention heads": text.num_attention_heads, "intermediate features": text.intermediate_size}
    return [
        f"its {size} {what} cannot be shared evenly among {processes} processes; choose another --nproc-per-node"
        for what, size in sizes.items()
        if size % processes
    ][:1]


def processes(model: Any) -> int:
    """Return how many processes share a model's tensors."""
    return getattr(model, "tp_size", None) or 1


def key_value_heads(model: Any) -> int:
    """Return the number of heads whose keys and values this process keeps."""
    text = model.config.get_text_config()
    heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    return heads // processes(model) if processes(model) > 1 and _shares_heads(model.tp_plan) else heads


def smallest(model: Any, values: list[int]) -> list[int]:
    """Return the smallest of each value over the processes that share a model, all of which have to ask."""
    if processes(model) == 1:
        return values
    found = torch.tensor(values, device=main_device(model))
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
    return list(map(int, found.tolist()))


def _shares_heads(plan: Mapping[str, str]) -> bool:
    return any(name.endswith("k_proj") and style == "colwise" for name, style in plan.items())


def is_dispatched(model: Any) -> bool:
    """Whether a model's modules are on several devices, or wait in the CPU's memory."""
    return hasattr(model, "_hf_hook")


def main_device(model: Any) -> torch.device:
    """Return the device of a model's inputs and results."""
    return torch.device(model._hf_hook.execution_device) if is_dispatched(model) else next(model.parameters()).device


def layer_devices(model: Any) -> Counter[torch.device]:
    """Return device -> number of decoder layers that are computed there, and keep their keys and values there."""
    main = main_device(model)
    homes = (p.device for layer in components.decoder_layers(model) for p in islice(layer.parameters(), 1))
    return Counter(main if home.type == "meta" else home for home in homes)


def waiting_bytes(model: Any) -> int:
    """Return the size of the largest decoder layer whose weights wait in the CPU's memory; 0 where all are on GPUs."""
    waiting = filter(_waits, components.decoder_layers(model))
    return max((sum(p.nbytes for p in layer.parameters()) for layer in waiting), default=0)


def describe(model: Any) -> str:
    """Return how a model is spread, for the record; empty on one device."""
    if processes(model) > 1:
        return f"tensors shared among {processes(model)} processes"
    if not is_dispatched(model):
        return ""
    layers = components.decoder_layers(model)
    homes = {parameter.device for parameter in model.parameters()} - {torch.device("meta")}
    waiting = sum(map(_waits, layers))
    text = f"layers spread over {len(homes)} device{'s' * (len(homes) > 1)}"
    return text + f", {waiting} of {len(layers)} waiting in the CPU's memory" * bool(waiting)


def _waits(module: torch.nn.Module) -> bool:
    return any(parameter.device.type == "meta" for parameter in module.parameters())
