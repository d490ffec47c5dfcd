"""Every kind of page against axe's rules of WCAG 2.2 AA, in light and dark, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.leaderboard.browser.conftest import Site

PAGES = {
    "board": "index.html",
    "submission": "made/lab1__tiny-region-1/*/index.html",
    "baseline": "made/maker__tiny-full/*/index.html",
    "task": "made/tasks/made_mme.html",
    "samples with images": "made/lab1__tiny-region-1/*/samples/made_mme.html",
    "samples with options": "made/lab1__tiny-region-1/*/samples/made_facts.html",
    "samples of texts": "made/lab1__tiny-region-1/*/samples/made_pydoc.html",
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


DARK_TOO = ("board", "submission", "samples with images")
"""Pages that between them have every colour."""
CASES = [(kind, "light", 360) for kind in PAGES] + [(kind, "dark", 1280) for kind in DARK_TOO]


@pytest.mark.parametrize("site", ["file"], indirect=True)
@pytest.mark.parametrize(("kind", "scheme", "width"), CASES)
def test_axe_has_nothing_to_say(opened: Callable[..., Page], site: Site, kind: str, scheme: str, width: int) -> None:
    page = opened(site.page(PAGES[kind]), color_scheme=scheme, viewport={"width": width, "height": 800})
    if kind.startswith("samples"):
        page.wait_for_selector(".sample")
    page.evaluate(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found: dict[str, Any] = page.evaluate("rules => axe.run({ runOnly: rules })", RULES)
    told = [
        f"{fault['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for fault in found["violations"]
        for node in fault["nodes"][:3]
    ]
    assert told == []
    assert len(found["passes"]) > 15  # it did look
    assert page.evaluate("document.documentElement.scrollWidth") <= width
