"""benchmarks/growth.py: every kind of task is compared, and the page says how what was measured grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import growth


@pytest.mark.parametrize("kind", [*growth.SHAPES, growth.ALL])
def test_records_of_every_kind_of_task_are_compared(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "RECORDS", 3)
    monkeypatch.setattr(growth, "DRAWS", 100)
    assert growth.compare(tmp_path, 240, kind).keys() == {"compare", "compare wall", "peak MB", "more MB"}


def test_the_page_says_what_grows_and_whether_goals_are_met(tmp_path: Path) -> None:
    known = {
        f"compare {n} perplexity": {"compare": s, "compare wall": 3 * s, "peak MB": n / 100, "more MB": n / 200}
        for n, s in ((1_000, 0.5), (10_000, 3.0), (100_000, 25.0))
    }
    page = growth.report(known, tmp_path / "growth.png")
    assert (
        "compare, 100,000 items, under 20 s: not seen to be met here; the slowest, 'compare: perplexity', took 25.0"
        in page
    )
    row = next(line for line in page.splitlines() if line.startswith("| compare: perplexity"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["0.50", "3.00", "25.00", "0.50", "75.0", "1000"]
    assert (tmp_path / "growth.png").stat().st_size > 1000
