"""Answers in slots: any number of slots, refills and passes give the answers of each prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import SIDE, llava, tokenizer
from vrbench.core.errors import VrbenchError
from vrbench.models import generation, packing
from vrbench.models.decoding import StopCriteria
from vrbench.models.generation import AnswerGenerator
from vrbench.models.llava_model import LlavaModel
from vrbench.models.memory_budget import MemoryBudget, activation_bytes, token_bytes
from vrbench.models.packed_inference import LogLikelihoods
from vrbench.models.packing import PackedSequence, one_row_per_sequence, pack_with_prefixes
from vrbench.models.prompt_reading import PackedPrompts


@pytest.fixture(scope="module")
def vlm() -> LlavaModel:
    from transformers import SiglipImageProcessorPil

    return LlavaModel(llava(), tokenizer(), SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}))


@pytest.fixture
def short_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MIN_PREFIX", 4)
    monkeypatch.setattr(packing, "PREFIXED_ROW_TOKENS", 24)


def prompts(vlm: LlavaModel) -> list[list[int]]:
    """Two long beginnings with several ends, and prompts of their own."""
    starts = ["Once upon a time there was a king who had", "One, two, three, four, five, six and seven"]
    found = [vlm.encode(start + end) for start in starts for end in (" a dog", " a daughter, and", " x", " a")]
    return [*found, vlm.encode("Why?"), vlm.encode("Is it red, or is it blue?")]


def answers(vlm: LlavaModel, rows: list[PackedSequence], budget: MemoryBudget) -> dict[int, str]:
    stops = {n: StopCriteria(3 + 4 * (n % 3)) for n in range(10)}
    return {
        n: text for done in AnswerGenerator(vlm, PackedPrompts(vlm, rows), stops, budget) for n, text in done.items()
    }


@pytest.mark.parametrize(("slots", "tokens"), [(1, 1), (2, 64), (3, 4096), (100, 48), (100, 4096)])
def test_slots_and_passes_change_no_answer(vlm: LlavaModel, short_prefixes: None, slots: int, tokens: int) -> None:
    sequences = prompts(vlm)
    alone = answers(vlm, one_row_per_sequence(sequences), MemoryBudget(1, 1, 1))
    for number, sequence in enumerate(sequences):
        made = vlm.model.generate(torch.tensor([sequence]), do_sample=False, max_new_tokens=3 + 4 * (number % 3))
        assert alone[number] == vlm.tokenizer.decode(made[0, len(sequence) :], skip_special_tokens=True)
    rows = pack_with_prefixes(sequences, [1] * len(sequences))
    assert len({row.prefix for row in rows}) > 2  # prefixes are shared, or this tests nothing
    rows = [part for row in rows for part in row.split(slots)]
    assert answers(vlm, rows, MemoryBudget(slots, tokens, 10**6)) == alone
    assert len(set(alone.values())) > 5


@pytest.mark.parametrize("slots", [3, 100])
def test_shapes_of_a_gpu_change_no_answer(
    vlm: LlavaModel, short_prefixes: None, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More keys and slots than are in use, and a step that is started before the tokens of the last one are read."""
    from_device = generation.FromDevice
    monkeypatch.setattr(generation, "FromDevice", lambda values: from_device(values.clone()))  # copied, as on a GPU
    sequences = [*prompts(vlm), vlm.encode("far " * 40)]
    stops = {n: StopCriteria(3 + 4 * (n % 3)) for n in range(len(sequences))}
    found = []
    for on_gpu in (False, True):
        rows = PackedPrompts(vlm, [r for row in pack_with_prefixes(sequences, [1] * 11) for r in row.split(slots)])
        generator = AnswerGenerator(vlm, rows, stops, MemoryBudget(slots, 4096, 10**6))
        generator._on_gpu = on_gpu
        found.append({n: text for done in generator for n, text in done.items()})
    assert found[0] == found[1] and len(found[0]) == 11


