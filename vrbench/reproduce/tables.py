"""The paper's tables: what each asks, and how a reader is to take its rows."""

from __future__ import annotations

from dataclasses import dataclass

REGION = "sparse-uniform"
"""The strategy that the paper is about."""

REGION_ROW = "8 layers"
"""Where it stands among the numbers of layers."""


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables, or a curve of it.

    Attributes:
        title: what a reader is told that it is.
        question: what it answers.
        x: what `Entry.x` counts; empty where rows are no points of a line.
        unit: of x, behind the number.
        published: keys of `vrbench.reproduce.published.PUBLISHED` that are shown beside it.
    """

    title: str
    question: str
    x: str = ""
    unit: str = ""
    published: tuple[str, ...] = ()


TABLES: dict[str, PaperTable] = {
    "strategies": PaperTable(
        "Which layers",
        "What is kept of the model tuned everywhere when as many layers are tuned, but others?",
        published=("strategies",),
    ),
    "layers": PaperTable(
        "How many layers",
        "What is kept with fewer layers tuned, spread evenly?",
        x="layers tuned",
        published=("layers",),
    ),
    "data": PaperTable(
        "How much data",
        "What is kept with a part of the training data?",
        x="training data",
        unit=" %",
    ),
    "text": PaperTable(
        "What is left of the text",
        "What has become of the LLM's text after all layers, some, or none were tuned?",
        published=("text",),
    ),
    "pruning": PaperTable(
        "Layers removed",
        "What is kept when layers are removed, by what chooses them, and healed by a short training or not?",
        x="layers removed",
    ),
    "restoring": PaperTable(
        "Layers restored",
        "What is kept when layers of the model tuned everywhere are put back to the backbone's weights?",
        x="layers restored",
    ),
    "profile": PaperTable(
        "Time and memory",
        "What do a training step and a prefill cost at the true shapes?",
        published=("savings",),
    ),
}
"""Table -> what it is; in the order of the report."""
