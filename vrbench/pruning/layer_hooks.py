"""Decoder layers observed, skipped or replayed in forward passes without a cache; the model is restored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.models.overlay import per_layer_settings


@contextmanager
def forward_hooks(modules: Iterable[torch.nn.Module], hook: Callable[[int, Any, Any], Any]) -> Iterator[None]:
    """Call `hook(index, input, output)` after each module's forward pass; a value that it returns replaces the output.

    The input is the first positional argument, or else `hidden_states`.
    """

    def numbered(index: int) -> Any:
        return lambda _, args, kwargs, output: hook(index, args[0] if args else kwargs.get("hidden_states"), output)

    handles = [module.register_forward_hook(numbered(i), with_kwargs=True) for i, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watch_layers(model: Any, see: Callable[[int, torch.Tensor, torch.Tensor], object]) -> Iterator[None]:
    """Call `see(layer, entering, leaving)` for each decoder layer in each pass, states [rows, tokens, hidden] each."""

    def hook(layer: int, entering: torch.Tensor, output: Any) -> None:
        see(layer, entering, output[0] if isinstance(output, tuple) else output)

    with forward_hooks(components.decoder_layers(model), hook):
        yield


@contextmanager
def watch_attention(model: Any, see: Callable[[int, torch.Tensor], object]) -> Iterator[None]:
    """Call `see(layer, weights)` for each decoder layer in each pass, weights [rows, heads, tokens, tokens].

    The decoder uses transformers' "eager" attention meanwhile, the implementation that returns its weights.
    """

    def hook(layer: int, _: Any, output: Any) -> None:
        if not isinstance(output, tuple) or output[1] is None:
            raise VrbenchError(f"layer {layer} of {type(model).__name__} does not return its attention weights")
        see(layer, output[1])

    decoder = components.decoder(model)
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        with forward_hooks([layer.get_submodule("self_attn") for layer in components.decoder_layers(model)], hook):
            yield
    finally:
        decoder.set_attn_implementation(before)


@contextmanager
def record_outputs(model: Any) -> Iterator[dict[int, Any]]:
    """Record what each decoder layer returns: layer -> output of the latest pass."""
    outputs: dict[int, Any] = {}
    with forward_hooks(components.decoder_layers(model), lambda i, _, output: outputs.__setitem__(i, output)):
        yield outputs


@contextmanager
def skip_layers(model: Any, removed: Sequence[int]) -> Iterator[None]:
    """Run the model without some layers."""
    depth = len(components.decoder_layers(model))
    with _run_only(model, LayerSet(tuple(i for i in range(depth) if i not in removed), depth), {}):
        yield


@contextmanager
def resume_above(model: Any, removed: Sequence[int], layer: int, outputs: Mapping[int, Any]) -> Iterator[None]:
    """Run the model without some layers and one more, computing nothing below that one again.

    Args:
        model: with full attention in every layer and nothing added between layers.
        removed: layers that are skipped.
        layer: the one more.
        outputs: of `record_outputs`, from a pass over the same tokens without the removed layers.
    """
    depth = len(components.decoder_layers(model))
    kept = [i for i in range(depth) if i not in removed and i != layer]
    below = [i for i in kept if i < layer]
    run = LayerSet(tuple(i for i in kept if i not in below[:-1]), depth)
    with _run_only(model, run, {i: outputs[i] for i in below[-1:]}):
        yield


@contextmanager
def _run_only(model: Any, kept: LayerSet, replayed: Mapping[int, Any]) -> Iterator[None]:
    """Run the model with some of its layers; those in `replayed` return known outputs."""
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
    """Replaces a decoder layer and returns a known output."""

    def __init__(self, layer: torch.nn.Module, output: Any) -> None:
        super().__init__()
        kind = getattr(layer, "attention_type", None)  # which the decoder may read from its layers
        if kind is not None:
            self.attention_type = kind
        self._output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._output
