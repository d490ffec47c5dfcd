"""Reading the conversations that a recipe names: LLaVA's JSON with an image folder, JSON lines, or parquet (no torch).

Samples that cannot be trained on are skipped, counted and reported, up to the share of the set that the recipe states;
beyond it the set is refused. So is a split that a task evaluates on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vrbench.core.cache import cache_folder, cached_folder
from vrbench.core.errors import MultipleErrors, VrbenchError, raise_errors
from vrbench.core.io import digest_of
from vrbench.data import hub, local_mirror
from vrbench.data.image_columns import image_bytes
from vrbench.data.images import ImageError
from vrbench.tasks import registry
from vrbench.training.conversations import (
    Conversation,
    InvalidSample,
    TrainingImage,
    make_conversation,
    parse_record,
)
from vrbench.training.recipe import ConversationFile, HubConversations, Style

MAX_REPORTED = 20
"""Invalid samples that are reported one by one."""

THREADS = 8
"""Samples that are checked in parallel."""

HELD_OUT_SPLIT = re.compile(r"^(test|val|dev|eval)|[^a-z](test|val|valid|validation|dev|eval)(?![a-z])", re.IGNORECASE)
"""Names of splits for evaluation."""

COMMIT = "commit"
"""File beside a downloaded split: its commit."""

_log = logging.getLogger(__name__)

Reader = Callable[[str], Conversation]
"""Reads the sample at a location, which messages name; raises `InvalidSample`."""


@dataclass(frozen=True)
class ConversationSet:
    """The valid samples of a data set, in its order.

    Attributes:
        origin: name of the set, for messages.
        skipped: category -> number of invalid samples.
        sixteen_bit: number of images that have 16 bits a channel.
    """

    samples: tuple[Conversation, ...]
    origin: str
    skipped: dict[str, int]
    sixteen_bit: int = 0

    @property
    def total(self) -> int:
        """Samples in the set, the skipped ones included."""
        return len(self.samples) + sum(self.skipped.values())

    def summary(self) -> str:
        """Return one line: the number of samples, what was skipped, and images that are not shown at full depth."""
        skipped = ", ".join(f"{number:,} {category}" for category, number in self.skipped.items())
        deep = f"images of 16 bits a channel, reduced to the high 8: {self.sixteen_bit:,}"
        count = f"{self.origin}: {len(self.samples):,} of {self.total:,} samples"
        return "; ".join([count, *([f"skipped: {skipped}"] if skipped else []), *([deep] if self.sixteen_bit else [])])


def read_conversations(settings: ConversationFile | HubConversations) -> ConversationSet:
    """Read the conversations of a recipe's section `data`.

    Raises:
        VrbenchError: they cannot be read, too many samples are invalid, or the split is one that a task evaluates on.
    """
    if isinstance(settings, HubConversations):
        return from_hub(settings)
    folder = Path(settings.images).expanduser() if settings.images else None
    return from_json(Path(settings.conversations).expanduser(), folder, settings.most_left_out, settings.style)


def from_json(file: Path, folder: Path | None, max_invalid: float = 0.01, style: Style = "vrbench") -> ConversationSet:
    """Read a JSON or JSON lines file in LLaVA's layout; a text-only one has no image folder.

    Raises:
        VrbenchError: file or folder do not exist or cannot be read, or too many samples are invalid.
    """
    if not file.is_file():
        raise VrbenchError(f"there is no file of conversations {file}")
    if folder is not None and not folder.is_dir():
        raise VrbenchError(f"there is no image folder {folder}")
    readers = ((location, partial(parse_record, record, folder, style=style)) for location, record in _records(file))
    return _valid_samples(readers, str(file), max_invalid)


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (location, record) of a JSON file, or of JSON lines; a line that is not JSON yields None as its record."""
    with file.open(encoding="utf-8-sig") as stream:
        try:
            is_lines = stream.read(4096).lstrip()[:1] == "{"
            stream.seek(0)
            if is_lines:
                records = (
                    (f"line {number}", _json_or_none(line)) for number, line in enumerate(stream, 1) if line.strip()
                )
            else:
                found = json.load(stream)
                if not isinstance(found, list):
                    raise VrbenchError(f"{file} is not a list of conversations")
                records = ((f"sample {number}", record) for number, record in enumerate(found, 1))
            for place, record in records:
                id_ = record.get("id") if isinstance(record, dict) else None
                yield f"{file}, {place}" + (f" (id {id_})" if id_ not in (None, "") else ""), record
        except UnicodeDecodeError as error:
            raise VrbenchError(f"{file} is not UTF-8: {error}") from error
        except json.JSONDecodeError as error:
            raise VrbenchError(f"{file} is neither JSON nor JSON lines: {error}") from error


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def from_hub(settings: HubConversations) -> ConversationSet:
    """Read a split of a data set from a local mirror, or from the hub: it is downloaded once into the cache.

    Raises:
        VrbenchError: a task evaluates on the split, the set does not exist, lacks a column, or has too many invalid
            samples.
    """
    name, config, split = settings.hub, settings.config or "default", settings.split
    commit = settings.revision or ""
    raise_errors(held_out_errors(name, config, split))
    if settings.data_root:
        root = Path(settings.data_root).expanduser()
        file = root / local_mirror.key(name, config, split)
        if not file.is_file():
            raise VrbenchError(f"data set {name} is not in the data root {root}: there is no file {file}")
    else:
        folder = _download(name, config, split, commit)
        file, commit = folder / f"{split}.parquet", (folder / COMMIT).read_text(encoding="utf-8")
    origin = f"{name} (config {config}, split {split}{', revision ' + commit[:12] if commit else ''})"
    return from_parquet(file, settings, origin)


