"""The paper's tables and claims: what each asks, and what was published, from `published.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from pydantic import Field

from vrbench.core.io import load_yaml
from vrbench.core.schemas import Record

PAPER = "arXiv:2412.12785 (ACL 2025)"

REGION = "sparse-uniform"
"""The strategy that the paper is about."""

REGION_ROW = "8 layers"
"""Its row among the numbers of layers."""


class PublishedTable(Record):
    """One published table."""

    title: str = Field(description="What it shows.")
    model: str = Field(description="The evaluated models.")
    source: str = Field(description="Key of `SOURCES`.")
    headers: tuple[str, ...] = Field(description="One a column.")
    rows: tuple[tuple[str | float, ...], ...] = Field(description="Figures as published.")
    note: str = Field(default="", description="Note for the reader.")


class PaperClaim(Record):
    """One of the paper's claims."""

    id: str = Field(description="'C1' to 'C6'.")
    said: str = Field(description="What the paper states.")
    source: str = Field(description="Keys of `SOURCES`.")
    tested: str = Field(description="What is tested of it here.")


_DATA = load_yaml(files(__package__).joinpath("published.yaml").read_text(encoding="utf-8"))

SOURCES: dict[str, str] = _DATA["sources"]
"""Letter -> where a published figure is from."""

PUBLISHED = {key: PublishedTable.model_validate(table) for key, table in _DATA["tables"].items()}
CLAIMS = tuple(PaperClaim.model_validate(claim) for claim in _DATA["claims"])


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables, or a curve of it.

    Attributes:
        title: of its section in the report.
        question: what it answers.
        x: what `TableEntry.x` counts; empty where rows are no points of a curve.
        unit: of x, behind the number.
        published: keys of `PUBLISHED` that are shown beside it.
    """

    title: str
    question: str
    x: str = ""
    unit: str = ""
    published: tuple[str, ...] = ()


TABLES = {
    "strategies": PaperTable(
        "Which layers",
        "What is kept of the model tuned in all layers when other layers, but as many, are tuned?",
        published=("strategies",),
    ),
    "layers": PaperTable(
        "How many layers",
        "What is kept with fewer layers tuned, spread evenly?",
        x="layers tuned",
        published=("layers",),
    ),
    "data": PaperTable("How much data", "What is kept with a part of the training data?", x="training data", unit=" %"),
    "text": PaperTable(
        "Text ability",
        "How well does the LLM do on text after all layers, some, or none were tuned?",
        published=("text",),
    ),
    "pruning": PaperTable(
        "Layers removed",
        "What is kept when layers are removed, by the score that selects them, with and without healing?",
        x="layers removed",
    ),
    "restoring": PaperTable(
        "Layers restored",
        "What is kept when layers of the model tuned in all layers are restored to the backbone's weights?",
        x="layers restored",
    ),
    "profile": PaperTable(
        "Time and memory",
        "What do a training step and a prefill cost at the true shapes?",
        published=("savings",),
    ),
}
"""Table -> what it is; in the order of the report."""
