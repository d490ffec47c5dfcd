"""Rows as a `datasets.Dataset` whose images decode by `open_image`: from any source.

Importing this module imports `datasets`, which takes a second: import it late.
"""

from __future__ import annotations

import copy
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import eq
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, Image
from datasets.features.features import require_decoding
from datasets.table import InMemoryTable

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import read_text
from vrbench.data import image_columns
from vrbench.data.images import ImageError, open_image
from vrbench.data.sampling import group_by_error, iterate_undecoded

MAX_COPIED_BYTES = 2**30
"""A larger table is not copied: an Arrow array of texts ends at 2 GiB."""


class OpenedImage(Image):
    """`datasets.Image`, decoded by `open_image`."""

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """Return the image of {bytes, path}; a path is of a file that `datasets` itself has put on this machine."""
        if not isinstance(value, Mapping):
            return super().decode_example(value, token_per_repo_id)
        content = image_columns.content_of(value)
        return _open_again(content).copy() if isinstance(content, bytes) else open_image(content)


@lru_cache(maxsize=2)
def _open_again(content: bytes) -> Any:
    """Return an image; rows that follow each other often have the same one."""
    return open_image(content)


class Documents(Sequence[dict[str, Any]]):
    """The rows of a data set as dictionaries, new ones each time; many at once, where nothing is to be decoded.

    Attributes:
        features: of the data set.
    """

    def __init__(self, rows: Dataset) -> None:
        self._rows = rows
        self.features = rows.info.features

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: Any) -> Any:
        return self._rows[number]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = self._rows
        is_decoded = any(map(require_decoding, self.features.values())) or rows.format["type"] is not None
        return iter(rows) if is_decoded else iterate_undecoded(rows)


def select(rows: Dataset, positions: Sequence[int]) -> Dataset:
    """Return the rows at some positions, in that order; those with images are not copied."""
    if len(positions) == len(rows) and all(map(eq, positions, range(len(rows)))):
        return rows
    table = rows.data.table
    if rows._indices is not None or image_columns.columns_of(rows) or table.nbytes > MAX_COPIED_BYTES:
        return rows.select(positions)
    return _with_table(rows, table.take(pa.array(positions, pa.int64())))


def decode_images(rows: Dataset) -> Dataset:
    """Return the same rows, whose images, also in lists, decode by `open_image`."""
    info = DatasetInfo(features=_opened_feature(rows.features, structs=False))
    return Dataset(rows.data, info, rows.split, rows._indices)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> Dataset:
    """Return rows with the same columns as a data set; PIL images, also in lists, are stored uncompressed."""
    return _dataset(pa.Table.from_pylist([_uncompressed_file(row) for row in rows]))


def from_file(file: Path, images: Sequence[str]) -> Dataset:
    """Read a parquet or JSON lines file; what an image column may hold is `image_columns.ALLOWED`.

    Args:
        images: names of image columns, those that the file does not have among them; columns of {bytes, path} are
            image columns too.

    Raises:
        VrbenchError: the file cannot be read or is empty; or an image column holds something else: all rows together.
    """
    if file.suffix == ".jsonl":
        rows = _json_lines(file)
        _store_images(rows, images, file)
        try:
            table = pa.Table.from_pylist(rows)
        except (pa.ArrowException, UnicodeEncodeError) as error:
            raise VrbenchError(f"{file}: its values do not make columns of one type each: {error}") from error
    else:
        try:
            table = pq.ParquetFile(file).read(use_threads=False)
        except (pa.ArrowException, OSError) as error:
            os_errors.reraise_os_error(error)
            raise VrbenchError(f"{file} cannot be read as parquet: {error}") from error
    return _dataset(image_columns.convert(table, images, file, file.parent))


def from_hub(rows: Dataset, images: Sequence[str], place: str) -> Dataset:
    """Return rows that `datasets` loaded, with image columns that decode as those of `from_file`; errors as there.

    Args:
        images: as in `from_file`.
        place: name of the set, for errors.
    """
    kinds = [rows.features[name] for name in images if name in rows.features]
    if all(isinstance(getattr(kind, "feature", kind), Image) for kind in kinds):
        return decode_images(rows)
    return _dataset(image_columns.convert(rows.data.table, images, place, None))


def join_columns(rows: Dataset, others: Dataset, column: str, key: str) -> Dataset:
    """Return rows with the columns of those other rows that they name; what rows share is in memory once.

    Args:
        column: column of the rows that names another row.
        key: column of the other rows that holds the name.

    Raises:
        VrbenchError: a column is missing, or rows name others that are not there.
    """
    _require_columns(rows, [column], " to join by")
    _require_columns(others, [key], " to join by")
    place = {name: i for i, name in enumerate(others[key])}
    named = list(rows[column])
    missing = [name for name in named if name not in place]
    if missing:
        raise VrbenchError(
            f"{len(missing)} of {len(named)} rows name a {key} that is not there, such as {missing[0]!r}"
        )
    table, found = rows.data.table, others.data.table
    for name in found.column_names:
        if name != key and name not in table.column_names:
            table = table.append_column(name, _take(found[name], [place[other] for other in named]))
    return _dataset(table)


