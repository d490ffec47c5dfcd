"""The paper's figures as data: whole, and each with where it is from."""

from __future__ import annotations

import pytest

from vrbench.reproduce.experiments import EXPERIMENTS
from vrbench.reproduce.tables import CLAIMS, PUBLISHED, SOURCES, TABLES


def test_every_table_is_whole_and_says_where_it_is_from() -> None:
    for table in PUBLISHED.values():
        assert {len(row) for row in table.rows} == {len(table.headers)}
        assert table.source in SOURCES
        assert all(isinstance(cell, float) for row in table.rows for cell in row[1:])


def test_retention_follows_from_the_averages() -> None:
    rows = PUBLISHED["layers"].rows
    whole = float(rows[0][1])
    for row in rows:
        assert row[2] == pytest.approx(100 * float(row[1]) / whole, abs=0.006)


def test_the_same_model_has_the_same_average_in_two_tables() -> None:
    assert PUBLISHED["strategies"].rows[0][-1] == PUBLISHED["layers"].rows[0][1] == 62.18


def test_claims_and_tables_are_those_that_there_are() -> None:
    assert [claim.id for claim in CLAIMS] == [f"C{i}" for i in range(1, 7)]
    assert all(part in SOURCES for claim in CLAIMS for part in claim.source.split(", "))
    assert list(TABLES) == list(EXPERIMENTS)
    assert all(key in PUBLISHED for table in TABLES.values() for key in table.published)
