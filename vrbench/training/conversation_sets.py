"""Sets of conversations: LLaVA's JSON with a folder of pictures, JSON lines, or parquet from a data root or the hub.

What cannot be trained on is left out, counted and told, up to a share of the set that the recipe states; beyond it the
set is refused. No torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.training.conversations import Conversation, Unusable, from_record

TOLD = 20
"""Faults of samples that are told one by one."""

AT_ONCE = 8
"""Pictures that are looked at side by side."""

_log = logging.getLogger(__name__)

Read = Callable[[], Conversation]


@dataclass(frozen=True)
class Samples:
    """What was read of a set.

    Attributes:
        samples: those that can be trained on, in the set's order.
        origin: the set, for what is told of it.
        left_out: kind of fault -> samples that were left out for it.
        sixteen_bits: images of the samples that have 16 bits a channel.
    """

    samples: tuple[Conversation, ...]
    origin: str
    left_out: dict[str, int]
    sixteen_bits: int = 0

    @property
    def read(self) -> int:
        """Samples in the set."""
        return len(self.samples) + sum(self.left_out.values())

    def told(self) -> str:
        """One line: how many samples there are, how many were left out for what, and images not shown as they are."""
        lost = ", ".join(f"{number:,} {kind}" for kind, number in self.left_out.items())
        count = f"{self.origin}: {len(self.samples):,} of {self.read:,} samples"
        deep = f"images of 16 bits a channel, of which the high 8 are shown: {self.sixteen_bits:,}"
        return "; ".join([count, *([f"left out: {lost}"] if lost else []), *([deep] if self.sixteen_bits else [])])


def from_json(file: Path, images: Path | None, most_left_out: float = 0.01) -> Samples:
    """The conversations of a JSON or JSON lines file in LLaVA's layout.

    Args:
        file: a list of records, or one record a line.
        images: folder that the names of pictures are relative to; none for a set of texts.
        most_left_out: share of the samples that may be left out.

    Raises:
        VrbenchError: the file or folder is not there or cannot be read, or more samples than that are faulty: the
            first of them, with file, number and id.
    """
    if not file.is_file():
        raise VrbenchError(f"there is no file of conversations {file}")
    if images is not None and not images.is_dir():
        raise VrbenchError(f"the pictures' folder {images} is not there")
    records = _records(file)
    return usable((_reader(record, images, place) for place, record in records), str(file), most_left_out)


def _reader(record: Any, images: Path | None, place: str) -> tuple[str, Read]:
    id_ = record.get("id") if isinstance(record, dict) else None
    return f"{place} (id {id_})" if id_ is not None else place, lambda: from_record(record, images, place)


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """(place, record) of a JSON file; of JSON lines a line that is no JSON is a record that is none."""
    with file.open(encoding="utf-8-sig") as stream:
        try:
            if _first(file) != "{":
                found = json.load(stream)
                if not isinstance(found, list):
                    raise VrbenchError(f"{file} holds no list of conversations")
                yield from ((f"{file}, sample {number}", record) for number, record in enumerate(found, 1))
                return
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{file}, line {number}", _parsed(line)
        except UnicodeDecodeError as error:
            raise VrbenchError(f"{file} is not UTF-8: {error}") from error
        except json.JSONDecodeError as error:
            raise VrbenchError(f"{file} is neither JSON nor JSON lines: {error}") from error


def _first(file: Path) -> str:
    """The first character that is no white space."""
    with file.open(encoding="utf-8-sig") as stream:
        return stream.read(4096).lstrip()[:1]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def usable(read: Iterable[tuple[str, Read]], origin: str, most_left_out: float) -> Samples:
    """The samples that can be read and whose pictures can be opened.

    Args:
        read: (place, reader) of each; a reader raises `Unusable`.
        origin: the set.
        most_left_out: share of the samples that may be left out.

    Raises:
        VrbenchError: more cannot be used, or none is left.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        looked = list(pool.map(_judged, read))
    judged = [one for one, _ in looked]
    faults = [one for one in judged if not isinstance(one, Conversation)]
    samples = tuple(one for one in judged if isinstance(one, Conversation))
    left_out = dict(sorted(Counter(kind for kind, _ in faults).items()))
    found = Samples(samples, origin, left_out, sum(deep for _, deep in looked))
    told = [sentence for _, sentence in faults[:TOLD]]
    more = [f"... and {len(faults) - TOLD:,} more of {origin}"] if len(faults) > TOLD else []
    if not samples or len(faults) > most_left_out * len(judged):
        allowed = math.floor(most_left_out * len(judged))
        raise MultipleErrors(
            [f"{found.told()}; at most {allowed:,} may be left out ({most_left_out:.1%})", *told, *more]
        )
    if faults or found.sixteen_bits:
        _log.warning("vrbench: %s", "\n".join([found.told(), *told, *more]))
    return found


def _judged(read: tuple[str, Read]) -> tuple[Conversation | tuple[str, str], int]:
    """A sample, or (kind, sentence) of what is wrong with it; and how many images it has of 16 bits a channel."""
    place, make = read
    try:
        sample = make()
    except Unusable as fault:
        return (fault.kind, f"{place}: {fault}"), 0
    deep = 0
    for picture in sample.pictures:
        kind, reason, is_deep = picture.fault()
        if kind:
            return (kind, f"{sample.place}: {reason}"), 0
        deep += is_deep
    return sample, deep


def share_of(samples: Sequence[Conversation], share: float, seed: int, by_source: bool = True) -> list[Conversation]:
    """A share of the samples, in their order; with one seed, a smaller share is a part of a larger one.

    Args:
        share: 0 to 1.
        seed: of the choice.
        by_source: take the same share of each source (the first folder of the pictures, and the texts).
    """
    strata: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        strata.setdefault(sample.source if by_source else "", []).append(number)
    kept: list[int] = []
    for members in strata.values():
        drawn = sorted(members, key=lambda number: _draw(seed, number))
        kept += drawn[: math.floor(share * len(members) + 0.5)]
    if not kept:
        raise VrbenchError(f"a share of {share} of {len(samples)} samples leaves none")
    return [samples[number] for number in sorted(kept)]


def _draw(seed: int, number: int) -> bytes:
    return hashlib.sha256(f"{seed} {number}".encode()).digest()
