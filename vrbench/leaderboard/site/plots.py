"""The plots of a board: drawn by matplotlib, then stripped of every colour and style that a page's own sheet gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from vrbench.leaderboard.schema import LeaderboardRow, ScoreWithCI
from vrbench.leaderboard.site import wording
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display
from vrbench.reporting import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 9
"""Points of a plot up to which each carries its name; of more, the name shows under the pointer."""
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_PAIR = re.compile(r"(-?[\d.]+(?:e-?\d+)?) (-?[\d.]+(?:e-?\d+)?)")
_ATTRIBUTES = frozenset({
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-linecap", "stroke-linejoin", "stroke-dasharray",
    "stroke-dashoffset", "stroke-opacity", "opacity", "text-anchor", "font-size", "font-weight",
})  # fmt: skip
"""What of a style stays, as attributes, which a Content-Security-Policy lets be and a style sheet overrules."""


@dataclass(frozen=True)
class Point:
    """One submission in a plot."""

    row: LeaderboardRow
    """Whose it is."""
    page: str
    """Address of its page, as written in the page of the plot."""
    kind: str
    """Which colour and marker it has: its tuning, or 'baseline'."""
    x: ScoreWithCI
    """Across."""
    y: ScoreWithCI
    """Up."""


@dataclass(frozen=True)
class Plot:
    """One plot of a board's page."""

    name: str
    """Of its element, and of all ids within it."""
    title: str
    """What it shows."""
    across: str
    """Label of the x axis."""
    up: str
    """Label of the y axis."""
    marks: tuple[float | None, float | None]
    """Where lines stand, across and up: 100 % of the baseline."""
    share: bool = False
    """Whether what is across is a share, from 0 to 100."""

    def draw(self, points: Sequence[Point], kinds: Sequence[str]) -> Markup:
        """The plot as an element of a page; every point links to its submission.

        Args:
            kinds: of all points, in the order of their colours.
        """
        from matplotlib.ticker import MaxNLocator

        with drawing.themed(), _text_as_text():
            figure, axes = drawing.new_figure(4.3, 3.5)
            axes.set_xlabel(self.across)
            axes.set_ylabel(self.up)
            axes.grid(True, linewidth=0.6)
            for value, line in zip(self.marks, (axes.axvline, axes.axhline), strict=True):
                if value is not None:
                    line(value, linewidth=1.1, linestyle=(0, (4, 3)), color="#1b1f24", zorder=1)
            for number, point in enumerate(points):
                _draw_point(axes, point, number, kinds.index(point.kind))
            axes.margins(0.09)
            if self.share:
                axes.set_xlim(-4, 106)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            if 0 < len(points) <= MOST_NAMED:
                _name_points(axes, points)
            svg = drawing.encoded(figure, "svg")
        return _element(svg, self, points)


def _text_as_text() -> Any:
    import matplotlib

    return matplotlib.rc_context({"svg.fonttype": "none"})


def _draw_point(axes: Axes, point: Point, number: int, place: int) -> None:
    """Marker and intervals of one row; hollow where layers were removed."""
    look = drawing.look_of(place)
    x, y = point.x.value, point.y.value
    if x is None or y is None:
        return
    hollow = point.row.region.removed_share > 0
    drawn = axes.errorbar(
        [x], [y], xerr=_reach(point.x), yerr=_reach(point.y), color=look["color"], marker=look["marker"],
        markersize=6.5, markerfacecolor="#ffffff" if hollow else look["color"], markeredgewidth=1.4, linestyle="none",
        elinewidth=1.1, zorder=3,
    )  # fmt: skip
    line, _, bars = drawn.lines
    for part, artist in enumerate([*bars, line]):
        if artist is not None:
            artist.set_gid(f"row-{number}-{part}")


def _reach(figure: ScoreWithCI) -> list[list[float]] | None:
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    return [[max(0.0, figure.value - figure.low)], [max(0.0, figure.high - figure.value)]]


Box = tuple[float, float, float, float]
"""Left, low, right and high end, in points."""


