"""The loss without layers, measured with shared work or by gradients, is what direct computations find."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.pruning import others
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models.components import decoder_layers
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.models.overlay import remove_layers
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.gradients import gate_gradients
from vrbench.pruning.layer_hooks import skip_layers
from vrbench.pruning.loss_evaluator import AnswerBatch, AnswerLosses, LossEvaluator
from vrbench.pruning.questions import DevQuestions
from vrbench.pruning.removal_methods import REMOVAL_METHODS, gate_fisher

QUESTIONS = DevQuestions(3, 2, 5)
LAYERS = range(tiny.DEPTH)


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> LlavaModel:
    return load_vlm(resolve_checkpoint(str(tiny_llava)))


@pytest.fixture(scope="module")
def evaluator(vlm: LlavaModel) -> LossEvaluator:
    return LossEvaluator(vlm, QUESTIONS)


class Plain:
    """A tiny LLaVA that gets whole prompts."""

    def __init__(self, vlm: LlavaModel, prefix: bool = False) -> None:
        self.vlm, self.model, self.tokenizer, self.prompt = vlm, vlm.model, vlm.tokenizer, vlm.prompt
        self.family, self.prompt_format = "llava", SimpleNamespace(prefix_lm=prefix)

    def encode_with_images(self, prompts: list[str], pictures: list[list[Any]]) -> dict[str, torch.Tensor]:
        text = prompts[0].replace("<image>", "<image>" * self.vlm.image_tokens)
        return {
            "input_ids": torch.tensor([self.tokenizer(text)["input_ids"]]),
            "pixel_values": self.vlm.image_processor(images=pictures[0], return_tensors="pt")["pixel_values"],
        }


def direct(vlm: LlavaModel, removed: tuple[int, ...], ends: bool = True) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log-probabilities at each answer's tokens, and the tokens, of a really smaller model from the pixels."""
    model = tiny.llava()
    if removed:
        remove_layers(model, LayerSet.of(removed, tiny.DEPTH))
    found = []
    for question in (q for asked in QUESTIONS for q in asked):
        pixels = vlm.image_processor(images=[question.image], return_tensors="pt")["pixel_values"]
        prompt = vlm.prompt(question.prompt, 1).replace("<image>", "<image>" * vlm.image_tokens)
        asked, answer = (vlm.tokenizer(text)["input_ids"] for text in (prompt, question.answer))
        answer = [*answer, vlm.tokenizer.eos_token_id] if ends else answer
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([asked + answer]), pixel_values=pixels, use_cache=False).logits
        found.append((logits[0, len(asked) - 1 : -1].double().log_softmax(-1), torch.tensor(answer)))
    return found


def evaluators(vlm: LlavaModel) -> Iterator[tuple[LossEvaluator, bool]]:
    """Packed rows, whose answers have end tokens, and whole prompts, whose answers have none."""
    yield LossEvaluator(vlm, QUESTIONS), True
    yield LossEvaluator(Plain(vlm), QUESTIONS), False


@pytest.mark.parametrize("removed", [(), (0,), (1, 3), (3, 0)])
def test_the_loss_without_layers_is_that_of_a_really_smaller_model(vlm: LlavaModel, removed: tuple[int, ...]) -> None:
    for evaluator, ends in evaluators(vlm):
        said = direct(vlm, removed, ends)
        expected = [-float(logs.gather(1, tokens[:, None]).sum()) for logs, tokens in said]
        found = evaluator.answers(removed)
        assert found.losses == pytest.approx(expected, abs=1e-3)
        assert found.correct.tolist() == [bool((logs.argmax(-1) == tokens).all()) for logs, tokens in said]


@pytest.mark.parametrize("removed", [(), (2,), (3, 0)])
def test_work_that_is_shared_changes_no_answer(evaluator: LossEvaluator, removed: tuple[int, ...]) -> None:
    rest = [layer for layer in LAYERS if layer not in removed]
    found = evaluator.without_each(removed, rest)
    assert list(found) == rest
    for layer, answers in found.items():
        alone = evaluator.answers([*removed, layer])
        assert answers.losses == pytest.approx(alone.losses, abs=1e-4)
        assert (answers.correct == alone.correct).all()
    assert len({round(answers.mean, 3) for answers in found.values()}) == len(rest)


