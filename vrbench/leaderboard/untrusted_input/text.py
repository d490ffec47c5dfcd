"""A stranger's text where it is shown: on a page, in a sentence, in a table that a spreadsheet opens, in Markdown.

`shown` gives plain text, not markup: a template must still escape it (jinja2's autoescape does).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

SHOWN = 4_000
"""Characters of one text that a page shows, unless asked for more."""

QUOTED = 100
"""Characters of a stranger's text that a sentence quotes."""

_INVISIBLE = frozenset({0x00AD, 0x061C, 0x115F, 0x1160, 0x180E, 0x3164, 0xFEFF, 0xFFA0}) | frozenset(
    point
    for first, last in ((0x200B, 0x200B), (0x200E, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xFFF9, 0xFFFB),
                        (0xE0000, 0xE007F))
    for point in range(first, last + 1)
)  # fmt: skip
"""Characters that turn the direction of what follows, break lines or show nothing; the joiners of emoji and of
Persian (U+200C, U+200D) are not among them."""

_FORMULA = "=+-@＝＋－＠"
"""What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection")."""

_INNER = re.compile(rf"([;,\t\r\n|][\s\"]*)(?=[{re.escape(_FORMULA)}])")
_ODD = re.compile(r"[^\t\n\x20-\x7e]")
_MARK = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_STACKED = re.compile(f"({_MARK}{{3}}){_MARK}+")


def is_odd(character: str) -> bool:
    """Whether a character would act on a page or a terminal, or hide, rather than be seen; line feed and tab do not."""
    if character in "\t\n":
        return False
    point = ord(character)
    return unicodedata.category(character) in ("Cc", "Cs") or point in _INVISIBLE or point & 0xFFFE == 0xFFFE


def odd_characters(text: str) -> list[str]:
    """Which odd characters a text has, as 'U+202E', each once, in the order in which they come."""
    return [_named(c) for c in dict.fromkeys(_ODD.findall(text)) if is_odd(c)]


def shown(text: str, most: int = SHOWN) -> str:
    """A text with nothing in it that acts or hides: odd characters by their names, the rest of a long one left out.

    Args:
        most: characters that are shown; how many more there were is said.
    """
    rest = len(text) - most
    head = _ODD.sub(lambda m: f"[{_named(m[0])}]" if is_odd(m[0]) else m[0], text[:most].replace("\r\n", "\n"))
    head = _STACKED.sub(r"\1…", head)
    return f"{head} … ({rest:,} more characters)" if rest > 0 else head


def quoted(text: Any, most: int = QUOTED) -> str:
    """A stranger's text in a sentence: on one line, in quotes, with no escape sequence of a terminal, and short."""
    words = text if isinstance(text, str) else repr(text)[: most + 1]
    short = words if len(words) <= most else words[: most - 1] + "…"
    return "'" + shown(short).replace("\n", " ").replace("\t", " ").replace("'", "’") + "'"


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, whichever separator it splits lines at; numbers stay numbers."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = _INNER.sub(r"\1'", shown(str(value)))
    head = text.lstrip()
    return f"'{text}" if head.lstrip('" \t\n').startswith(tuple(_FORMULA)) or head != text else text


def markdown_code(text: str, most: int = QUOTED) -> str:
    """A stranger's text as code of Markdown, so that no markup, link, mention or table line comes of it."""
    plain = " ".join(shown(text, most).split()).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    return f"{fence} {plain} {fence}" if plain else "``` ```"


def _named(character: str) -> str:
    return f"U+{ord(character):04X}"