def held_out_errors(name: str, config: str, split: str) -> list[str]:
    """Return an error if a task evaluates on a split, or if it is a test split of a set that a task uses."""
    of_set = [
        spec for spec in registry.load().values() if spec.data.kind == "hub" and spec.data.name.lower() == name.lower()
    ]
    measured = ", ".join(spec.id for spec in of_set if (config, split) in spec.data.parts)
    what = f"data set {name}, config {config}, split {split} may not be trained on"
    if measured:
        return [f"{what}: the evaluation of {measured} uses it"]
    if of_set and HELD_OUT_SPLIT.search(split):
        users = ", ".join(spec.id for spec in of_set)
        return [f"{what}: it is held out for tests, and {users} uses the same set; take a train split"]
    return []


def _download(name: str, config: str, split: str, revision: str) -> Path:

    def download(folder: Path) -> None:
        if hub.is_offline():
            raise VrbenchError(
                f"data set {name} (config {config}, split {split}) is not in the cache {cache_folder()}, and "
                f"HF_HUB_OFFLINE forbids the download; set data.data_root to a folder with "
                f"{local_mirror.key(name, config, split)}, or run once online"
            )
        commit = hub.commit(name, revision)
        hub.download(name, config, split, commit, folder / f"{split}.parquet")
        (folder / COMMIT).write_text(commit, encoding="utf-8")

    return cached_folder(f"set-{digest_of([name, config, split, revision])[:20]}", download)


def from_parquet(file: Path, settings: HubConversations, origin: str) -> ConversationSet:
    """Read a parquet file with the columns that the settings name; images stay on disk until they are needed.

    Raises:
        VrbenchError: it cannot be read, lacks a column, or has too many invalid samples.
    """
    from datasets import load_dataset

    names = local_mirror.read_footer(file).schema.to_arrow_schema().names
    needed = [settings.turns] if settings.turns in names else [settings.question, settings.answer]
    missing = [name for name in needed if name not in names]
    if missing:
        raise VrbenchError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(names)}; name the column of messages as "
            "data.turns, or those of questions and answers as data.question and data.answer"
        )
    cache = str(cache_folder() / "tables")
    rows = load_dataset("parquet", data_files={"train": str(file)}, split="train", cache_dir=cache)
    rows = rows.with_format("arrow")  # in which images are not decoded
    readers = (
        (f"{origin}, row {number}", partial(_read_row, rows, number, settings, file.parent))
        for number in range(len(rows))
    )
    return _valid_samples(readers, origin, settings.most_left_out)


