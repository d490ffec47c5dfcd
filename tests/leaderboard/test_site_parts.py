"""Words, small drawings, plots and vendored scripts of the site."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.leaderboard.schema import (
    LayerRegion,
    LeaderboardRow,
    Rank,
    RowCost,
    ScoreWithCI,
    SuiteMean,
    VerificationStatus,
)
from vrbench.leaderboard.site import drawings, pages, plots, vendored, wording
from vrbench.statistics.claims import parse


def row(name: str, kept: tuple[float, float, float], tuned: str = "0-2", removed: str = "none") -> LeaderboardRow:
    value, low, high = kept
    kept_share = ScoreWithCI(value=value, low=low, high=high)
    mean = SuiteMean(tasks=("a",), n=10, score=ScoreWithCI(value=value / 2), retention=kept_share)
    first, second = (LayerSet.parse(text, 12) for text in (tuned, removed))
    region = LayerRegion(
        depth=12, tuning="lora", tuned=tuned, tuned_share=len(first) / 12, removed=removed, healed=False,
        removed_share=len(second) / 12,
    )  # fmt: skip
    return LeaderboardRow(
        org="lab", name=name, revision="0" * 16, family="f", baseline="lab/base@" + "1" * 16, is_baseline=False,
        checkpoint=name, digest="0" * 64, dtype="float32", submitted="2026-01-01", region=region, cost=RowCost(),
        visual=mean, text=mean, verdicts=(), tasks=(),
        status=VerificationStatus(kind="rescored", by="x", date="2026-01-01"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (208, "3 min 28 s"), (3599.7, "1 h 00 min"),
     (3600, "1 h 00 min"), (7530, "2 h 06 min"), (3_600_000, "1,000 h 00 min")],
)  # fmt: skip
def test_durations(seconds: float | None, said: str) -> None:
    assert wording.duration(seconds) == said


@pytest.mark.parametrize(
    ("rate", "said"), [(None, "–"), (0.123, "0.12"), (9.96, "10.0"), (488.2, "488"), (1e4, "10,000")]
)
def test_speeds(rate: float | None, said: str) -> None:
    assert wording.speed(rate) == said


def test_ranks_are_ranges_where_they_are_tied() -> None:
    assert wording.span(Rank(best=2, worst=4)) == "2–4" and wording.span(Rank(best=3, worst=3)) == "3"
    assert wording.span_words(Rank(best=2, worst=4)) == "rank 2 to 4, tied" and wording.span(None) == "–"


def test_figures_and_their_ends() -> None:
    figure = ScoreWithCI(value=-0.04, low=-1.25, high=1.24)
    assert wording.value(figure, signed=True) == "0.0" and wording.ends(figure, signed=True) == "[−1.2, +1.2]"
    assert wording.value(ScoreWithCI(value=355.591), "perplexity") == "355.59"
    assert wording.value(ScoreWithCI(value=None)) == "–" and wording.ends(ScoreWithCI(value=1.0)) == ""


def test_claims_are_said_with_their_unit() -> None:
    assert wording.claim(parse("visual>=99%")) == "visual ≥ 99 %"
    assert wording.claim(parse("text>=-1")) == "text ≥ −1 pt"


def test_a_scale_holds_all_ends_and_its_mark() -> None:
    scale = drawings.bar_scale([ScoreWithCI(value=50, low=40, high=60), None, ScoreWithCI(value=None)], 100.0)
    assert (scale.low, scale.high) == (40, 100)
    assert scale.pixel(40) < scale.pixel(50) < scale.pixel(60) < scale.pixel(100)
    assert 0 <= scale.pixel(-1e9) == scale.pixel(40) and scale.pixel(1e9) == scale.pixel(100) <= drawings.WIDTH
    assert drawings.bar_scale([]).pixel(0.5) == drawings.WIDTH / 2
    one = drawings.bar_scale([ScoreWithCI(value=5.0)])
    assert 0 <= one.pixel(5.0) <= drawings.WIDTH


def test_one_figure_far_away_does_not_press_the_others_together() -> None:
    near = [ScoreWithCI(value=v, low=v - 2, high=v + 2) for v in (88.0, 86.0, 74.0, 77.0)]
    far = ScoreWithCI(value=3.9, low=3.1, high=5.0)
    scale = drawings.bar_scale([*near, far, ScoreWithCI(value=100.0, low=100.0, high=100.0)], 100.0)
    assert scale.low == 100 - drawings.REACH * 26 and scale.high == 100
    assert scale.beyond(3.9) == -1 and scale.beyond(101) == 1 and scale.beyond(88.0) == 0
    assert "circle" not in drawings.interval_bar(far, scale) and "circle" in drawings.interval_bar(near[0], scale)
    assert drawings.bar_scale([ScoreWithCI(value=100.0)], 100.0).pixel(100.0) <= drawings.WIDTH


def test_a_bar_is_drawn_where_its_interval_lies() -> None:
    scale = drawings.Axis(0, 100, mark=50.0)
    bar = drawings.interval_bar(ScoreWithCI(value=75, low=70, high=80), scale)
    left, right = map(float, re.search(r'bar-ends" d="M([\d.]+) [\d.]+H([\d.]+)"', bar).groups())  # type: ignore[union-attr]
    assert (left, right) == (scale.pixel(70), scale.pixel(80))
    assert f'cx="{scale.pixel(75)}"' in bar and f"M{scale.pixel(50)} 0V" in bar
    assert "bar-dot" not in drawings.interval_bar(None, scale) and "bar-ends" not in drawings.interval_bar(
        ScoreWithCI(value=1.0), scale
    )


def test_a_strip_has_a_cell_for_every_layer() -> None:
    strip = drawings.layer_strip(LayerSet.parse("0-2,11", 12), LayerSet.parse("4,11", 12))
    shapes = {name: re.findall(r"M(\d+) ", path) for name, path in re.findall(r'strip-(\w+)" d="([^"]*)"', strip)}
    wide = drawings.CELL + drawings.GAP
    assert shapes["tuned"] == [str(wide * i) for i in (0, 1, 2, 11)]
    assert shapes["removed"] == [str(wide * i) for i in (4, 11)]
    assert len(shapes["kept"]) == 12 - 5


def test_every_marker_has_a_colour_in_the_style_sheet() -> None:
    css = Path(pages.__file__).with_name("assets").joinpath("style.css").read_text()
    assert all(f".plot .k{kind} path" in css and f".c{kind} {{" in css for kind in range(len(drawings.MARKERS)))


def svg(rows: list[LeaderboardRow]) -> dict[str, ElementTree.Element]:
    """Name of each plot of some rows -> its element, as the page of a board has it."""
    template = pages.environment().get_template("plot.svg.j2")
    found = {plot["about"].name: plot for plot in plots.plot_contents(rows)}
    board = SimpleNamespace(id="b")
    made = {name: template.render(plot=plot, board=board, to=lambda page: page) for name, plot in found.items()}
    return {name: ElementTree.fromstring(text) for name, text in made.items()}


def elements(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if element.tag == f"{{http://www.w3.org/2000/svg}}{name}"]


def test_a_plot_has_no_style_of_its_own_and_one_link_a_row() -> None:
    rows = [row("one", (90, 80, 95)), row('<b>&"two', (70, 60, 75), removed="11"), row("three", (100, 99, 101), "all")]
    found = svg(rows)
    assert list(found) == ["plot-both", "plot-visual", "plot-text"]
    for name, root in found.items():
        assert not [e for e in root.iter() if {"style", "fill", "stroke", "id"} & set(e.attrib)]
        links = elements(root, "a")
        assert [link.get("href") for link in links] == [pages.submission_page("b", r) for r in rows]
        assert ["hollow" in (link.get("class") or "") for link in links] == [False, True, False]
        title = elements(links[0], "title")[0].text or ""
        assert "visual 90.0 [80.0, 95.0] %" in title and "3 of 12 layers" in title
        for link in links:  # intervals, then the outline of a marker
            (shape,) = elements(link, "path")
            assert shape.get("d", "").count("M") == (3 if name == "plot-both" else 2)
        assert root.get("aria-labelledby") == f"{name}-title"


def test_points_and_ticks_are_drawn_to_scale() -> None:
    axis = drawings.Axis(0.0, 100.0, 50.0, 450.0)
    assert axis.ticks() == [(50.0, "0"), (130.0, "20"), (210.0, "40"), (290.0, "60"), (370.0, "80"), (450.0, "100")]
    assert [label for _, label in drawings.Axis(-0.1, 0.1, 0, 1).ticks()] == ["−0.1", "−0.05", "0", "0.05", "0.1"]
    plot = svg([row("one", (90, 80, 95)), row("two", (70, 60, 75), "0-5")])["plot-visual"]
    x = [float(re.findall(r"M([\d.]+) ", elements(link, "path")[0].get("d", ""))[-1]) for link in elements(plot, "a")]
    share = drawings.Axis(-4, 106, plots.LEFT, plots.RIGHT)
    assert x == [share.pixel(25.0), share.pixel(50.0)]


def test_a_single_point_without_an_interval_is_drawn() -> None:
    assert len(elements(svg([row("one", (100, 100, 100))])["plot-both"], "a")) == 1


def test_names_are_shown_for_few_points_and_cover_no_point() -> None:
    few = [row(f"name-{i}", (60 + 5 * i, 55 + 5 * i, 65 + 5 * i)) for i in range(plots.MAX_NAMED)]
    (plot, *_) = plots.plot_contents(few)
    assert len(plot["names"]) == len(few)
    assert not any(abs(x - p["x"]) < 4 and abs(y - p["y"]) < 4 for x, y, _ in plot["names"] for p in plot["points"])
    (plot, *_) = plots.plot_contents([*few, row("more", (50, 40, 60))])
    assert plot["names"] == []


def test_a_board_without_text_tasks_has_the_visual_plot_alone() -> None:
    assert list(svg([row("one", (90, 80, 95)).model_copy(update={"text": None})])) == ["plot-visual"]


def test_addresses_are_relative() -> None:
    assert pages.relative("index.html", "b/index.html") == "b/index.html"
    assert pages.relative("b/x__y/0/index.html", "_assets/style.css") == "../../../_assets/style.css"


def test_datatables_comes_as_a_script_with_its_licences() -> None:
    files = vendored.vendored_files()
    script = files["datatables.js"]
    assert "window.DataTable=" in script and not re.search(r"export\s*\{", script)
    assert "datatables.net/license" in script and "MIT License" in files["datatables.LICENSE.txt"]


def test_a_bundle_of_another_build_is_refused() -> None:
    assert "window.DataTable=fe;" in vendored.classic_script("let fe=1;export{a as jQuery,fe as default};", "x 1")
    for other in ("let a;", "export{a as b};", "export{a as default};export{b as c};"):
        with pytest.raises(VrbenchError, match="another version"):
            vendored.classic_script(other, "x 1")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vendored, "distribution", missing)
    with pytest.raises(VrbenchError, match="pip install itables"):
        vendored.vendored_files()


def test_no_page_element_of_the_templates_bypasses_the_escaping() -> None:
    templates = Path(pages.__file__).with_name("templates")
    for file in sorted(templates.glob("*.j2")):
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", file.read_text()), file.name
