"""Truncated pictures are refused also while other threads open theirs."""

from __future__ import annotations

import pytest
from PIL import ImageFile

from vrbench.data.images import strict_pillow


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("first_out", [0, 1])
def test_pillow_is_strict_until_the_last_one_leaves(
    monkeypatch: pytest.MonkeyPatch, before: bool, first_out: int
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", before)
    inside = [strict_pillow(), strict_pillow()]
    for one in inside:
        one.__enter__()
    inside.pop(first_out).__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False, "the other is still inside"
    inside.pop().__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before
    with pytest.raises(OSError, match="gone"), strict_pillow():
        raise OSError("gone")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before
