"""The sample browser in a real browser: what its filters, search, order and links show is what the files say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.leaderboard.made import Made
from vrbench.core.schemas import Sample
from vrbench.leaderboard.submission import read_submission

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.leaderboard.browser.conftest import Site

Open = Callable[..., "Page"]
pytestmark = pytest.mark.parametrize("site", ["file"], indirect=True)
CANDIDATE = "made/lab1__tiny-region-1/*/samples/{}.html"


@pytest.fixture(scope="session")
def answered(board: Made) -> Callable[[str, str], dict[str, Sample]]:
    """The samples of a submission to a task, by id, as they were handed in."""

    def samples(name: str, task: str) -> dict[str, Sample]:
        (place,) = (folder for folder in board.submissions if folder.parent.name.endswith(f"__{name}"))
        return {sample.id: sample for sample in read_submission(place).run.samples[task]}

    return samples


def ids(page: Page) -> list[str]:
    """The samples of all pages, in the order in which they are shown."""
    page.wait_for_selector("#samples:not([aria-busy])")
    found = page.locator(".sample h2 a").all_inner_texts()
    while page.locator("#next").is_enabled():
        before = page.locator("#where").inner_text()
        page.locator("#next").click()
        page.wait_for_function("was => document.getElementById('where').textContent !== was", arg=before)
        found += page.locator(".sample h2 a").all_inner_texts()
    return found


@pytest.mark.parametrize(
    ("choice", "theirs", "ours"), [("lost", 1, 0), ("won", 0, 1), ("wrong", 0, 0), ("right", 1, 1)]
)
def test_the_filter_shows_the_samples_whose_scores_are_such(
    opened: Open, site: Site, answered: Callable[..., dict[str, Sample]], choice: str, theirs: int, ours: int
) -> None:
    base, mine = answered("tiny-full", "made_mme"), answered("tiny-region-1", "made_mme")
    wanted = [i for i in mine if (base[i].score, mine[i].score) == (theirs, ours)]
    page = opened(site.page(CANDIDATE.format("made_mme")))
    option = page.locator(f"#show option[value={choice}]")
    assert f"({len(wanted)})" in (option.text_content() or "")
    page.locator("#show").select_option(choice)
    page.wait_for_function("n => document.getElementById('count').textContent.startsWith(n)", arg=f"{len(wanted)} of")
    assert wanted and ids(page) == wanted


def test_a_card_shows_what_was_asked_and_what_both_answered(
    opened: Open, site: Site, answered: Callable[..., dict[str, Sample]]
) -> None:
    base, mine = answered("tiny-full", "made_facts"), answered("tiny-region-1", "made_facts")
    page = opened(site.page(CANDIDATE.format("made_facts")))
    page.wait_for_selector(".sample")
    for card in page.locator(".sample").all()[:8]:
        item = card.locator("h2 a").inner_text()
        said = card.locator(".answers dd:not(.verdict-cell)").all_inner_texts()
        assert [text for text in said if text] == [mine[item].target, mine[item].answer, base[item].answer]
        verdicts = card.locator(".verdict-cell").all_inner_texts()
        assert verdicts == ["✓ right" if run[item].score else "✕ wrong" for run in (mine, base)]
        options = card.locator(".options li").all_inner_texts()
        assert len(options) == 4 and sum("right answer" in option for option in options) == 1


def test_categories_and_search_narrow_what_is_shown(
    opened: Open, site: Site, answered: Callable[..., dict[str, Sample]]
) -> None:
    mine = answered("tiny-region-1", "made_mme")
    page = opened(site.page(CANDIDATE.format("made_mme")))
    page.locator("#group").select_option(label="count")
    wanted = [i for i, sample in mine.items() if sample.group == "count"]
    page.wait_for_function("n => document.getElementById('count').textContent.startsWith(n)", arg=f"{len(wanted)} of")
    assert ids(page) == wanted
    page.locator("#search").fill("blue OBJECTS")
    page.wait_for_function("() => document.getElementById('where').textContent === 'page 1 of 1'")
    texts = page.locator(".sample .question").all_inner_texts()
    assert texts and all("blue objects" in text for text in texts)
    page.locator("#search").fill("no such words")
    page.wait_for_function("() => document.getElementById('where').textContent === 'no sample'")
    assert page.locator("#count").inner_text().startswith("0 of 208")
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function("() => document.getElementById('count').textContent === 'All 208 samples'")


def test_texts_are_ordered_by_what_was_lost(
    opened: Open, site: Site, answered: Callable[..., dict[str, Sample]]
) -> None:
    base, mine = answered("tiny-full", "made_pydoc"), answered("tiny-region-1", "made_pydoc")
    gap = {i: mine[i].score / mine[i].weight - base[i].score / base[i].weight for i in mine}
    page = opened(site.page(CANDIDATE.format("made_pydoc")))
    page.locator("#order").select_option("loss")
    page.wait_for_function("() => location.hash.includes('order=loss')")
    shown = ids(page)
    assert sorted(shown) == sorted(gap)
    gaps = [gap[i] for i in shown]
    assert all(a <= b + 3e-4 for a, b in itertools.pairwise(gaps)) and gaps[0] < gaps[-1]


def test_a_link_opens_its_sample_on_its_page(
    opened: Open, site: Site, answered: Callable[..., dict[str, Sample]]
) -> None:
    item = list(answered("tiny-full", "made_facts"))[204]  # in the second script of items
    page = opened(f"{site.page(CANDIDATE.format('made_facts'))}#id={quote(item, safe='')}")
    page.wait_for_selector(".sample.linked")
    assert page.locator(".sample.linked h2 a").inner_text() == item
    assert page.locator("#where").inner_text() == "page 9 of 9"
    assert page.evaluate("document.activeElement.classList.contains('linked')")
    page.evaluate("location.hash = '#id=nothing'")
    page.wait_for_function(
        "() => document.getElementById('count').textContent.startsWith('There is no sample nothing.')"
    )


def test_a_link_of_a_sample_keeps_the_choice(opened: Open, site: Site) -> None:
    page = opened(site.page(CANDIDATE.format("made_mme")) + "#show=lost")
    page.wait_for_function("() => document.getElementById('count').textContent.includes(' of 208')")
    link = page.locator(".sample h2 a").nth(3)
    item, said = link.inner_text(), page.locator("#count").inner_text()
    link.click()
    page.wait_for_selector(".sample.linked")
    assert page.locator(".sample.linked h2 a").inner_text() == item
    assert page.locator("#count").inner_text() == said


def test_only_what_is_in_view_is_loaded(opened: Open, site: Site) -> None:
    page = opened(site.page(CANDIDATE.format("made_words")))
    page.wait_for_selector(".sample")
    loaded = "[...document.scripts].map(script => script.src).filter(src => src.includes('items-')).length"
    assert page.evaluate(loaded) == 1
    page.locator("#last").click()
    page.wait_for_function(f"() => {loaded} === 2")


def test_a_baseline_has_a_browser_of_its_own(opened: Open, site: Site) -> None:
    page = opened(site.page("made/maker__tiny-full/*/samples/made_mme.html"))
    page.wait_for_selector(".sample")
    assert page.locator("#show option").evaluate_all("all => all.map(one => one.value)") == [
        "",
        "wrong",
        "right",
        "unscored",
    ]
    assert "baseline" not in page.locator("#samples").inner_text()
