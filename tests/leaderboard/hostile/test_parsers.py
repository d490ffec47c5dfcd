"""No parser does with a hostile case anything but read it as it says, or refuse it in harmless words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.leaderboard.hostile.parsers import PARSERS, READ, REFUSED

EXAMPLES = 25
CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", PARSERS)
def test_each_case_is_read_as_it_says_or_refused(name: str) -> None:
    parser = PARSERS[name]
    seen: set[str] = set()

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(st.data())
    def each(data: st.DataObject) -> None:
        seen.add(parser.check(data.draw(parser.cases)))

    each()
    assert READ in seen, "nothing was read: the cases show nothing"
    assert REFUSED in seen or name in ("shown", "cells")


def kept() -> list[Path]:
    """Cases that a parser once took wrongly: corpus/<parser>/<what was wrong>."""
    return sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("file", kept(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_ever_failed_does_not_fail_again(file: Path) -> None:
    content = file.read_bytes()
    case = content.decode("utf-8", "surrogatepass") if file.suffix == ".txt" else content
    PARSERS[file.parent.name].check(case)
