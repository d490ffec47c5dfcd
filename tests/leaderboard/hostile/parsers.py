"""Every parser that reads a stranger's file or text, with what it is given and what must hold of what it says.

`check(case)` returns whether the case was read or refused, and raises when anything else happened.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PureWindowsPath
from typing import Any

import jinja2
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pydantic import BaseModel

from tests.leaderboard.hostile import documents, hostile, oracle
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.run_storage import samples_to_jsonl
from vrbench.core.schemas import RunRecord, Sample
from vrbench.leaderboard.schema import Leaderboard, Reproduction, Submission
from vrbench.leaderboard.submission import read_submission
from vrbench.leaderboard.untrusted_input.files import read_bytes, read_text
from vrbench.leaderboard.untrusted_input.parsing import parse_json, parse_yaml, read_record
from vrbench.leaderboard.untrusted_input.run_folder import decompress, parse_samples
from vrbench.leaderboard.untrusted_input.text import (
    csv_cell,
    markdown_code,
    safe_name,
    safe_revision,
    safe_task,
    safe_url,
    sanitize_for_display,
    sanitize_for_message,
)

MOST_SENTENCE = 1_000
READ, REFUSED = "read", "refused"
FOLDER = Path(tempfile.mkdtemp(prefix="hostile-"))
FORMULA = "=+-@＝＋－＠"


@dataclass(frozen=True)
class Parser:
    """One parser: the cases that it is given and what must hold."""

    cases: st.SearchStrategy[Any]
    check: Callable[[Any], str]


def outcome(read: Callable[[], Any]) -> tuple[str, Any]:
    """What a parser gave; a refusal's sentences have to be harmless themselves, and short."""
    try:
        return READ, read()
    except VrbenchError as error:
        for sentence in error_messages(error):
            assert oracle.is_harmless_line(sentence), repr(sentence)
            assert 0 < len(sentence) <= MOST_SENTENCE, len(sentence)
        return REFUSED, None


def json_is_read_as_it_says(content: bytes) -> str:
    """`read_json` reads exactly what the slow reading allows, and as the standard parser does."""
    file = _file("x.json", content)
    said, value = outcome(lambda: parse_json(read_text(file), "x.json"))
    assert (said == READ) == oracle.json_is_allowed(content), content
    if said == READ:
        assert value == json.loads(content)
    return said


def _record(kind: type[BaseModel]) -> Callable[[bytes], str]:
    def is_what_the_text_says(content: bytes) -> str:
        file = _file("record.json", content)
        said, record = outcome(lambda: read_record(file, kind))
        if said == READ:
            assert oracle.json_is_allowed(content)
            dumped = record.model_dump(mode="json")
            assert _holds(dumped, json.loads(content)), content
            assert all(oracle.is_harmless(text) for text in _texts(dumped)), content
        return said

    return is_what_the_text_says


def samples_are_what_the_lines_say(content: bytes) -> str:
    """`read_samples` gives one sample a line, with its ids once, or nothing."""
    file = _file("x.jsonl.gz", gzip.compress(content, 1, mtime=0))
    said, rows = outcome(lambda: parse_samples(decompress(read_bytes(file), 2**20, "x"), 50, "x"))
    if said == READ:
        lines = content.removesuffix(b"\n").split(b"\n") if content else []
        assert all(oracle.json_is_allowed(line) for line in lines), content
        assert len(rows) == len(lines) <= 50
        assert len({row.id for row in rows}) == len(rows)
        assert all(_holds(row.model_dump(mode="json"), json.loads(line)) for row, line in zip(rows, lines, strict=True))
        samples_to_jsonl(rows).encode()
    return said


def packed_samples_are_whole(content: bytes) -> str:
    """What `read_samples` reads is one whole gzip, as the standard library unpacks it."""
    file = _file("y.jsonl.gz", content)
    said, rows = outcome(lambda: parse_samples(decompress(read_bytes(file), 2**20, "x"), 50, "x"))
    if said == READ:
        assert [Sample.model_validate_json(x) for x in gzip.decompress(content).split(b"\n") if x] == list(rows)
    return said


def yaml_is_plain(content: bytes) -> str:
    """`read_yaml` gives lists, mappings with text as keys, and plain finite values."""
    file = _file("x.yaml", content)
    said, value = outcome(lambda: parse_yaml(read_text(file), "x.yaml"))
    if said == READ:
        assert _is_plain(value, 0), content
    return said


