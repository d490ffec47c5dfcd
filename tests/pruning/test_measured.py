"""Layers are removed where a really smaller model would lose least, and the model is whole again afterwards."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from vrbench.checkpoints.resolve import resolve
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import LineageStep
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.models.overlay import remove_layers
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene
from vrbench.pruning import PruneRecipe, prune, recipe_of
from vrbench.pruning.layer_hooks import left_out
from vrbench.pruning.loss_evaluator import DevLoss, loss_without
from vrbench.pruning.predict import loss_each
from vrbench.pruning.removal_methods import greedily

PICTURES, TURNS = 3, 2


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> LlavaModel:
    return load_vlm(resolve(str(tiny_llava)))


@pytest.fixture(scope="module")
def loss(vlm: LlavaModel) -> DevLoss:
    return DevLoss(vlm, PICTURES, TURNS)


def direct(model: Any, vlm: LlavaModel) -> float:
    """Mean loss of the right answers, question by question, through the whole model from the pixels."""
    from PIL import Image

    words, losses = vlm.tokenizer, []
    for index in range(PICTURES):
        of = scene("dev", index)
        pixels = vlm.image_processor(images=[Image.fromarray(draw(of))], return_tensors="pt")["pixel_values"]
        for turn in turns(of, TURNS):
            prompt = vlm.prompt(turn.prompt, 1).replace("<image>", "<image>" * vlm.image_tokens)
            asked = words(prompt)["input_ids"]
            said = [*words(turn.answer)["input_ids"], words.eos_token_id]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([asked + said]), pixel_values=pixels, use_cache=False).logits
            logs = logits[0, len(asked) - 1 : -1].log_softmax(-1)
            losses.append(-float(logs.gather(1, torch.tensor(said)[:, None]).sum()))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("removed", [(), (0,), (1, 3), (3, 0)])
def test_the_loss_without_layers_is_that_of_a_really_smaller_model(
    vlm: LlavaModel, loss: DevLoss, removed: tuple[int, ...]
) -> None:
    smaller = tiny.llava()
    if removed:
        remove_layers(smaller, LayerSet.of(removed, tiny.DEPTH))
    assert loss_without(loss, removed) == pytest.approx(direct(smaller, vlm), abs=1e-4)


def test_layers_left_out_are_back_afterwards(vlm: LlavaModel) -> None:
    before = list(vlm.decoder_layers)
    with left_out(vlm.model, [1, 2]):
        assert list(vlm.decoder_layers) == [before[0], before[3]]
    assert list(vlm.decoder_layers) == before
    with pytest.raises(RuntimeError, match="in between"), left_out(vlm.model, [0]):
        raise RuntimeError("in between")
    assert list(vlm.decoder_layers) == before


def test_the_first_choice_is_the_best_of_all_and_each_next_the_best_that_is_left(loss: DevLoss) -> None:
    single = {layer: loss_without(loss, [layer]) for layer in range(tiny.DEPTH)}
    first = min(single, key=single.__getitem__)
    pairs = {layer: loss_without(loss, [first, layer]) for layer in range(tiny.DEPTH) if layer != first}
    second = min(pairs, key=pairs.__getitem__)
    found = greedily(partial(loss_each, loss), loss.loss(), range(tiny.DEPTH), 2)
    assert found.order == (first, second)
    assert found.values == pytest.approx([loss_without(loss, []), single[first], pairs[second]], abs=1e-5)
    assert found.singles == pytest.approx(single, abs=1e-5)
    assert len(set(single.values())) == tiny.DEPTH  # so that the best is one


class TestPrune:
    def recipe(self, base: Path, **changes: Any) -> PruneRecipe:
        return recipe_of(**{"makes": "small", "base": str(base), "remove": 2, "pictures": 2, "turns": 2, **changes})

    def tuned(self, base: Path, folder: Path, layers: str) -> Path:
        step = LineageStep(kind="trained", layers=layers, depth=tiny.DEPTH, method="lora")
        tiny.save_adapter(folder, base, LayerSet.parse(layers, tiny.DEPTH))
        return tiny.mark(folder, str(base), resolve(str(base)).digest, [step])

    @pytest.mark.supports("llava", "pruned")
    def test_the_folder_loads_as_the_smaller_model(self, tiny_llava: Path, tmp_path: Path) -> None:
        out = prune(self.recipe(tiny_llava), tmp_path / "out", "cpu")
        made = resolve(str(out))
        (step,) = made.lineage[0].steps
        assert (made.depth, step.kind, step.method, made.lineage[0].id) == (2, "pruned", "loss", "small")
        assert step.recipe_digest == self.recipe(tiny_llava).digest
        smaller = tiny.llava()
        remove_layers(smaller, LayerSet.parse(step.layers, tiny.DEPTH))
        loaded = load_vlm(made).model.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in smaller.state_dict().items())

    def test_layers_that_were_tuned_stay(self, tiny_llava: Path, tmp_path: Path) -> None:
        base = self.tuned(tiny_llava, tmp_path / "tuned", "0,2")
        out = prune(self.recipe(base), tmp_path / "out", "cpu")
        assert resolve(str(out)).lineage[0].steps[0].layers == "1,3"

    @pytest.mark.parametrize(
        ("layers", "changes", "most"),
        [("0,2", {"remove": 3}, 2), ("all", {"remove": 1}, 0), ("0,2", {"remove": 4, "outside_region": False}, 3)],
    )
    def test_more_than_may_go_are_refused(
        self, tiny_llava: Path, tmp_path: Path, layers: str, changes: dict[str, Any], most: int
    ) -> None:
        base = self.tuned(tiny_llava, tmp_path / "tuned", layers)
        with pytest.raises(VrbenchError, match=f"layers are to go, but of 4 only {most} may"):
            prune(self.recipe(base, **changes), tmp_path / "out", "cpu")
        assert not (tmp_path / "out").exists()

    def test_a_taken_folder_is_refused(self, tiny_llava: Path, tmp_path: Path) -> None:
        tiny.mark(tmp_path / "out", "x", "y")
        with pytest.raises(VrbenchError, match="already holds a checkpoint"):
            prune(self.recipe(tiny_llava), tmp_path / "out", "cpu")

    def test_faults_of_a_recipe_are_told_at_once(self, tiny_llava: Path) -> None:
        with pytest.raises(MultipleErrors) as told:
            self.recipe(tiny_llava, remove=0, by="size")
        assert [fault.split(":")[0] for fault in told.value.messages] == ["remove is 0", "by is 'size'"]
