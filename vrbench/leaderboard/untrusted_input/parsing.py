"""Untrusted JSON and YAML: one meaning for each text, exactly the declared types, and nothing that breaks a reader."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import load_yaml
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import quote_path, read_text
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display, sanitize_for_message, unsafe_characters

MAX_ERRORS = 20
"""Errors of one file that are listed; a file with more is another kind of file."""
MAX_NUMBER = 40
"""Characters of a number or a date in YAML."""

RecordT = TypeVar("RecordT", bound=BaseModel)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(_STEP)))
_RESOLVER = yaml.resolver.Resolver()


class _RejectedText(ValueError):
    """The reason why a text is rejected; its message follows the text's name."""


@contextmanager
def _named(name: str, language: str) -> Iterator[None]:
    """Raise any error of a parser as a VrbenchError that names the text."""
    try:
        yield
    except _RejectedText as refused:
        raise VrbenchError(f"{name} {refused}") from refused
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        reason = sanitize_for_display(" ".join(str(error).split()), 300)
        raise VrbenchError(f"{name} is not {language}: {reason}") from error


def parse_json(text: str, name: str, max_values: int = limits.VALUES) -> Any:
    """Return the value of a JSON text.

    Args:
        name: what it is, for the messages.
        max_values: values that it may have.

    Raises:
        VrbenchError: it is not JSON; has a duplicate key, NaN, an infinity, an integer beyond 2^53, half of a surrogate
            pair or too many values; or is nested more than `limits.DEPTH` deep.
    """
    with _named(name, "JSON"):
        _check_nesting(text)
        if text.count(",") >= max_values:
            raise _RejectedText(f"has more than {max_values:,} values, by its commas")
        value = _DECODER.decode(text)
        if re.search(r"\\u[dD][89a-fA-F]", text) and any(re.search("[\ud800-\udfff]", t) for t in _texts(value)):
            raise _RejectedText("has half of a surrogate pair")
        return value


def parse_record(text: str, record_type: type[RecordT], name: str, max_values: int = limits.VALUES) -> RecordT:
    """Return a record from its JSON text, with exactly the types and the `schema_version` that its class declares.

    Raises:
        VrbenchError: as `parse_json`; another schema version; unknown, missing or wrong fields; or unsafe characters or
            long texts; all of a kind at once.
    """
    value = parse_json(text, name, max_values)
    if not isinstance(value, dict):
        raise VrbenchError(f"{name} is a {type(value).__name__}, not a record with named fields")
    given, known = value.get("schema_version"), record_type.model_fields["schema_version"].default
    if type(given) is not int or given != known:
        is_later = type(given) is int and given > known
        advice = "; it was made by a later vrbench, update this one" if is_later else ""
        raise VrbenchError(
            f"{name} has schema version {sanitize_for_message(given)}; this vrbench reads {known}{advice}"
        )
    record = validate_strictly(text, record_type, name)
    unsafe = dict.fromkeys(error for inner in _texts(value) for error in _text_errors(inner))
    raise_errors(f"{name} has {error}" for error in list(unsafe)[:MAX_ERRORS])
    return record


def read_record(
    path: Path, record_type: type[RecordT], max_bytes: int = limits.RECORD_BYTES, max_values: int = limits.VALUES
) -> RecordT:
    """Return a record from its JSON file; see `read_bytes` and `parse_record`."""
    return parse_record(read_text(path, max_bytes), record_type, quote_path(path), max_values)


def validate_strictly(text: str | bytes, record_type: type[RecordT], name: str) -> RecordT:
    """Return a record from a JSON text that was checked already; see `parse_record`."""
    try:
        return record_type.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise_errors(f"{name}: {message}" for message in validation_messages(error))
        raise


