"""A model without some of its decoder layers, for passes that keep no cache; whole again afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.models.overlay import per_layer_settings


@contextmanager
def left_out(model: Any, removed: Sequence[int]) -> Iterator[None]:
    """The model without some layers."""
    depth = len(components.decoder_layers(model))
    with _only(model, LayerSet(tuple(i for i in range(depth) if i not in removed), depth), {}):
        yield


@contextmanager
def resumed(model: Any, removed: Sequence[int], layer: int, outputs: Mapping[int, Any]) -> Iterator[None]:
    """The model without some layers and one more, where nothing below that one is computed again.

    Args:
        model: with full attention in every layer and nothing added between layers.
        removed: layers that are left out.
        layer: the one more.
        outputs: what each layer gave in a pass over the same tokens without the removed ones, as `watched` keeps it.
    """
    kept = [i for i in range(len(components.decoder_layers(model))) if i not in removed and i != layer]
    below = [i for i in kept if i < layer]
    run = LayerSet(tuple(i for i in kept if i not in below[:-1]), len(components.decoder_layers(model)))
    with _only(model, run, {i: outputs[i] for i in below[-1:]}):
        yield


@contextmanager
def watched(model: Any) -> Iterator[dict[int, Any]]:
    """What each decoder layer gives, layer -> output of the latest pass."""
    outputs: dict[int, Any] = {}

    def keep(layer: int) -> Any:
        return lambda _, __, output: outputs.__setitem__(layer, output)

    handles = [m.register_forward_hook(keep(i)) for i, m in enumerate(components.decoder_layers(model))]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _only(model: Any, kept: LayerSet, replayed: Mapping[int, Any]) -> Iterator[None]:
    """The model with some of its layers, those in `replayed` giving what they are known to give."""
    decoder = components.decoder(model)
    whole = decoder.layers
    changes = per_layer_settings(model, kept)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        modules = (_Replay(whole[i], replayed[i]) if i in replayed else whole[i] for i in kept)
        decoder.layers = torch.nn.ModuleList(modules)
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        decoder.layers = whole
        for owner, name, value in before:
            setattr(owner, name, value)


class _Replay(torch.nn.Module):
    """Stands for a decoder layer and gives an output that is known."""

    def __init__(self, layer: torch.nn.Module, output: Any) -> None:
        super().__init__()
        kind = getattr(layer, "attention_type", None)  # which the decoder may ask of its layers
        if kind is not None:
            self.attention_type = kind
        self._output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._output
