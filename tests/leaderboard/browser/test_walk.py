"""A reader's walk through the site in a real browser: sort, filter, open a submission, browse its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.leaderboard.browser.conftest import Site

Open = Callable[..., "Page"]


def names(page: Page) -> list[str]:
    return page.locator("#board tbody th[scope=row] a").all_inner_texts()


def numbers(page: Page, column: int) -> list[float]:
    cells: list[str] = page.locator(f"#board tbody tr > *:nth-child({column})").evaluate_all(
        "cells => cells.map(cell => cell.dataset.order)"
    )
    return [float(cell) for cell in cells]


@pytest.mark.parametrize("site", ["file"], indirect=True)
def test_the_table_is_sorted_by_its_headings(opened: Open, site: Site) -> None:
    page = opened(site.address + "index.html")
    heading = page.locator("#board thead tr:nth-child(2) th", has_text="Score").first
    heading.click()
    page.wait_for_selector("#board th[aria-sort=ascending]")
    once = numbers(page, 3)
    assert len(once) == 6 and once == sorted(once) and len(set(once)) > 1
    heading.click()
    page.wait_for_selector("#board th[aria-sort=descending]")
    assert numbers(page, 3) == sorted(once, reverse=True)


@pytest.mark.parametrize("site", ["file"], indirect=True)
def test_the_table_is_filtered_and_the_choice_stays_in_the_address(opened: Open, site: Site) -> None:
    page = opened(site.address + "index.html")
    page.locator("[data-filter=family]").select_option("tiny2")
    assert sorted(names(page)) == ["tiny2-full", "tiny2-region-1", "tiny2-region-2"]
    page.locator("#search").fill("region-2")
    assert names(page) == ["tiny2-region-2"]
    assert page.locator("#count").inner_text() == "1 of 6 submissions"
    again = opened(page.url)
    assert names(again) == ["tiny2-region-2"]


def test_from_the_table_to_a_sample_and_back(opened: Open, site: Site) -> None:
    page = opened(site.address + "index.html")
    page.get_by_role("link", name="tiny-region-1", exact=True).first.click()
    assert page.locator("h1").inner_text().startswith("tiny-region-1")
    page.get_by_role("link", name="browse the samples of made_mme").click()
    page.wait_for_selector(".sample")
    assert page.locator("#count").inner_text() == "All 208 samples"
    assert page.locator(".sample").count() == 24
    picture = page.locator(".sample img").first
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => image.naturalWidth") == 128
    page.get_by_role("link", name="lab1/tiny-region-1").last.click()
    assert page.locator("h1").inner_text().startswith("tiny-region-1")


@pytest.mark.parametrize("site", ["file"], indirect=True)
def test_the_site_is_walked_with_the_keyboard_alone(opened: Open, site: Site) -> None:
    page = opened(site.address + "index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to(page, "document.activeElement.textContent === 'tiny-region-1'")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tasks-title")
    tab_to(page, "document.activeElement.textContent === 'browse the samples of made_words'")
    page.keyboard.press("Enter")
    page.wait_for_selector(".sample")
    tab_to(page, "document.activeElement.id === 'show'")
    page.keyboard.press("b")  # 'baseline right, candidate wrong'
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('count').textContent.includes(' of 208')")
    tab_to(page, "document.activeElement.className === 'sample'")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("[...document.querySelectorAll('.sample')].indexOf(document.activeElement)") == 1
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('where').textContent.startsWith('page 2')")
    page.wait_for_function("() => document.activeElement === document.querySelector('.sample')")


def tab_to(page: Page, there: str, most: int = 60) -> None:
    """Press Tab until a condition holds; what has the focus must always be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        style: dict[str, Any] = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();"
            " return { outline: s.outlineStyle, width: r.width, height: r.height } })()"
        )
        assert style["outline"] != "none" and style["width"] and style["height"], page.evaluate(
            "document.activeElement.outerHTML.slice(0, 200)"
        )
        if page.evaluate(there):
            return
    pytest.fail(f"{most} times Tab did not lead to: {there}")
