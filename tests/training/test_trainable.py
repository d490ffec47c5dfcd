"""Activation checkpointing is switched on by whichever method a model has, and an error where it has no effect."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import tiny
from vrbench.core.layers import LayerSet
from vrbench.training import trainable
from vrbench.training.recipe import TuneStage


def model(monkeypatch: pytest.MonkeyPatch, layers: list[dict[str, bool]], *methods: str) -> tuple[Any, list[Any]]:
    """A model with these methods and layers, and the calls that it gets."""
    calls: list[Any] = []
    made = SimpleNamespace(**{name: lambda *given, name=name: calls.append((name, *given)) for name in methods})
    monkeypatch.setattr(trainable.components, "decoder_layers", lambda _: [SimpleNamespace(**f) for f in layers])
    return made, calls


NEW, OLD = "activation_checkpointing_enable", "gradient_checkpointing_enable"


@pytest.mark.parametrize(("methods", "called"), [((NEW, OLD), NEW), ((OLD,), OLD), ((NEW,), NEW)])
def test_the_newer_method_is_called_without_reentrance(
    methods: tuple[str, ...], called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, calls = model(monkeypatch, [{"gradient_checkpointing": True}], *methods)
    trainable.enable_checkpointing(made)
    assert calls == [(called, {"use_reentrant": False})]


@pytest.mark.parametrize(
    ("states", "has_effect"), [([True], True), ([False, True], True), ([False, False], False), ([None], True)]
)
def test_it_must_have_an_effect(states: list[bool | None], has_effect: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that does not say whether it is on is trusted."""
    made, _ = model(monkeypatch, [{} if s is None else {"gradient_checkpointing": s} for s in states], OLD)
    if has_effect:
        trainable.enable_checkpointing(made)
    else:
        with pytest.raises(AssertionError):
            trainable.enable_checkpointing(made)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_lora_is_computed_in_bfloat16_from_float32_weights(dropout: float) -> None:
    """Without dropout the same bits as PEFT's way, which converts inputs to float32 and back."""
    layers, found = LayerSet.of([1], 2), []
    settings = TuneStage(layers="1", rank=2, alpha=4, dropout=dropout, steps=1, batch=1, lr=1, lr_projector=0)
    for peft_way in (True, False):
        torch.manual_seed(0)
        model = trainable.add_lora(tiny.llava(depth=2), layers, settings).train()
        groups = trainable.parameter_groups(model, layers, settings)
        trainable.unfreeze(model, groups, torch.bfloat16)
        seen: list[torch.dtype] = []
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = module.cast_input_dtype_enabled or peft_way
                for part in module.lora_dropout.values():
                    part.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.dtype))
        trained = [p for group in groups for p in group.parameters]
        for p in trained:
            p.data += 0.05
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=torch.arange(9)[None]).logits.float().pow(2).mean().backward()
        assert set(seen) == {torch.float32 if peft_way else torch.bfloat16}
        assert {p.dtype for p in trained} == {p.grad.dtype for p in trained if p.grad is not None} == {torch.float32}
        found.append([p.grad for p in trained])
    same = [torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None and b is not None]
    assert same and (all(same) or dropout > 0)
