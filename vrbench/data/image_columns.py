"""Image columns of a table, in whatever form their values come -> {bytes, path}, as `datasets` stores images."""

from __future__ import annotations

import base64
import binascii
import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from vrbench.core.errors import raise_errors
from vrbench.data.images import ImageError, has_16_bits
from vrbench.data.sampling import group_by_error, iterate_undecoded

if TYPE_CHECKING:
    from datasets import Dataset

ALLOWED = (
    "an image is given as bytes, as {bytes, path}, as a path relative to the data file, as base64 text or a data URL, "
    "or as a list of these"
)

BATCH = 256
"""Rows that are converted at a time: an Arrow array of bytes ends at 2 GiB."""

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

MAGIC_BYTES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
"""First bytes of JPEG, PNG, GIF, WebP, BMP and TIFF files."""

MIN_BASE64_LENGTH = 40
"""Characters of base64 below which a text is a path."""


def convert(table: Any, images: Sequence[str], place: object, folder: Path | None) -> Any:
    """Return the table with each image, also in lists, as {bytes, path}, its bytes read; null where there is none.

    Args:
        table: of Arrow.
        images: names of image columns; columns of {bytes, path} are image columns too. Columns of numbers stay.
        place: file or name of the data, for errors.
        folder: where paths begin; none where there are no files beside the data.

    Raises:
        VrbenchError: values that are not images, and what is allowed, with column and rows; all together.
    """
    errors: list[str] = []
    for name in table.schema.names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not _is_struct(column.type) and (name not in images or _is_number(column.type)):
            continue
        if not _has_bytes(column):
            column, found = _convert_column(column, folder)
            messages = group_by_error((row, f"column {name}: {text}") for row, text in found)
            errors += (f"{place}, {message}" for message in messages)
            table = table.set_column(table.schema.get_field_index(name), name, column)
    raise_errors(errors)
    return table


def columns_of(rows: Dataset) -> list[str]:
    """Return the columns with images or lists of images."""
    from datasets import Image

    return [name for name, kind in rows.info.features.items() if isinstance(getattr(kind, "feature", kind), Image)]


def stored_images(rows: Dataset) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Yield (row, column, {bytes, path}) of each image, none decoded; a row is its number in the data set."""
    columns = columns_of(rows)
    for number, row in enumerate(iterate_undecoded(rows, columns) if columns else ()):
        for name, value in row.items():
            images = value if isinstance(value, list) else [value]
            yield from ((number, name, image) for image in images if image is not None)


def content_of(stored: Mapping[str, Any]) -> bytes | Path:
    """Return the bytes of a stored image, or the file where `datasets` put them; b"" where there are none."""
    path = stored.get("path")
    return Path(path) if path and stored["bytes"] is None else stored["bytes"] or b""


def count_16_bit(rows: Dataset) -> int:
    """Return how many images have 16 bits a channel."""
    return sum(has_16_bits(content_of(stored)) for _, _, stored in stored_images(rows))


def stored_image(value: Any, folder: Path | None) -> Any:
    """Return a value of an image column, or each in a list, as {bytes, path}; errors as those of `image_bytes`."""
    if isinstance(value, list):
        return [stored_image(entry, folder) for entry in value]
    content = image_bytes(value, folder)
    return None if content is None else {"bytes": content, "path": None}


def image_bytes(value: Any, folder: Path | None) -> bytes | None:
    """Return the bytes of the image file that a value of a column gives; None where there is no image.

    Args:
        value: of the column, as Python has it; not a list.
        folder: where paths begin, which they may not leave; none where there are no files beside the data.

    Raises:
        ImageError: what the value is instead.
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return decode_inline(value) or _read_file(value, folder)
    if not isinstance(value, Mapping):
        raise ImageError(f"a value of type {type(value).__name__} is not an image; {ALLOWED}")
    if not {"bytes", "path"} & set(value):
        raise ImageError(f"an object with the keys {', '.join(map(str, value))} is not an image; {ALLOWED}")
    return image_bytes(value["path"] if value.get("bytes") is None and "path" in value else value["bytes"], folder)


