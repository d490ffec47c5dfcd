"""Python's memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Pause the search for cyclic garbage, also as a decorator, while very many objects are made that stay.

    Every so many of them start a full search, which visits all objects of torch and transformers too: half a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