def test_nothing_below_the_layer_that_is_tried_is_computed_again(vlm: LlavaModel, evaluator: LossEvaluator) -> None:
    runs = [0] * tiny.DEPTH

    def count(layer: int) -> Any:
        return lambda *_: runs.__setitem__(layer, runs[layer] + 1)

    handles = [module.register_forward_hook(count(i)) for i, module in enumerate(vlm.decoder_layers)]
    evaluator.without_each([], LAYERS)
    for handle in handles:
        handle.remove()
    assert runs == [1, 2, 3, 4]  # the shared pass, and one for each layer below that is tried


def test_an_answer_is_correct_when_all_of_its_tokens_are_likeliest() -> None:
    chances = torch.full((4, 10), 0.01)
    chances[[0, 1, 2, 3], [2, 2, 1, 6]] = 0.91
    batch = AnswerBatch(1, [0] * 4, [5, 5, 4, 4], [2, 2, 1, 7], lambda: chances.log())
    found = AnswerLosses.of_nothing(6)
    batch.add_scores(chances.log(), found)
    assert found.losses.tolist() == pytest.approx([0, 0, 0, 0, -math.log(0.0091), -2 * math.log(0.91)])
    assert found.correct.tolist() == [True] * 4 + [False, True]


@pytest.mark.parametrize("removed", [(), (2,)])
def test_the_divergence_is_that_of_really_smaller_models(vlm: LlavaModel, removed: tuple[int, ...]) -> None:
    rest = [layer for layer in LAYERS if layer not in removed]
    for evaluator, ends in evaluators(vlm):
        whole = direct(vlm, (), ends)
        expected = {}
        for layer in rest:
            without = direct(vlm, (*removed, layer), ends)
            each = [float((p.exp() * (p - q)).sum()) for (p, _), (q, _) in zip(whole, without, strict=True)]
            expected[layer] = sum(each) / len(each)
        assert evaluator.divergence_each(removed, rest) == pytest.approx(expected, abs=1e-3, rel=1e-3)
        assert min(expected.values()) > 0.1


def test_the_divergence_is_zero_for_a_layer_that_does_nothing(vlm: LlavaModel, evaluator: LossEvaluator) -> None:
    with gate(vlm, 2, 0.0):
        found = evaluator.divergence_each([], LAYERS)
    assert found[2] == pytest.approx(0, abs=1e-6)
    assert min(found[i] for i in (0, 1, 3)) > 0.01


@contextmanager
def gate(vlm: Any, layer: int, value: float) -> Iterator[None]:
    """A layer's change of the states, scaled."""
    module = decoder_layers(vlm.model)[layer]
    handle = module.register_forward_hook(lambda _, args, out: args[0] + value * (out - args[0]))
    try:
        yield
    finally:
        handle.remove()


def slopes(evaluator: LossEvaluator, layer: int) -> np.ndarray:
    """[samples] derivative of each loss by a layer's gate, by central differences."""
    step, losses = 0.01, []
    for value in (1 + step, 1 - step):
        with gate(evaluator.vlm, layer, value):
            losses.append(evaluator.answers().losses)
    return np.asarray((losses[0] - losses[1]) / (2 * step))


def gradients(evaluator: LossEvaluator, removed: list[int], layers: Any) -> dict[int, float]:
    means = gate_gradients(evaluator, removed).sum(0) / len(evaluator.image_of)
    return {layer: abs(float(means[layer])) for layer in layers}


def test_gate_gradients_are_the_slopes_of_the_loss(vlm: LlavaModel, evaluator: LossEvaluator) -> None:
    expected = {layer: abs(slopes(evaluator, layer).mean()) for layer in LAYERS}
    assert gradients(evaluator, [], LAYERS) == pytest.approx(expected, rel=2e-2, abs=2e-3)
    assert min(expected.values()) > 0.02
    with skip_layers(vlm.model, [1]):
        expected = {layer: abs(slopes(evaluator, layer - (layer > 1)).mean()) for layer in (0, 2, 3)}
    assert gradients(evaluator, [1], [0, 2, 3]) == pytest.approx(expected, rel=2e-2, abs=2e-3)
    assert gate_gradients(evaluator, [1])[:, 1].abs().max() == 0


