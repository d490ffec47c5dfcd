"""What single layers cost, measured with shared work or by gradients, is what slow direct computations find."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.pruning.test_plain import Plain
from vrbench.checkpoints.resolve import resolve
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models.components import decoder_layers
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.models.overlay import remove_layers
from vrbench.models.packing import PackedSequence
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene
from vrbench.pruning.layer_hooks import left_out
from vrbench.pruning.loss_evaluator import DevLoss, Packed, gathered, loss_without
from vrbench.pruning.plain import PlainLoss
from vrbench.pruning.predict import MEASURES, divergence_each, gate_fisher_each, gate_gradients

PICTURES, TURNS, FIRST = 3, 2, 5
LAYERS = range(tiny.DEPTH)


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> LlavaModel:
    return load_vlm(resolve(str(tiny_llava)))


@pytest.fixture(scope="module")
def dev(vlm: LlavaModel) -> DevLoss:
    return DevLoss(vlm, PICTURES, TURNS, FIRST)


def said(vlm: LlavaModel, removed: tuple[int, ...], ends: bool = True) -> list[torch.Tensor]:
    """Log-probabilities at each answer's tokens, question by question, of a really smaller model from the pixels."""
    model = tiny.llava()
    if removed:
        remove_layers(model, LayerSet.of(removed, tiny.DEPTH))
    words, found = vlm.tokenizer, []
    for index in range(FIRST, FIRST + PICTURES):
        of = scene("dev", index)
        pixels = vlm.image_processor(images=[Image.fromarray(draw(of))], return_tensors="pt")["pixel_values"]
        for turn in turns(of, TURNS):
            prompt = vlm.prompt(turn.prompt, 1).replace("<image>", "<image>" * vlm.image_tokens)
            asked, answer = (words(text)["input_ids"] for text in (prompt, turn.answer))
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([asked + answer]), pixel_values=pixels, use_cache=False).logits
            last = None if ends else -1
            found.append(logits[0, len(asked) - 1 : last].double().log_softmax(-1))
    return found


def divergences(vlm: LlavaModel, removed: tuple[int, ...], ends: bool = True) -> float:
    whole, without = said(vlm, (), ends), said(vlm, removed, ends)
    each = [float((p.exp() * (p - q)).sum()) for p, q in zip(whole, without, strict=True)]
    return sum(each) / len(each)


@contextmanager
def gate(vlm: Any, layer: int, value: float) -> Iterator[None]:
    """A layer's change of the states, scaled."""
    module = decoder_layers(vlm.model)[layer]
    handle = module.register_forward_hook(lambda _, args, out: args[0] + value * (out - args[0]))
    try:
        yield
    finally:
        handle.remove()


def slopes(dev: Any, layer: int) -> np.ndarray:
    """[samples] derivative of each loss by a layer's gate, by central differences."""
    step, losses = 0.01, []
    for value in (1 + step, 1 - step):
        with gate(dev.vlm, layer, value):
            losses.append(dev.answers().losses)
    return np.asarray((losses[0] - losses[1]) / (2 * step))


@pytest.mark.parametrize("removed", [(), (2,), (3, 0)])
def test_work_that_is_shared_changes_no_answer(vlm: LlavaModel, dev: DevLoss, removed: tuple[int, ...]) -> None:
    rest = [layer for layer in LAYERS if layer not in removed]
    found = dev.without_each(removed, rest)
    assert list(found) == rest
    for layer, answers in found.items():
        with left_out(vlm.model, [*removed, layer]):
            alone = dev.answers()
        assert answers.losses == pytest.approx(alone.losses, abs=1e-4)
        assert (answers.right == alone.right).all()
    assert len({round(answers.loss, 3) for answers in found.values()}) == len(rest)


def test_nothing_below_the_layer_that_is_tried_is_computed_again(vlm: LlavaModel, dev: DevLoss) -> None:
    runs = [0] * tiny.DEPTH

    def count(layer: int) -> Any:
        return lambda *_: runs.__setitem__(layer, runs[layer] + 1)

    handles = [module.register_forward_hook(count(i)) for i, module in enumerate(vlm.decoder_layers)]
    dev.without_each([], LAYERS)
    for handle in handles:
        handle.remove()
    assert runs == [1, 2, 3, 4]  # the shared pass, and one for each layer below that is tried


def test_an_answer_is_right_when_all_of_its_tokens_are_likeliest() -> None:
    row = PackedSequence(
        tokens=[9, 8, 1, 2], parents=[-1, 0, 1, 0], depths=[0, 1, 2, 1], paths={5: [0, 3], 4: [0, 1, 2]}
    )
    part = Packed([row], {4: [1, 7], 5: [2, 2]}, {})
    assert part.places == [(0, 0, 5, 2), (0, 3, 5, 2), (0, 1, 4, 1), (0, 2, 4, 7)]
    chances = torch.full((4, 10), 0.01)
    chances[[0, 1, 2, 3], [2, 2, 1, 6]] = 0.91
    judged = part.judged(chances.log())
    assert judged == {5: (pytest.approx(-2 * math.log(0.91)), True), 4: (pytest.approx(-math.log(0.0091)), False)}
    found = gathered([judged])
    assert found.right.tolist() == [False, True]
    assert found.loss == pytest.approx(-(3 * math.log(0.91) + math.log(0.01)) / 2)


