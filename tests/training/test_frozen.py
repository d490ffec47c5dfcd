"""What learns is exactly the chosen layers and the projector, in every family; all else stays bit for bit as it was."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from tests.training.conversation_samples import ONE, SEVERAL, TWO, loaded
from tests.training.packed import CPU
from vrbench.checkpoints.checkpoint import ADAPTER, DELTA, PROJECTOR
from vrbench.checkpoints.families import FAMILIES
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.training.conversation_batches import EncodedConversations, answer_loss
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.recipe import TrainRecipe
from vrbench.training.stages import save_tuned, tune
from vrbench.training.trainable import (
    add_lora,
    parameter_groups,
    sample_layers,
    unfreeze,
    unwrap_peft,
    validate_trainable,
)
from vrbench.training.trainer import ParameterGroup, TrainingConfig, TrainingData, fit

SEED = 1  # which draws each of the two layers once
LAYERS = LayerSet.parse("1,3", 4)
WAYS: dict[str, dict[str, Any]] = {
    "lora": {"tuning": "lora"}, "weights": {"tuning": "weights"},
    "sampling": {"tuning": "weights", "sampling": 1, "every": 1},
}  # fmt: skip


def recipe(**tune: Any) -> TrainRecipe:
    settings = {"layers": "1,3", "rank": 2, "alpha": 4, "steps": 2, "batch": 3, "lr": 1e-2, "lr_projector": 1e-2}
    data = {"conversations": "unused.json"}
    given = {
        "name": "r",
        "makes": "r",
        "base": "b",
        "dtype": "float32",
        "seed": SEED,
        "data": data,
        "tune": settings | tune,
    }
    return TrainRecipe.model_validate(given)


class Watch(TrainerCallback):
    """Notes the names of the parameters with a gradient, in each step, and those that the optimizer has moments of."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.gradients: list[set[str]] = []
        self.moments: set[str] = set()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients.append({self.names[id(p)] for p in model.parameters() if p.grad is not None})

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.moments = {self.names[id(p)] for p in optimizer.optimizer.state}


def learning(model: Any, layers: LayerSet, way: str) -> set[str]:
    """The names of the parameters of some layers that learn, and the projector's, found by their place alone."""
    inner = unwrap_peft(model)
    parts = [components.decoder_layers(inner)[i] for i in layers]
    inside = {id(p) for part in parts for name, p in part.named_parameters() if way != "lora" or "lora_" in name}
    inside |= {id(p) for part in components.projector(inner) for p in part.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in inside}


CASES = [
    *((f, way) for f in sorted(FAMILIES) for way in ("lora", "sampling")),
    ("llava", "weights"),
    ("mllama", "weights"),
]


@pytest.mark.parametrize(("family", "way"), CASES)
def test_exactly_the_chosen_layers_and_the_projector_learn(family: str, way: str, tmp_path: Path) -> None:
    vlm, asked = loaded(family), recipe(**WAYS[way])
    assert asked.tune is not None
    model = deepcopy(vlm.model)
    model = add_lora(model, LAYERS, asked.tune) if way == "lora" else model
    samples = EncodedConversations([ONE, SEVERAL, TWO], ConversationEncoder(vlm, 4000))
    data = TrainingData(samples, samples.collate, answer_loss, np.arange(6) % 3)
    before, watch = {name: p.detach().clone() for name, p in model.named_parameters()}, Watch(model)
    tune(model, LAYERS, data, asked, CPU, None, [watch])
    draws = [sample_layers(LAYERS, 1, SEED, draw) if way == "sampling" else LAYERS for draw in range(2)]
    expected = [learning(model, drawn, way) for drawn in draws]
    assert watch.gradients == expected and watch.moments == expected[0] | expected[1]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == expected[0] | expected[1]

    method = save_tuned(model, LAYERS, asked, asked.tune, tmp_path)
    written = load_file(tmp_path / (DELTA if method == "weights" else ADAPTER))
    projector = components.projector_parameters(unwrap_peft(model))
    if method == "weights":
        assert set(written) == set(components.layer_parameters(model, LAYERS)) | set(projector)
    else:
        assert len(load_file(tmp_path / PROJECTOR)) == len(projector)
        assert len(written) == len(learning(model, LAYERS, way)) - len(projector)
        assert all(".layers.1." in name or ".layers.3." in name for name in written)


def frozen(**tune: Any) -> tuple[Any, Any]:
    """A tiny LLaVA with LoRA that is ready to be trained, and its settings."""
    settings = recipe(**tune).tune
    assert settings is not None
    model = add_lora(deepcopy(loaded("llava").model), LAYERS, settings)
    unfreeze(model, parameter_groups(model, LAYERS, settings), torch.float32)
    return model, settings


def test_what_is_trainable_besides_is_refused_before_training() -> None:
    model, settings = frozen()
    validate_trainable(model, LAYERS, settings)
    more = add_lora(deepcopy(loaded("llava").model), LayerSet.parse("0,1", 4), settings)
    unfreeze(more, parameter_groups(more, LAYERS, settings), torch.float32)
    with pytest.raises(VrbenchError) as found:
        validate_trainable(more, LAYERS, settings)
    outside, idle = error_messages(found.value)
    assert "layers.0.self_attn.q_proj.lora_A" in outside and "(14 such parameters)" in outside
    assert "layers 3 have nothing to train with tune.tuning = 'lora'" in idle
    unwrap_peft(model).model.language_model.norm.weight.requires_grad_(True)
    with pytest.raises(VrbenchError, match=r"norm\.weight would be trained \(1 such"):
        validate_trainable(model, LAYERS, settings)


@pytest.mark.parametrize("rates", [0, 2])
def test_each_trainable_parameter_has_one_rate(rates: int) -> None:
    model = nn.Linear(1, 1)
    groups = [ParameterGroup([model.weight], 0.1), *([ParameterGroup([model.bias], 0.1)] * rates)]
    data = TrainingData([1.0], list, lambda model, batch: torch.zeros(()), np.zeros(1, int))
    with pytest.raises(VrbenchError, match=r"t: 1 parameters are .*, such as bias"):
        fit(model, data, groups, TrainingConfig("t", 1, 1), CPU)


def test_a_frozen_parameter_has_none() -> None:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    data = TrainingData([1.0], list, lambda model, batch: torch.zeros(()), np.zeros(1, int))
    with pytest.raises(VrbenchError, match=r"t: 1 parameters are .*, such as bias"):
        fit(model, data, [ParameterGroup(list(model.parameters()), 0.1)], TrainingConfig("t", 1, 1), CPU)
