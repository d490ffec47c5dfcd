"""The records of a plan's folder: its own files, or the same packed into two parquet files.

    records.parquet   a row a JSON file: its path in the folder, and its text
    samples.parquet   a row a sample of a run: the run, the task, then the fields of `vrbench.records.Sample`

A plan's folder has thousands of small records that repeat each other: packed they take a tenth of the space. Nothing is
lost: texts are kept as they are, and the samples of each run still have the digests that its record names.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Mapping
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json, gzip_text, read_text, write_atomically
from vrbench.core.memory import pause_garbage_collection
from vrbench.core.run_storage import load_run, samples_to_jsonl
from vrbench.core.schemas import SCHEMA_VERSION, Run, RunRecord, Sample

if TYPE_CHECKING:
    from pyarrow import Table

RECORDS, SAMPLES = "records.parquet", "samples.parquet"
FOLDERS = ("done", "layers", "orders", "runs")
"""Folders of a plan that are packed."""

PATH = re.compile(rf"({'|'.join(FOLDERS)})(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
"""Paths of records; none leads out of the folder."""

_SAMPLE_ROWS = TypeAdapter(tuple[Sample, ...])


class RecordFolder:
    """The records of a plan's folder; a file of its own goes before a packed one."""

    def __init__(self, folder: Path) -> None:
        """Open a folder; packed files are read when they are first needed."""
        self.folder = folder

    def text(self, path: str) -> str | None:
        """Return the text of a record such as 'done/train-full-s0.json', or None if there is no such record.

        Raises:
            UnicodeDecodeError: the file is not text.
            VrbenchError: records.parquet cannot be read.
        """
        file = self.folder / path
        return read_text(file) if file.is_file() else self.texts.get(path)

    def run(self, name: str) -> Run:
        """Return the run of a step, its samples checked against their digests.

        Raises:
            VrbenchError: there is no such run, or it is not what its record says.
        """
        folder = self.folder / "runs" / name
        is_packed = not (folder / "run.json").is_file() and f"runs/{name}/run.json" in self.texts
        return self.packed_run(name) if is_packed else load_run(folder)

    def packed_run(self, name: str) -> Run:
        """Return a run from the packed files alone; see `run`."""
        try:
            record = RunRecord.model_validate_json(self.texts[f"runs/{name}/run.json"])
            if record.schema_version != SCHEMA_VERSION:
                raise VrbenchError(f"{name} has schema version {record.schema_version}, not {SCHEMA_VERSION}")
            finished = [r for r in record.results if r.status == "ok"]
            with pause_garbage_collection():
                samples = {r.task: self._samples(name, r.task, r.samples_digest) for r in finished}
        except ValidationError as error:
            raise VrbenchError(f"{name} in {self.folder / RECORDS} is not a run: {error}") from error
        return Run(record=record, samples=samples, path=self.folder / "runs" / name)

    def _samples(self, name: str, task: str, digest: str) -> tuple[Sample, ...]:
        first, count = self._slices.get((name, task), (0, 0))
        rows = self._table.select(list(Sample.model_fields)).slice(first, count).to_pylist()
        for row in rows:
            row["responses"] = [json.loads(text) for text in row["responses"]]
        text = "".join(f"{canonical_json(row)}\n" for row in rows)
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise VrbenchError(
                f"{task} of {name} in {self.folder / SAMPLES} is not what the record says: its sha256 differs"
            )
        return _SAMPLE_ROWS.validate_python(rows)

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """Path -> text of the packed records; empty where nothing is packed."""
        if not (self.folder / RECORDS).is_file():
            return {}
        table = _read_table(self.folder / RECORDS, ("path", "text"))
        found = dict(zip(table["path"].to_pylist(), table["text"].to_pylist(), strict=True))
        for path in found:
            if not PATH.fullmatch(path):
                raise VrbenchError(f"{self.folder / RECORDS} has a record at {path!r}, outside {', '.join(FOLDERS)}")
        return found

    @cached_property
    def _table(self) -> Table:
        return _read_table(self.folder / SAMPLES, ("run", "task", *Sample.model_fields))

    @cached_property
    def _slices(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(run, task) -> its first row in samples.parquet, and how many there are."""
        found, first = {}, 0
        for key, rows in groupby(zip(*(self._table[name].to_pylist() for name in ("run", "task")), strict=True)):
            found[key] = first, sum(1 for _ in rows)
            first += found[key][1]
        return found


def pack(folder: Path) -> list[Path]:
    """Pack a folder's records, read them back, and remove the files that are now packed; returns the packed files.

    Raises:
        VrbenchError: there is no record, or one cannot be read.
    """
    import pyarrow as pa

    unpack(folder)  # what was packed before is packed again with the new files
    files = [file for name in FOLDERS for file in sorted(folder.glob(f"{name}/**/*.json"))]
    if not files:
        raise VrbenchError(f"no records to pack in {folder}")
    texts = {"path": [str(file.relative_to(folder)) for file in files], "text": [read_text(file) for file in files]}
    runs = [file.parent.name for file in files if file.name == "run.json"]
    if runs:
        samples = pa.concat_tables(_sample_table(name, load_run(folder / "runs" / name)) for name in runs)
        _write_table(samples.sort_by([("task", "ascending"), ("run", "ascending")]), folder / SAMPLES)
    _write_table(pa.table(texts), folder / RECORDS)
    packed = RecordFolder(folder)
    for name in runs:
        packed.packed_run(name)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    return [file for file in (folder / RECORDS, folder / SAMPLES) if file.is_file()]


def unpack(folder: Path) -> None:
    """Write the files that are packed, those that are there left alone, and remove the packed ones."""
    packed = RecordFolder(folder)
    for path, text in packed.texts.items():
        file = folder / path
        if file.is_file():
            continue
        if file.name == "run.json":
            for task, samples in packed.packed_run(file.parent.name).samples.items():
                name = f"{task}.jsonl.gz"
                if not PATH.fullmatch(f"runs/{name}"):
                    raise VrbenchError(f"{task!r} in {folder / RECORDS} is not the name of a task")
                write_atomically(file.parent / "samples" / name, gzip_text(samples_to_jsonl(samples)))
        write_atomically(file, text)
    for name in (SAMPLES, RECORDS):
        (folder / name).unlink(missing_ok=True)


def _sample_table(name: str, run: Run) -> Table:
    import pyarrow as pa

    columns = {field: pa.string() for field in ("run", "task", *Sample.model_fields)}
    columns |= {"score": pa.float64(), "weight": pa.float64()}
    columns |= {"loglikelihoods": pa.list_(pa.float64()), "responses": pa.list_(pa.string())}  # each as JSON
    rows: list[dict[str, Any]] = [
        {"run": name, "task": task, **dict(sample), "responses": [canonical_json(found) for found in sample.responses]}
        for task, samples in run.samples.items()
        for sample in samples
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


def _write_table(table: Table, file: Path) -> None:
    from pyarrow import parquet

    stream = io.BytesIO()
    parquet.write_table(table, stream, compression="zstd", compression_level=19)
    write_atomically(file, stream.getvalue())


def _read_table(file: Path, columns: tuple[str, ...]) -> Table:
    """Read a parquet file.

    Raises:
        VrbenchError: it is missing, broken, or has other columns.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise VrbenchError(f"{file} cannot be read: {error}") from error
    if missing := set(columns) - set(table.column_names):
        raise VrbenchError(f"{file} has no column {', '.join(sorted(missing))}")
    return table