def validation_messages(error: ValidationError) -> Iterator[str]:
    """Yield the errors that pydantic found, each as "'field': what is expected", without the values."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    for one in errors[:MAX_ERRORS]:
        place = ".".join(str(part) for part in one["loc"])
        message = " ".join(sanitize_for_display(str(one["msg"]).removeprefix("Value error, "), 600).split())
        yield f"{sanitize_for_message(place)}: {message}" if place else message
    if len(errors) > MAX_ERRORS:
        yield f"and {len(errors) - MAX_ERRORS:,} more errors"


def parse_yaml(text: str, name: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        VrbenchError: it is not one YAML document; has anchors, aliases, tags, merge keys, duplicate keys, keys that are
            no text, NaN, infinities, integers beyond 2^53, dates that do not exist or unsafe characters; nests deeper
            than `limits.DEPTH`.
    """
    with _named(name, "YAML"):
        _check_events(text)
        value = load_yaml(text)
        unsafe = unsafe_characters("".join((text, *_texts(value))))
        parse_json(_as_json(value), name, len(text) + 1)
    if unsafe:
        raise VrbenchError(f"{name} has invisible or control characters in its text: {', '.join(unsafe[:5])}")
    return value


def read_yaml_record(path: Path, record_type: type[RecordT]) -> RecordT:
    """Return a record from its YAML file; see `read_bytes`, `parse_yaml` and `parse_record`."""
    name = quote_path(path)
    return parse_record(_as_json(parse_yaml(read_text(path, limits.YAML_BYTES), name)), record_type, name)


def _as_json(value: Any) -> str:
    return json.dumps(value, default=lambda date: f"{date} (a date; put it into quotes)")


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a value, keys included; refuse a key that is no text, as YAML may have."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _RejectedText(f"has the key {sanitize_for_message(key)}, which is not text; put it into quotes")
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _text_errors(text: str) -> list[str]:
    if len(text) > limits.TEXT:
        return [f"a text of {len(text):,} characters; at most {limits.TEXT:,} are read"]
    return [f"the invisible or control character {unsafe}" for unsafe in unsafe_characters(text)]


def _check_nesting(text: str) -> None:
    """Refuse deep nesting without following it, so that no parser runs out of stack."""
    if text.count("[") + text.count("{") <= limits.DEPTH:
        return
    bare = re.sub(rb'"[^"]*"', b"", re.sub(rb"(?s)\\.", b"", text.encode("utf-8", "replace")))
    brackets = bare.translate(None, _NOT_BRACKETS)
    if any(depth > limits.DEPTH for depth in accumulate(_STEP[bracket] for bracket in brackets)):
        raise _RejectedText(f"is nested more than {limits.DEPTH} deep")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise _RejectedText(f"gives the key {sanitize_for_message(twice)} twice")
    return mapping


def _refuse_constant(text: str) -> Any:
    raise _RejectedText(f"has {text}, which is not a number")


def _finite_float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise _RejectedText(f"has the number {sanitize_for_message(text)}, which is larger than a double")
    return value


def _exact_int(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > limits.INTEGER:
        raise _RejectedText(f"has the whole number {sanitize_for_message(text)}, which is beyond 2^53")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_exact_int
)


def _check_events(text: str) -> None:
    """Refuse, from the parser's events and so without building anything, what a plain YAML file has no use for."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > limits.DEPTH:
            raise _RejectedText(f"is nested more than {limits.DEPTH} deep")
        if documents > 1:
            raise _RejectedText("holds several documents; one is read")
        if error := _event_error(event):
            line = f" in line {event.start_mark.line + 1}" if event.start_mark else ""
            raise _RejectedText(f"{error}{line}; write everything out in full")


def _event_error(event: yaml.Event) -> str:
    if isinstance(event, yaml.AliasEvent):
        return "has an alias (*)"
    if getattr(event, "anchor", None) is not None:
        return "has an anchor (&)"
    if getattr(event, "tag", None) is not None:
        return "has a tag (!)"
    if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
        if event.value in ("<<", "="):
            return f"has the key {event.value}"
        kind = _RESOLVER.resolve(yaml.ScalarNode, event.value, (True, False)) if len(event.value) > MAX_NUMBER else ""
        if kind and kind != "tag:yaml.org,2002:str":
            return f"has a number of more than {MAX_NUMBER} digits (text goes into quotes)"
    return ""
