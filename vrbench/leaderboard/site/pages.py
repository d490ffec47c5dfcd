"""Pages from templates: everything that is shown goes through jinja2's autoescape, and a stranger's text through
`sanitize_for_display` before that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment

from vrbench.core.version import __version__
from vrbench.leaderboard.site import drawings, layout, wording
from vrbench.leaderboard.untrusted_input.text import safe_url, sanitize_for_display
from vrbench.reporting.pages import environment as report_environment

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of every page: nothing but its own files, no script or style within a page."""


@dataclass(frozen=True)
class Place:
    """One entry of the trail above a page."""

    title: str
    page: str
    """Its path within the site."""


@dataclass(frozen=True)
class Frame:
    """What all pages of one site have in common."""

    boards: tuple[Place, ...]
    """Every board, in the order of the navigation."""

    def render(self, template: str, page: str, title: str, trail: tuple[Place, ...] = (), **content: Any) -> str:
        """One page.

        Args:
            template: file in the templates folder, extending base.html.j2.
            page: its path within the site; links are relative to it.
            title: of the page, plain text.
            trail: the pages above it, the outermost first.
            content: what the template shows.
        """
        return environment().get_template(template).render(
            page=page, title=title, trail=trail, boards=self.boards, policy=POLICY, version=__version__,
            to=_linker(page), **content,
        )  # fmt: skip


def _linker(page: str) -> Callable[[str], str]:
    return lambda target: layout.relative(page, target)


@cache
def environment() -> Environment:
    """What renders the templates, with the filters and drawings that they use."""
    made = report_environment("html", "vrbench.leaderboard.site")
    made.filters |= {"shown": sanitize_for_display, "url": safe_url, **wording.FILTERS}
    made.globals |= {"layout": layout, **drawings.DRAWINGS}
    return made
