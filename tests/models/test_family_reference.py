"""The tables of docs/families.md have a row for each family."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from vrbench.checkpoints.families import FAMILIES

DOCS = Path(__file__).parents[2] / "docs"


def test_every_family_has_a_row_in_each_table() -> None:
    spec = importlib.util.spec_from_file_location("family_tables", DOCS / "family_tables.py")
    assert spec is not None and spec.loader is not None
    family_tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(family_tables)
    page = family_tables.on_page_markdown((DOCS / "families.md").read_text(encoding="utf-8"))
    for name in [*FAMILIES, "own code"]:
        assert page.count(f"\n| `{name}` | ") == 2 and f"\n- `{name}`: " in page
