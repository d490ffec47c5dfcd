"""Pictures that are cut off are refused, whatever other libraries have told Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def strict_pictures() -> Iterator[None]:
    """Inside of it Pillow raises for a truncated picture; lmms-eval makes it lenient for the whole process."""
    from PIL import ImageFile

    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
