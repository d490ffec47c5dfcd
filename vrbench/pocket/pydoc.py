"""Passages of the Python documentation that the standard library carries (`pydoc_data.topics`), for word perplexity.

The text is that of the running Python, so it differs between Python versions; the record's data digest tells, and runs
whose digests differ are not compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from vrbench.core.errors import VrbenchError

WORDS = 50  # a passage ends with the paragraph that reaches this many
LONGEST = 200  # a paragraph with more is a table, and left out
TEST, DEV = 500, 100


def rows(split: str) -> list[dict[str, Any]]:
    """Columns id, topic, text; 500 passages for test and 100 for dev, spread evenly over the documentation.

    Raises:
        VrbenchError: this Python carries too little documentation.
    """
    passages = list(_passages())
    whole = TEST + DEV
    if len(passages) < whole:
        raise VrbenchError(f"this Python's documentation has {len(passages)} passages; pocket_pydoc needs {whole}")
    chosen = [passages[k * len(passages) // whole] for k in range(whole)]
    every = whole // DEV
    return [row for k, row in enumerate(chosen) if (k % every == 0) == (split == "dev")]


def _passages() -> Iterator[dict[str, Any]]:
    """Paragraphs of a topic joined until there are enough words; what is left at its end is dropped.

    Topics repeat each other ("compound" holds "for"): a paragraph is used once.
    """
    from pydoc_data.topics import topics

    used: set[str] = set()
    for topic in sorted(topics):
        held: list[str] = []
        for paragraph in re.split(r"\n\s*\n", topics[topic].strip()):
            text = " ".join(paragraph.split())
            if text in used or len(text.split()) > LONGEST:
                continue
            used.add(text)
            held.append(paragraph)
            if sum(len(p.split()) for p in held) >= WORDS:
                text = "\n\n".join(held).strip("\n")
                yield {"id": hashlib.sha256(text.encode()).hexdigest()[:12], "topic": topic, "text": text}
                held = []