def _name_points(axes: Axes, points: Sequence[Point]) -> None:
    """Names beside the points, each at the first place where it covers no other name and no point."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    scale = 72 / axes.figure.dpi
    left, low, right, high = (float(end) * scale for end in axes.get_window_extent().extents)
    known = [(p.row.name, (p.x.value or 0.0, p.y.value or 0.0)) for p in points]
    places = [(float(x) * scale, float(y) * scale) for x, y in (axes.transData.transform(at) for _, at in known)]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for (text, at), place in zip(known, places, strict=True):
        name = sanitize_for_display(text, 28)
        box = _free_box(4.7 * len(name), place, (left, low, right, high), taken)
        if box is not None:
            taken.append(box)
            offset = (box[0] - place[0], box[1] - place[1] + 2)
            axes.annotate(name, at, offset, textcoords="offset points", fontsize=8.5, annotation_clip=False)


def _free_box(width: float, place: tuple[float, float], inside: Box, taken: Sequence[Box]) -> Box | None:
    """Where a name of some width can stand about a point."""
    x, y = place
    for dx, dy in ((8, 5), (-8 - width, 5), (8, -15), (-8 - width, -15), (-width / 2, 9), (-width / 2, -19)):
        box = (x + dx, y + dy, x + dx + width, y + dy + 10)
        fits = inside[0] <= box[0] and box[2] <= inside[2] and inside[1] <= box[1] and box[3] <= inside[3]
        if fits and not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _element(svg: bytes, plot: Plot, points: Sequence[Point]) -> Markup:
    """The picture as an element: ids of its own, no style, and one link around all that is drawn of a row."""
    root = ElementTree.fromstring(svg)
    for unwanted in ("metadata", f"{{{_SVG}}}metadata"):
        for found in root.findall(unwanted):
            root.remove(found)
    _drop_styles(root)
    _prefix_ids(root, plot.name)
    _link_rows(root, plot.name, points)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"class": "plot", "role": "group", "aria-labelledby": f"{plot.name}-title", "focusable": "false"}
    ElementTree.register_namespace("", _SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _drop_styles(root: ElementTree.Element) -> None:
    for parent in root.iter():
        for child in [c for c in parent if c.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata")]:
            parent.remove(child)
    for element in root.iter():
        style = element.attrib.pop("style", "")
        for part in filter(None, (p.strip() for p in style.split(";"))):
            name, _, value = (word.strip() for word in part.partition(":"))
            if name in _ATTRIBUTES:
                element.set(name, value)


def _prefix_ids(root: ElementTree.Element, prefix: str) -> None:
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", f"{prefix}-{element.get('id')}")
        if (target := element.attrib.pop(_XLINK, "")).startswith("#"):
            element.set("href", f"#{prefix}-{target[1:]}")
        for name, value in element.attrib.items():
            if "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}-"))


def _link_rows(root: ElementTree.Element, prefix: str, points: Sequence[Point]) -> None:
    """All groups of one row into one link, which a keyboard passes by: the table has the same links."""
    links: dict[int, ElementTree.Element] = {}
    shapes: dict[int, list[ElementTree.Element]] = {}
    markers = {path.get("id", ""): path for defs in root.iter(f"{{{_SVG}}}defs") for path in defs}
    pattern = re.compile(rf"{prefix}-row-(\d+)-\d+")
    for parent in list(root.iter()):
        for child in list(parent):
            match = pattern.fullmatch(child.get("id", ""))
            if match is None:
                continue
            number = int(match[1])
            if number not in links:
                links[number] = _link(points[number])
                parent.insert(list(parent).index(child), links[number])
            parent.remove(child)
            shapes.setdefault(number, []).extend(_lines(child, markers))
    for number, drawn in shapes.items():
        links[number].append(_as_one(drawn))


def _lines(group: ElementTree.Element, markers: Mapping[str, ElementTree.Element]) -> Iterator[ElementTree.Element]:
    """The paths of a group without what is around them, markers where they stand.

    Args:
        markers: id -> what is drawn where it is used, of the whole picture: one that is drawn alike is there once.
    """
    for element in group.iter():
        name = element.get("href", "#")[1:]
        if element.tag == f"{{{_SVG}}}use" and name in markers:
            x, y = (float(element.get(key, "0")) for key in "xy")
            look = {key: value for key, value in markers[name].attrib.items() if key != "id"} | element.attrib
            look["d"] = _moved(look["d"], x, y)
            yield ElementTree.Element(f"{{{_SVG}}}path", look)
        elif element.tag == f"{{{_SVG}}}path" and "id" not in element.attrib:
            element.set("d", _moved(element.get("d", ""), 0, 0))
            yield element


def _moved(path: str, x: float, y: float) -> str:
    """A path elsewhere, to a tenth of a unit."""
    return _PAIR.sub(lambda pair: f"{float(pair[1]) + x:.1f} {float(pair[2]) + y:.1f}", path)


def _as_one(shapes: Sequence[ElementTree.Element]) -> ElementTree.Element:
    """Intervals and marker as one path in the marker's look: lines have no inside, so only the marker is filled."""
    path = " ".join(" ".join(shape.get("d", "").split()) for shape in shapes)
    look = {key: value for key, value in shapes[-1].attrib.items() if key in ("fill", "stroke", "stroke-width")}
    return ElementTree.Element(f"{{{_SVG}}}path", look | {"d": path})


