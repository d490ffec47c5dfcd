"""Compiled decoder layers: the same losses and gradients, whatever is trained, recomputed or of another length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from tests import tiny
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.training.compiled_layers import compiled_layers, is_worthwhile
from vrbench.training.recipe import TuneStage
from vrbench.training.trainable import add_lora, parameter_groups, unfreeze, unwrap_peft

LAYERS = LayerSet.of([1], 2)


def made(tuning: str, dtype: str, dropout: float = 0.0) -> tuple[Any, list[nn.Parameter]]:
    torch.manual_seed(0)
    settings = TuneStage(
        layers="1", tuning=tuning, rank=2, alpha=4, dropout=dropout, steps=1, batch=1, lr=1, lr_projector=1
    )
    model: Any = tiny.llava(depth=2)
    model = add_lora(model, LAYERS, settings) if tuning == "lora" else model
    groups = parameter_groups(model, LAYERS, settings)
    unfreeze(model, groups, getattr(torch, dtype))
    trained = [p for group in groups for p in group.parameters]
    for p in trained:  # LoRA's second matrix is 0 at first: gradients of the first would be too
        p.data += 0.05 * torch.randn_like(p)
    return model.train(), trained


def gradients(model: Any, trained: list[nn.Parameter], dtype: str, lengths: tuple[int, ...] = (9,)) -> Any:
    """The losses and gradients of one batch of each length, added up."""
    torch.manual_seed(1)
    losses = []
    for length in lengths:
        ids = torch.arange(2 * length).view(2, length) % 50
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(input_ids=ids, use_cache=False).logits.float().pow(2).mean()
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses), [p.grad for p in trained if p.grad is not None]


@pytest.mark.parametrize(
    ("tuning", "checkpointing", "dtype"),
    [("lora", True, "bfloat16"), ("weights", False, "float32")],
)
def test_losses_and_gradients_are_those_of_plain_layers(tuning: str, checkpointing: bool, dtype: str) -> None:
    """With dropout; of two batches of different length, where only one code is compiled for both."""
    fixed, lengths = tuning == "lora", (9,) if tuning == "lora" else (9, 12)
    plain = gradients(*made(tuning, dtype, 0.3), dtype, lengths)
    model, trained = made(tuning, dtype, 0.3)
    counters.clear()
    with compiled_layers(model, checkpointing, fixed, backend="aot_eager"):
        compiled = gradients(model, trained, dtype, lengths)
    assert counters["stats"]["unique_graphs"] == 2
    near = {"rtol": 0.02, "atol": 1e-3} if dtype == "bfloat16" else {"rtol": 1e-4, "atol": 1e-6}
    for ours, theirs in zip((compiled[0], *compiled[1]), (plain[0], *plain[1]), strict=True):
        assert torch.allclose(ours, theirs, **near)
    assert all(gradient.dtype == torch.float32 for gradient in compiled[1])


def test_with_checkpointing_less_is_kept_for_the_backward_pass() -> None:
    sizes: dict[bool, int] = {}
    for checkpointing in (False, True):
        model, trained = made("weights", "float32")
        saved = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with (
            compiled_layers(model, checkpointing, True, "eager"),
            torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        ):
            gradients(model, trained, "float32")
        sizes[checkpointing] = saved
    assert sizes[True] < sizes[False]


def test_layers_that_take_turns_are_compiled_once_for_each_way() -> None:
    model, _ = made("weights", "float32")
    layers = components.decoder_layers(unwrap_peft(model))
    counters.clear()
    found = []
    with compiled_layers(model, fixed_shapes=True, backend="eager"):
        for turn in (0, 1, 0, 1, 1):
            for number, layer in enumerate(layers):
                layer.requires_grad_(number == turn)
            trained = list(layers[turn].parameters())
            found.append(sum(float(g.norm()) for g in gradients(model, trained, "float32")[1]))
            model.zero_grad()
    assert found[0] != found[1] and found[2:] == [found[0], found[1], found[1]]
    assert counters["stats"]["unique_graphs"] <= 4


def test_layers_are_left_as_they_were() -> None:
    model, _ = made("lora", "float32")
    layers = components.decoder_layers(unwrap_peft(model))
    with pytest.raises(KeyboardInterrupt), compiled_layers(model, backend="eager"):
        assert all("forward" in vars(layer) for layer in layers)
        raise KeyboardInterrupt
    assert not any("forward" in vars(layer) for layer in layers)


def test_layers_are_not_compiled_where_the_model_is_evaluated() -> None:
    model, _ = made("lora", "float32")
    counters.clear()
    with compiled_layers(model, backend="eager"):
        with torch.no_grad():
            model(input_ids=torch.arange(9)[None])
        model.eval()(input_ids=torch.arange(9)[None])
        assert not counters["stats"]["unique_graphs"]


def test_auto_compiles_long_trainings_on_a_gpu() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    asked = [("auto", cuda, 100), ("auto", cuda, 99), ("auto", cpu, 1000), ("on", cpu, 1), ("off", cuda, 1000)]
    assert [is_worthwhile(*of) for of in asked] == [True, False, False, True, False]
