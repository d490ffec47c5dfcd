"""Questions of knowledge: true, balanced, and never the same fact in both splits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from vrbench.pocket import facts


@pytest.fixture(scope="module")
def test_rows() -> list[dict[str, Any]]:
    return facts.rows("test")


def answers(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["id"]: row["choices"][row["answer"]] for row in rows}


def test_known_facts_come_out_right(test_rows: list[dict[str, Any]]) -> None:
    found = answers(test_rows + facts.rows("dev"))
    for item, answer in {
        "capital/FRA": "Paris",
        "capital/AUS": "Canberra",
        "country/JPN": "Japan",
        "country/NLD": "the Netherlands",
        "continent/PER": "the Americas",
        "continent/KEN": "Africa",
        "language/CPV": "Portuguese",
        "language/LIE": "German",
        "symbol/iron": "Fe",
        "symbol/hydrogen": "H",
        "element/gold": "gold",
    }.items():
        assert found[item] == answer


def test_what_is_disputed_or_gives_itself_away_is_not_asked(test_rows: list[dict[str, Any]]) -> None:
    ids = set(answers(test_rows + facts.rows("dev")))
    for item in ("capital/MEX", "country/KWT", "continent/TUR", "continent/RUS", "language/USA", "language/CHE"):
        assert item not in ids
    assert not {row["subject"] for row in test_rows} & {"ISR", "PSE", "ZAF", "KAZ", "BDI", "BOL"}


def test_items_are_well_formed(test_rows: list[dict[str, Any]]) -> None:
    for row in test_rows:
        assert len(row["choices"]) == len(set(row["choices"])) == 4
        assert all(isinstance(choice, str) and choice.strip() == choice != "" for choice in row["choices"])
        assert not row["question"].endswith((" ", ".")) and "  " not in row["question"]
    assert len({row["question"] for row in test_rows}) == len({row["id"] for row in test_rows}) == len(test_rows)


def test_wrong_options_are_wrong() -> None:
    """No wrong capital is another capital of the same country, and so on: each option answers one question only."""
    right: dict[tuple[str, str], set[str]] = {}
    for row in facts.rows("test") + facts.rows("dev"):
        right.setdefault((row["kind"], row["choices"][row["answer"]]), set()).add(row["subject"])
    for kind in ("capital", "country", "symbol", "element"):
        assert all(len(subjects) == 1 for (k, _), subjects in right.items() if k == kind)
    spoken = {s.code: {facts.LANGUAGES.get(code) for code in s.languages} for s in facts.countries()}
    for row in facts.rows("test"):
        if row["kind"] == "language":
            assert sum(choice in spoken[row["subject"]] for choice in row["choices"]) == 1


def test_the_right_option_stands_everywhere_equally_often(test_rows: list[dict[str, Any]]) -> None:
    counts = Counter(row["answer"] for row in test_rows)
    assert set(counts) == {0, 1, 2, 3}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_no_subject_is_in_both_splits(test_rows: list[dict[str, Any]]) -> None:
    dev = facts.rows("dev")
    assert len(test_rows) >= 500 and len(dev) >= 100
    assert not {row["subject"] for row in test_rows} & {row["subject"] for row in dev}
    assert {row["kind"] for row in test_rows} == {row["kind"] for row in dev}


def test_the_items_are_the_same_each_time(test_rows: list[dict[str, Any]]) -> None:
    assert facts.rows("test") == test_rows
