"""Images of many modes as files, without loss, so that every library reads the same pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image

SIZE = (5, 3)


def _file(mode: str, form: str, **how: Any) -> bytes:
    image = Image.new(mode, SIZE)
    bands = len(image.getbands())
    wide = {"I;16": 2570, "1": 1}.get(mode)
    for place in range(SIZE[0] * SIZE[1]):
        value: Any = place % 2 if mode == "1" else place * wide if wide else tuple(place * 16 + b for b in range(bands))
        image.putpixel((place % SIZE[0], place // SIZE[0]), value if wide or bands > 1 else value[0])
    if mode == "P":
        image.putpalette([number % 256 for number in range(768)])
    stream = io.BytesIO()
    image.save(stream, form, **how)
    return stream.getvalue()


def _turned() -> bytes:
    """An image that its EXIF data turn by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _file("RGB", "PNG", exif=exif)


ODD: dict[str, Callable[[], bytes]] = {
    "turned": _turned,
    **{f"{mode} {form}": partial(_file, mode, form) for mode, form in (
        ("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"),
        ("CMYK", "TIFF"),
    )},
}  # fmt: skip
"""Name -> the bytes of a file."""
