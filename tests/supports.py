"""What passing tests show to work: `@pytest.mark.supports(FAMILY, FORM)`, written down by `pytest --supports FILE`.

A family such as "{base}" is the value of the test's parameter `base`. A test that shows that something is refused says
why: `@pytest.mark.supports("mllama", "pruned", refused="...")`.
`python benchmarks/support.py` makes the table in docs/checkpoints.md of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support import FORMS, Shown, order

SHOWN = pytest.StashKey[dict[str, list[Shown]]]()
"""Test -> what it shows, of all tests that were collected, the deselected ones too."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--supports", metavar="FILE", type=Path, help="write what the tests show to work to a JSON file")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--supports") and config.getoption("numprocesses", default=None):
        raise pytest.UsageError("--supports collects in one process; leave -n away")


@pytest.hookimpl(tryfirst=True)  # before any test is deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[SHOWN] = {item.nodeid: found for item in items if (found := list(_shown(item)))}


def _shown(item: pytest.Item) -> Iterator[Shown]:
    for mark in item.iter_markers("supports"):
        if len(mark.args) != 2 or mark.args[1] not in FORMS or set(mark.kwargs) - {"refused"}:
            raise pytest.UsageError(
                f"{item.nodeid}: supports{mark.args} is not (family, form) with a form of {', '.join(FORMS)}"
            )
        family, form = mark.args
        if isinstance(item, pytest.Function) and "{" in family:
            family = family.format(**item.callspec.params)
        yield Shown(family=family, form=form, test=item.nodeid, refused=mark.kwargs.get("refused", ""))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    file: Path | None = config.getoption("--supports")
    if file is None:
        return
    outcomes = _outcomes(terminalreporter)
    shown = [one for test, found in config.stash[SHOWN].items() if test in outcomes for one in found]
    rows = [{**vars(one), "outcome": outcomes[one.test]} for one in sorted(shown, key=order)]
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _outcomes(terminalreporter: Any) -> dict[str, str]:
    """Test -> passed, skipped or failed; a test whose setup or end went wrong failed."""
    found: dict[str, str] = {}
    for outcome in ("passed", "skipped", "xfailed", "xpassed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            found[report.nodeid] = outcome if outcome in ("passed", "skipped") else "failed"
    return found
