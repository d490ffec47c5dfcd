"""Write the support matrix (model family x kind of checkpoint) from the results of the tests marked `supports`.

    python benchmarks/support.py

Runs these tests and writes their results to benchmarks/results/support.json, and the table to
benchmarks/results/support.md and docs/checkpoints.md. A pair is listed only if it has a test, and as supported only if
all its tests passed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "support.json"
TABLE = RESULTS.with_suffix(".md")
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "checkpoints.md"
BEGIN, END = "<!-- what works: made by benchmarks/support.py -->\n", "<!-- end of what works -->\n"
"""What stands around the table in docs/checkpoints.md."""

FORMS = {
    "run": "answers to pictures and text are transformers' own, or a task is measured",
    "original layout": "the layout of the authors' code, by `vrbench convert`",
    "adapter": "a LoRA adapter on decoder layers, merged when it is loaded",
    "delta": "full weights of chosen layers on a base",
    "tuned": "chosen layers are tuned here",
    "pruned": "decoder layers are removed",
    "restored": "layers are put back to a backbone's weights",
    "saved": "written as a folder and loaded again",
    "random weights": "`random/...`, at true shape",
}
"""Form -> what it means; the columns of the table."""


@dataclass(frozen=True)
class Shown:
    """What one test shows.

    Attributes:
        family: such as "llava".
        form: key of `FORMS`.
        test: its id in pytest.
        refused: why the form is refused, if that is what the test shows.
        outcome: passed, skipped or failed; empty before it ran.
    """

    family: str
    form: str
    test: str
    refused: str = ""
    outcome: str = ""


def order(one: Shown) -> tuple[str, int, str]:
    """By family, form and test."""
    return one.family, list(FORMS).index(one.form), one.test


def read(file: Path = RESULTS) -> list[Shown]:
    """What `pytest --supports` wrote."""
    return [Shown(**row) for row in json.loads(file.read_text(encoding="utf-8"))]


def cell(shown: Sequence[Shown]) -> str:
    """What is said of one pair: how many tests show it, or why it is refused, or that it does not work."""
    if not shown:
        return "-"
    if any(one.outcome == "failed" for one in shown):
        return "fails"
    passed = [one for one in shown if one.outcome == "passed"]
    if not passed:
        return "not tested here"
    if all(one.refused for one in passed):
        return f"refused: {'; '.join(sorted({one.refused for one in passed}))}"
    return f"yes ({len({one.test.partition('[')[0] for one in passed if not one.refused})})"


def grid(shown: Iterable[Shown]) -> str:
    """Families by forms, in Markdown."""
    rows: dict[str, dict[str, list[Shown]]] = {}
    for one in shown:
        rows.setdefault(one.family, {}).setdefault(one.form, []).append(one)
    forms = [form for form in FORMS if any(form in found for found in rows.values())]
    lines = [f"| family | {' | '.join(forms)} |", "|---" * (1 + len(forms)) + "|"]
    for family, found in sorted(rows.items()):
        lines.append(f"| {family} | {' | '.join(cell(found.get(form, [])) for form in forms)} |")
    return "\n".join([*lines, ""])


def table(shown: Sequence[Shown]) -> str:
    """The table in Markdown, with what its columns mean."""
    forms = [form for form in FORMS if any(one.form == form for one in shown)]
    meanings = [f"- **{form}**: {FORMS[form]}" for form in forms]
    about = (
        "Behind a yes stands the number of tests that passed (with all their parameters), on small models with random "
        "weights (the pocket family's are its own); their names are in [support.json](support.json). `-`: no test, so "
        "nothing is claimed."
    )
    return "\n".join(["# What works", "", grid(shown), about, "", *meanings, "", "`python benchmarks/support.py`", ""])


def page(shown: Sequence[Shown]) -> str:
    """docs/checkpoints.md with the table between its marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + grid(shown) + END + rest.split(END)[1]


def main() -> None:
    """Run the marked tests, and write what they showed."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "supports", "--supports", str(RESULTS), "tests"]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code not in (0, 1):  # 1: some failed, which the table says
        sys.exit(code)
    TABLE.write_text(table(read()), encoding="utf-8")
    PAGE.write_text(page(read()), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