def test_an_ended_answer_makes_room_for_the_next(vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    step = generation._Step.__call__
    monkeypatch.setattr(generation._Step, "__call__", lambda self, n, width: used.append(n) or step(self, n, width))
    found = answers(vlm, one_row_per_sequence(prompts(vlm)), MemoryBudget(4, 4096, 10**6))
    assert len(found) == 10 and max(used) == 4
    assert sum(used) == sum(2 + 4 * (n % 3) for n in range(10))  # no step for an ended answer, on a CPU


@pytest.mark.parametrize("tokens", [1, 60, 4096])
def test_log_likelihoods_behind_a_prefix_are_those_of_the_whole(
    vlm: LlavaModel, short_prefixes: None, tokens: int
) -> None:
    sequences = [s[:-1] for s in prompts(vlm)]
    targets = {n: [sequence[-1], 65] if n % 2 else [66] for n, sequence in enumerate(sequences)}
    alone = LogLikelihoods(vlm, one_row_per_sequence(sequences), targets).result()
    rows = pack_with_prefixes(sequences, [len(targets[n]) for n in range(len(sequences))])
    assert any(row.prefix for row in rows)
    budget, found = MemoryBudget(None, tokens, 1), {}
    while rows:
        size = budget.take([row.length for row in rows])
        part, rows = rows[:size], rows[size:]
        found |= LogLikelihoods(vlm, part, {n: targets[n] for row in part for n in row.paths}).result()
    assert {n: greedy for n, (_, greedy) in found.items()} == {n: greedy for n, (_, greedy) in alone.items()}
    for number, (log, _) in alone.items():
        assert found[number][0] == pytest.approx(log, abs=1e-4)


def test_scores_that_are_no_numbers_are_refused_in_a_step(vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    run = generation._Step._run

    def broken(self: Any, used: int, width: int) -> Any:
        logits = run(self, used, width)
        self._tokens[:used] = -1
        return logits

    monkeypatch.setattr(generation._Step, "_run", broken)
    with pytest.raises(VrbenchError, match="NaN or infinite"):
        answers(vlm, one_row_per_sequence(prompts(vlm)), MemoryBudget(4, 4096, 10**6))


def test_a_budget_shrinks_with_what_was_tried_down_to_one_row() -> None:
    budget = MemoryBudget(None, 1000, 500)
    assert budget.take([100] * 4) == 4 and budget.shrink() and budget.pass_tokens == 200
    assert budget.take([100] * 4) == 2 and budget.shrink() and budget.take([100] * 4) == 1
    assert not budget.shrink()
    budget = MemoryBudget(64, 1000, 500)
    assert budget.slots(10) == 50
    budget.passed(3, 300)
    assert budget.shrink() and (budget.rows, budget.kept_tokens, budget.pass_tokens) == (25, 250, 150)


def test_a_budget_plans_the_memory_of_answers_and_passes(vlm: LlavaModel, short_prefixes: None) -> None:
    budget = MemoryBudget(None, 4096, 10**6, token_bytes=100, activation_bytes=7)
    budget.take_rows([PackedSequence((1, 2, 3), [4, 5], [0, 1], [2, 2], {n: [0, 1]}) for n in range(4)], True)
    assert budget.planned_bytes == 3 * 100 + 8 * 7
    rows = one_row_per_sequence(prompts(vlm))
    generator = AnswerGenerator(vlm, PackedPrompts(vlm, rows), dict.fromkeys(range(len(rows)), StopCriteria(6)), budget)
    slots, longest = len(rows), max(len(row) for row in rows)
    assert len([found for done in generator for found in done]) == slots
    assert budget.planned_bytes == generator._cache.length * slots * 100 + slots * longest * 7
    budget.take([5, 5])
    assert budget.planned_bytes > budget.activation_bytes * 10, "the most so far"
    planned = MemoryBudget.of(vlm)
    assert planned.token_bytes == token_bytes(vlm) and planned.activation_bytes == activation_bytes(vlm) > 0
