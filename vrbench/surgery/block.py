"""How far a block of consecutive decoder layers turns what passes through it."""

from __future__ import annotations

from typing import Any

import torch

from vrbench.models import anatomy
from vrbench.surgery.measured import Dev


def block_distances(dev: Dev, length: int) -> list[float]:
    """The angular distance over each block of consecutive decoder layers, at the last token; 0 to 1.

    With h_l the state that enters layer l at the last token of a sample, and h_depth the one that leaves the last
    layer, the distance of the block that begins at layer l is the mean over the samples of

        (1 / pi) * arccos(h_l . h_(l + length) / (|h_l| |h_(l + length)|))

    This is the distance of Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers"
    (arXiv:2403.17887), who remove the block where it is smallest. A sample is a picture with one question and its
    answer; its last token is the answer's. Nothing but the sums is kept from pass to pass.

    Args:
        dev: pictures with questions and answers, for a model in float32.
        length: layers of a block, 1 to the model's depth.

    Returns:
        One number for each first layer, depth - length + 1 of them.
    """
    layers = anatomy.decoder_layers(dev.vlm.model)
    sums = torch.zeros(len(layers) - length + 1, dtype=torch.float64)
    for rows, positions, run in dev.endings():
        states = _last_states(layers, rows, positions, run)
        cosines = torch.nn.functional.cosine_similarity(states[:-length], states[length:], dim=-1)
        sums += (cosines.clamp(-1, 1).arccos() / torch.pi).sum(1).cpu()
    return [float(total) / dev.samples for total in sums]


def _last_states(layers: torch.nn.ModuleList, rows: list[int], positions: list[int], run: Any) -> torch.Tensor:
    """[layers + 1, samples, hidden] float64: what enters each layer at the given places, and what leaves the last."""
    found: list[torch.Tensor] = []

    def keep(states: torch.Tensor) -> None:
        found.append(states[rows, positions].double())

    def enters(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else kwargs["hidden_states"])

    def leaves(_: Any, __: Any, output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_pre_hook(enters, with_kwargs=True) for layer in layers]
    handles.append(layers[-1].register_forward_hook(leaves))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)
