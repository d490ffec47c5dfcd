"""Passages that every Python has alike."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from pydoc_data import topics

import pytest

from vrbench.core.errors import VrbenchError
from vrbench.pocket import passages, pydoc


@pytest.fixture(autouse=True)
def read_anew() -> None:
    passages._passages.cache_clear()


def test_they_are_the_same_under_every_python() -> None:
    """The digest was the same in ten releases, 3.10.13 to 3.14.10."""
    rows = [passages.rows("test"), passages.rows("dev")]
    assert [len(split) for split in rows] == [505, 92]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12] == "ff70a2ace982"


def test_passages_are_documentation_of_some_length() -> None:
    for row in passages.rows("test"):
        assert all(paragraph in topics.topics[row["topic"]] for paragraph in row["text"].split("\n\n"))
        assert passages.WORDS <= len(row["text"].split()) < passages.WORDS + pydoc.LONGEST
        assert row["id"] == hashlib.sha256(row["text"].encode()).hexdigest()[:12]


def test_no_paragraph_comes_twice_or_in_both_splits() -> None:
    rows = [*passages.rows("test"), *passages.rows("dev")]
    paragraphs = [" ".join(p.split()) for row in rows for p in row["text"].split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)


def test_a_python_that_lacks_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    row = passages.rows("test")[0]
    changed = topics.topics | {row["topic"]: topics.topics[row["topic"]].replace(row["text"], row["text"].upper())}
    monkeypatch.setattr(topics, "topics", changed)
    passages._passages.cache_clear()
    with pytest.raises(VrbenchError, match=r"lacks 1 of the 505 passages of pocket_docs; most of Python 3\.10 to"):
        passages.rows("test")
    assert len(passages.rows("dev")) == 92


def test_the_list_is_chosen_among_what_every_python_has(tmp_path: Path) -> None:
    def made(*files: Path) -> list[str]:
        command = [sys.executable, "-m", "vrbench.pocket.passages", *map(str, files)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    here, listed = made(), passages.LIST.read_text(encoding="utf-8").splitlines()
    wanted = {line.partition(" ")[2] for line in listed}
    assert wanted < set(here)
    (tmp_path / "one").write_text("\n".join(here), encoding="utf-8")
    (tmp_path / "two").write_text("\n".join(line for line in here if line in wanted), encoding="utf-8")
    assert [line.partition(" ")[2] for line in made(tmp_path / "one", tmp_path / "two")] == [
        line.partition(" ")[2] for line in listed
    ]
