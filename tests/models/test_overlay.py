"""A pruned model is a whole, smaller model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests import tiny
from tests.pruning import others
from vrbench.checkpoints.families import fixed_layers
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models.overlay import remove_layers

PROMPT = torch.tensor([[5, 60, 71, 33, 90, 12, 44]])


def pruned(*layers: int) -> torch.nn.Module:
    model = tiny.llava()
    remove_layers(model, LayerSet.of(layers, tiny.DEPTH))
    return model


def greedy(model: torch.nn.Module, use_cache: bool) -> list[int]:
    settings = GenerationConfig(max_new_tokens=24, do_sample=False, use_cache=use_cache, eos_token_id=None)
    return model.generate(input_ids=PROMPT, generation_config=settings, pad_token_id=0)[0].tolist()


@pytest.mark.supports("llava", "pruned")
def test_it_equals_a_model_built_small_from_the_weights_that_stay() -> None:
    whole, small = tiny.llava(), tiny.llava(seed=1, depth=2)
    names = "model.language_model.layers.{}."
    kept = {names.format(old): names.format(new) for new, old in enumerate((0, 3))}
    state = {}
    for name, value in whole.state_dict().items():
        start = next((old for old in kept if name.startswith(old)), None)
        if start:
            state[name.replace(start, kept[start])] = value
        elif ".language_model.layers." not in name:
            state[name] = value
    small.load_state_dict(state, strict=True)
    with torch.inference_mode():
        assert torch.equal(pruned(1, 2)(input_ids=PROMPT).logits, small(input_ids=PROMPT).logits)
        assert not torch.allclose(whole(input_ids=PROMPT).logits, small(input_ids=PROMPT).logits, atol=0.1)


@pytest.mark.supports("llava", "pruned")
@pytest.mark.parametrize("layers", [(0,), (1, 2), (3,), (0, 1, 3)])
def test_generation_with_the_cache_equals_generation_without(layers: tuple[int, ...]) -> None:
    model = pruned(*layers)
    assert greedy(model, use_cache=True) == greedy(model, use_cache=False)


def test_the_config_says_the_new_depth_everywhere() -> None:
    model = tiny.llava()
    model.config.text_config.layer_types = ["a", "b", "c", "d"]
    remove_layers(model, LayerSet.of((1,), 4))
    assert model.config.get_text_config().num_hidden_layers == 3
    assert model.model.language_model.config.num_hidden_layers == 3
    assert model.config.text_config.layer_types == ["a", "c", "d"]
    assert [layer.self_attn.layer_idx for layer in model.model.language_model.layers] == [0, 1, 2]


def test_the_vision_tower_keeps_its_layers() -> None:
    assert len(pruned(0, 1).model.vision_tower.encoder.layers) == 2


def test_no_layer_removed_changes_nothing() -> None:
    model = tiny.llava()
    remove_layers(model, LayerSet.none(tiny.DEPTH))
    assert len(model.model.language_model.layers) == tiny.DEPTH


def test_another_depth_and_all_layers_are_refused() -> None:
    with pytest.raises(VrbenchError, match="out of 5; the model has 4"):
        remove_layers(tiny.llava(), LayerSet.of((1,), 5))
    with pytest.raises(VrbenchError, match="at least one must stay"):
        remove_layers(tiny.llava(), LayerSet.all(4))


class TestOtherFamilies:
    """What is left must say with its cache what it says without, and what a model built small from its parts says."""

    @pytest.mark.parametrize("layers", [(0,), (2, 5), (0, 3, 4)])
    def test_windows_stay_with_their_layers(self, layers: tuple[int, ...]) -> None:
        model = others.gemma()
        kinds = [model.config.text_config.layer_types[i] for i in range(6) if i not in layers]
        remove_layers(model, LayerSet.of(layers, 6))
        assert model.config.text_config.layer_types == kinds
        assert greedy(model, use_cache=True) == greedy(model, use_cache=False)
        assert logits(model).equal(logits(built_small(model)))

    def test_counts_of_first_layers_follow(self) -> None:
        model = others.qwen()
        remove_layers(model, LayerSet.of((0, 3), 4))
        text = model.config.text_config
        assert (text.num_hidden_layers, text.max_window_layers, len(text.layer_types)) == (2, 2, 2)
        assert greedy(model, use_cache=True) == greedy(model, use_cache=False)
        assert logits(model).equal(logits(built_small(model)))

    def test_cross_attention_layers_are_counted_anew(self) -> None:
        model = others.mllama()
        remove_layers(model, LayerSet.of((0, 3), 6))
        assert model.config.text_config.cross_attention_layers == [0, 2]
        assert model.model.language_model.cross_attention_layers == [0, 2]
        assert seen(model).equal(seen(built_small(model)))
        assert not seen(model).allclose(model(input_ids=PROMPT).logits, atol=1e-3)

    def test_cross_attention_layers_may_not_go(self) -> None:
        with pytest.raises(VrbenchError, match="layers 1 of a mllama model may not be removed"):
            remove_layers(others.mllama(), LayerSet.of((0, 1), 6))

    def test_layers_behind_which_vision_features_are_added_may_not_go(self) -> None:
        config = {"model_type": "qwen3_vl", "vision_config": {"deepstack_visual_indexes": [8, 16, 24]}}
        assert sorted(fixed_layers(config)) == [0, 1, 2]
        assert fixed_layers({"model_type": "llava"}) == {}


def built_small(model: Any) -> Any:
    """A new model after a pruned one's config as it would be saved, with its weights."""
    config = type(model.config).from_dict(json.loads(model.config.to_json_string()))
    small = type(model)(config).eval()
    small.load_state_dict(model.state_dict(), strict=True)
    return small


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=PROMPT.repeat(1, 3)).logits


@torch.inference_mode()
def seen(model: Any) -> torch.Tensor:
    """Logits of an Mllama with a picture."""
    torch.manual_seed(0)
    pixels = torch.randn(1, 1, 1, 3, tiny.SIDE, tiny.SIDE)
    ones = torch.ones(1, 1, dtype=torch.long)
    return model(
        input_ids=PROMPT, pixel_values=pixels, aspect_ratio_ids=ones, aspect_ratio_mask=ones[None],
        cross_attention_mask=torch.ones(1, PROMPT.shape[1], 1, 1, dtype=torch.long),
    ).logits  # fmt: skip