def board_is_a_board(content: bytes) -> str:
    """What is read as a board says again what it said."""
    from vrbench.leaderboard.board import Board, load_board

    file = _file("pocket/board.yaml", content)
    said, board = outcome(lambda: load_board(file.parent))
    if said == READ:
        assert Board.model_validate_json(board.model_dump_json()) == board
        assert all(oracle.is_harmless(text) for text in _texts(board.model_dump(mode="json"))), content
    return said


def name_stays_where_it_is(text: str) -> str:
    """A name that is allowed is a folder's name on every system, in its own folder, and clashes with no other."""
    said, name = outcome(lambda: safe_name(text))
    if said == READ:
        assert name == text == text.lower() and 1 <= len(name) <= 64 and name.isascii()
        assert (FOLDER / name).resolve().parent == FOLDER.resolve()
        assert not PureWindowsPath(name).is_reserved() and PureWindowsPath(name).name == name
        assert not name.endswith((".", "_", "-")) and "__" not in name
    outcome(lambda: safe_revision(text))
    if outcome(lambda: safe_task(text))[0] == READ:
        assert (FOLDER / f"{text}.jsonl.gz").resolve().parent == FOLDER.resolve()
        assert not PureWindowsPath(f"{text}.jsonl.gz").is_reserved()
    return said


def address_is_of_the_web(text: str) -> str:
    """An address that is allowed leads where it says, and ends no attribute."""
    said, url = outcome(lambda: safe_url(text))
    if said == READ and url:
        assert url.lower().startswith(("http://", "https://")) and oracle.is_harmless_line(url)
        assert not set(url) & set("\"'<> \\`@") or "@" not in url.split("/")[2]
        assert oracle.PageText(f'<a href="{url}">x</a>').tags == ["a", "/a"]
    return said


def text_is_harmless_where_it_is_shown(text: str) -> str:
    """On a page a text is text, in a sentence it is one line, in Markdown it is code and nothing else."""
    assert oracle.is_harmless(sanitize_for_display(text))
    assert len(sanitize_for_display(text, 10)) < 200
    template = jinja2.Environment(autoescape=True).from_string('<p title="{{ x }}">{{ x }}</p>')
    page = template.render(x=sanitize_for_display(text))
    seen = oracle.PageText(page)
    assert seen.tags == ["p", "/p"] and seen.text == sanitize_for_display(text)
    assert oracle.is_harmless_line(sanitize_for_message(text)) and len(sanitize_for_message(text)) < 1000
    assert sanitize_for_message(text).count("'") == 2
    _is_one_piece_of_code(markdown_code(text))
    return READ


def cell_is_no_formula(text: str) -> str:
    """Whichever separator a spreadsheet splits the lines at, no cell begins a formula; numbers stay numbers."""
    stream = io.StringIO()
    csv.writer(stream).writerow(["x", csv_cell(text), 1.5])
    for separator in ",;\t|":
        for row in csv.reader(io.StringIO(stream.getvalue(), newline=""), delimiter=separator):
            for cell in row:
                inner = cell.lstrip(" \t\r\n\"'") if not cell.lstrip(" \t\r\n").startswith("'") else "'"
                assert not inner.startswith(tuple(FORMULA)), (separator, row)
    assert csv_cell(-1.5) == -1.5 and csv_cell(3) == 3 and csv_cell(None) is None
    return READ


