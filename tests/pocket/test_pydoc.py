"""Passages of the Python documentation."""

from __future__ import annotations

from pydoc_data import topics

import pytest

from vrbench.core.errors import VrbenchError
from vrbench.pocket import pydoc


def test_passages_are_documentation_of_some_length() -> None:
    rows = pydoc.rows("test")
    assert len(rows) == 500
    for row in rows:
        assert row["text"].split("\n\n")[0] in topics.topics[row["topic"]]
        assert pydoc.WORDS <= len(row["text"].split()) < pydoc.WORDS + pydoc.LONGEST
        assert row["text"] == row["text"].strip("\n")


def test_no_passage_comes_twice_or_in_both_splits() -> None:
    rows = [*pydoc.rows("test"), *pydoc.rows("dev")]
    assert len(rows) == 600
    assert len({row["id"] for row in rows}) == 600
    paragraphs = [" ".join(p.split()) for row in rows for p in row["text"].split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs), "topics repeat each other; passages must not"


def test_passages_are_spread_over_the_documentation() -> None:
    for split in ("test", "dev"):
        assert len({row["topic"] for row in pydoc.rows(split)}) >= 30


def test_a_python_with_too_little_documentation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "topics", {"for": topics.topics["for"]})
    with pytest.raises(VrbenchError, match="pocket_pydoc needs 600"):
        pydoc.rows("test")
