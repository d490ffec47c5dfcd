"""Image columns of a table in whatever form they come -> {bytes, path}, as `datasets` stores images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import raise_errors
from vrbench.data.image_values import image_bytes
from vrbench.data.images import ImageError, has_16_bits
from vrbench.data.sampling import by_error

if TYPE_CHECKING:
    from datasets import Dataset

AT_ONCE = 256
"""Rows that are converted at a time: an Arrow array of bytes ends at 2 GiB."""


def read(table: Any, images: Sequence[str], place: object, folder: Path | None) -> Any:
    """The table with each image, also in lists, as {bytes, path}, its bytes read; null where there is none.

    Args:
        table: of Arrow.
        images: names of image columns; columns of {bytes, path} are image columns too. Columns of numbers stay.
        place: file or name of the data, for errors.
        folder: where paths begin; none where there are no files beside the data.

    Raises:
        VrbenchError: values that are no image, and what is allowed, with column and rows; all at once.
    """
    faults: list[str] = []
    for name in table.schema.names:
        column = table[name]
        if _is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not _is_stored(column.type) and (name not in images or _is_number(column.type)):
            continue
        if not _has_bytes(column):
            column, found = _converted(column, folder)
            told = by_error((row, f"column {name}: {text}") for row, text in found)
            faults += (f"{place}, {fault}" for fault in told)
            table = table.set_column(table.schema.get_field_index(name), name, column)
    raise_errors(faults)
    return table


def columns_of(rows: Dataset) -> list[str]:
    """Columns with images or lists of images."""
    from datasets import Image

    return [name for name, kind in rows.features.items() if isinstance(getattr(kind, "feature", kind), Image)]


def stored_images(rows: Dataset) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """(row, column, {bytes, path}) of each image, none decoded; a row is its number in the data set."""
    columns = columns_of(rows)
    if not columns:
        return
    number = 0
    for batch in rows.select_columns(columns).with_format("arrow").iter(batch_size=32):
        for row in batch.to_pylist():
            for name, value in row.items():
                images = value if isinstance(value, list) else [value]
                yield from ((number, name, image) for image in images if image is not None)
            number += 1


def content_of(stored: Mapping[str, Any]) -> bytes | Path:
    """The bytes of a stored image, or the file where `datasets` put them; empty where there are none."""
    path = stored.get("path")
    return Path(path) if path and stored["bytes"] is None else stored["bytes"] or b""


def sixteen_bits(rows: Dataset) -> int:
    """How many images have 16 bits a channel."""
    return sum(has_16_bits(content_of(stored)) for _, _, stored in stored_images(rows))


def _converted(column: Any, folder: Path | None) -> tuple[Any, list[tuple[int, str]]]:
    """A column as {bytes, path} or lists of them, and the rows that hold something else."""
    import pyarrow as pa

    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    listed = _entries(column.type) != column.type
    chunks, faults = [], []
    for start in range(0, len(column), AT_ONCE):
        made: list[Any] = []
        for row, value in enumerate(column.slice(start, AT_ONCE).to_pylist(), start):
            try:
                made.append(stored_image(value, folder))
            except ImageError as error:
                faults.append((row, str(error)))
                made.append(None)
        chunks.append(pa.array(made, pa.list_(kind) if listed else kind))
    return pa.chunked_array(chunks, pa.list_(kind) if listed else kind), faults


def stored_image(value: Any, folder: Path | None) -> Any:
    """A value of an image column, or each in a list of them, as {bytes, path}; errors as those of `image_bytes`."""
    if isinstance(value, list):
        return [stored_image(one, folder) for one in value]
    content = image_bytes(value, folder)
    return None if content is None else {"bytes": content, "path": None}


def _entries(kind: Any) -> Any:
    """The type of a list's entries; the type itself where it is no list."""
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return kind.value_type if any(is_one(kind) for is_one in lists) else kind


def _is_stored(kind: Any) -> bool:
    """Whether a column has {bytes, path}, also in lists."""
    import pyarrow as pa

    inner = _entries(kind)
    return pa.types.is_struct(inner) and {inner.field(i).name for i in range(inner.num_fields)} == {"bytes", "path"}


def _has_bytes(column: Any) -> bool:
    """Whether a column is as `datasets` stores images already, with bytes wherever there is a path."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = _entries(column.type)
    if not _is_stored(kind) or kind.field("bytes").type != pa.binary() or isinstance(column.type, pa.FixedSizeListType):
        return False
    values = column if kind == column.type else pc.list_flatten(column)
    paths = pc.and_(pc.is_null(pc.struct_field(values, "bytes")), pc.is_valid(pc.struct_field(values, "path")))
    return not pc.any(paths).as_py()


def _is_dictionary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_dictionary(kind))


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    inner = _entries(kind)
    return bool(pa.types.is_primitive(inner) and not pa.types.is_null(inner))
