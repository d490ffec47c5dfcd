"""docs/families.md says of each family what its entry says."""

from __future__ import annotations

from benchmarks import family_reference


def test_the_tables_are_those_of_the_entries() -> None:
    page = family_reference.PAGE.read_text(encoding="utf-8")
    assert page == family_reference.whole(page), "python -m benchmarks.family_reference"
