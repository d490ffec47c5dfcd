"""Every format shows the same figures, escapes what it is given, and the pages stand alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.simulated import changed, flipped, run, samples
from vrbench import report
from vrbench.compare import Comparison, compare
from vrbench.errors import VrbenchError
from vrbench.records import Run
from vrbench.report import cells, plots
from vrbench.report.pages import escape_latex, escape_markdown

BASE = (np.arange(300) % 10 < 8).astype(float)
ODD = "<b>50%_of $x^$ & {y}|z</b>"


def made(name: str, loss: float) -> Run:
    rows = {
        "choice": ("pocket_visual", "mean", samples(flipped(BASE, loss, 0, 1))),
        "facts": ("pocket_text", "mean", samples(flipped(BASE, loss / 4, loss / 4, 2))),
        "words": ("pocket_text", "perplexity", samples(np.full(30, -90.0 - loss), weight=30)),
    }
    return changed(run(name, rows), note=ODD if name == "base" else "")


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare([made("cut", 0.2), made(ODD, 0.1)], made("base", 0))


def test_every_format_shows_the_figures(found: Comparison) -> None:
    row = next(r for r in found.candidates[0].tasks if r.name == "choice")
    shown = cells.interval(row.retention, row.retention_low, row.retention_high, 1)
    assert re.fullmatch(r"\d\d\.\d \[\d\d\.\d, \d\d\.\d\]", shown)
    for form in ("table", "latex", "html"):
        assert shown in report.render(found, form)
    assert escape_markdown(shown) in report.render(found, "markdown")
    assert Comparison.model_validate_json(report.render(found, "json")) == found


def test_the_table_has_tasks_suites_and_verdicts(found: Comparison) -> None:
    text = report.render(found, "table")
    assert "cut against base" in text
    names = [line.split("  ")[0] for line in text.splitlines()]
    assert names[3:8] == ["choice", "mean of 1: pocket_visual", "facts", "words", "mean of 1: pocket_text"]
    assert f"{cells.MARKS['refuted']} visual>=99%: refuted" in text
    assert "words: perplexity, lower is better" in text


def test_an_unknown_format_is_refused(found: Comparison) -> None:
    with pytest.raises(VrbenchError, match=r"format 'pdf' is unknown; there are table, markdown, latex, html, json"):
        report.render(found, "pdf")


class Page(HTMLParser):
    """Tags, text and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_html_page_stands_alone_and_escapes(found: Comparison) -> None:
    page = Page(report.render(found, "html"))
    assert len(page.addresses) == 4  # two plots, each light and dark
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert "b" not in page.tags and "script" not in page.tags
    assert ODD in page.words  # as text, not as markup
    assert page.tags.count("table") == 2


def test_markdown_and_latex_escape(found: Comparison) -> None:
    assert escape_latex(r"50%_\{&}") == r"50\%\_\textbackslash{}\{\&\}"
    assert escape_markdown("a_b|<i>\nc") == r"a\_b\|\<i\> c"
    text = report.render(found, "markdown")
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| ")}
    assert widths == {len(cells.HEADERS) + 1}
    assert "<b>" not in text and "<b>" not in report.render(found, "latex")


def test_latex_rows_have_all_columns(found: Comparison) -> None:
    text = report.render(found, "latex")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 * 6
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(cells.HEADERS) - 1}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_plots_repeat_byte_for_byte(found: Comparison) -> None:
    first, again = (plots.pictures(found, "svg") for _ in range(2))
    assert list(first) == list(plots.TITLES)
    assert first == again
    assert first != plots.pictures(found, "svg", dark=True)


def test_without_text_there_is_one_plot(found: Comparison) -> None:
    seen = [run(n, {"t": ("visual", "mean", samples(flipped(BASE, loss, 0, 1)))}) for n, loss in (("a", 0.1), ("b", 0))]
    assert list(plots.pictures(compare(seen[:1], seen[1]), "png")) == ["retention"]


def test_write_leaves_pages_and_plots(found: Comparison, tmp_path: Path) -> None:
    written = report.write(found, tmp_path / "new")
    names = [file.name for file in written]
    assert names == ["comparison.md", "comparison.html", "comparison.json", "retention.png", "visual-text.png"]
    linked = re.findall(r"!\[.*\]\((.*)\)", written[0].read_text(encoding="utf-8"))
    assert linked == names[3:]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in written[3:])
    assert json.loads(written[2].read_text(encoding="utf-8"))["baseline_label"] == "base"


def test_a_row_without_figures_is_shown(found: Comparison) -> None:
    base, ours = made("base", 0), changed(made("cut", 0.2), status="error", error="killed", score=None)
    dead = compare([ours], base)
    assert "choice died in the candidate: killed" in report.render(dead, "table")
    assert 'class=" failed"' in report.render(dead, "html")
    assert plots.pictures(dead, "png") == {}


def test_numbers_as_text() -> None:
    assert cells.number(-0.04, 1, signed=True) == "0.0"
    assert cells.number(-1.25, 1, signed=True) == f"{cells.MINUS}1.2"
    assert cells.number(2.0, 1, signed=True) == "+2.0"
    assert cells.number(None, 1) == "-"
    assert [cells.p_value(p) for p in (None, 0.0004, 0.04)] == ["-", "<0.001", "0.040"]


def test_scores_without_a_baseline() -> None:
    ours = changed(made("cut", 0.2), n_unscored=3)
    text = report.scores([ours])
    score = ours.result("choice").score
    assert score is not None
    assert cells.interval(score.value, score.low, score.high, 1) in text
    assert "300 (3 unscored)" in text
    assert "error" in report.scores([changed(ours, score=None)])
