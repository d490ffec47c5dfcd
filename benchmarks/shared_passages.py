"""List passages of the Python documentation that are equal in several Python versions: `vrbench/pocket/passages.txt`.

    for python in python3.10 python3.11 python3.12 python3.13 python3.14; do
        $python -m benchmarks.shared_passages > $python.txt
    done
    python3.12 -m benchmarks.shared_passages python3.*.txt > vrbench/pocket/passages.txt

Without files, it prints every passage of the running Python; with files, the passages that are in all of them and share
no paragraph with each other.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vrbench.pocket.python_docs import passages, pydoc_rows


def _paragraphs(passage: str) -> set[str]:
    """Without the white space in which copies of a paragraph may differ."""
    return {" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", passage)}


def shared(files: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of passages that are in every file, without those that share a paragraph with an earlier one."""
    lists = [set(file.read_text(encoding="utf-8").splitlines()) for file in files]
    dev = set().union(*(_paragraphs(row["text"]) for row in pydoc_rows("dev")))
    used: set[str] = set()
    for topic, digest, text in passages():
        paragraphs = _paragraphs(text)
        if not used & paragraphs and all(f"{topic} {digest}" in known for known in lists):
            used |= paragraphs
            yield f"{'dev' if dev & paragraphs else 'test'} {topic} {digest}"


def main() -> None:
    """Print the passages of this Python, or those that all files list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="lists of several Python versions")
    files = parser.parse_args().files
    print("\n".join(shared(files) if files else (f"{topic} {digest}" for topic, digest, _ in passages())))


if __name__ == "__main__":
    main()
