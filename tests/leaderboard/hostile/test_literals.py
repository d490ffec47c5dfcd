"""Each hostile literal, and the reason for which it is refused or the form in which it is shown."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.leaderboard.hostile import documents
from tests.leaderboard.hostile.oracle import is_harmless
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.schemas import RunRecord, Sample
from vrbench.leaderboard.untrusted_input.files import decode
from vrbench.leaderboard.untrusted_input.parsing import parse_json, parse_record, parse_yaml
from vrbench.leaderboard.untrusted_input.run_folder import parse_samples
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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, NaN]", "has NaN"), ("-Infinity", "has -Infinity"), ("1e400", "larger than a double"),
        ("[-1e999]", "larger than a double"), ("9007199254740993", r"beyond 2\^53"), ("-" + "9" * 17, r"beyond 2\^53"),
        ("9" * 5_000, r"beyond 2\^53"), ('{"a":1,"a":1}', "'a' twice"), ('{"x":{"\\u0061":1,"a":2}}', "'a' twice"),
        ("[" * 65 + "]" * 65, "nested"), ('{"a":' * 65 + "1" + "}" * 65, "nested"), ('"\\ud800"', "surrogate"),
        ('{"\\udc00":1}', "surrogate"), ('["\\ude00\\ud83d"]', "surrogate"), ("[1,]", "not JSON"), ('"\t"', "not JSON"),
        ("'a'", "not JSON"), ("[1] [2]", "not JSON"), ("", "not JSON"), ("[" + "1," * 50_000 + "1]", "50,000 values"),
    ],
)  # fmt: skip
def test_json_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(VrbenchError, match=reason):
        parse_json(text, "it")


@pytest.mark.parametrize(
    "text",
    ["[" * 64 + "]" * 64, '"' + "[" * 999 + '"', '"\\"[[[' + "[" * 99 + '"', "9007199254740992", "1e308", "5e-324",
     '"\\ud83d\\ude00"', '"\\u0000"', '{"a":{"a":1}}', "[-0.0]"],
)  # fmt: skip
def test_json_that_is_read(text: str) -> None:
    assert parse_json(text, "it") == json.loads(text)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"depth":30', '"depth":"30"', "'checkpoint.*depth': Input should be a valid integer"),
        ('"dirty":false', '"dirty":"no"', "'provenance.dirty': Input should be a valid boolean"),
        ('"value":65.0', '"value":"65"', "valid number"), ('"dirty":false', '"dirty":0', "valid boolean"),
        ('"status":"ok"', '"status":"fine"', "'ok' or 'error'"), ('"n":3', '"n":3.5', "valid integer"),
        ('"tasks":["pocket_mme"]', '"tasks":{"pocket_mme":1}', "'settings.tasks'"),
        ('"seed":0', '"seed":0,"weights":1', "'settings.weights': Extra inputs"), ('"n":3,', "", "'results.0.score.n'"),
        ('"command":"vrbench run"', '"command":"\\u202e"', r"U\+202E"),
        ('"command":"vrbench run"', '"command":"\\u0000"', r"U\+0000"),
        ('"command":"vrbench run"', '"command":"\\u001b[2J"', r"U\+001B"),
        ('"command":"vrbench run"', f'"command":"{"x" * 20_001}"', "20,001 characters"),
    ],
)  # fmt: skip
def test_a_record_with_other_types_or_odd_text_is_refused(old: str, new: str, reason: str) -> None:
    text = documents.run_record().model_dump_json()
    assert old in text
    last = text.rindex(old) if old == '"n":3,' else text.index(old)
    with pytest.raises(VrbenchError, match=reason):
        parse_record(text[:last] + new + text[last + len(old) :], RunRecord, "it")


@pytest.mark.parametrize("value", ["[]", '"x"', "null", "1"])
def test_what_is_no_record_at_all_is_refused(value: str) -> None:
    with pytest.raises(VrbenchError, match="not a record with named fields"):
        parse_record(value, RunRecord, "it")


def test_many_faults_are_told_once_and_few() -> None:
    text = documents.run_record().model_dump_json().replace('"results":[', '"results":[' + "0," * 500)
    with pytest.raises(VrbenchError) as error:
        parse_record(text, RunRecord, "it")
    assert len(error_messages(error.value)) == 21 and "480 more errors" in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe{\x00", "not UTF-8: byte 0 is 0xff"), (b'{"a": "\xc3"}', "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"\xc0\xaf", "not UTF-8"), (b"\xef\xbb\xbf{}", "byte order mark"), (b"\xf4\x90\x80\x80", "not UTF-8"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(VrbenchError, match=reason):
        decode(content, "it")


SAMPLE = documents.samples_bytes(documents.SAMPLES[:1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (SAMPLE * 2, "line 2 has a duplicate sample id, '1'"), (SAMPLE + b"\n", "line 2 is not JSON"),
        (SAMPLE.replace(b'"score":1.0', b'"score":NaN'), "has NaN"), (SAMPLE.replace(b"1.0", b'"1.0"'), "valid number"),
        (SAMPLE.replace(b'"score":1.0', b'"score":1e999'), "larger"),
        (SAMPLE.replace(b'"id":"1"', b'"id":1'), "valid string"),
        (SAMPLE.replace(b'"id":"1"', b'"id":"1","id":"2"'), "'id' twice"), (SAMPLE.replace(b'"id":"1",', b""), "'id'"),
        (SAMPLE.replace(b"Yes", b"\\ud800", 1), "surrogate"), (SAMPLE.replace(b"Yes", b"\xff", 1), "not UTF-8"),
        (SAMPLE.replace(b'["Yes.\\n"]', b"[[-1.0,1]]"), "responses"),
        (SAMPLE.replace(b'["Yes.\\n"]', b"[null]"), "responses"),
        (b"[]\n", "line 1"), (b"".join(SAMPLE.replace(b'"id":"1"', b'"id":"%d"' % i) for i in range(5)), "more than 4"),
    ],
)  # fmt: skip
def test_samples_that_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(VrbenchError, match=reason):
        parse_samples(content, 4, "it")


def test_an_answer_may_hold_anything_that_is_text() -> None:
    said = Sample(id="1", cluster="", score=0, answer="\x00\x1b[2J\u202e<script>", responses=("\ufeff\ufffe\x7f",))
    assert parse_samples(documents.samples_bytes((said,)), 1, "it") == (said,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x 1\nb: *x", "anchor"), ("a: [1, 2]\nb: *a", "alias"), ("<<: {a: 1}", "key <<"),
        ("a: !!python/object/apply:os.system [x]", "tag"), ("a: !!binary aGk=", "tag"), ("a: ! x", "tag"),
        ("a: 1\na: 2", "given twice"), ("a: .nan", "NaN, which is not a number"),
        ("a: [-.inf]", "Infinity, which is not a number"),
        ("a: 1.0e+999", "Infinity, which is not a number"),
        ("a: 99999999999999999", r"beyond 2\^53"), ("1: a", "key '1'"),
        ("null: a", "key 'None'"), ("? [a]\n: 1", "not YAML"), ("--- a\n--- b", "several documents"),
        ("a: 2026-13-45", "not YAML"), ('a: "\\u202e"', r"U\+202E"), ('"\\0": a', r"U\+0000"),
        ("a: \u202e", r"U\+202E"),
        ("[" * 65 + "]" * 65, "nested"), ("a: " + "9" * 41, "more than 40 digits"), ("a: '", "not YAML"),
        ("a: 1" + ":1" * 30, "more than 40 digits"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(VrbenchError, match=reason):
        parse_yaml(text, "it")


def test_a_digest_in_yaml_needs_no_quotes() -> None:
    assert parse_yaml(f"a: {documents.HEX}\nb: '{'9' * 64}'", "it") == {"a": documents.HEX, "b": "9" * 64}


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a..b", "a__b", "a/b", "a\\b", "A", "é", "ａ", "a b", "a\n", "-a", "_a", ".a", "a-", "a_", "a.",
     "x" * 65, "con", "nul.txt", "com1", "a\x00", "\u202ea", None, 1],
)  # fmt: skip
def test_names_that_are_refused(name: object) -> None:
    with pytest.raises(VrbenchError, match="not allowed"):
        safe_name(name)


@pytest.mark.parametrize("name", ["a", "0", "llava-1.5_sparse", "x" * 64, "console", "com10"])
def test_names_that_are_taken(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(("check", "text"), [(safe_task, "a-b"), (safe_task, "../a"), (safe_task, "nul"),
                                             (safe_task, "a\n"), (safe_revision, "0" * 15), (safe_revision, "G" * 16),
                                             (safe_revision, "A" * 16), (safe_revision, "0" * 16 + "\n")])  # fmt: skip
def test_tasks_and_revisions_that_are_refused(check: object, text: str) -> None:
    with pytest.raises(VrbenchError):
        check(text)  # type: ignore[operator]


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "file:///etc/passwd", "//example.org",
    "example.org",
     "ftp://example.org", "https://", "https:///x", "https://a@example.org/", "https://a:b@example.org/",
     "https://x y/",
     'https://example.org/"', "https://example.org/'", "https://example.org/<", "https://example.org\\@a",
     "https://é.org",
     "https://[x", "https://example.org?@x", "https://example.org:x/", "https://example.org/\n", " https://example.org",
     "https://x/" + "a" * 500, 1],
)  # fmt: skip
def test_addresses_that_are_refused(url: object) -> None:
    with pytest.raises(VrbenchError, match="is not a URL"):
        safe_url(url)


@pytest.mark.parametrize("url", ["", "https://example.org/a?b=c#d", "http://example.org:8080/%20", "https://x/@a"])
def test_addresses_that_are_taken(url: str) -> None:
    assert safe_url(url) == url


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@A", "'@A"), (" =1", "' =1"), ("\t=1", "'\t'=1"),
        ('"=1"', "'\"=1\""),
        ("＝1", "'＝1"), ("a;=1", "a;'=1"), ("a, =1", "a, '=1"), ("a\n-1", "a\n'-1"), ("a|@b", "a|'@b"), ("a=1", "a=1"),
        ("\r=1", "[U+000D]=1"), ("plain, text", "plain, text"), (-1.5, -1.5), (0, 0), (None, None), (True, True),
    ],
)  # fmt: skip
def test_cells(text: object, cell: object) -> None:
    assert csv_cell(text) == cell


def test_a_cell_that_is_split_elsewhere_begins_no_formula() -> None:
    stream = io.StringIO()
    csv.writer(stream).writerow(["x", csv_cell("a;\"=cmd|' /C calc'!A0\";b")])
    for row in csv.reader(io.StringIO(stream.getvalue()), delimiter=";"):
        assert not any(cell.strip(' "').startswith("=") for cell in row)


def test_what_acts_or_hides_is_shown_by_its_name() -> None:
    text = "a\x00\x1b[31m\u202egnp.exe\u200b\ud800\ufffe\U000e0041\u2028\x85b"
    shown = sanitize_for_display(text)
    assert is_harmless(shown) and "[U+202E]gnp.exe[U+200B][U+D800][U+FFFE][U+E0041][U+2028][U+0085]b" in shown
    assert sanitize_for_display("crêpe 茶 🙂 شش\u200cماه\n\t<b>") == "crêpe 茶 🙂 شش\u200cماه\n\t<b>"
    assert sanitize_for_display("x" * 50, 10) == "xxxxxxxxxx … (40 more characters)"
    assert sanitize_for_display("e" + "\u0301" * 500) == "e" + "\u0301" * 3 + "…"
    assert sanitize_for_message("a'\n\x1b" + "b" * 500).startswith("'a’ [U+001B]bbb")
    assert len(sanitize_for_message("b" * 500)) == 102
    assert markdown_code("`a` | <b>\n@x") == "`` `a` ¦ <b> @x ``" and markdown_code("") == "``` ```"
