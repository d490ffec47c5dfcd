"""YAML of a stranger: plain lists, mappings and values, each written out where it stands."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vrbench.core.errors import VrbenchError
from vrbench.core.io import load_yaml
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import read_text
from vrbench.leaderboard.untrusted_input.parsing import Kind, record_of
from vrbench.leaderboard.untrusted_input.text import odd_characters, quoted, shown

MOST_TOLD = 300
"""Characters of what the parser says, which quotes the text."""

MOST_NUMBER = 40
"""Characters of a number or a date."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_TEXT = "tag:yaml.org,2002:str"
_STARTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


class _Refused(ValueError):
    """What is refused; the text of it follows the name in the sentence."""


def parse_yaml(text: str, name: str) -> Any:
    """What a YAML text says.

    Args:
        name: what it is, for the sentences.

    Raises:
        VrbenchError: it is not one document of YAML; has anchors, aliases, tags or merge keys, a key twice or one that
            is no text; is nested more than `limits.DEPTH` deep; has NaN, infinity, whole numbers beyond 2^53 or dates
            that do not exist; or odd characters.
    """
    try:
        _check(text)
        value = load_yaml(text)
        _check_values(value)
    except _Refused as refused:
        raise VrbenchError(f"{name} {refused}") from refused
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        raise VrbenchError(f"{name} is not YAML: {shown(' '.join(str(error).split()), MOST_TOLD)}") from error
    return value


def read_yaml(path: Path, most_bytes: int = limits.YAML_BYTES) -> Any:
    """What a YAML file says.

    Raises:
        VrbenchError: as `read_bytes` of the file and `parse_yaml` of its text.
    """
    return parse_yaml(read_text(path, most_bytes), quoted(str(path), 200))


def read_yaml_record(path: Path, kind: type[Kind], most_bytes: int = limits.YAML_BYTES) -> Kind:
    """A record from its YAML file, with exactly the types that it declares.

    Args:
        kind: the record's class; if it has a `schema_version`, the file's has to be the same.

    Raises:
        VrbenchError: as `read_yaml`; another schema version; or unknown, missing or wrong fields, all at once.
    """
    name = quoted(str(path), 200)
    value = read_yaml(path, most_bytes)
    return record_of(value, json.dumps(value, default=_no_json), kind, name)


def _no_json(value: object) -> str:
    return f"{value} (a date; put it into quotes)"


def _check(text: str) -> None:
    """Refuse, from the stream of events and so without building anything, what a plain file has no use for."""
    _check_text(text)
    depth = documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, _STARTS) - isinstance(event, _ENDS)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > limits.DEPTH:
            raise _Refused(f"is nested more than {limits.DEPTH} deep")
        if documents > 1:
            raise _Refused("holds several documents; one is read")
        for fault in _event_faults(event):
            raise _Refused(f"{fault}{_line(event)}; write everything out where it stands")


def _check_text(text: str) -> None:
    if odd := odd_characters(text):
        raise _Refused(f"has {', '.join(odd[:5])} in its text, which would act or hide")


def _line(event: yaml.Event) -> str:
    return f" in line {event.start_mark.line + 1}" if event.start_mark else ""


def _event_faults(event: yaml.Event) -> Iterator[str]:
    if isinstance(event, yaml.AliasEvent):
        yield "has an alias (*)"
    elif getattr(event, "anchor", None) is not None:
        yield "has an anchor (&)"
    elif getattr(event, "tag", None) is not None:
        yield "has a tag (!)"
    elif isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
        if event.value in ("<<", "="):
            yield f"has the key {event.value}"
        elif len(event.value) > MOST_NUMBER and _RESOLVER.resolve(yaml.ScalarNode, event.value, (True, False)) != _TEXT:
            yield f"has a number of more than {MOST_NUMBER} digits (text goes into quotes)"


def _check_values(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _Refused(f"has the key {quoted(key)}, which is no text; put it into quotes")
            _check_text(key)
            _check_values(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner)
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _Refused(f"has {value}, which is no number")
    elif isinstance(value, int) and abs(value) > limits.INTEGER:
        raise _Refused("has a whole number beyond 2^53")
