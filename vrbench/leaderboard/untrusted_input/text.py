"""Untrusted text: names and URLs that are accepted, and text made harmless for pages, messages, CSV and Markdown."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from vrbench.core.errors import VrbenchError
from vrbench.leaderboard.untrusted_input import limits

_NONCHARACTERS = "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    f"\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f{_NONCHARACTERS}]"
)
"""Characters that control a terminal, reverse or break lines, or show nothing; the joiners of emoji and of Persian
(U+200C, U+200D), line feed and tab are not among them."""

_MARK = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_STACKED = re.compile(f"({_MARK}{{3}}){_MARK}+")
_FORMULA = "=+-@＝＋－＠"
"""First characters of a spreadsheet formula (OWASP, "CSV Injection")."""
_INNER_FORMULA = re.compile(rf"([;,\t\r\n|][\s\"]*)(?=[{re.escape(_FORMULA)}])")

NAME_PATTERN = r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?"
TASK_PATTERN = r"[a-z0-9][a-z0-9_]{0,63}"
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def unsafe_characters(text: str) -> list[str]:
    """Return the control and invisible characters of a text, as 'U+202E', each once."""
    return [f"U+{ord(character):04X}" for character in dict.fromkeys(_UNSAFE.findall(text))]


def sanitize_for_display(text: str, limit: int = 4_000) -> str:
    """Return text for a page: unsafe characters as '[U+202E]', at most `limit` characters.

    It is plain text, not markup: a template still has to escape it.
    """
    head = _UNSAFE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text[:limit].replace("\r\n", "\n"))
    head = _STACKED.sub(r"\1…", head)
    rest = len(text) - limit
    return f"{head} … ({rest:,} more characters)" if rest > 0 else head


def sanitize_for_message(value: Any, limit: int = 100) -> str:
    """Return untrusted text for an error message: short, in quotes, on one line, without terminal escapes."""
    text = value if isinstance(value, str) else repr(value)[: limit + 1]
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "'" + sanitize_for_display(short).replace("\n", " ").replace("\t", " ").replace("'", "’") + "'"


def csv_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet reads as a formula, whichever separator it uses; numbers stay numbers."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = _INNER_FORMULA.sub(r"\1'", sanitize_for_display(str(value)))
    head = text.lstrip()
    return f"'{text}" if head.lstrip('" \t\n').startswith(tuple(_FORMULA)) or head != text else text


def markdown_code(text: str, limit: int = 100) -> str:
    """Return untrusted text as Markdown code, so that it makes no markup, link, mention or table cell."""
    plain = " ".join(sanitize_for_display(text, limit).split()).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    return f"{fence} {plain} {fence}" if plain else "``` ```"


def safe_name(text: object, what: str = "name") -> str:
    """Return the text if it can name an organisation's or a submission's folder on any system.

    Raises:
        VrbenchError: it cannot, such as a path or the name of a Windows device.
    """
    allowed = (
        f"a name has 1 to {limits.NAME} of a-z, 0-9, '.', '_' and '-', begins and ends with a letter or digit, has no "
        "'__' or '..', and is not a device name of Windows"
    )
    return _matching(rf"(?!.*(__|\.\.)){NAME_PATTERN}", text, what, allowed)


def safe_task(text: object) -> str:
    """Return the text if it is a valid task id, and so a file stem; raises a VrbenchError as `safe_name` does."""
    allowed = f"an id has up to {limits.NAME} of a-z, 0-9 and '_', and is not a device name of Windows"
    return _matching(TASK_PATTERN, text, "task", allowed)


def safe_revision(text: object) -> str:
    """Return the text if it is 16 hexadecimal digits; raises a VrbenchError as `safe_name` does."""
    return _matching("[0-9a-f]{16}", text, "revision", "it is 16 of 0-9 and a-f, the start of the checkpoint's digest")


def _matching(pattern: str, text: object, what: str, allowed: str) -> str:
    if not isinstance(text, str) or not re.fullmatch(pattern, text) or _DEVICE.fullmatch(text):
        raise VrbenchError(f"{what} {sanitize_for_message(text)} is not allowed; {allowed}")
    return text


def safe_url(text: object) -> str:
    """Return the text if it is empty or an http(s) URL that shows where it leads.

    Raises:
        VrbenchError: another scheme such as javascript:, a user or password before the host, or unsafe characters.
    """
    if text != "" and not (isinstance(text, str) and len(text) <= limits.URL and _is_web_address(text)):
        raise VrbenchError(
            f"{sanitize_for_message(text)} is not a URL; a URL begins with http:// or https:// and a host, has at most "
            f"{limits.URL} printable ASCII characters, and no space, quote, angle bracket, backslash, user or password"
        )
    return str(text)


def _is_web_address(text: str) -> bool:
    if re.search(r"[^\x21-\x7e]|[\"'<>\\^`{|}]", text):
        return False
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # raises ValueError when it is not a number
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        return False
    rest = text[len(parts.scheme) + len("://") + len(parts.netloc) :]
    return rest[:1] in ("", "/")  # programs disagree on a host that is followed by ? or #
