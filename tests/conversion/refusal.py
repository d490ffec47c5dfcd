"""What a refused conversion says, and that it leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from vrbench.conversion.convert import convert
from vrbench.core.errors import VrbenchError, error_messages


def refused(at: Path, source: str, *args: Any, **kwargs: Any) -> list[str]:
    """Every sentence of the refusal; nothing is left beside the source."""
    before = sorted(os.listdir(at))
    with pytest.raises(VrbenchError) as caught:
        convert(str(at / source), at / "out", *args, **kwargs)
    assert sorted(os.listdir(at)) == before
    return error_messages(caught.value)


def told(at: Path, source: str, *words: str, base: bool = False, tower: bool = True) -> str:
    """There is exactly one sentence, and it has these words."""
    found = refused(at, source, str(at / "base") if base else None, str(at / "tower") if tower else None)
    assert len(found) == 1, found
    for word in words:
        assert word in found[0], found
    return found[0]
