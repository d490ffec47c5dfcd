"""Names and addresses that a stranger chose and that become paths and links."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from vrbench.core.errors import VrbenchError
from vrbench.leaderboard.untrusted_input.text import odd_characters, quoted

MOST_NAME = 64
MOST_URL = 500
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TASK = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
_REVISION = re.compile(r"[0-9a-f]{16}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def safe_name(text: object, what: str = "name") -> str:
    """The same text, if it can be the name of a folder anywhere: an organisation's or a submission's.

    Args:
        what: what it names, for the sentence.

    Raises:
        VrbenchError: it is anything else, such as a path, or a name that Windows keeps for a device.
    """
    if not isinstance(text, str) or not _NAME.fullmatch(text) or "__" in text or ".." in text or text[-1] in "._-":
        raise VrbenchError(
            f"{what} {quoted(text)} is not allowed; 1 to {MOST_NAME} of a-z, 0-9, '.', '_' and '-', beginning and "
            "ending with a letter or digit, without '__' or '..'"
        )
    return _free_of_devices(text, what)


def safe_task(text: object) -> str:
    """The same text, if it can be a task's id, and so the stem of a file.

    Raises:
        VrbenchError: it is anything else.
    """
    if not isinstance(text, str) or not _TASK.fullmatch(text):
        raise VrbenchError(f"task {quoted(text)} is not a task's id; one has up to {MOST_NAME} of a-z, 0-9 and '_'")
    return _free_of_devices(text, "task")


def safe_revision(text: object) -> str:
    """The same text, if it is 16 hexadecimal digits.

    Raises:
        VrbenchError: it is anything else.
    """
    if not isinstance(text, str) or not _REVISION.fullmatch(text):
        raise VrbenchError(f"revision {quoted(text)} is not 16 of 0-9 and a-f, the first of the checkpoint's digest")
    return text


def safe_url(text: object, what: str = "url") -> str:
    """The same text, if it is an address of http or https that shows where it leads; or empty.

    Raises:
        VrbenchError: another scheme such as javascript:, a user or password before the host, or odd characters.
    """
    if text == "":
        return ""
    if not isinstance(text, str) or len(text) > MOST_URL or not _is_web_address(text):
        raise VrbenchError(
            f"{what} {quoted(text)} is not an address; one begins with http:// or https:// and a host, has at most "
            f"{MOST_URL} printable ASCII characters, and no space, quote, angle bracket, backslash, user or password"
        )
    return text


def _is_web_address(text: str) -> bool:
    if odd_characters(text) or re.search(r"[^\x21-\x7e]|[\"'<>\\^`{|}]", text):
        return False
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # raises when it is no number
    except ValueError:
        return False
    ends = text[len(parts.scheme) + len("://") + len(parts.netloc) :][:1] in ("", "/")  # as every program reads it
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and ends


def _free_of_devices(text: str, what: str) -> str:
    if _RESERVED.fullmatch(text):
        raise VrbenchError(f"{what} {quoted(text)} is not allowed; Windows keeps it for a device")
    return text
