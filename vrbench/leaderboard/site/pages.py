"""Rendering pages from templates: jinja2 escapes everything, and untrusted text is sanitized before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from jinja2 import Environment

from vrbench.core.version import __version__
from vrbench.leaderboard.site import drawings, layout, wording
from vrbench.leaderboard.untrusted_input.text import safe_url, sanitize_for_display
from vrbench.reporting.pages import environment as report_environment

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of every page: nothing but its own files, no script or style within a page."""


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
            to=partial(layout.relative, page), **content,
        )  # fmt: skip


@cache
def environment() -> Environment:
    """Return what renders the templates, with the filters and drawings that they use."""
    found = report_environment("html", "vrbench.leaderboard.site")
    found.filters |= {"shown": sanitize_for_display, "url": safe_url, **wording.FILTERS}
    found.globals |= {"layout": layout, **drawings.DRAWINGS}
    return found
