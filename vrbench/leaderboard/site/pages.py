"""The pages of the site: their paths, relative links between them (so that `file://` works), and their rendering.

jinja2 escapes everything, and untrusted text is sanitized before.
"""

from __future__ import annotations

import posixpath
import sys
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from jinja2 import Environment

from vrbench.core.version import __version__
from vrbench.leaderboard.schema import LeaderboardRow
from vrbench.leaderboard.site import drawings, wording
from vrbench.leaderboard.untrusted_input.text import safe_url, sanitize_for_display
from vrbench.reporting.comparison_pages import environment as report_environment

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of every page: nothing but its own files, no script or style within a page."""
ASSETS = "_assets"
"""Folder of style sheets and scripts; no board has this name, since names begin with a letter or digit."""
HOME = "index.html"
MANIFEST = "site.json"
"""Written last: every file of the site with its sha256, so that its existence means that the site is whole."""


def board_page(board: str) -> str:
    """Return the path of a board's table."""
    return f"{board}/index.html"


def csv_file(board: str) -> str:
    """Return the path of the same table for a spreadsheet."""
    return f"{board}/board.csv"


def json_file(board: str) -> str:
    """Return the path of `leaderboard.json`."""
    return f"{board}/leaderboard.json"


def submission_page(board: str, row: LeaderboardRow) -> str:
    """Return the path of a submission's page."""
    return f"{board}/{row.org}__{row.name}/{row.revision}/index.html"


def samples_page(board: str, row: LeaderboardRow, task: str) -> str:
    """Return the path of the samples of a submission on a task."""
    return f"{board}/{row.org}__{row.name}/{row.revision}/samples/{task}.html"


def samples_folder(board: str, task: str) -> str:
    """Return the folder of a task's items; no submission's folder has this name, since theirs have '__'."""
    return f"{board}/samples/{task}"


def task_page(board: str, task: str) -> str:
    """Return the path of a task's page."""
    return f"{board}/tasks/{task}.html"


def relative(page: str, target: str) -> str:
    """Return the address of a file of the site as it is written in a page of the site."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


@dataclass(frozen=True)
class PageLink:
    """Title of a page, and its path within the site."""

    title: str
    page: str


@dataclass(frozen=True)
class Frame:
    """What all pages of one site share: links to every board, in the order of the navigation."""

    boards: tuple[PageLink, ...]

    def render(self, template: str, page: str, title: str, trail: tuple[PageLink, ...] = (), **content: Any) -> str:
        """Return one page.

        Args:
            template: file in the templates folder, extending base.html.j2.
            page: its path within the site; links are relative to it.
            title: of the page, plain text.
            trail: the pages above it, the outermost first.
            content: what the template shows.
        """
        return environment().get_template(template).render(
            page=page, title=title, trail=trail, boards=self.boards, policy=POLICY, version=__version__,
            to=partial(relative, page), **content,
        )  # fmt: skip


@cache
def environment() -> Environment:
    """Return what renders the templates, with the filters and drawings that they use."""
    found = report_environment("html", "vrbench.leaderboard.site")
    found.filters |= {"shown": sanitize_for_display, "url": safe_url, **wording.FILTERS}
    found.globals |= {"site": sys.modules[__name__], **drawings.DRAWINGS}
    return found
