"""Activation checkpointing is switched on by whichever method a model has, and an error where it has no effect."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vrbench.training import trainable


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
