"""Passages of the Python documentation that are the same in Python 3.10 to 3.14, for word perplexity.

`passages.txt` lists them by digest; the texts are those of the running Python (`pydoc_data.topics`), so that every
Python that has them all, word for word, asks the same. The list is made by

    for python in python3.10 python3.11 python3.12 python3.13 python3.14; do
        $python -m vrbench.pocket.passages > $python.txt
    done
    python3.12 -m vrbench.pocket.passages python3.*.txt > vrbench/pocket/passages.txt

which first prints every passage that a Python has, and then chooses those of all, none of which share a paragraph. It
was made of 3.10.13, 3.11.2, 3.11.7, 3.12.1, 3.13.0, 3.13.5, 3.13.15, 3.13.18, 3.14.8 and 3.14.10. What overlaps the dev
split of `pocket_pydoc` in Python 3.12, where recipes were chosen by it, is dev here too.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.pocket.pydoc import LONGEST
from vrbench.pocket.pydoc import rows as pydoc_rows

WORDS = 25  # a passage ends with the paragraph that reaches this many; with more there would be fewer than 500
LIST = Path(__file__).with_name("passages.txt")


def rows(split: str) -> list[dict[str, Any]]:
    """Columns id, topic, text, in the order of the list.

    Raises:
        VrbenchError: this Python's documentation lacks some of the passages.
    """
    listed = (line.split() for line in LIST.read_text(encoding="utf-8").splitlines())
    wanted = [(topic, digest) for of, topic, digest in listed if of == split]
    found = {(topic, digest): text for topic, digest, text in _passages()}
    lacking = [place for place in wanted if place not in found]
    if lacking:
        version = ".".join(map(str, sys.version_info[:3]))
        raise VrbenchError(
            f"the documentation of this Python, {version}, lacks {len(lacking)} of the {len(wanted)} passages of "
            "pocket_docs; most of Python 3.10 to 3.14 have them"
        )
    return [{"id": digest, "topic": topic, "text": found[topic, digest]} for topic, digest in wanted]


@cache
def _passages() -> tuple[tuple[str, str, str], ...]:
    """Topic, digest and text of all that this Python has: from each paragraph on until there are enough words."""
    from pydoc_data.topics import topics

    return tuple(passage for topic in sorted(topics) for passage in _of_topic(topic, topics[topic]))


def _of_topic(topic: str, text: str) -> Iterator[tuple[str, str, str]]:
    paragraphs = re.split(r"\n\s*\n", text.strip())
    for first in range(len(paragraphs)):
        words, end = 0, first
        while end < len(paragraphs) and words < WORDS and len(paragraphs[end].split()) <= LONGEST:
            words, end = words + len(paragraphs[end].split()), end + 1
        if words >= WORDS:
            passage = "\n\n".join(paragraphs[first:end]).strip("\n")
            yield topic, hashlib.sha256(passage.encode()).hexdigest()[:12], passage


def _paragraphs(passage: str) -> set[str]:
    """Without the white space in which copies of a paragraph may differ."""
    return {" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", passage)}


def _chosen(files: Sequence[Path]) -> Iterator[str]:
    """The lines of passages that are in every file, those left out that share a paragraph with an earlier one."""
    lists = [set(file.read_text(encoding="utf-8").splitlines()) for file in files]
    dev = set().union(*(_paragraphs(row["text"]) for row in pydoc_rows("dev")))
    used: set[str] = set()
    for topic, digest, text in _passages():
        paragraphs = _paragraphs(text)
        if not used & paragraphs and all(f"{topic} {digest}" in known for known in lists):
            used |= paragraphs
            yield f"{'dev' if dev & paragraphs else 'test'} {topic} {digest}"


if __name__ == "__main__":
    here = (f"{topic} {digest}" for topic, digest, _ in _passages())
    print("\n".join(_chosen([Path(name) for name in sys.argv[1:]]) if len(sys.argv) > 1 else here))
