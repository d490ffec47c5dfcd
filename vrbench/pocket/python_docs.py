"""Passages of the Python documentation in the standard library (`pydoc_data.topics`), for word perplexity.

`pocket_pydoc` takes them from the running Python, so it differs between Python versions; runs whose data digests differ
are not compared. `pocket_docs` takes the passages listed by digest in `passages.txt`, which are the same in Python 3.10
to 3.14 (3.10.13, 3.11.2, 3.11.7, 3.12.1, 3.13.0, 3.13.5, 3.13.15, 3.13.18, 3.14.8 and 3.14.10 were compared by
`benchmarks/shared_passages.py`). What overlaps the dev split of `pocket_pydoc` in Python 3.12, by which recipes were
chosen, is dev in both.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError

WORDS, SHARED_WORDS = 50, 25
"""A passage of `pocket_pydoc`, and of `pocket_docs`, ends with the paragraph that reaches so many words."""

MAX_PARAGRAPH = 200
"""A paragraph with more words is a table, and left out."""

TEST, DEV = 500, 100
"""Passages of `pocket_pydoc`."""

LIST = Path(__file__).with_name("passages.txt")


def pydoc_rows(split: str) -> list[dict[str, Any]]:
    """Return the rows of `pocket_pydoc`: id, topic, text; spread evenly over the documentation.

    Raises:
        VrbenchError: this Python has too little documentation.
    """
    passages = list(_pydoc_passages())
    total = TEST + DEV
    if len(passages) < total:
        raise VrbenchError(f"this Python's documentation has {len(passages)} passages; pocket_pydoc needs {total}")
    selected = [passages[k * len(passages) // total] for k in range(total)]
    every = total // DEV
    return [row for k, row in enumerate(selected) if (k % every == 0) == (split == "dev")]


def _pydoc_passages() -> Iterator[dict[str, Any]]:
    """Paragraphs of a topic joined until there are enough words; what is left at its end is dropped.

    Topics repeat each other ("compound" contains "for"): a paragraph is used once.
    """
    from pydoc_data.topics import topics

    used: set[str] = set()
    for topic in sorted(topics):
        held: list[str] = []
        for paragraph in _paragraphs(topics[topic]):
            text = " ".join(paragraph.split())
            if text in used or len(text.split()) > MAX_PARAGRAPH:
                continue
            used.add(text)
            held.append(paragraph)
            if sum(len(p.split()) for p in held) >= WORDS:
                text = "\n\n".join(held).strip("\n")
                yield {"id": _digest(text), "topic": topic, "text": text}
                held = []


def shared_rows(split: str) -> list[dict[str, Any]]:
    """Return the rows of `pocket_docs`: id, topic, text; in the order of the list.

    Raises:
        VrbenchError: this Python's documentation lacks some of the passages.
    """
    listed = (line.split() for line in LIST.read_text(encoding="utf-8").splitlines())
    wanted = [(topic, digest) for of, topic, digest in listed if of == split]
    found = {(topic, digest): text for topic, digest, text in passages()}
    lacking = [place for place in wanted if place not in found]
    if lacking:
        version = ".".join(map(str, sys.version_info[:3]))
        raise VrbenchError(
            f"the documentation of this Python, {version}, lacks {len(lacking)} of the {len(wanted)} passages of "
            "pocket_docs; most of Python 3.10 to 3.14 have them"
        )
    return [{"id": digest, "topic": topic, "text": found[topic, digest]} for topic, digest in wanted]


@cache
def passages() -> tuple[tuple[str, str, str], ...]:
    """Return topic, digest and text of all passages of this Python: from each paragraph on until enough words."""
    from pydoc_data.topics import topics

    found = []
    for topic in sorted(topics):
        paragraphs = _paragraphs(topics[topic])
        for first in range(len(paragraphs)):
            words, end = 0, first
            while end < len(paragraphs) and words < SHARED_WORDS and len(paragraphs[end].split()) <= MAX_PARAGRAPH:
                words, end = words + len(paragraphs[end].split()), end + 1
            if words >= SHARED_WORDS:
                text = "\n\n".join(paragraphs[first:end]).strip("\n")
                found.append((topic, _digest(text), text))
    return tuple(found)


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text.strip())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
