"""A small file that would become a large or slow one is refused, or read, within little memory and time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.leaderboard.hostile.bombs import BOMBS, MEMORY
from tests.leaderboard.hostile.oracle import is_harmless_line

SECONDS = 5
"""Of one bomb; each takes less than half a second on an idle core."""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of every bomb, read one after the other in a process with little memory."""
    folder = tmp_path_factory.mktemp("bombs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.leaderboard.hostile.bombs", str(folder)], capture_output=True, text=True,
        timeout=120, check=False, cwd=Path(__file__).parents[3], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_for_its_reason(name: str, read: dict[str, dict[str, Any]]) -> None:
    told, reason = read[name]["told"], BOMBS[name][1]
    assert read[name]["seconds"] < SECONDS
    assert all(is_harmless_line(sentence) for sentence in told)
    if not reason:
        assert told == []
    else:
        assert re.search(reason, "\n".join(told)), told


def test_all_of_them_stay_within_the_memory(read: dict[str, dict[str, Any]]) -> None:
    assert len(read) == len(BOMBS)
    assert max(line["mebibytes"] for line in read.values()) < MEMORY // 2**20
