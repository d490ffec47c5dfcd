"""Every format shows the same figures, escapes what it is given, and the pages stand alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from tests.simulated import changed, flipped, run, samples
from vrbench import reporting
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import AnswerProvenance, Provenance, Run
from vrbench.reporting import comparison_plots, formatting
from vrbench.reporting.comparison_pages import escape_latex, escape_markdown
from vrbench.reporting.comparison_table import COLUMNS, overview_table
from vrbench.reporting.plot_style import to_dark_theme
from vrbench.statistics.comparison import compare
from vrbench.statistics.merge_runs import join
from vrbench.statistics.schema import Comparison

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
    shown = formatting.interval(row.retention, row.retention_low, row.retention_high, 1)
    assert re.fullmatch(r"\d\d\.\d \[\d\d\.\d, \d\d\.\d\]", shown)
    for form in ("table", "latex", "html"):
        assert shown in reporting.render(found, form)
    assert shown.replace(", ", ",\N{NO-BREAK SPACE}") in reporting.render(found, "markdown")
    assert Comparison.model_validate_json(reporting.render(found, "json")) == found


def test_the_table_has_tasks_suites_and_verdicts(found: Comparison) -> None:
    text = reporting.render(found, "table")
    assert "cut against base" in text
    names = [line.split("  ")[0] for line in text.splitlines()]
    assert names[3:8] == ["choice", "mean of 1: pocket_visual", "facts", "words", "mean of 1: pocket_text"]
    assert f"{formatting.VERDICT_MARKS['refuted']} visual>=99%: refuted" in text
    assert "words: perplexity, lower is better" in text


def test_all_candidates_are_side_by_side(found: Comparison) -> None:
    lines = {line.cells[0]: line for line in overview_table(found).lines}
    assert list(lines) == [
        "choice", "mean: pocket_visual", "facts", "words (perplexity)", "mean: pocket_text",
        "claim visual>=99%", "claim text>=-1",
    ]  # fmt: skip
    assert overview_table(found).headers == ("task", "n", "base", "cut", ODD)
    rows = [next(r for r in c.tasks if r.name == "choice") for c in found.candidates]
    kept = [formatting.interval(r.retention, r.retention_low, r.retention_high, 1) for r in rows]
    assert lines["choice"].cells == ("choice", "300", "80.0", *kept)
    assert [line.is_suite for line in lines.values()] == [False, True, False, False, True, False, False]
    verdict = found.candidates[1].verdicts[1]
    estimate = formatting.number(verdict.estimate, 1, signed=True)
    shown = f"{formatting.VERDICT_MARKS[verdict.verdict]} {verdict.verdict} ({estimate})"
    assert lines["claim text>=-1"].cells[4] == shown
    for form in ("markdown", "html"):
        assert f"{formatting.VERDICT_MARKS['refuted']} refuted (" in reporting.render(found, form)


def test_a_gain_in_points_bears_its_sign() -> None:
    gain = compare([made("base", 0)], made("cut", 0.5), ["facts>=1", "facts>=99%"])
    points, percent = (line.cells[3] for line in overview_table(gain).lines[-2:])
    assert "(+" in points and "(1" in percent


def test_side_by_side_with_gaps(found: Comparison) -> None:
    base, whole = made("base", 0), made("cut", 0.2)
    words = {"words": ("pocket_text", "perplexity", whole.samples["words"])}
    gap = (whole.samples["choice"][0].model_copy(update={"unscored": "no answer"}), *whole.samples["choice"][1:])
    unscored = made("unscored", 0.2)
    unscored = unscored.model_copy(update={"samples": unscored.samples | {"choice": gap}})
    part = changed(run("part", words), status="error", error="killed", score=None)
    lines = {line.cells[0]: line for line in overview_table(compare([whole, part, unscored], base)).lines}
    assert lines["choice"].cells[1] == "300 / 299 (1 unscored)" and lines["choice"].cells[4] == "-"
    assert lines["words (perplexity)"].cells[4] == "error"
    assert lines["claim visual>=99%"].cells[4] == "-"


def test_every_run_says_where_it_is_from() -> None:
    def measured(task: str, **about: object) -> Run:
        base = run("base", {task: ("s", "mean", samples(BASE))})
        provenance = base.record.provenance.model_copy(update=about)
        return base.model_copy(update={"record": base.record.model_copy(update={"provenance": provenance})})

    about = {
        "device": "a card", "python": "3.12.3", "packages": {"torch": "2.11.0", "transformers": "5.17.0", "numpy": "2"},
        "started": "2026-05-04T14:41:09+00:00", "command": "vrbench run `x` --tasks one", "commit": "0123456789",
    }  # fmt: skip
    (base,) = join([measured("one", **about), measured("two")])
    ours = run("ours", {task: ("s", "mean", samples(BASE)) for task in ("one", "two")})
    found = compare([ours], base)
    made_by = (
        "one; float32 on a card; 2026-05-04 14:41 UTC; "
        "vrbench 0 (0123456), torch 2.11.0, transformers 5.17.0, Python 3.12.3"
    )
    assert [origin.made for origin in formatting.origins(found)] == [  # older records do not say what answered
        f"{made}; {formatting.UNRECORDED}"
        for made in (made_by, "two; float32; vrbench 0", "2 tasks; float32; vrbench 0")
    ]
    for form in ("html", "markdown", "latex"):
        assert made_by in reporting.render(found, form), form
    assert "`` vrbench run `x` --tasks one ``" in reporting.render(found, "markdown")
    assert "run: base (sha256 " in reporting.render(found, "table")
    assert "run: " not in reporting.render(compare([ours], run("base", {"one": ("s", "mean", samples(BASE))})), "table")


def test_an_unknown_format_is_refused(found: Comparison) -> None:
    with pytest.raises(VrbenchError, match=r"format 'pdf' is unknown; there are table, markdown, latex, html, json"):
        reporting.render(found, "pdf")


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
    page = Page(reporting.render(found, "html"))
    assert len(page.addresses) == 4  # two plots, each light and dark
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert "b" not in page.tags and "script" not in page.tags
    assert ODD in page.words  # as text, not as markup
    assert page.tags.count("table") == 3  # one of all candidates, one for each


@pytest.mark.parametrize(
    "text",
    [ODD, "a_b _c_ __d__ *e* ~~f~~ `g`", "[a](b) [c][d] [e]: f", "<i> <http://a> &lt; &#60;", "> q", "# h", r"\*|"],
)
def test_a_markdown_reader_sees_the_text_as_it_is(text: str) -> None:
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    page = Page(reader.render(f"- {escape_markdown(text)}\n\n| {escape_markdown(text)} |\n|--|\n"))
    assert "".join(page.words).split("\n") == ["", text, "", "", "", "", text, "", "", "", ""]
    assert page.tags == ["ul", "li", "table", "thead", "tr", "th"]


def test_what_needs_no_escape_stays_readable_in_markdown() -> None:
    for text in ("pocket_mme", "mean: a_b", "−0.7 [1.0, 2.0]", "visual>=99%", "+1.2", "-"):
        assert escape_markdown(text) == text
    assert escape_markdown("a\nb") == "a b"


def test_markdown_and_latex_pages_escape(found: Comparison) -> None:
    assert escape_latex(r"50%_\{&}") == r"50\%\_\textbackslash{}\{\&\}"
    page = Page(MarkdownIt("commonmark").enable("table").render(reporting.render(found, "markdown")))
    assert page.tags.count("table") == 3 and "b" not in page.tags
    width = len(COLUMNS)
    assert {page.tags.count(tag) for tag in ("th", "td")} == {5 + 2 * width, 7 * 5 + 2 * 5 * width}
    assert "<b>" not in re.sub("^%.*", "", reporting.render(found, "latex"), flags=re.M)


def test_latex_rows_have_all_columns(found: Comparison) -> None:
    text = reporting.render(found, "latex")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 * 6
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(COLUMNS) - 1}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_plots_repeat_byte_for_byte(found: Comparison) -> None:
    first, again = (comparison_plots.draw(found, "svg") for _ in range(2))
    assert list(first) == list(comparison_plots.TITLES)
    assert first == again
    assert all(to_dark_theme(svg) != svg for svg in first.values())


def test_without_text_there_is_one_plot(found: Comparison) -> None:
    seen = [run(n, {"t": ("visual", "mean", samples(flipped(BASE, loss, 0, 1)))}) for n, loss in (("a", 0.1), ("b", 0))]
    assert list(comparison_plots.draw(compare(seen[:1], seen[1]), "png")) == ["retention"]


def test_write_leaves_pages_and_plots(found: Comparison, tmp_path: Path) -> None:
    written = reporting.write(found, tmp_path / "new")
    names = [file.name for file in written]
    assert names == ["comparison.md", "comparison.html", "comparison.json", "retention.png", "visual-text.png"]
    linked = re.findall(r"!\[.*\]\((.*)\)", written[0].read_text(encoding="utf-8"))
    assert linked == names[3:]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in written[3:])
    assert json.loads(written[2].read_text(encoding="utf-8"))["baseline_label"] == "base"


def test_a_row_without_values_is_shown(found: Comparison) -> None:
    base, ours = made("base", 0), changed(made("cut", 0.2), status="error", error="killed", score=None)
    dead = compare([ours], base)
    assert "choice failed in the candidate: killed" in reporting.render(dead, "table")
    assert 'class=" failed"' in reporting.render(dead, "html")
    assert comparison_plots.draw(dead, "png") == {}


def test_numbers_as_text() -> None:
    assert formatting.number(-0.04, 1, signed=True) == "0.0"
    assert formatting.number(-1.25, 1, signed=True) == f"{formatting.MINUS}1.2"
    assert formatting.number(2.0, 1, signed=True) == "+2.0"
    assert formatting.number(None, 1) == "-"
    assert [formatting.p_value(p) for p in (None, 0.0004, 0.04)] == ["-", "<0.001", "0.040"]


def test_scores_without_a_baseline() -> None:
    ours = changed(made("cut", 0.2), n_unscored=3)
    text = reporting.scores([ours])
    score = ours.result("choice").score
    assert score is not None
    assert formatting.interval(score.value, score.low, score.high, 1) in text
    assert "300 (3 unscored)" in text
    assert "error" in reporting.scores([changed(ours, score=None)])


class TestReusedAnswers:
    """A line says how many answers were computed before the run, when, and with what else."""

    @staticmethod
    def by(*answered: tuple[int, bool, str, str]) -> Provenance:
        made = {"vrbench": "1.0", "device": "CPU"}
        return Provenance(
            **made,
            packages={"torch": "3.0", "pillow": "2.0"},
            answered=tuple(
                AnswerProvenance(
                    **made, requests=n, reused=reused, first=f"2026-01-0{n}T10:00:30+00:00",
                    last=f"2026-01-0{n}T{last}:00+00:00", packages={"torch": "3.0", "pillow": pillow},
                )
                for n, reused, last, pillow in answered
            ),
        )  # fmt: skip

    def test_nothing_is_said_where_there_are_none(self) -> None:
        assert formatting.describe_reused(self.by((4, False, "11:00", "2.0"))) == ""
        assert formatting.describe_reused(self.by()) == ""

    def test_each_origin_has_its_time_and_what_differs(self) -> None:
        by = self.by((1, True, "10:00", "2.0"), (2, True, "11:15", "1.9"), (5, False, "11:00", "2.0"))
        assert formatting.describe_reused(by) == (
            "3 of 8 answers were stored before this run: 1 computed 2026-01-01 10:00 UTC; "
            "2 computed 2026-01-02 10:00 to 2026-01-02 11:15 UTC with pillow 1.9"
        )
        moved = by.model_copy(update={"device": "GPU", "vrbench": "1.1"})
        assert "1 computed 2026-01-01 10:00 UTC with vrbench 1.0 on CPU; " in formatting.describe_reused(moved)

    def test_a_commit_is_named_where_it_is_another_and_changes_always(self) -> None:
        by = self.by((1, True, "10:00", "2.0")).model_copy(update={"commit": "a" * 40, "dirty": False})

        def said(**made: Any) -> str:
            (some,) = by.answered
            return formatting.describe_reused(by.model_copy(update={"answered": (some.model_copy(update=made),)}))

        assert said().endswith("10:00 UTC") and said(commit="a" * 40, dirty=False) == said()  # "": not known to differ
        assert said(commit="b" * 40).endswith(" with vrbench 1.0 (bbbbbbb)")
        assert said(commit="a" * 40, dirty=True).endswith(" with vrbench 1.0 (aaaaaaa and changes)")

    def test_it_stands_under_the_table_and_in_every_report(self) -> None:
        by = self.by((1, True, "10:00", "1.9"), (5, False, "11:00", "2.0"))
        ours = made("cut", 0.2)
        record = ours.record.model_copy(update={"provenance": by})
        found = compare([ours.model_copy(update={"record": record})], made("base", 0))
        said = "1 of 6 answers were stored before this run: 1 computed 2026-01-01 10:00 UTC with pillow 1.9"
        for form in ("table", "markdown", "html", "latex"):
            assert said in " ".join(reporting.render(found, form).split()), form
