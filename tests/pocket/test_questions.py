"""Questions about scenes: their answers are right, and their wrong answers are wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.pocket import truth
from vrbench.pocket.questions import ASKED_ONCE, QUESTIONS, ROTATED, YES_NO_PAIRS, VisualQuestion
from vrbench.pocket.world import Scene, scene

Make = Callable[[random.Random, Scene], VisualQuestion | None]
KINDS: dict[str, Make] = {**QUESTIONS, **ROTATED, "narrowly": ASKED_ONCE["most"]}
SCENES = 250


@pytest.mark.parametrize(("kind", "make"), KINDS.items())
def test_facts_are_true_and_their_wrong_answers_false(kind: str, make: Make) -> None:
    made = 0
    for index in range(SCENES):
        of = scene("dev", index)
        fact = make(random.Random(index), of)
        if fact:
            assert truth.answer(fact.question, of) == fact.answer, (index, fact)
            assert fact.kind == kind.replace("narrowly", "most")
            assert len({fact.answer, *fact.wrong}) == 4, (index, fact)
            made += 1
    assert made > SCENES / 20


@pytest.mark.parametrize("kind", YES_NO_PAIRS)
def test_pairs_are_answered_yes_then_no(kind: str) -> None:
    made = 0
    for index in range(SCENES):
        of = scene("dev", index)
        pair = YES_NO_PAIRS[kind](random.Random(index), of)
        if pair:
            assert (truth.answer(pair.yes, of), truth.answer(pair.no, of)) == ("Yes", "No"), (index, pair)
            assert pair.kind == kind
            made += 1
    assert made > SCENES / 5
