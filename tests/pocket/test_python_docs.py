"""Passages of the Python documentation: those of this Python, and those that every Python has alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics
from typing import Any

import pytest

from benchmarks import shared_passages
from vrbench.core.errors import VrbenchError
from vrbench.pocket import python_docs
from vrbench.pocket.python_docs import MAX_PARAGRAPH, SHARED_WORDS, WORDS, pydoc_rows, shared_rows


@pytest.fixture(autouse=True)
def cleared() -> None:
    python_docs.passages.cache_clear()


def test_shared_passages_are_the_same_under_every_python() -> None:
    """The digest was the same in ten releases, 3.10.13 to 3.14.10."""
    rows = [shared_rows("test"), shared_rows("dev")]
    assert [len(split) for split in rows] == [505, 92]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12] == "ff70a2ace982"


@pytest.mark.parametrize(("rows", "words"), [(pydoc_rows, WORDS), (shared_rows, SHARED_WORDS)])
def test_passages_are_documentation_of_some_length(rows: Callable[[str], list[dict[str, Any]]], words: int) -> None:
    for row in rows("test"):
        assert row["text"].split("\n\n")[0] in topics.topics[row["topic"]]
        assert words <= len(row["text"].split()) < words + MAX_PARAGRAPH
        assert row["text"] == row["text"].strip("\n")
        assert row["id"] == hashlib.sha256(row["text"].encode()).hexdigest()[:12]


@pytest.mark.parametrize(("rows", "total"), [(pydoc_rows, 600), (shared_rows, 597)])
def test_no_paragraph_comes_twice_or_in_both_splits(rows: Callable[[str], list[dict[str, Any]]], total: int) -> None:
    both = [*rows("test"), *rows("dev")]
    assert len({row["id"] for row in both}) == len(both) == total
    paragraphs = [" ".join(p.split()) for row in both for p in row["text"].split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs), "topics repeat each other; passages must not"


def test_passages_are_spread_over_the_documentation() -> None:
    for split in ("test", "dev"):
        assert len({row["topic"] for row in pydoc_rows(split)}) >= 30


def test_a_python_with_too_little_documentation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "topics", {"for": topics.topics["for"]})
    with pytest.raises(VrbenchError, match="pocket_pydoc needs 600"):
        pydoc_rows("test")


def test_a_python_that_lacks_a_shared_passage_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    row = shared_rows("test")[0]
    changed = topics.topics | {row["topic"]: topics.topics[row["topic"]].replace(row["text"], row["text"].upper())}
    monkeypatch.setattr(topics, "topics", changed)
    python_docs.passages.cache_clear()
    with pytest.raises(VrbenchError, match=r"lacks 1 of the 505 passages of pocket_docs; most of Python 3\.10 to"):
        shared_rows("test")
    assert len(shared_rows("dev")) == 92


def test_the_list_has_what_every_python_has(tmp_path: Path) -> None:
    here = [f"{topic} {digest}" for topic, digest, _ in python_docs.passages()]
    listed = [line.partition(" ")[2] for line in python_docs.LIST.read_text(encoding="utf-8").splitlines()]
    assert set(listed) < set(here)
    (tmp_path / "one").write_text("\n".join(here), encoding="utf-8")
    (tmp_path / "two").write_text("\n".join(line for line in here if line in set(listed)), encoding="utf-8")
    found = shared_passages.shared([tmp_path / "one", tmp_path / "two"])
    assert [line.partition(" ")[2] for line in found] == listed