def unnest(rows: Dataset, columns: Sequence[str], images: Sequence[str] = ()) -> Dataset:
    """Return one row for each entry of the lists in some columns; other columns repeat, images without a copy.

    Raises:
        VrbenchError: a column is missing, or the lists of a row differ in length.
    """
    _require_columns(rows, columns)
    table = rows.data.table
    lengths = list(zip(*(pc.fill_null(pc.list_value_length(table[c]), 0).to_pylist() for c in columns), strict=True))
    uneven = [i for i, found in enumerate(lengths) if len(set(found)) > 1]
    if uneven:
        raise VrbenchError(f"row {uneven[0]}: {' and '.join(columns)} are lists of different lengths")
    places = [i for i, found in enumerate(lengths) for _ in range(found[0])]
    repeated = {}
    for name in table.column_names:
        if name in columns:
            repeated[name] = pc.list_flatten(table[name])
        else:
            repeated[name] = _take(table[name], places) if name in images else table[name].take(pa.array(places))
    return _dataset(pa.table(repeated))


def _require_columns(rows: Dataset, names: Sequence[str], purpose: str = "") -> None:
    if missing := [name for name in names if name not in rows.column_names]:
        has = ", ".join(rows.column_names)
        raise VrbenchError(f"the data have no column {', '.join(missing)}{purpose}; they have {has}")


def _take(column: Any, places: Sequence[int]) -> Any:
    """Return the values at some places, one after another; each is a view of the column, not a copy."""
    return pa.chunked_array([column.slice(place, 1).chunk(0) for place in places], type=column.type)


def _dataset(table: Any) -> Dataset:
    """Return a data set in memory whose {bytes, path} structs, also in lists, are images."""
    empty = _empty(table.schema)
    return _with_table(empty, table.cast(empty.data.schema))


@lru_cache(maxsize=64)
def _empty(schema: Any) -> Dataset:
    """Return a data set without rows, of the columns of a table; made once, since that takes a millisecond."""
    features = _opened_feature(Features.from_arrow_schema(schema))
    return Dataset(features.arrow_schema.empty_table(), info=DatasetInfo(features=features))


def _with_table(rows: Dataset, table: Any) -> Dataset:
    """Return a data set with the columns of another, over another table of the same schema."""
    made = copy.copy(rows)
    made._info = copy.copy(rows._info)
    made._data, made._indices, made._fingerprint = InMemoryTable(table), None, uuid.uuid4().hex[:16]
    return made


def _opened_feature(kind: Any, structs: bool = True) -> Any:
    """Return a feature with `OpenedImage` wherever it has images, and with `structs` also for {bytes, path}."""
    if isinstance(kind, Features):
        return Features({name: _opened_feature(part, structs) for name, part in kind.items()})
    if isinstance(kind, Image) or (structs and isinstance(kind, dict) and set(kind) == {"bytes", "path"}):
        return OpenedImage()
    if isinstance(kind, dict):
        return {name: _opened_feature(part, structs) for name, part in kind.items()}
    if isinstance(kind, list):
        return [_opened_feature(kind[0], structs)]
    inner = getattr(kind, "feature", None)
    return kind if inner is None else type(kind)(_opened_feature(inner, structs))


def _uncompressed_file(value: Any) -> Any:
    """Return a generated image as an uncompressed file: its bytes follow from its pixels, whatever Pillow's version."""
    if isinstance(value, dict):
        return {name: _uncompressed_file(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_uncompressed_file(part) for part in value]
    if hasattr(value, "tobytes") and hasattr(value, "convert"):
        stream = io.BytesIO()
        value.convert("RGB").save(stream, format="BMP")
        return {"bytes": stream.getvalue(), "path": None}
    return value


def _store_images(rows: Sequence[dict[str, Any]], images: Sequence[str], file: Path) -> None:
    """Replace what JSON has in image columns, which may differ in form from row to row, by stored images."""
    errors: list[tuple[int, str]] = []
    for name in [name for name in images if name in rows[0]]:
        listed = any(isinstance(row[name], list) for row in rows)
        for number, row in enumerate(rows):
            value = row[name]
            if isinstance(value, (bool, int, float)):
                continue
            value = [value] if listed and isinstance(value, (str, dict)) else value
            try:
                row[name] = image_columns.stored_image(value, file.parent)
            except ImageError as error:
                errors.append((number, f"column {name}: {error}"))
    raise_errors(f"{file}, {error}" for error in group_by_error(errors))


def _json_lines(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        text = read_text(file)
    except UnicodeDecodeError as error:
        raise VrbenchError(f"{file} is not UTF-8: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would split at U+2028 too, which JSON allows
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise VrbenchError(f"{file}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or (rows and set(row) != set(rows[0])):
            raise VrbenchError(f"{file}, line {number}: each line is an object, all with the same keys")
        rows.append(row)
    if not rows:
        raise VrbenchError(f"{file} is empty")
    return rows
