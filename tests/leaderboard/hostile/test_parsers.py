"""No parser does with a hostile case anything but read it as it says, or refuse it in harmless words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.leaderboard.hostile.parsers import PARSERS, READ, REFUSED

EXAMPLES = 60
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
