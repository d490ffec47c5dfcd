"""Whole prompts, one after the other, measure what packed rows measure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.pruning import others
from vrbench.checkpoints.resolve import resolve
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.models.overlay import remove_layers
from vrbench.pocket.turns import turns
from vrbench.pocket.world import scene
from vrbench.pruning.layer_hooks import left_out
from vrbench.pruning.loss_evaluator import DevLoss, loss_without
from vrbench.pruning.plain import PlainLoss

PICTURES, TURNS = 2, 2


class Plain:
    """A tiny LLaVA that is asked whole prompts."""

    def __init__(self, vlm: LlavaModel, prefix: bool = False) -> None:
        self.vlm, self.model, self.tokenizer, self.prompt = vlm, vlm.model, vlm.tokenizer, vlm.prompt
        self.family, self.prompt_format = "llava", SimpleNamespace(prefix_lm=prefix)

    def encode_with_images(self, prompts: list[str], pictures: list[list[Any]]) -> dict[str, torch.Tensor]:
        text = prompts[0].replace("<image>", "<image>" * self.vlm.image_tokens)
        return {
            "input_ids": torch.tensor([self.tokenizer(text)["input_ids"]]),
            "pixel_values": self.vlm.image_processor(images=pictures[0], return_tensors="pt")["pixel_values"],
        }


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> LlavaModel:
    return load_vlm(resolve(str(tiny_llava)))


@pytest.mark.parametrize("removed", [(), (1, 3)])
@torch.inference_mode()
def test_the_loss_is_that_of_the_answers_without_their_ends(vlm: LlavaModel, removed: tuple[int, ...]) -> None:
    dev = DevLoss(vlm, PICTURES, TURNS)
    ends: list[torch.Tensor] = []
    for rows, targets, pictures in dev.batches:  # the loss of the ends alone, to be taken off
        with left_out(vlm.model, removed):
            states = vlm.hidden_states(rows, pictures)
        for row, packed in zip(states, rows, strict=True):
            for number, path in packed.paths.items():
                logs = vlm.model.lm_head(row[path[-1]]).log_softmax(-1)
                ends.append(-logs[targets[number][-1]])
    expected = loss_without(dev, removed) - float(torch.stack(ends).mean())
    assert loss_without(PlainLoss(Plain(vlm), PICTURES, TURNS), removed) == pytest.approx(expected, abs=1e-4)


def test_the_number_of_samples(vlm: LlavaModel) -> None:
    expected = sum(len(list(turns(scene("dev", i), TURNS))) for i in range(PICTURES))
    assert PlainLoss(Plain(vlm), PICTURES, TURNS).samples == DevLoss(vlm, PICTURES, TURNS).samples == expected


def test_a_model_that_reads_both_ways_has_no_loss(vlm: LlavaModel) -> None:
    with pytest.raises(VrbenchError, match="sees the answer with the prompt; choose layers by angular"):
        PlainLoss(Plain(vlm, prefix=True), 1, 1).loss()


@pytest.mark.parametrize(("make", "removed"), [(others.gemma, (0, 3)), (others.mllama, (0, 3)), (others.qwen, (1,))])
def test_layers_left_out_are_a_really_smaller_model_of_any_family(make: Any, removed: tuple[int, ...]) -> None:
    model, small = make(), make()
    before = model.config.to_dict()
    ids = {"input_ids": torch.arange(20, 50)[None], "use_cache": False}
    remove_layers(small, LayerSet.of(removed, len(small.get_decoder().layers)))
    with torch.inference_mode():
        whole = model(**ids).logits
        with left_out(model, removed):
            assert torch.equal(model(**ids).logits, small(**ids).logits)
        assert torch.equal(model(**ids).logits, whole)
    assert model.config.to_dict() == before
    assert not torch.allclose(whole, small(**ids).logits, atol=1e-2)