@pytest.mark.parametrize("packed", [True, False])
def test_the_fisher_information_of_gates_is_the_mean_of_squared_slopes(vlm: LlavaModel, packed: bool) -> None:
    one = LossEvaluator(vlm if packed else Plain(vlm), DevQuestions(3, 1))
    expected = {layer: (slopes(one, layer) ** 2).mean() for layer in LAYERS}
    assert gate_fisher(one, [], LAYERS) == pytest.approx(expected, rel=4e-2, abs=2e-3)


def test_a_row_s_questions_share_a_gate(vlm: LlavaModel) -> None:
    evaluator = LossEvaluator(vlm, DevQuestions(3, 12))
    rows = sum(batch.rows for batch in evaluator.batches)
    assert rows < len(evaluator.image_of)
    found = gate_gradients(evaluator)
    assert found.shape == (rows, tiny.DEPTH)
    total = [float(slopes(evaluator, layer).sum()) for layer in LAYERS]
    assert found.sum(0).tolist() == pytest.approx(total, rel=3e-2, abs=2e-2)


def test_the_model_is_as_it_was_afterwards(vlm: LlavaModel, evaluator: LossEvaluator) -> None:
    layers, wants = list(vlm.decoder_layers), [p.requires_grad for p in vlm.model.parameters()]
    before = evaluator.answers().mean
    for method in REMOVAL_METHODS.values():
        method.measure(evaluator, [1], [0, 2])
    assert list(vlm.decoder_layers) == layers
    assert not any(layer._forward_hooks for layer in layers)
    assert [p.requires_grad for p in vlm.model.parameters()] == wants
    assert all(p.grad is None for p in vlm.model.parameters())
    assert evaluator.answers().mean == before == REMOVAL_METHODS["loss"].start(evaluator)


def test_layers_are_restored_after_an_error(vlm: LlavaModel) -> None:
    before = list(vlm.decoder_layers)
    with pytest.raises(RuntimeError, match="in between"), skip_layers(vlm.model, [1, 2]):
        assert list(vlm.decoder_layers) == [before[0], before[3]]
        raise RuntimeError("in between")
    assert list(vlm.decoder_layers) == before


def test_a_model_that_sees_the_answer_with_the_prompt_is_refused(vlm: LlavaModel) -> None:
    with pytest.raises(VrbenchError, match="sees the answer with the prompt; choose layers by angular"):
        LossEvaluator(Plain(vlm, prefix=True), DevQuestions(1, 1))


def test_other_images_of_the_dev_split(vlm: LlavaModel) -> None:
    questions = DevQuestions(2, 1, 7)
    both = LossEvaluator(vlm, questions)
    assert both.image_of.tolist() == LossEvaluator(Plain(vlm), questions).image_of.tolist() == [7, 8]
    alone = [LossEvaluator(vlm, DevQuestions(1, 1, first)).answers().mean for first in (7, 8)]
    assert both.answers().losses.tolist() == pytest.approx(alone, abs=1e-4)


def test_large_models_get_fewer_rows_at_a_time(vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LossEvaluator(vlm, DevQuestions(3, 1))
    monkeypatch.setattr("vrbench.pruning.loss_evaluator.MOST_VALUES", 1)
    split = LossEvaluator(vlm, DevQuestions(3, 1))
    assert (len(whole.batches), len(split.batches)) == (1, 3)
    expected = whole.without_each([], [1])[1].losses
    assert split.without_each([], [1])[1].losses == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("make", "removed"), [(others.gemma, (0, 3)), (others.mllama, (0, 3)), (others.qwen, (1,))])
def test_skipped_layers_are_a_really_smaller_model_of_any_family(make: Any, removed: tuple[int, ...]) -> None:
    model, small = make(), make()
    before = model.config.to_dict()
    ids = {"input_ids": torch.arange(20, 50)[None], "use_cache": False}
    remove_layers(small, LayerSet.of(removed, len(small.get_decoder().layers)))
    with torch.inference_mode():
        whole = model(**ids).logits
        with skip_layers(model, removed):
            assert torch.equal(model(**ids).logits, small(**ids).logits)
        assert torch.equal(model(**ids).logits, whole)
    assert model.config.to_dict() == before
    assert not torch.allclose(whole, small(**ids).logits, atol=1e-2)
