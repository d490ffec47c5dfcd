"""Grammar pairs: one difference, no repetition, no overlap, and no clue in the order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from vrbench.pocket import grammar


def pair(row: dict[str, Any]) -> tuple[str, str]:
    """The grammatical sentence, then the other."""
    return row["choices"][row["answer"]], row["choices"][1 - row["answer"]]


def test_every_kind_has_its_pairs_and_the_order_tells_nothing() -> None:
    rows = grammar.rows("test")
    assert len(rows) >= 500
    assert set(Counter(row["kind"] for row in rows).values()) == {grammar.TEST}
    assert Counter((row["kind"], row["answer"]) for row in rows) == Counter(
        {(kind, answer): grammar.TEST // 2 for kind in grammar.KINDS for answer in (0, 1)}
    )


def test_no_pair_comes_twice_or_in_both_splits() -> None:
    test, dev = ([pair(row) for row in grammar.rows(split)] for split in ("test", "dev"))
    assert len(set(test)) == len(test) and len(set(dev)) == len(dev) >= 100
    assert not {frozenset(p) for p in test} & {frozenset(p) for p in dev}
    assert len({row["id"] for row in grammar.rows("test")}) == len(test)


def test_no_sentence_is_called_both_right_and_wrong() -> None:
    pairs = [pair(row) for row in grammar.rows("test") + grammar.rows("dev")]
    assert not {good for good, _ in pairs} & {bad for _, bad in pairs}


def test_sentences_look_like_sentences() -> None:
    for row in grammar.rows("test"):
        for sentence in row["choices"]:
            assert sentence[0].isupper() and sentence.endswith(".") and "  " not in sentence


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("agreement", {"is", "are"}, {"is", "are"}),
        ("comparative", {"much"}, {"more"}),
        ("reflexive", {"himself", "herself"}, {"himself", "herself"}),
        ("quantifier", {"many", "much"}, {"many", "much"}),
    ],
)
def test_the_two_sentences_differ_in_one_word(kind: str, good: set[str], bad: set[str]) -> None:
    for row in grammar.rows("test"):
        if row["kind"] == kind:
            right, wrong = (sentence.rstrip(".").split() for sentence in pair(row))
            changed = [(a, b) for a, b in zip(right, wrong, strict=True) if a != b]
            assert len(changed) == 1 and changed[0][0] in good and changed[0][1] in bad


def test_agreement_is_with_the_subject_and_not_with_its_neighbour() -> None:
    plurals = {many for _, many in grammar.THINGS}
    seen = set()
    for row in grammar.rows("test"):
        if row["kind"] == "agreement":
            words = pair(row)[0].split()
            seen.add(words[1] in plurals)
            assert ("are" in words) == (words[1] in plurals)
    assert seen == {True, False}


def test_a_reflexive_is_of_the_relatives_gender() -> None:
    for row in grammar.rows("test"):
        if row["kind"] == "reflexive":
            good = pair(row)[0]
            is_her = any(f" {relative} " in good or f"The {relative} of" in good for relative in grammar.HER_RELATIVES)
            assert ("herself" in good) == is_her


def test_pairs_are_the_same_each_time() -> None:
    assert grammar.rows("test") == grammar.rows("test")
    assert grammar.KINDS["past"](random.Random(1)) == grammar.KINDS["past"](random.Random(1))
