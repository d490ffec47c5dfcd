"""What a hostile stranger writes: documents of JSON and YAML that are right but for a few places, and plain noise."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

TEXTS = (
    "", " ", "\x00", "\x1b[31mred\x1b[0m", "\x07", "\r\n", "a\tb\nc", "\u202egnp.exe", "\u2066x\u2069", "\u200b",
    "\ufeff",
    "\u2028", "\ufffe", "\U000e0041", "e\u0301" + "\u0301" * 50, "شش\u200cماه", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "\"><svg/onload=alert(1)>", "</title><b>", "{{ 7 * 7 }}", "{% raw %}", "${x}",
    "[a](javascript:alert(1))", "![x](https://example.org/x.png)", "@someone", "#1", "| a | b |", "```\n# x", "`",
    "---",
    "=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0",
    "\t=1", " =1", "a;=1", "a,=1", "a\n=1", "＝1", '"=1"', "%0A=1",
    "../../etc/passwd", "..", ".", "/etc/passwd", "C:\\x", "con", "nul.txt", "a__b", "Ab", "ａ", "x" * 65, "a\n", "-a",
    "javascript:alert(1)", "https://a@b.example/", "https://example.org/\"onload=x", "file:///etc/passwd", "//x",
    "http://",
    "data:text/html,<script>", "https://example.org:99999/", "https://[x", "HTTPS://example.org/", "x" * 5000,
    "0-3,8", "all", "none", "1" * 400, "9" * 64, "2026-02-30", "2026-11-01\n", "NaN", "null", "true", "__proto__",
)  # fmt: skip
"""Texts that act somewhere: on a page, in a terminal, a table, a path, a template or a parser."""

RAW = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "9" * 5000, "-" + "9" * 20, "9007199254740993", "-0.0",
    "1E5", "[" * 100 + "]" * 100, '{"a":' * 100 + "1" + "}" * 100, "[" * 5000, '"\\ud800"', '"\\udc00\\ud800"',
    '"\\ud83d\\ude00"', '"\\u0000"', '"\\u202e"', '"\\uD800x"', '{"a":1,"a":2}', '{"a":{"b":1,"b":1}}',
    '{"\\u0061":1,"a":2}',
    "01", "+1", ".5", "1.", "0x10", "'a'", "undefined", "/*x*/1", "[1,]", '"\t"', '"\x00"', "\ufeff1", "", "True",
)  # fmt: skip
"""Pieces of JSON, right or wrong, that Python's objects cannot stand for."""


def values() -> st.SearchStrategy[Any]:
    """JSON values with hostile texts in them."""
    leaves = (
        st.none() | st.booleans() | st.integers() | st.integers(-2, 2)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(TEXTS) | st.text(max_size=20)
    )  # fmt: skip
    keys = st.sampled_from(TEXTS) | st.text(max_size=5)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )


@st.composite
def json_texts(draw: st.DrawFn, right: Any) -> bytes:
    """A right document with a few places changed, as bytes; sometimes cut, spoilt or something else altogether."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=60))
    document = draw(values()) if kind == 1 else draw(changed(right))
    text = written(document, draw(st.booleans()))
    if kind == 2:
        text = _inserted(text, draw(st.sampled_from((*RAW, *TEXTS))), draw(st.integers(0, len(text))))
    content = text.encode("utf-8", "surrogatepass")
    if kind == 3:
        place = draw(st.integers(0, len(content)))
        return content[:place] + draw(st.binary(max_size=4)) + content[place + draw(st.integers(0, 4)) :]
    return content[: draw(st.integers(0, len(content)))] if kind == 4 else content


@st.composite
def changed(draw: st.DrawFn, right: Any) -> Any:
    """A copy of a document with up to three places replaced, removed, added or doubled."""
    document = json.loads(json.dumps(right))
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(document))
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.integers(0, 9))
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[draw(st.sampled_from(TEXTS))] = draw(values())
        elif how == 2:
            holder[key] = _Raw(draw(st.sampled_from(RAW)))
        elif how == 3 and isinstance(holder, dict):
            holder[key] = _Twice(holder[key])
        elif how == 4:
            holder[key] = draw(values())
        else:
            holder[key] = draw(_alike(holder[key]))
    return document


def _alike(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, so that a parser gets further than the type."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(-1, 40)
    if isinstance(value, float):
        return st.floats(-1e3, 1e3)
    return st.text(max_size=8) | st.sampled_from(TEXTS) if isinstance(value, str) else st.just(value)


@st.composite
def yaml_texts(draw: st.DrawFn, right: str) -> bytes:
    """A right YAML text with pieces put in, lines doubled or removed; or noise."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60))
    lines = right.split("\n")
    for _ in range(draw(st.integers(0, 3))):
        line, how = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, 3))
        if how == 0:
            lines.insert(line, lines[line])
        elif how == 1:
            lines[line] = ""
        else:
            piece = draw(st.sampled_from((*YAML_PIECES, *TEXTS)) | st.text(max_size=10))
            lines[line] = _inserted(lines[line], piece, draw(st.integers(0, len(lines[line]))))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


YAML_PIECES = (
    "&a ", "*a", "x: &a 1\ny: *a", "<<: {a: 1}", "<<", "=", "!!python/object/apply:os.system ['true']", "!!binary aGk=",
    "!x ", "!!str ", "%YAML 1.2\n---\n", "---\n", "...\n", "? [a, b]\n: 1", "? {a: 1}\n: 1", "[" * 100, "{" * 100,
    "- " * 100,
    "a: " * 100, ".nan", ".inf", "-.INF", "1e400", "9" * 5000, "1:1:1:1", "1:" * 5000 + "1", "0b1" + "01" * 3000,
    "2026-13-45", "2026-11-01", "2026-11-01T99:00:00Z", "0x" + "f" * 64, "1_000", "yes", "~", "null: 1", "1: 1",
    "1.5: 1",
    "true: x", "2026-11-01: x", "|\n  a", ">\n  a", "\"\\x00\"", "\"\\ud800\"", "\"\\u202e\"", "'", '"', "\t", "#",
    "@", "`",
    "\x85", "\u2028", "a: 1\n", ": ", "- x",
)  # fmt: skip


class _Raw(str):
    """A piece that stands in the document as it is."""


class _Twice:
    """A value whose key stands in the document twice."""

    def __init__(self, value: Any) -> None:
        self.value = value


def written(value: Any, ascii_only: bool = True) -> str:
    """JSON with the raw pieces and the doubled keys."""
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, _Twice):
        return written(value.value, ascii_only)
    if isinstance(value, dict):
        pairs: list[str] = []
        for key, inner in value.items():
            pair = f"{json.dumps(key, ensure_ascii=ascii_only)}:{written(inner, ascii_only)}"
            pairs += [pair, pair] if isinstance(inner, _Twice) else [pair]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(written(inner, ascii_only) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def _places(value: Any) -> Any:
    """(holder, key) of every value in a document."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _inserted(text: str, piece: str, place: int) -> str:
    return text[:place] + piece + text[place:]
