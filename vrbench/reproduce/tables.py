"""The paper's tables and claims: their questions and published values, from `paper.yaml`."""

from __future__ import annotations

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


class PaperTable(Record):
    """One of the paper's tables, or a curve of it."""

    title: str = Field(description="Of its section in the report.")
    question: str = Field(description="What it answers.")
    x: str = Field(default="", description="What `TableEntry.x` counts; empty where rows are not points of a curve.")
    unit: str = Field(default="", description="Unit of x, behind the number.")
    published: tuple[str, ...] = Field(default=(), description="Keys of `PUBLISHED` that are shown beside it.")


_DATA = load_yaml(files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8"))

SOURCES: dict[str, str] = _DATA["sources"]
"""Letter -> where a published figure is from."""

TABLES = {key: PaperTable.model_validate(table) for key, table in _DATA["tables"].items()}
PUBLISHED = {key: PublishedTable.model_validate(table) for key, table in _DATA["published"].items()}
CLAIMS = tuple(PaperClaim.model_validate(claim) for claim in _DATA["claims"])
