"""Image files as every command sees them: one way to open them, to tell their size, and to say why one cannot be used.

An image is upright (its EXIF orientation applied, as `datasets` does it) and has 8 bits a channel. Greyscale with 16
bits keeps the high byte of each pixel, as Pillow itself reads 16-bit colour; Pillow's own `convert("RGB")`, which
lmms-eval calls, clips it to white instead. Modes with 8 bits stay as Pillow reads them; whoever shows an image converts
it to RGB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.data.strict_pillow import strict_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of greyscale with 16 bits."""

READ_AS_INTEGERS = ("PNG", "PPM")
"""Formats whose 16-bit greyscale some versions of Pillow read as mode I; both then fill 0 to 65,535."""

UPRIGHT_AT_ONCE = ("JPEG", "MPO", "WEBP", "BMP", "GIF")
"""Formats whose size and orientation stand at the beginning of the file."""

ORIENTED = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""What a PNG file with an orientation contains; it may stand behind the pixels."""

JPEG_END = b"\xff\xd9"
TRAILER = 64
"""Bytes at the end of a JPEG file in which its end mark is looked for; some cameras write a little behind it."""


class ImageError(VrbenchError):
    """Why an image cannot be used, in one line without its name."""


def open_image(content: bytes | Path) -> Image:
    """An image, decoded to its end, upright, with 8 bits a channel; its mode is otherwise Pillow's.

    Args:
        content: a file or the bytes of one.

    Raises:
        ImageError: it is not there, is no image, is truncated or too large (Pillow's limit), or has 32 bits a channel.
    """
    from PIL import ImageOps

    with _read(content) as image:
        image.load()
        is_deep = _is_deep(image)
        upright = ImageOps.exif_transpose(image) if _orientation(image) is not None else image
        return _high_byte(upright) if is_deep else upright.copy() if upright is image else upright


def image_size(content: bytes | Path) -> tuple[int, int]:
    """Width and height of the upright image, from the file's beginning where they stand there; else as `open_image`."""
    with _read(content) as image:
        kind = str(image.format)
        if kind in UPRIGHT_AT_ONCE:
            turned = _orientation(image) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
        stored = content if isinstance(content, bytes) else content.read_bytes()
        if kind == "PNG" and not any(mark in stored for mark in ORIENTED):
            return image.size
    return open_image(content).size


def image_fault(content: bytes | Path) -> str:
    """Why an image cannot be used; empty if it can. See `inspect_image`."""
    return inspect_image(content)[0]


def inspect_image(content: bytes | Path) -> tuple[str, bool]:
    """Why an image cannot be used, empty if it can, and whether it has 16 bits a channel (see `has_16_bits`).

    A JPEG file that has its end mark, and a PNG file whose checksums are right, are taken to be whole; any other image
    is decoded.
    """
    is_deep = False
    try:
        with _read(content) as image:
            is_deep = _is_deep(image)
            if image.format == "PNG":
                image.verify()  # the checksums of all its chunks
                return "", is_deep
            if image.format == "JPEG" and _orientation(image) in (None, 1) and JPEG_END in _trailer(content):
                return "", is_deep
        open_image(content)
    except ImageError as error:
        return str(error), False
    return "", is_deep


def has_16_bits(content: bytes | Path) -> bool:
    """Whether an image is greyscale with 16 bits, of which `open_image` keeps 8; false for what is no image."""
    try:
        with _read(content) as image:
            return _is_deep(image)
    except ImageError:
        return False


@contextmanager
def _read(content: bytes | Path) -> Iterator[Any]:
    """An image file, its pixels not read yet; whatever Pillow raises within becomes an `ImageError`."""
    from PIL import Image

    if not content:
        raise ImageError("it has no bytes")
    stream: BinaryIO | Path = content if isinstance(content, Path) else BytesIO(content)
    try:
        with strict_pillow(), Image.open(stream) as image:
            yield image
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        os_errors.reraise_os_error(error)
        raise ImageError(_line(error)) from error


def _is_deep(image: Image) -> bool:
    """Whether it has 16 bits a channel.

    Raises:
        ImageError: it has more, or colours that Pillow cannot make RGB.
    """
    from PIL import Image

    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in READ_AS_INTEGERS):
        return True
    if image.mode in ("I", "F"):
        what = "whole numbers" if image.mode == "I" else "numbers with a fraction"
        raise ImageError(
            f"its pixels are {what} of 32 bits (Pillow's mode {image.mode}), and nothing says which of them is white; "
            "save it with 8 or 16 bits a channel"
        )
    try:
        Image.new(image.mode, (1, 1)).convert("RGB")
    except ValueError as error:
        raise ImageError(f"its colours (Pillow's mode {image.mode}) cannot be made RGB; save it as RGB") from error
    return False


def _orientation(image: Image) -> int | None:
    from PIL.ExifTags import Base

    return image.getexif().get(Base.Orientation)


def _high_byte(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))


def _trailer(content: bytes | Path) -> bytes:
    if isinstance(content, bytes):
        return content[-TRAILER:]
    with content.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - TRAILER))
        return stream.read()


def _line(error: Exception) -> str:
    """What Pillow raised, without the name of the file or stream, which the caller tells."""
    text = str(error)
    if isinstance(error, OSError):
        text = re.sub(r" <_io\.\w+ object at \w+>|:? '[^']*'$", "", text)
    return " ".join(f"{type(error).__name__}: {text}".split())[:200]
