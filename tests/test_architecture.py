"""docs/architecture.md: its packages, files and names are those of the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib") if sys.version_info < (3, 11) else __import__("tomllib")
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_packages_are_those_of_the_code_in_the_order_of_the_import_contract() -> None:
    pages = [name.strip("`") for name, _ in rows("Packages")]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert pages == contracts[0]["layers"]
    assert set(pages) == {file.parent.name for file in (ROOT / "vrbench").glob("*/__init__.py")}


@pytest.mark.parametrize("row", rows("Where to add things"), ids=lambda row: row[0])
def test_what_is_named_is_defined_in_the_file_that_is_named(row: list[str]) -> None:
    _, what, where = row
    if not where.startswith("`vrbench/"):
        return
    code = (ROOT / where.strip("`")).read_text(encoding="utf-8")
    for name in re.findall(r"`@?(\w+)`", what):
        assert re.search(rf"^(def {name}\(|class {name}\b|{name}\b.* = |    {name},$)", code, re.MULTILINE), name


def test_files_of_the_run_are_there_and_the_spine_is_short() -> None:
    drawing = PAGE.split("```text\n")[1].split("```")[0]
    files = re.findall(r"\b[a-z]+/\w+\.py", drawing)
    assert len(files) >= 7 and all((ROOT / "vrbench" / file).is_file() for file in files)
    assert len((ROOT / "vrbench/evaluation/evaluate.py").read_text(encoding="utf-8").splitlines()) <= 250


def test_class_names_are_unique() -> None:
    """So that a search for a name finds one thing."""
    places: dict[str, list[str]] = {}
    for file in sorted((ROOT / "vrbench").rglob("*.py")):
        for name in re.findall(r"^\s*class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            places.setdefault(name, []).append(file.name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
