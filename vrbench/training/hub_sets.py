"""Sets of conversations in parquet: from a data root or the hub, with a picture, and messages or question and answer.

What vrbench measures with is never trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vrbench.core.cache import cache_folder, cached_folder
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import digest_of
from vrbench.data import hub, local_mirror
from vrbench.data.image_columns import image_bytes
from vrbench.data.images import ImageError
from vrbench.tasks import registry
from vrbench.training.conversation_sets import Read, Samples, usable
from vrbench.training.conversations import Cell, Conversation, Picture, Unusable, turns_of

HELD_OUT = re.compile(r"^(test|val|dev|eval)|[^a-z](test|val|valid|validation|dev|eval)(?![a-z])", re.IGNORECASE)
"""Names of splits that sets are tested on."""

COMMIT = "commit"
"""File beside a set that was fetched: the commit that it is of."""


@dataclass(frozen=True)
class Columns:
    """What a set calls its columns.

    Attributes:
        image: picture, or list of pictures; a set without it has texts.
        messages: list of messages; used where the set has it.
        question, answer: texts, where there are no messages.
        id: of the sample; its number where the set has none.
    """

    image: str = "image"
    messages: str = "conversations"
    question: str = "question"
    answer: str = "answer"
    id: str = "id"


def from_hub(
    name: str,
    config: str = "default",
    split: str = "train",
    revision: str = "",
    columns: Columns | None = None,
    data_root: Path | None = None,
    most_left_out: float = 0.01,
) -> Samples:
    """The conversations of a split of a set of the hub.

    Args:
        name: "org/set".
        config: "default" for a set that has none.
        split: not one that a task measures with, or that is held out for tests.
        revision: branch, tag or commit; empty for the newest, which stays the same once it was fetched.
        columns: what the set calls them.
        data_root: folder with NAME/CONFIG/SPLIT.parquet; without it the set is fetched from the hub into the cache.
        most_left_out: share of the samples that may be left out.

    Raises:
        VrbenchError: the split is one to test on, the set is not there, lacks a column, or has too many faulty samples.
    """
    raise_errors(held_out(name, config, split))
    if data_root is not None:
        file = data_root / local_mirror.key(name, config, split)
        commit = revision
        if not file.is_file():
            raise VrbenchError(f"data set {name} is not in the data root {data_root}: there is no file {file}")
    else:
        folder = _fetched(name, config, split, revision)
        file, commit = folder / f"{split}.parquet", (folder / COMMIT).read_text(encoding="utf-8")
    origin = f"{name} (config {config}, split {split}{', revision ' + commit[:12] if commit else ''})"
    return from_parquet(file, columns or Columns(), origin, most_left_out)


def held_out(name: str, config: str, split: str) -> list[str]:
    """Why a split may not be trained on: a task measures with it, or it is held out of a set that a task is of."""
    measured: list[str] = []
    of_set: list[str] = []
    for spec in registry.load().values():
        if spec.data.kind == "hub" and spec.data.name.lower() == name.lower():
            of_set.append(spec.id)
            if (config, split) in spec.data.parts:
                measured.append(spec.id)
    what = f"data set {name}, config {config}, split {split} may not be trained on"
    if measured:
        return [f"{what}: {', '.join(measured)} measures with it, and would measure what was learned by heart"]
    if of_set and HELD_OUT.search(split):
        return [f"{what}: it is held out for tests, and {', '.join(of_set)} is of the same set; take a train split"]
    return []


def _fetched(name: str, config: str, split: str, revision: str) -> Path:
    """The folder of the cache with a split as a parquet file, fetched on first use."""
    key = f"set-{digest_of([name, config, split, revision])[:20]}"

    def fetch(folder: Path) -> None:
        if hub.is_offline():
            raise VrbenchError(
                f"data set {name} (config {config}, split {split}) is not in the cache {cache_folder()}, and "
                f"HF_HUB_OFFLINE forbids to fetch it; name a folder with {local_mirror.key(name, config, split)} as "
                "data.data_root, or run once online"
            )
        commit = hub.commit(name, revision)
        hub.download(name, config, split, commit, folder / f"{split}.parquet")
        (folder / COMMIT).write_text(commit, encoding="utf-8")

    return cached_folder(key, fetch)


def from_parquet(file: Path, columns: Columns, origin: str, most_left_out: float = 0.01) -> Samples:
    """The conversations of a parquet file; its pictures stay on disk until they are needed.

    Raises:
        VrbenchError: it cannot be read, lacks a column, or has too many faulty samples.
    """
    from datasets import load_dataset

    names = local_mirror.footer(file).schema.to_arrow_schema().names
    told = columns.messages in names
    needed = [columns.messages] if told else [columns.question, columns.answer]
    absent = [name for name in needed if name not in names]
    if absent:
        raise VrbenchError(
            f"{file} has no column {', '.join(absent)}; it has {', '.join(names)}; say which are meant by "
            "data.messages, or data.question and data.answer"
        )
    where = str(cache_folder() / "tables")
    rows = load_dataset("parquet", data_files={"train": str(file)}, split="train", cache_dir=where)
    return usable(_readers(_as_bytes(rows, columns.image), columns, told, origin, file.parent), origin, most_left_out)


def _as_bytes(rows: Any, image: str) -> Any:
    """The rows with pictures as files' bytes instead of decoded."""
    from datasets import Image, Sequence

    if image not in rows.column_names:
        return rows
    kind = rows.features[image]
    if isinstance(kind, Image):
        return rows.cast_column(image, Image(decode=False))
    if isinstance(getattr(kind, "feature", None), Image):
        return rows.cast_column(image, Sequence(Image(decode=False)))
    return rows


def _readers(rows: Any, columns: Columns, told: bool, origin: str, folder: Path) -> Iterator[tuple[str, Read]]:
    for number in range(len(rows)):
        place = f"{origin}, row {number}"
        yield place, partial(_conversation, rows, number, columns, told, place, folder)


def _conversation(rows: Any, number: int, columns: Columns, told: bool, place: str, folder: Path) -> Conversation:
    row = rows[number]
    id_ = str(row.get(columns.id, number))
    there = row.get(columns.image)
    cells = there if isinstance(there, list) else [] if there is None else [there]
    pictures = tuple(_picture(Cell(rows, number, columns.image, i, folder), cell) for i, cell in enumerate(cells))
    said = row[columns.messages] if told else _as_messages(row[columns.question], row[columns.answer])
    if not isinstance(said, list) or not said:
        raise Unusable("not a conversation", f"its {columns.messages} is no list of messages")
    return Conversation(id_, turns_of(said, len(pictures)), pictures, place)


def _as_messages(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _picture(at: Cell, value: Any) -> Picture:
    try:
        content = image_bytes(value, at.folder)
    except ImageError as error:
        raise Unusable("picture missing", f"column {at.column}: {error}") from error
    if content is None:
        raise Unusable("picture missing", f"its {at.column} holds no bytes of a picture")
    name = (value.get("path") if isinstance(value, dict) else None) or f"{at.column} of row {at.row}"
    return Picture(str(name), at)
