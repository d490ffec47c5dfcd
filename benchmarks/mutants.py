"""Mutation testing: how many small changes in the code that computes results make a test fail.

    make mutants                          (the same as python -m benchmarks.mutants, in the environment with mutmut)

mutmut changes one expression at a time in the modules listed in `[tool.mutmut]` in pyproject.toml, and runs the tests
that reach it. Error messages are not changed. The page has the share of caught mutants per module, and every mutant
that no test caught; benchmarks/mutants.yaml gives the reason for mutants that do not change the behaviour.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from benchmarks.report_header import versions

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "benchmarks" / "results" / "mutants.md"
REASONS = ROOT / "benchmarks" / "mutants.yaml"
CAUGHT = ("killed", "timeout", "caught by type check", "segfault", "suspicious")
LINE = re.compile(r"^\s*(?P<name>[\w.ǁ]+__mutmut_\d+): (?P<status>[\w ]+)$")


def mutmut(*words: str) -> list[str]:
    """Return the lines that a mutmut command prints."""
    command = [sys.executable, "-m", "mutmut", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def statuses() -> dict[str, str]:
    """Return mutant -> what became of it."""
    found = (LINE.match(line) for line in mutmut("results", "--all", "true"))
    return {match["name"]: match["status"] for match in found if match}


def change(name: str) -> str:
    """Return the changed line of a mutant, before and after, as benchmarks/mutants.yaml has it."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # `mutmut show` starts a process for each mutant

    diff = get_diff_for_mutant(name).splitlines()
    lines = [line[0] + " " + line[1:].strip() for line in diff if re.match(r"[-+](?![-+])", line)]
    return "\n".join(lines)


def home(name: str) -> str:
    """Return the module of a mutant."""
    return name.rpartition(".")[0]


def page(found: Mapping[str, str], reasons: Mapping[str, str]) -> Iterable[str]:
    """Yield the lines of the report."""
    waiting = sum(status == "not checked" for status in found.values())
    found = {name: status for name, status in found.items() if status != "not checked"}
    survivors = {name: change(name) for name, status in found.items() if status not in CAUGHT}
    unseen = {name for name, text in survivors.items() if text in reasons}
    total, missed = Counter(map(home, found)), Counter(map(home, survivors))
    equal = Counter(map(home, unseen))
    yield from ("# Mutants", "", f"`python -m benchmarks.mutants`, {versions()}", "")
    if waiting:
        yield from (f"{waiting} more mutants were not tested yet; the same command continues.", "")
    yield "| module | mutants | caught | survived, no difference to see | survived | caught, % |"
    yield "|:--|--:|--:|--:|--:|--:|"
    for module in (*sorted(total), None):
        of, lost, same = (sum(c.values()) if module is None else c[module] for c in (total, missed, equal))
        share = 100 * (of - lost) / max(1, of - same)
        yield f"| {module or '**all**'} | {of} | {of - lost} | {same} | {lost - same} | {share:.1f} |"
    yield from ("", "The share is of those mutants that make a difference.", "", "## Survivors", "")
    for name, text in survivors.items():
        reason = reasons.get(text, "")
        yield from (f"`{name}`" + (f": {reason}" if reason else ""), "", "```diff", text, "```", "")


def main() -> None:
    """Run mutmut (it continues an interrupted run) and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; one per core by default")
    parser.add_argument("--out", type=Path, default=REPORT, help="page to write")
    given = parser.parse_args()
    subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", str(given.jobs)], cwd=ROOT, check=False)
    entries = yaml.safe_load(REASONS.read_text(encoding="utf-8")) if REASONS.is_file() else []
    reasons = {entry["change"].strip(): entry["reason"] for entry in entries or []}
    given.out.write_text("\n".join(page(statuses(), reasons)) + "\n", encoding="utf-8")
    print(given.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
