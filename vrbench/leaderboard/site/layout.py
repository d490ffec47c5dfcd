"""The path of each page of the site, and the relative links between them, so that `file://` works."""

from __future__ import annotations

import posixpath

from vrbench.leaderboard.schema import LeaderboardRow

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
