"""Image files as every command sees them: opening, size, and the reason why one cannot be used.

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
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps
from PIL.ExifTags import Base

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError

MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of greyscale with 16 bits."""

READ_AS_INTEGERS = ("PNG", "PPM")
"""Formats whose 16-bit greyscale some versions of Pillow read as mode I; both then fill 0 to 65,535."""

SIZE_IN_HEADER = ("JPEG", "MPO", "WEBP", "BMP", "GIF")
"""Formats whose size and orientation are at the beginning of the file."""

PNG_ORIENTATION_MARKERS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""What a PNG file with an orientation contains, perhaps behind the pixels."""

JPEG_END = b"\xff\xd9"
TRAILER = 64
"""Bytes at the end of a JPEG file that are searched for its end mark; some cameras write a little behind it."""

_strict_lock = Lock()
_lenient_before: list[bool] = []
"""For each thread inside `strict_pillow`, Pillow's setting before the first of them came."""


class ImageError(VrbenchError):
    """Why an image cannot be used, in one line without its name."""


def open_image(content: bytes | Path) -> Image.Image:
    """Open an image, decoded to its end, upright, with 8 bits a channel; its mode is otherwise Pillow's.

    Args:
        content: a file or the bytes of one.

    Raises:
        ImageError: it is missing, not an image, truncated, too large (Pillow's limit), or has 32 bits a channel.
    """
    with _open(content) as image:
        image.load()
        is_16_bit = _is_16_bit(image)
        upright = ImageOps.exif_transpose(image) if _orientation(image) is not None else image
        if is_16_bit:
            return Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8))
        return upright.copy() if upright is image else upright


def image_size(content: bytes | Path) -> tuple[int, int]:
    """Return width and height of the upright image, from the file's header where possible; else as `open_image`."""
    with _open(content) as image:
        if str(image.format) in SIZE_IN_HEADER:
            turned = _orientation(image) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
        stored = content if isinstance(content, bytes) else content.read_bytes()
        if image.format == "PNG" and not any(mark in stored for mark in PNG_ORIENTATION_MARKERS):
            return image.size
    return open_image(content).size


def inspect_image(content: bytes | Path) -> tuple[str, bool]:
    """Return why an image cannot be used ("" if it can), and whether it is greyscale with 16 bits a channel.

    A JPEG file that has its end mark, and a PNG file whose checksums are right, are taken to be whole; any other image
    is decoded.
    """
    is_16_bit = False
    try:
        with _open(content) as image:
            is_16_bit = _is_16_bit(image)
            if image.format == "PNG":
                image.verify()  # the checksums of all its chunks
                return "", is_16_bit
            if image.format == "JPEG" and _orientation(image) in (None, 1) and JPEG_END in _trailer(content):
                return "", is_16_bit
        open_image(content)
    except ImageError as error:
        return str(error), False
    return "", is_16_bit


def has_16_bits(content: bytes | Path) -> bool:
    """Return whether an image is greyscale with 16 bits, of which `open_image` keeps 8; False if it is not an image."""
    if isinstance(content, bytes) and _has_8_bits(content[:25]):
        return False
    try:
        with _open(content) as image:
            return _is_16_bit(image)
    except ImageError:
        return False


@contextmanager
def _open(content: bytes | Path) -> Iterator[Any]:
    """An image with only its header read; whatever Pillow raises within becomes an `ImageError`."""
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
        text = str(error)
        if isinstance(error, OSError):  # without the name of the file or stream, which the caller adds
            text = re.sub(r" <_io\.\w+ object at \w+>|:? '[^']*'$", "", text)
        raise ImageError(" ".join(f"{type(error).__name__}: {text}".split())[:200]) from error


def _has_8_bits(header: bytes) -> bool:
    """Return whether the first 25 bytes say that an image has at most 8 bits a channel: a JPEG file, or a PNG file that
    states its depth there. Most images are; Pillow takes a hundred times as long to say so."""
    is_png = header.startswith(b"\x89PNG\r\n\x1a\n") and header[12:16] == b"IHDR"
    return header.startswith(b"\xff\xd8\xff") or (is_png and len(header) == 25 and header[24] <= 8)


def _is_16_bit(image: Image.Image) -> bool:
    if image.mode in MODES_16_BIT or (image.mode == "I" and image.format in READ_AS_INTEGERS):
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


def _orientation(image: Image.Image) -> int | None:
    return image.getexif().get(Base.Orientation)


def _trailer(content: bytes | Path) -> bytes:
    if isinstance(content, bytes):
        return content[-TRAILER:]
    with content.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - TRAILER))
        return stream.read()


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow raise for truncated images within; lmms-eval makes it lenient for the whole process.

    Threads may be inside at the same time: Pillow stays strict until the last of them has left.
    """
    with _strict_lock:
        _lenient_before.append(_lenient_before[0] if _lenient_before else ImageFile.LOAD_TRUNCATED_IMAGES)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _strict_lock:
            lenient = _lenient_before.pop()
            if not _lenient_before:
                ImageFile.LOAD_TRUNCATED_IMAGES = lenient