@pytest.mark.parametrize("removed", [(), (2,)])
def test_the_divergence_is_that_of_really_smaller_models(
    vlm: LlavaModel, dev: DevLoss, removed: tuple[int, ...]
) -> None:
    rest = [layer for layer in LAYERS if layer not in removed]
    expected = {layer: divergences(vlm, (*removed, layer)) for layer in rest}
    assert divergence_each(dev, removed, rest) == pytest.approx(expected, abs=1e-3, rel=1e-3)
    assert min(expected.values()) > 0.1


def test_the_divergence_of_whole_prompts(vlm: LlavaModel) -> None:
    plain = PlainLoss(Plain(vlm), PICTURES, TURNS, FIRST)
    expected = {layer: divergences(vlm, (1, layer), ends=False) for layer in (0, 3)}
    assert plain.divergence_each([1], [0, 3]) == pytest.approx(expected, abs=1e-3, rel=1e-3)


def gradients(dev: DevLoss, removed: list[int], layers: Any) -> dict[int, float]:
    means = gate_gradients(dev, removed).sum(0) / dev.samples
    return {layer: abs(float(means[layer])) for layer in layers}


def test_gate_gradients_are_the_slopes_of_the_loss(vlm: LlavaModel, dev: DevLoss) -> None:
    expected = {layer: abs(slopes(dev, layer).mean()) for layer in LAYERS}
    assert gradients(dev, [], LAYERS) == pytest.approx(expected, rel=2e-2, abs=2e-3)
    assert min(expected.values()) > 0.02


def test_gate_gradients_without_some_layers(vlm: LlavaModel, dev: DevLoss) -> None:
    with left_out(vlm.model, [1]):
        expected = {layer: abs(slopes_in_smaller(dev, layer).mean()) for layer in (0, 2, 3)}
    assert gradients(dev, [1], [0, 2, 3]) == pytest.approx(expected, rel=2e-2, abs=2e-3)
    assert gate_gradients(dev, [1])[:, 1].abs().max() == 0


def slopes_in_smaller(dev: DevLoss, layer: int) -> np.ndarray:
    """As `slopes`, where layer 1 is left out already."""
    return slopes(dev, layer - (layer > 1))


@pytest.mark.parametrize("kind", ["packed", "plain"])
def test_the_fisher_information_of_gates_is_the_mean_of_squared_slopes(vlm: LlavaModel, kind: str) -> None:
    one: Any = DevLoss(vlm, PICTURES, 1) if kind == "packed" else PlainLoss(Plain(vlm), PICTURES, 1)
    expected = {layer: (slopes(one, layer) ** 2).mean() for layer in LAYERS}
    assert gate_fisher_each(one, [], LAYERS) == pytest.approx(expected, rel=4e-2, abs=2e-3)


def test_a_row_s_questions_share_a_gate(vlm: LlavaModel) -> None:
    dev = DevLoss(vlm, PICTURES, 12)
    rows = sum(len(batch.rows) for batch in dev.batches)
    assert rows < dev.samples
    found = gate_gradients(dev)
    assert found.shape == (rows, tiny.DEPTH)
    total = [float(slopes(dev, layer).sum()) for layer in LAYERS]
    assert found.sum(0).tolist() == pytest.approx(total, rel=3e-2, abs=2e-2)


def test_the_model_is_as_it_was_afterwards(vlm: LlavaModel, dev: DevLoss) -> None:
    layers, wants = list(vlm.decoder_layers), [p.requires_grad for p in vlm.model.parameters()]
    before = dev.loss()
    for measure in MEASURES.values():
        measure.each(dev, [1], [0, 2])
    assert list(vlm.decoder_layers) == layers
    assert not any(layer._forward_hooks for layer in layers)
    assert [p.requires_grad for p in vlm.model.parameters()] == wants
    assert all(p.grad is None for p in vlm.model.parameters())
    assert dev.loss() == before == MEASURES["loss"].whole(dev) == loss_without(dev, [])


def test_a_model_that_reads_both_ways_has_neither(vlm: LlavaModel) -> None:
    dev = PlainLoss(Plain(vlm, prefix=True), 1, 1)
    for measure in MEASURES.values():
        with pytest.raises(VrbenchError, match="sees the answer with the prompt"):
            measure.each(dev, [], [0])


def test_other_pictures_of_the_dev_split(vlm: LlavaModel) -> None:
    assert DevLoss(vlm, 2, 1, 7).picture_of.tolist() == PlainLoss(Plain(vlm), 2, 1, 7).picture_of.tolist() == [7, 8]
    both = DevLoss(vlm, 2, 1, 7).answers().losses
    assert both.tolist() == pytest.approx([DevLoss(vlm, 1, 1, first).answers().loss for first in (7, 8)], abs=1e-4)


def test_large_models_get_fewer_rows_at_a_time(vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    dev = DevLoss(vlm, PICTURES, 1)
    whole = dev.without_each([], [1])[1].losses
    assert len(list(dev.differentiable())) == 1
    monkeypatch.setattr("vrbench.pruning.loss_evaluator.ROOM", 1)
    assert len(list(dev.differentiable())) == PICTURES
    assert dev.without_each([], [1])[1].losses == pytest.approx(whole, abs=1e-4)