def decode_inline(text: str) -> bytes | None:
    """Return the bytes of a base64 text or data URL; None for a text that is neither.

    Raises:
        ImageError: it begins as one and cannot be decoded, or it is the URL of a file somewhere else.
    """
    head, comma, body = text.partition(",")
    if head.lower().startswith("data:") and comma:
        if not head.lower().endswith(";base64"):
            raise ImageError(f"a data URL that is not base64 ({_shorten(head)}) is not read; {ALLOWED}")
        return _decode_base64(body)
    if URL.match(text):
        raise ImageError(f"{_shorten(text)} is a URL, and nothing is downloaded; {ALLOWED}")
    return _decode_base64(text) if _has_image_magic(text) else None


def is_file(path: Path) -> bool:
    """Return whether there is such a file; false for a text that can be no path: too long, or with a NUL."""
    try:
        return path.is_file()
    except ValueError:
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _has_image_magic(text: str) -> bool:
    """Return whether the first characters are an image's in base64; a JPEG's look like an absolute path, "/9j/"."""
    if len(text) < MIN_BASE64_LENGTH:
        return False
    try:
        return base64.b64decode(text[:16], validate=True).startswith(MAGIC_BYTES)
    except (binascii.Error, ValueError):
        return False


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"base64 text that cannot be decoded ({error})") from error


def _read_file(name: str, folder: Path | None) -> bytes:
    if folder is None:
        raise ImageError(f"{_shorten(name)} is a path, and this data set comes without files; {ALLOWED}")
    file = folder / name
    try:
        is_outside = not file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # it can be no file: too long, a circle of links, a NUL
        is_outside = False
    if is_outside:
        raise ImageError(f"the path {_shorten(name)} leads out of {folder}, the folder of the data file; {ALLOWED}")
    if not is_file(file):
        raise ImageError(f"there is no image {_shorten(name)} in {folder}; {ALLOWED}")
    return file.read_bytes()


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)")


def _convert_column(column: Any, folder: Path | None) -> tuple[Any, list[tuple[int, str]]]:
    """Return a column as {bytes, path} or lists of them, and the rows that hold something else."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    if _entry_type(column.type) != column.type:
        kind = pa.list_(kind)
    chunks, errors = [], []
    for start in range(0, len(column), BATCH):
        images: list[Any] = []
        for row, value in enumerate(column.slice(start, BATCH).to_pylist(), start):
            try:
                images.append(stored_image(value, folder))
            except ImageError as error:
                errors.append((row, str(error)))
                images.append(None)
        chunks.append(pa.array(images, kind))
    return pa.chunked_array(chunks, kind), errors


def _entry_type(kind: Any) -> Any:
    """Return the type of a list's entries; the type itself where it is not a list."""
    return kind.value_type if isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)) else kind


def _is_struct(kind: Any) -> bool:
    """Return whether a column has {bytes, path}, also in lists."""
    inner = _entry_type(kind)
    return pa.types.is_struct(inner) and {inner.field(i).name for i in range(inner.num_fields)} == {"bytes", "path"}


def _has_bytes(column: Any) -> bool:
    """Return whether a column is as `datasets` stores images already, with bytes wherever there is a path."""
    kind = _entry_type(column.type)
    if not _is_struct(kind) or kind.field("bytes").type != pa.binary() or isinstance(column.type, pa.FixedSizeListType):
        return False
    values = column if kind == column.type else pc.list_flatten(column)
    paths = pc.and_(pc.is_null(pc.struct_field(values, "bytes")), pc.is_valid(pc.struct_field(values, "path")))
    return not pc.any(paths).as_py()


def _is_number(kind: Any) -> bool:
    inner = _entry_type(kind)
    return bool(pa.types.is_primitive(inner) and not pa.types.is_null(inner))
