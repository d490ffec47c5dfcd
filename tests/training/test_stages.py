"""What moves in training and what stays, and how right is counted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests import tiny
from tests.training import packed
from tests.training.packed import CPU, TURNS
from vrbench.core.layers import LayerSet, select_layers
from vrbench.training.packing import IGNORED, EncodedImages, PackedLlava
from vrbench.training.pocket_data import packed_data
from vrbench.training.recipe import AlignStage, GeneratedScenes, TrainRecipe, TuneStage
from vrbench.training.stages import align, tune
from vrbench.training.trainable import add_lora

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SETTINGS = TuneStage(layers="1,3", rank=2, alpha=4, steps=4, batch=2, lr=1e-2, lr_projector=1e-3)


def recipe(**changes: Any) -> TrainRecipe:
    made = TrainRecipe(name="t", makes="t", base="t", dtype="float32", data=GeneratedScenes(scenes=3), tune=SETTINGS)
    return made.model_copy(update=changes)


@pytest.fixture
def data() -> EncodedImages:
    return EncodedImages(packed.features(tiny.llava(), packed.pixels()), packed.packer().rows(TURNS))


def tuned(llava: PackedLlava, images: EncodedImages, recipe: TrainRecipe) -> list[float]:
    """Tune a model on the images; the layers are the recipe's."""
    assert recipe.tune is not None and recipe.tune.steps is not None
    data = packed_data(llava, images, None, recipe, recipe.tune.steps, recipe.tune.batch)
    return tune(llava.model, select_layers(recipe.tune.layers, tiny.DEPTH), data, recipe, CPU)


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


class TestLora:
    def test_it_is_on_every_linear_of_the_chosen_layers_and_on_nothing_else(self) -> None:
        model = add_lora(tiny.llava(), LayerSet.of([1, 3], tiny.DEPTH), SETTINGS)
        found = {name.split(".lora_")[0].split("base_model.model.")[1] for name, _ in lora(model)}
        expected = {
            f"model.language_model.layers.{i}.{'self_attn' if 'o_proj' in m or m[0] in 'qkv' else 'mlp'}.{m}"
            for i in (1, 3)
            for m in LINEARS
        }
        assert found == expected

    def test_a_layer_s_number_is_not_the_beginning_of_another_s(self) -> None:
        model = add_lora(tiny.llava(depth=12), LayerSet.of([1], 12), SETTINGS)
        assert {name.split("layers.")[1].split(".")[0] for name, _ in lora(model)} == {"1"}

    def test_the_tower_s_layers_of_the_same_number_have_none(self) -> None:
        model = add_lora(tiny.llava(), LayerSet.all(tiny.DEPTH), SETTINGS)
        assert not [name for name, _ in lora(model) if "vision_tower" in name]


def lora(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if "lora_" in name]


class TestStages:
    def test_tuning_moves_lora_and_projector_alone(self, data: EncodedImages) -> None:
        model = add_lora(tiny.llava(), LayerSet.of([1, 3], tiny.DEPTH), SETTINGS)
        llava, before = packed.packed_llava(model), parameters(model)
        losses = tuned(llava, data, recipe())
        expected = {name for name in before if "lora_" in name or "multi_modal_projector" in name}
        assert moved(model, before) == expected
        assert len(losses) == SETTINGS.steps
        assert not model.training

    def test_aligning_moves_the_projector_alone(self, data: EncodedImages) -> None:
        model = tiny.llava()
        llava, before = packed.packed_llava(model), parameters(model)
        align(llava, data, recipe(tune=None, align=AlignStage(steps=3, batch=2, lr=1e-3)))
        assert moved(model, before) == {name for name in before if "multi_modal_projector" in name}

    def test_it_learns(self, data: EncodedImages) -> None:
        settings = SETTINGS.model_copy(update={"layers": "all", "steps": 40, "rank": 8, "batch": 3, "lr": 3e-3})
        model = add_lora(tiny.llava(), LayerSet.all(tiny.DEPTH), settings)
        llava = packed.packed_llava(model)
        losses = tuned(llava, data, recipe(tune=settings))
        assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2

    def test_the_seed_decides_the_losses(self, data: EncodedImages) -> None:
        def losses(seed: int) -> list[float]:
            torch.manual_seed(5)
            model = add_lora(tiny.llava(), LayerSet.of([1], tiny.DEPTH), SETTINGS)
            settings = SETTINGS.model_copy(update={"layers": "1", "batch": 1})
            return tuned(packed.packed_llava(model), data, recipe(seed=seed, tune=settings))

        assert losses(0) == losses(0) != losses(2)

    def test_other_pictures_have_their_share_of_each_batch(self, data: EncodedImages) -> None:
        extra = EncodedImages(data.features[:1], packed.packer().rows(TURNS[1:2]))
        made = packed_data(
            packed.packed_llava(tiny.llava()),
            data,
            extra,
            recipe(data=GeneratedScenes(scenes=3, easy_vqa=0.25)),
            6,
            4,
        )
        steps = made.order.reshape(6, 4)
        assert (steps[:, :3] < 3).all() and (steps[:, 3] == 3).all()
        assert made.collate([3])["items"] == [len(made.collate([1])["answers"])]


class TestMeasures:
    def test_right_is_every_token_of_the_answer(self) -> None:
        """Answers put in the place of the right ones: what the model says itself, all of it or all but the end."""
        pictures, model = packed.pixels(), tiny.llava()
        rows = []
        for picture, asked, row in zip(pictures, TURNS, packed.packer().rows(TURNS), strict=True):
            target = row.target.copy()
            for number, turn in enumerate(asked, start=1):
                said = packed.alone(model, picture, turn)[0].argmax(-1).numpy()
                places = np.flatnonzero((row.turn == number) & (row.target != IGNORED))
                if turn.kind == "open/a" and turn.prompt != "Where?":
                    target[places] = said
                elif turn.kind == "yesno/b":
                    target[places[:-1]] = said[:-1]
            rows.append(replace(row, target=target))
        shares = packed.packed_llava(model).accuracy(EncodedImages(packed.features(model, pictures), rows))
        right = {"open/a": 200 / 3, "yesno/b": 0.0, "letter/c": 0.0}
        assert shares == pytest.approx({**right, "mean": 200 / 9})

    def test_perplexity_is_per_word(self) -> None:
        model, words = tiny.llava(), tiny.tokenizer()
        passages = ["one two three", "four five"]
        nats = 0.0
        for text in passages:
            ids = torch.tensor([words.encode(text, add_special_tokens=False)])
            with torch.inference_mode():
                logs = model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
            nats -= float(logs.gather(1, ids[0, 1:, None]).sum())
        assert packed.packed_llava(model).perplexity(words, passages) == pytest.approx(math.exp(nats / 5), rel=1e-4)


def test_noise_on_embeddings_is_there_in_training_alone(data: EncodedImages) -> None:
    def trained(**changes: Any) -> tuple[list[float], Any]:
        of = recipe(tune=SETTINGS.model_copy(update=changes))
        torch.manual_seed(0)
        model = add_lora(tiny.llava(), LayerSet.of([1, 3], tiny.DEPTH), SETTINGS)
        return tuned(packed.packed_llava(model), data, of), model

    (plain, _), (again, _), (noisy, model) = trained(), trained(), trained(neftune=50.0)
    assert plain == again and abs(noisy[0] - plain[0]) > 1e-3
    embedding = model.get_input_embeddings()
    assert torch.equal(embedding.train()(torch.tensor([[3, 4]]))[0], embedding.weight[[3, 4]])
