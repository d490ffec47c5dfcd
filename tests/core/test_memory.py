"""Garbage collection is paused, and goes on as before."""

from __future__ import annotations

import gc

import pytest

from vrbench.core.memory import pause_garbage_collection


@pytest.mark.parametrize("before", [True, False])
def test_garbage_collection_is_paused(before: bool) -> None:
    (gc.enable if before else gc.disable)()
    try:
        with pytest.raises(ValueError), pause_garbage_collection():
            assert not gc.isenabled()
            with pause_garbage_collection():
                pass
            assert not gc.isenabled()
            raise ValueError
        assert gc.isenabled() is before
    finally:
        gc.enable()
