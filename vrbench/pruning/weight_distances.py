"""Distances by which tuning moved each decoder layer's matrices, from checkpoint files where these contain them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from vrbench.checkpoints.checkpoint import ADAPTER, TOWER, Checkpoint
from vrbench.checkpoints.lora_adapter import LORA_TENSOR, lora_scale, module_name, read_adapter_config
from vrbench.checkpoints.parameter_names import canonical_name, first_of, layer_index
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.core.errors import VrbenchError
from vrbench.models.components import layer_parameters
from vrbench.models.load import load_model
from vrbench.models.overlay import backbone_layers
from vrbench.pruning.scoring_context import ScoringContext, adapter_holder, paired_layers


@torch.inference_mode()
def matrix_distances(context: ScoringContext, distance: Callable[[Tensor, Tensor], float]) -> list[float]:
    """Return, for each layer of the tuned checkpoint, the sum over its matrices of a distance to its base's.

    Args:
        context: the tuned checkpoint and its base.
        distance: of the tuned matrix and the base's, given in float64, one pair at a time.

    Raises:
        VrbenchError: layers cannot be paired, or have other matrices.
    """
    sums, device = [], context.device
    tuned, base = _layer_reader(context.ckpt), _layer_reader(context.tuned_from)
    for layer, base_layer in enumerate(context.base_layers):
        pairs = _pairs(context, tuned(layer), base(base_layer))
        sums.append(sum(distance(new.to(device).double(), old.to(device).double()) for new, old in pairs))
    return sums


def _layer_reader(checkpoint: Checkpoint) -> Callable[[int], dict[str, Tensor]]:
    """Return layer -> its tensors by canonical name, from files where they hold them, else from a loaded model."""
    load, plain = partial(load_model, dtype=torch.float32), checkpoint
    while plain.base is not None and plain.has(TOWER):
        plain = plain.base  # a vision tower does not change the decoder
    if plain.base is None and not plain.has(RANDOM_WEIGHTS):
        return lambda layer: backbone_layers(plain, [layer], load)
    model = load(checkpoint)
    return lambda layer: {name: p.detach() for name, p in layer_parameters(model, [layer]).items()}


def _pairs(
    context: ScoringContext, tuned: dict[str, Tensor], base: dict[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the matrices of one layer in both checkpoints."""
    new, old = ({name.split(".", 2)[2]: t for name, t in of.items() if t.dim() == 2} for of in (tuned, base))
    other = sorted(
        name for name in {*new, *old} if name not in new or name not in old or new[name].shape != old[name].shape
    )
    if other:
        ids = f"{context.ckpt.id} and {context.tuned_from.id}"
        raise VrbenchError(f"{ids} differ in {first_of(other)} of a layer: missing, or of another shape")
    return ((new[name], old[name]) for name in sorted(new))


def adapter_norms(ckpt: Checkpoint) -> list[float]:
    """Return for each layer the sum over its linears of the Frobenius norm of what the nearest LoRA adapter adds.

    The norm of s B A is s times the root of the trace of (A A^T)(B^T B), so that no matrix of the model's size is made.

    Raises:
        VrbenchError: there is no adapter, or it is a DoRA.
    """
    from safetensors.torch import load_file

    holder = adapter_holder(ckpt)
    if holder is None:
        raise VrbenchError(f"{ckpt.id} and the checkpoints below it have no LoRA adapter; use 'change' with a base")
    config = read_adapter_config(holder.path)
    if config.get("use_dora"):
        raise VrbenchError(
            f"the adapter of {holder.id} is a DoRA, whose matrices alone are not the change; use 'change'"
        )
    matrices: dict[str, dict[str, Tensor]] = {}
    names: dict[str, str] = {}
    for name, tensor in load_file(holder.path / ADAPTER).items():
        part = LORA_TENSOR.fullmatch(canonical_name(name))
        if part and part[2]:
            matrices.setdefault(part[1], {})[part[2]] = tensor.double()
            names[part[1]] = module_name(name)
    norms = dict.fromkeys(range(holder.depth), 0.0)
    for module, of in matrices.items():
        a, b = of["A"], of["B"]
        squared = float(((a @ a.T) * (b.T @ b)).sum())
        layer = layer_index(f"{module}.")
        assert layer is not None  # or the checkpoint would have been refused
        norms[layer] += lora_scale(config, names[module]) * math.sqrt(max(0.0, squared))
    return [norms[layer] for layer in paired_layers(ckpt, holder)]