def folder_is_read_whole_or_not(case: list[tuple[str, bytes]]) -> str:
    """A submission whose files were changed, added or removed is refused or is what its files say."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as made:
        folder = documents.write_submission(Path(made) / "0")
        for name, content in case:
            try:
                file = folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            except (OSError, ValueError):  # no system has such a name
                continue
        said, submitted = outcome(lambda: read_submission(folder, {documents.TASK: 50}))
        if said == READ:
            assert submitted.run.record.results[0].samples_digest
            assert set(submitted.run.samples) == {r.task for r in submitted.run.record.results if r.status == "ok"}
            assert {p.name for p in folder.rglob("*") if p.is_file()} <= {
                "run.json", "submission.json", "recipe.yaml", *(f"{t}.jsonl.gz" for t in submitted.run.samples)
            }  # fmt: skip
        return said


_NAMES = st.sampled_from(hostile.TEXTS) | st.text("abc019._-/\\ A\u0130\uff41", max_size=70) | st.text(max_size=20)
_URLS = _NAMES | st.builds(
    lambda scheme, rest: f"{scheme}://{rest}", st.sampled_from(("http", "https", "HTTPS", "ftp", "javascript")),
    st.text("ab.:/@?#%&=[]\\\"'<> \n\x00é0189", max_size=40),
)  # fmt: skip
_TEXTS = st.builds("".join, st.lists(st.sampled_from(hostile.TEXTS) | st.text(max_size=20), max_size=4))
_CELLS = st.builds("".join, st.lists(st.sampled_from((*"=+-@;,\t\n\r |\"'a1＝", *hostile.TEXTS)), max_size=8)) | _TEXTS
_RUN = json.loads(documents.run_record().model_dump_json())
_SUBMISSION = json.loads(documents.submission().model_dump_json())
_REPRODUCTION = {"schema_version": 1, "by": "someone", "date": "2026-11-01"}
_TABLE = json.loads(documents.leaderboard().model_dump_json())
_SAMPLE = [json.loads(line) for line in documents.samples_bytes().splitlines()]
_LINES = st.builds(
    b"\n".join, st.lists(st.sampled_from(_SAMPLE).flatmap(hostile.json_texts), max_size=4).map(lambda x: [*x, b""])
)
_CHANGES = st.tuples(
    st.sampled_from(("run.json", "submission.json", "recipe.yaml", f"samples/{documents.TASK}.jsonl.gz"))
    | _NAMES.filter(lambda name: not name.startswith("/") and ".." not in name)
    | _NAMES.filter(lambda name: not name.startswith("/") and ".." not in name).map(lambda x: f"samples/{x}.jsonl.gz"),
    hostile.json_texts(_RUN) | hostile.json_texts(_SUBMISSION) | _LINES.map(gzip.compress) | st.binary(max_size=40),
)
_PACKED = st.builds(
    lambda packed, place, noise, cut: packed[:place] + noise + packed[place + len(noise) :][: cut or None],
    _LINES.map(lambda x: gzip.compress(x, 1, mtime=0)) | st.just(gzip.compress(documents.samples_bytes(), mtime=0)),
    st.integers(0, 400), st.binary(max_size=3), st.integers(0, 400) | st.just(0),
)  # fmt: skip

PARSERS = {
    "json": Parser(hostile.json_texts(_RUN), json_is_read_as_it_says),
    "run": Parser(hostile.json_texts(_RUN), _record(RunRecord)),
    "submission": Parser(hostile.json_texts(_SUBMISSION), _record(Submission)),
    "reproduction": Parser(hostile.json_texts(_REPRODUCTION), _record(Reproduction)),
    "leaderboard": Parser(hostile.json_texts(_TABLE), _record(Leaderboard)),
    "samples": Parser(_LINES, samples_are_what_the_lines_say),
    "packed": Parser(_PACKED, packed_samples_are_whole),
    "recipe": Parser(hostile.yaml_texts(documents.RECIPE), yaml_is_plain),
    "board": Parser(hostile.yaml_texts(documents.BOARD), board_is_a_board),
    "names": Parser(_NAMES, name_stays_where_it_is),
    "addresses": Parser(_URLS, address_is_of_the_web),
    "shown": Parser(_TEXTS, text_is_harmless_where_it_is_shown),
    "cells": Parser(_CELLS, cell_is_no_formula),
    "folders": Parser(st.lists(_CHANGES, max_size=3), folder_is_read_whole_or_not),
}
"""What is read -> its parser; `tests` tries a few cases of each, `python -m benchmarks.hostile` 10,000."""


def _file(name: str, content: bytes) -> Path:
    file = FOLDER / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file


def _holds(dumped: Any, said: Any) -> bool:
    """Whether a record says all that its text said, beside what it fills in."""
    if isinstance(said, dict):
        return isinstance(dumped, dict) and all(key in dumped and _holds(dumped[key], said[key]) for key in said)
    if isinstance(said, list):
        return len(dumped) == len(said) and all(map(_holds, dumped, said))
    return bool(dumped == said) and isinstance(dumped, bool) == isinstance(said, bool)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) else []


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth < 64 and all(
            isinstance(k, str) and oracle.is_harmless(k) and _is_plain(v, depth + 1) for k, v in value.items()
        )
    if isinstance(value, list):
        return depth < 64 and all(_is_plain(inner, depth + 1) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return oracle.is_harmless(value)
    return value is None or isinstance(value, (bool, date)) or (isinstance(value, int) and abs(value) <= 2**53)


def _is_one_piece_of_code(markdown: str) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(f"| a | b |\n| --- | --- |\n| {markdown} | end |\n")
    cells = [token for token in tokens if token.type == "inline"]
    assert [cell.content for cell in cells[:2]] == ["a", "b"] and len(cells) == 4 and cells[3].content == "end"
    assert [inner.type for inner in cells[2].children or [] if inner.content.strip()] in (["code_inline"], []), markdown


def parsed(text: str) -> Any:
    """A JSON text as the leaderboard reads it."""
    return parse_json(text, "text")