def _link(point: Point) -> ElementTree.Element:
    link = ElementTree.Element(f"{{{_SVG}}}a")
    link.attrib |= {"class": "point", "href": point.page, "tabindex": "-1", "data-key": point.row.key}
    title = ElementTree.SubElement(link, f"{{{_SVG}}}title")
    title.text = f"{point.row.org}/{point.row.name}: {_said(point)}"
    return link


def _said(point: Point) -> str:
    means = [(name, mean.retention) for name, mean in (("visual", point.row.visual), ("text", point.row.text)) if mean]
    kept = [f"{name} {wording.value(figure)} {wording.ends(figure)}".strip() + " %" for name, figure in means]
    return f"{', '.join(kept)}; {wording.tuned(point.row.region)} tuned"


def plots_of(rows: Sequence[LeaderboardRow], page_of: Callable[[LeaderboardRow], str]) -> list[tuple[Plot, Markup]]:
    """The plots of a board; those for which it has no figures are left out.

    Args:
        page_of: address of a row's page.
    """
    kinds = list(dict.fromkeys(kind_of(row) for row in sorted(rows, key=lambda r: (not r.is_baseline, kind_of(r)))))
    drawn = []
    for plot, across, up in _PLOTS:
        points = [
            Point(row, page_of(row), kind_of(row), x, y)
            for row in rows
            if (x := across(row)) is not None and (y := up(row)) is not None
            and x.value is not None and y.value is not None
        ]  # fmt: skip
        if points:
            drawn.append((plot, plot.draw(points, kinds)))
    return drawn


def kind_of(row: LeaderboardRow) -> str:
    """What a row is in the plots: its tuning, or 'baseline'."""
    return "baseline" if row.is_baseline else row.region.tuning


def _visual(row: LeaderboardRow) -> ScoreWithCI | None:
    return row.visual.retention if row.visual else None


def _text(row: LeaderboardRow) -> ScoreWithCI | None:
    return row.text.retention if row.text else None


def _share(row: LeaderboardRow) -> ScoreWithCI | None:
    return ScoreWithCI(value=100 * row.region.tuned_share)


_Get = Callable[[LeaderboardRow], "ScoreWithCI | None"]
_PLOTS: tuple[tuple[Plot, _Get, _Get], ...] = (
    (
        Plot("plot-both", "What is still seen, against what can still be read",
             "visual score kept, %", "text score kept, %", (100.0, 100.0)),
        _visual, _text,
    ),
    (
        Plot("plot-visual", "What is still seen, against the share of layers tuned",
             "layers tuned, %", "visual score kept, %", (None, 100.0), share=True),
        _share, _visual,
    ),
    (
        Plot("plot-text", "What can still be read, against the share of layers tuned",
             "layers tuned, %", "text score kept, %", (None, 100.0), share=True),
        _share, _text,
    ),
)  # fmt: skip
