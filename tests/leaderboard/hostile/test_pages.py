"""What a stranger writes into any text field stands on the pages as text: no element or address comes of it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.leaderboard.hostile import hostile, oracle
from tests.leaderboard.made import make_board
from vrbench.core.schemas import Sample
from vrbench.leaderboard.site.build import build
from vrbench.leaderboard.site.commands import commands
from vrbench.leaderboard.site.content import load_content
from vrbench.leaderboard.site.sample_pages import answers_file
from vrbench.leaderboard.untrusted_input.text import unsafe_characters
from vrbench.leaderboard.validate import validate, write_leaderboards

FIELDS = (
    "checkpoint.id", "checkpoint.revision", "checkpoint.lineage.0.id", "checkpoint.lineage.0.family",
    "checkpoint.lineage.0.licence", "checkpoint.lineage.0.base.id", "checkpoint.lineage.0.base.digest",
    "checkpoint.lineage.0.steps.0.method", "checkpoint.lineage.0.steps.0.stage", "checkpoint.lineage.0.steps.0.recipe",
    "checkpoint.lineage.0.steps.0.recipe_digest", "checkpoint.lineage.0.steps.0.note", "settings.dtype",
    "settings.batch_size", "settings.device", "settings.data_root", "settings.include_path", "inputs_digest",
    "provenance.vrbench", "provenance.commit", "provenance.python", "provenance.platform", "provenance.device",
    "provenance.image_processor", "provenance.command", "provenance.started", "results.0.note", "results.0.harness",
    "results.0.data", "results.0.data_digest", "results.0.error", "results.0.suite", "results.0.version",
)  # fmt: skip
"""Every free text of run.json."""

ROW_FIELDS = ("description", "checkpoint", "dtype", "region.tuning", "cost.device", "cost.measured_on", "status.by")
"""Texts of a row of leaderboard.json that come from there."""

TEXTS = [text for text in hostile.TEXTS if text.strip() and not unsafe_characters(text)]
LONG = " ".join(text for text in TEXTS if len(text) < 100 and "\n" not in text and "\u0301" not in text)
PLAIN = "plain"


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def put(value: Any, place: str, text: str) -> None:
    """Write a text to a place such as 'steps.0.note' of JSON; nothing where there is no such place."""
    *path, last = place.split(".")
    for part in path:
        value = value[int(part)] if isinstance(value, list) else value.get(part)
        if not value:
            return
    value[last] = text


def told(root: Path, text: str) -> None:
    """Make every free text of a board's second submission this one."""
    folder = next(f for f in sorted(root.glob("made/submissions/lab*/*")))
    run = json.loads((folder / "run.json").read_text())
    for place in FIELDS:
        put(run, place, text)
    run["provenance"]["packages"] = {text[:40]: text}
    run["checkpoint"]["code"] = {text[:40]: text}
    groups = run["results"][0]["groups"]
    run["results"][0]["groups"] = {f"{text[:60]} {i}": score for i, score in enumerate(groups.values())}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (folder / "recipe.yaml").write_text(f"name: {json.dumps(text)}\n", encoding="utf-8")
    said = json.loads((folder / "submission.json").read_text())
    line = " ".join(text.split())
    said |= {"description": line[:1000], "licence": line[:100].strip(), "vrbench": line[:100].strip() or "x"}
    said |= {"run_digest": hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()}
    (folder / "submission.json").write_text(json.dumps(said), encoding="utf-8")
    file = root / "made" / "leaderboard.json"
    board = json.loads(file.read_text())
    row = next(row for row in board["rows"] if not row["is_baseline"])
    for place in ROW_FIELDS:
        put(row, place, text)
    file.write_text(json.dumps(board), encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A made-up board with its leaderboard.json, and the folder of its tasks."""
    found = make_board(tmp_path_factory.mktemp("pages"), submissions=2, items=8, tasks=("made_mme", "made_facts"))
    write_leaderboards(validate(found.root, include_path=found.tasks, jobs=1))
    return found.root, found.tasks


def built(made: tuple[Path, Path], text: str, out: Path) -> dict[str, str]:
    """The site of a board whose stranger says this everywhere: path -> content, of pages and tables."""
    root, tasks = made
    told(root, text)
    build(root, out, tasks)
    return {
        p.relative_to(out).as_posix(): p.read_text(encoding="utf-8")
        for p in sorted(out.rglob("*"))
        if p.suffix in (".html", ".csv")
    }


@pytest.fixture(scope="module")
def plain(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The site of a stranger who says nothing remarkable."""
    return built(made, PLAIN, tmp_path_factory.mktemp("plain") / "site")


def shape(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """The elements of a page, in order, with the names of their attributes."""
    return [(tag, tuple(sorted(attrs))) for tag, attrs in Page(page).elements]


@pytest.mark.parametrize(
    "text", [LONG, "</script></style></title><script>alert(1)</script>", '" onclick="x" \'', "a" * 9_000]
)
def test_a_text_is_a_text_wherever_it_stands(
    text: str, made: tuple[Path, Path], plain: dict[str, str], tmp_path: Path
) -> None:
    pages = built(made, text, tmp_path / "site")
    assert pages.keys() == plain.keys()
    seen = ""
    for name, page in pages.items():
        if name.endswith(".csv"):
            continue
        assert shape(page) == shape(plain[name]), name
        seen += Page(page).text
        for tag, attrs in Page(page).elements:
            assert not [a for a in attrs if a.startswith("on") or a in ("style", "srcdoc")], (name, tag, attrs)
            for address in (attrs.get(a, "") for a in ("href", "src", "action", "data", "formaction")):
                assert re.match(r"(https://example\.org/|(?!.*:)[^/\\])|$", address), (name, address)
        assert "Content-Security-Policy" in page and "'unsafe" not in page
        assert oracle.is_harmless(Page(page).text)
    assert " ".join(text.split())[:60] in " ".join(seen.split())


@pytest.mark.parametrize("text", [text for text in TEXTS if text.strip()[:1] in "=+-@＝" or ";" in text])
def test_no_cell_of_the_table_is_a_formula(text: str, made: tuple[Path, Path]) -> None:
    from vrbench.leaderboard.site.board import csv_text

    root, _ = made
    told(root, text)
    (content,) = load_content(root, {})
    for separator in ",;\t":
        for row in csv.reader(io.StringIO(csv_text(content.table)), delimiter=separator):
            for cell in row:
                number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell)
                assert number or not cell.lstrip(' \t"').startswith(("=", "+", "-", "@", "＝")), (separator, cell)


@pytest.mark.parametrize(
    "text", ["--out=/", "-f", "$(reboot)", "`reboot`", "a; reboot", "a\nreboot", "'; reboot; '", "&& x", "a b"]
)
def test_what_is_to_be_typed_holds_nothing_of_a_stranger_that_acts(text: str, made: tuple[Path, Path]) -> None:
    root, _ = made
    told(root, text)
    (content,) = load_content(root, {})
    entry = next(e for e in content.entries if not e.row.is_baseline)
    for what, command in commands(content, entry):
        assert "\n" not in command and oracle.is_harmless_line(what)
        words = shlex.split(command)
        assert words[:2] != ["git", "checkout"] or re.fullmatch("[0-9a-f]{7,64}", words[2]), command
        assert not {text, *text.split()} & {w for w in words if w.startswith("-")}, command
        assert all(c not in shlex.join(words[:2]) for c in ";&`$")


@pytest.mark.parametrize("text", [*hostile.TEXTS, "</script>", "\u2028", "__proto__", "\ud800"])
def test_a_script_of_answers_holds_text_and_numbers_only(text: str, made: tuple[Path, Path]) -> None:
    root, _ = made
    (content,) = load_content(root, {})
    said = Sample(id=text, cluster=text, score=1e308, weight=1e-308, answer=text, target=text, responses=(text,))
    _, script = answers_file("made/samples/x", content.table.rows[0], [said, said])
    head, _, value = script.partition("]=")
    assert script.isascii() and script.count("\n") == 1 and head.startswith("(self.vrbenchSamples=")
    told = json.loads(value.removesuffix(";\n"), parse_constant=lambda _: pytest.fail("no number"))
    assert all(oracle.is_harmless(one) for one in told["texts"]) and told["score"] == [None, None]
