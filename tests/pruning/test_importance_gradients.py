"""Scores from gradients are those of each sample alone: weights' own gradients, and a gate moved by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.pruning import slow
from vrbench.core.errors import VrbenchError
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.gradients import answer_losses
from vrbench.pruning.loss_evaluator import LossEvaluator
from vrbench.pruning.questions import DevQuestions, ImageQuestion
from vrbench.pruning.samples import Samples, padded_inputs

QUESTIONS = DevQuestions(3, 2)
DEPTH = 4
STEP = 2e-3


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> LlavaModel:
    loaded = load_vlm(resolve_checkpoint(str(tiny_llava)))
    assert isinstance(loaded, LlavaModel)
    return loaded


def each() -> list[ImageQuestion]:
    return [question for of in QUESTIONS for question in of]


def test_losses_of_a_padded_batch_are_those_of_each_answer_alone(vlm: LlavaModel) -> None:
    inputs, said = padded_inputs(vlm, each())
    assert len(set(said)) > 1 and (inputs["attention_mask"] == 0).any()
    with torch.inference_mode():
        found = answer_losses(vlm.model, inputs, said)
        alone = [slow.answer_loss(vlm.model, *slow.inputs_of(vlm, question, end=True)) for question in each()]
    assert found.tolist() == pytest.approx([float(loss) for loss in alone], abs=1e-4)
    assert float(found.mean()) == pytest.approx(LossEvaluator(vlm, QUESTIONS).answers().mean, abs=1e-4)


def test_fisher_is_the_squared_gradient_of_each_sample(vlm: LlavaModel) -> None:
    model = copy.deepcopy(vlm.model)
    direct = torch.zeros(DEPTH)
    for question in each():
        loss = slow.answer_loss(model, *slow.inputs_of(vlm, question, end=True))
        for i, layer in enumerate(model.model.language_model.layers):
            linears = [p for p in layer.parameters() if p.dim() == 2]
            assert len(linears) == 7
            gradients = torch.autograd.grad(loss, linears, retain_graph=True)
            direct[i] += sum(float((g.double() ** 2).sum()) for g in gradients)
    assert slow.scores("fisher", Samples(vlm, QUESTIONS)) == pytest.approx((direct / len(each())).tolist(), rel=1e-4)


def test_gate_gradient_is_what_a_gate_moved_by_hand_gives(vlm: LlavaModel) -> None:
    model = copy.deepcopy(vlm.model).double()
    direct = []
    for layer in model.model.language_model.layers:
        slopes = []
        for question in each():
            inputs, said = slow.inputs_of(vlm, question, end=True)
            inputs["pixel_values"] = inputs["pixel_values"].double()
            losses = []
            for gate in (1 + STEP, 1 - STEP):
                with slow.faded(layer, gate), torch.inference_mode():
                    losses.append(float(slow.answer_loss(model, inputs, said)))
            slopes.append(abs(losses[0] - losses[1]) / (2 * STEP))
        direct.append(sum(slopes) / len(slopes))
    assert slow.scores("taylor", Samples(vlm, QUESTIONS)) == pytest.approx(direct, rel=1e-3)


def test_the_model_is_left_as_it_was(vlm: LlavaModel) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules())

    before = hooks()
    wanted = {name for name, p in vlm.model.named_parameters() if p.requires_grad}
    slow.scores("fisher", Samples(vlm, QUESTIONS))
    slow.scores("taylor", Samples(vlm, QUESTIONS))
    assert wanted and {name for name, p in vlm.model.named_parameters() if p.requires_grad} == wanted
    assert all(p.grad is None for p in vlm.model.parameters())
    assert hooks() == before


def test_questions_without_answers_have_no_loss(vlm: LlavaModel) -> None:
    asked = [[ImageQuestion(question.image, question.prompt)] for question in each()]
    with pytest.raises(VrbenchError, match="a question has no answer"):
        slow.scores("fisher", Samples(vlm, asked))
