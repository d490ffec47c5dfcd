"""Where each page of the site lies, and how one page links to another: by relative paths, so that `file://` works."""

from __future__ import annotations

import posixpath

from vrbench.leaderboard.schema import LeaderboardRow

ASSETS = "_assets"
"""Folder of style sheets and scripts; no board can have this name, since theirs begin with a letter or digit."""
HOME = "index.html"
MANIFEST = "site.json"
"""Written last: every file of the site with its sha256, so that its existence means that the site is whole."""


def board_page(board: str) -> str:
    """The table of a board."""
    return f"{board}/index.html"


def csv_file(board: str) -> str:
    """The same table for a spreadsheet."""
    return f"{board}/board.csv"


def json_file(board: str) -> str:
    """`leaderboard.json`, for programs."""
    return f"{board}/leaderboard.json"


def submission_folder(board: str, row: LeaderboardRow) -> str:
    """The folder of one submission's pages."""
    return f"{board}/{row.org}__{row.name}/{row.revision}"


def submission_page(board: str, row: LeaderboardRow) -> str:
    """One submission."""
    return f"{submission_folder(board, row)}/index.html"


def samples_page(board: str, row: LeaderboardRow, task: str) -> str:
    """The samples of one submission on one task."""
    return f"{submission_folder(board, row)}/samples/{task}.html"


def task_page(board: str, task: str) -> str:
    """One task."""
    return f"{board}/tasks/{task}.html"


def relative(page: str, target: str) -> str:
    """The address of a file of the site as it is written in a page of the site."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")
