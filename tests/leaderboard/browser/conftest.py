"""A real Chromium without a window, and a site of made-up submissions for it; skipped where there is no Chromium."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.leaderboard.browser.chromium import MISSING, chromium, started
from tests.leaderboard.made import Made, make_board
from vrbench.leaderboard.site.build import build
from vrbench.leaderboard.site.serve import served
from vrbench.leaderboard.validate import validate, write_leaderboards

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@dataclass(frozen=True)
class Site:
    """A built site and the address that its pages are opened at."""

    folder: Path
    address: str

    def page(self, pattern: str) -> str:
        """The address of the first page whose path matches a pattern."""
        found = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))
        assert found, f"no page {pattern}"
        return self.address + found[0]


@dataclass
class Seen:
    """What a page did besides being shown: messages, faults, and requests to anywhere else."""

    address: str
    messages: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure or ""))
        page.on("response", lambda answer: answer.ok or self.messages.append(f"{answer.status}: {answer.url}"))
        page.on("request", lambda request: self._elsewhere(request.url))

    def _failed(self, url: str, reason: str) -> None:
        if "ERR_ABORTED" not in reason:  # the page was left before it had its icon
            self.messages.append(f"failed: {url}, {reason}")

    def _elsewhere(self, url: str) -> None:
        ours, theirs = urlsplit(self.address), urlsplit(url)
        if (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc):
            self.messages.append(f"elsewhere: {url}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not chromium():
        pytest.skip(MISSING)
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with started() as found:
        yield found


@pytest.fixture(scope="session")
def board(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two families of three submissions to tasks of images, options and whole texts; 208 items each."""
    made = make_board(tmp_path_factory.mktemp("browser"), submissions=3, families=2, items=208)
    write_leaderboards(validate(made.root, include_path=made.tasks, jobs=1))
    return made


@pytest.fixture(scope="session")
def folder(board: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of that board."""
    return build(board.root, tmp_path_factory.mktemp("out") / "site", board.tasks).parent


@pytest.fixture(scope="session", params=["file", "http"])
def site(folder: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The same site as files and over HTTP."""
    if request.param == "file":
        yield Site(folder, f"file://{folder}/")
        return
    with served(folder) as (address, server):
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Site(folder, address)
        server.shutdown()
        thread.join()


@pytest.fixture
def opened(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Opens pages; afterwards none of them may have complained or asked anybody else for anything."""
    contexts, seen = [], Seen(site.address)

    def open_page(address: str, **settings: Any) -> Page:
        context = browser.new_context(**settings)
        context.set_default_timeout(8_000)
        contexts.append(context)
        page = context.new_page()
        seen.watch(page)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert seen.messages == []
