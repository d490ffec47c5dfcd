"""JSON of a stranger: one meaning for each text, and nothing in it that breaks what reads on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import read_text
from vrbench.leaderboard.untrusted_input.text import odd_characters, quoted, shown

MOST_FAULTS = 20
"""Faults of one file that are told; a file with more is another kind of file."""

MOST_SAID = 1_000
"""Faults of which the first ones are told; each takes a kilobyte to put into words."""

MOST_TOLD = 600
"""Characters of one of them."""

Kind = TypeVar("Kind", bound=BaseModel)
_INTEGER_DIGITS = len(str(limits.INTEGER)) + 1
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(_STEP)))


class _Refused(ValueError):
    """What a hook of the parser found; the text of it follows 'NAME ' in the sentence."""


def parse_json(text: str, name: str, most_values: int = limits.VALUES) -> Any:
    """What a JSON text says.

    Args:
        name: what it is, for the sentences.
        most_values: values that it may have.

    Raises:
        VrbenchError: it is not JSON, gives a key twice, has NaN, infinity or a number beyond them, whole numbers
            beyond 2^53, lists and mappings nested more than `limits.DEPTH` deep, more values, or half of a
            surrogate pair.
    """
    raise_errors(f"{name} {fault}" for fault in (*nesting_faults(text), *_size_faults(text, most_values)))
    try:
        value = _DECODER.decode(text)
    except _Refused as refused:
        raise VrbenchError(f"{name} {refused}") from refused
    except ValueError as error:
        raise VrbenchError(f"{name} is not JSON: {error}") from error
    if re.search(r"\\u[dD][89a-fA-F]", text):
        raise_errors(f"{name} has half of a surrogate pair" for words in texts(value) if not _encodes(words))
    return value


def read_json(path: Path, most_bytes: int = limits.RECORD_BYTES) -> Any:
    """What a JSON file says.

    Raises:
        VrbenchError: as `read_bytes` of the file and `parse_json` of its text.
    """
    return parse_json(read_text(path, most_bytes), quoted(str(path), 200))


def read_record(
    path: Path, kind: type[Kind], most_bytes: int = limits.RECORD_BYTES, most_values: int = limits.VALUES
) -> Kind:
    """A record from its JSON file, with exactly the types that it declares.

    Args:
        kind: the record's class; if it has a `schema_version`, the file's has to be the same.

    Raises:
        VrbenchError: as `read_json`; another schema version; unknown, missing or wrong fields, all at once; or odd
            characters in its text.
    """
    return parse_record(read_text(path, most_bytes), kind, quoted(str(path), 200), most_values)


def parse_record(text: str, kind: type[Kind], name: str, most_values: int = limits.VALUES) -> Kind:
    """A record from its JSON text; see `read_record`.

    Args:
        name: what it is, for the sentences.
    """
    return record_of(parse_json(text, name, most_values), text, kind, name)


def record_of(value: Any, text: str, kind: type[Kind], name: str) -> Kind:
    """A record from a value that was looked at, and the JSON text of the same value; see `read_record`."""
    if not isinstance(value, dict):
        raise VrbenchError(f"{name} is {_type_of(value)}, not a record with named fields")
    raise_errors(f"{name} {fault}" for fault in _version_faults(value, kind))
    try:
        record = kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise_errors(f"{name}: {fault}" for fault in told(error))
        raise
    raise_errors(f"{name} has {found}" for found in _odd(value))
    return record


def nesting_faults(text: str) -> list[str]:
    """Whether lists and mappings lie in each other more deeply than is read, found without following them."""
    if text.count("[") + text.count("{") <= limits.DEPTH:
        return []
    bare = re.sub(rb'"[^"]*"', b"", re.sub(rb"(?s)\\.", b"", text.encode("utf-8", "replace")))
    brackets = bare.translate(None, _NOT_BRACKETS)
    for depth in accumulate(_STEP[bracket] for bracket in brackets):
        if depth > limits.DEPTH:
            return [f"is nested more than {limits.DEPTH} deep"]
    return []


def _size_faults(text: str, most_values: int) -> list[str]:
    many = text.count(",") >= most_values
    return [f"has more than {most_values:,} values, by its commas"] if many else []


def texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from texts(inner)


def _version_faults(value: dict[str, Any], kind: type[BaseModel]) -> list[str]:
    field = kind.model_fields.get("schema_version")
    if field is None:
        return []
    given, known = value.get("schema_version"), _newest(field)
    if type(given) is int and given == known:
        return []
    later = type(given) is int and given > known
    advice = "; it was made by a later vrbench, update this one" if later else ""
    return [f"has schema version {quoted(given)}; this vrbench reads {known}{advice}"]


def _newest(field: FieldInfo) -> Any:
    """The schema version that a record has: its field's default, or the largest of the literals that it may be."""
    return max(get_args(field.annotation)) if field.is_required() else field.default


def told(error: ValidationError) -> Iterator[str]:
    """The faults that pydantic found, each as "'field': what is expected", without the values."""
    if error.error_count() > MOST_SAID:
        yield f"has {error.error_count():,} values that are not what is expected there"
        return
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    for fault in faults[:MOST_FAULTS]:
        place = ".".join(str(part) for part in fault["loc"])
        message = " ".join(shown(str(fault["msg"]).removeprefix("Value error, "), MOST_TOLD).split())
        yield f"{quoted(place)}: {message}" if place else message
    if len(faults) > MOST_FAULTS:
        yield f"and {len(faults) - MOST_FAULTS:,} faults more"


def _odd(value: Any) -> list[str]:
    """What a record's texts may not have, a few words each."""
    found: dict[str, None] = {}
    for words in texts(value):
        if len(words) > limits.TEXT:
            found[f"a text of {len(words):,} characters; at most {limits.TEXT:,} are read"] = None
        elif not words.isascii() or not words.isprintable():
            found.update((f"{c} in its text, which would act or hide", None) for c in odd_characters(words))
        if len(found) > MOST_FAULTS:
            break
    return list(found)[:MOST_FAULTS]


def _type_of(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a single value")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"gives the key {quoted(twice)} twice")
    return mapping


def _constant(text: str) -> Any:
    raise _Refused(f"has {text}, which is no number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"has the number {quoted(text)}, which is larger than a double")
    return value


def _int(text: str) -> int:
    if len(text) > _INTEGER_DIGITS or abs(value := int(text)) > limits.INTEGER:
        raise _Refused(f"has the whole number {quoted(text)}, which is beyond 2^53")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float, parse_int=_int)
