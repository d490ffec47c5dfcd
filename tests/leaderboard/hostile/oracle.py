"""What is allowed, said a second time and another way: slowly, with the standard parsers, and after the fact."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from typing import Any

MOST_DEPTH = 64
MOST_INTEGER = 2**53


def json_is_allowed(content: bytes) -> bool:
    """Whether a JSON text means one thing and breaks nothing."""
    try:
        text = content.decode()
        value = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return False
    return not text.startswith("\ufeff") and _is_allowed(value, 0)


class _Pairs:
    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _is_allowed(value: Any, depth: int) -> bool:
    if isinstance(value, (_Pairs, list)) and depth >= MOST_DEPTH:
        return False
    if isinstance(value, _Pairs):
        keys = [key for key, _ in value.pairs]
        return len(set(keys)) == len(keys) and all(
            _is_allowed(key, depth) and _is_allowed(inner, depth + 1) for key, inner in value.pairs
        )
    if isinstance(value, list):
        return all(_is_allowed(inner, depth + 1) for inner in value)
    if isinstance(value, str):
        return not any(0xD800 <= ord(c) <= 0xDFFF for c in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= MOST_INTEGER
    return not isinstance(value, float) or math.isfinite(value)


def is_harmless_line(text: str) -> bool:
    """Whether a text is one line that a terminal shows as it is."""
    return "\n" not in text and all(_is_harmless(c) for c in text)


def is_harmless(text: str) -> bool:
    """The same, lines and tabs allowed."""
    return all(c in "\n\t" or _is_harmless(c) for c in text)


def _is_harmless(character: str) -> bool:
    point = ord(character)
    controls = point < 0x20 or 0x7F <= point < 0xA0
    turning = point in (0x200E, 0x200F, 0x061C) or 0x202A <= point <= 0x202E or 0x2066 <= point <= 0x2069
    hidden = point in (0x200B, 0xFEFF, 0x2028, 0x2029) or 0xE0000 <= point <= 0xE007F
    return not (controls or turning or hidden or 0xD800 <= point <= 0xDFFF)


class PageText(HTMLParser):
    """What a browser's parser makes of a page: its elements and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.tags.append("declaration")

    def handle_pi(self, data: str) -> None:
        self.tags.append("instruction")

    def handle_data(self, data: str) -> None:
        self.text += data