def _read_row(rows: Any, number: int, settings: HubConversations, folder: Path, location: str) -> Conversation:
    (row,), images = rows[number].to_pylist(), []
    for index, value in enumerate(_as_list(row.get(settings.image))):
        name = (value.get("path") if isinstance(value, dict) else None) or f"{settings.image} of row {number}"
        images.append(TrainingImage(str(name), partial(_read_image, rows, number, settings.image, index, folder)))
    if settings.turns in row:
        messages = row[settings.turns]
        if not isinstance(messages, list) or not messages:
            raise InvalidSample("not a conversation", f"its {settings.turns} is not a list of messages")
    else:
        texts = {"human": row[settings.question], "gpt": row[settings.answer]}
        messages = [{"from": speaker, "value": text} for speaker, text in texts.items()]
    return make_conversation(str(row.get("id", number)), messages, tuple(images), location, settings.style)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _read_image(rows: Any, number: int, column: str, index: int, folder: Path) -> bytes:
    content = image_bytes(_as_list(rows[number][column][0].as_py())[index], folder)
    if content is None:
        raise ImageError(f"column {column} has no bytes of an image")
    return content


def _valid_samples(readers: Iterable[tuple[str, Reader]], origin: str, max_invalid: float) -> ConversationSet:
    """Read and check the samples, and report invalid ones; refuse the set if there are too many, or no valid one."""
    with ThreadPoolExecutor(THREADS) as pool:
        checked = list(pool.map(_check_sample, readers))
    invalid = [one for one, _ in checked if isinstance(one, InvalidSample)]
    samples = tuple(one for one, _ in checked if isinstance(one, Conversation))
    skipped = dict(sorted(Counter(error.category for error in invalid).items()))
    found = ConversationSet(samples, origin, skipped, sum(deep for _, deep in checked))
    details = [str(error) for error in invalid[:MAX_REPORTED]]
    if len(invalid) > MAX_REPORTED:
        details.append(f"... and {len(invalid) - MAX_REPORTED:,} more of {origin}")
    if not samples or len(invalid) > max_invalid * len(checked):
        allowed = math.floor(max_invalid * len(checked))
        raise MultipleErrors([f"{found.summary()}; at most {allowed:,} may be invalid ({max_invalid:.1%})", *details])
    if invalid or found.sixteen_bit:
        _log.warning("vrbench: %s", "\n".join([found.summary(), *details]))
    return found


def _check_sample(reader: tuple[str, Reader]) -> tuple[Conversation | InvalidSample, int]:
    location, read = reader
    try:
        sample = read(location)
        return sample, sum(image.check() for image in sample.images)
    except InvalidSample as error:
        return InvalidSample(error.category, f"{location}: {error}"), 0


def select_share(
    samples: Sequence[Conversation], settings: ConversationFile | HubConversations, seed: int
) -> list[Conversation]:
    """Return the share of the samples that a recipe uses, at least one, in their order; with one seed, shares nest."""
    strata: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        strata.setdefault(sample.source if settings.subset == "stratified" else "", []).append(number)
    kept: list[int] = []
    for members in strata.values():
        drawn = sorted(members, key=lambda number: hashlib.sha256(f"{seed} {number}".encode()).digest())
        kept += drawn[: math.floor(settings.share * len(members) + 0.5)]
    if not kept:
        raise VrbenchError(f"data.share = {settings.share} of {len(samples)} samples leaves none")
    return [samples[number] for number in sorted(kept)]
