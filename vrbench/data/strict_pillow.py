"""Pictures that are cut off are refused, whatever other libraries have told Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_inside: list[bool] = []
"""For everyone who is inside, what Pillow had been told before the first of them came."""


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Inside of it Pillow raises for a truncated picture; lmms-eval makes it lenient for the whole process.

    Threads may be inside at the same time: Pillow stays strict until the last of them has left.
    """
    from PIL import ImageFile

    with _lock:
        _inside.append(_inside[0] if _inside else ImageFile.LOAD_TRUNCATED_IMAGES)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _lock:
            lenient = _inside.pop()
            if not _inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = lenient
