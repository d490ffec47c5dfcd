"""What a scorer is given can be changed by it without anybody else seeing it."""

from __future__ import annotations

from typing import Any

import pytest

from vrbench.tasks.document_scorer import copy_values

VALUES: dict[str, Any] = {
    "text": "a", "number": 1.5, "nothing": None, "list": [1, "b"], "lists": [["c"], {"d": [2]}], "row": {"e": 1},
    "rows": {"f": {"g": [3]}}, "pair": ([4], 5),
}  # fmt: skip


def test_a_copy_is_equal() -> None:
    assert copy_values(VALUES) == VALUES


@pytest.mark.parametrize("path", [["list"], ["lists"], ["lists", 0], ["lists", 1, "d"], ["row"], ["rows", "f", "g"],
                                  ["pair", 0]])  # fmt: skip
def test_nothing_in_a_copy_is_shared(path: list[Any]) -> None:
    ours, theirs = VALUES, copy_values(VALUES)
    for part in path:
        ours, theirs = ours[part], theirs[part]
    assert ours is not theirs
    assert ours == theirs
