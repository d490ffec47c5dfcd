"""Test every parser of untrusted files on 10,000 hostile cases, and on small files that expand to large ones.

    python -m benchmarks.hostile [--cases 10000] [--seed 0] [--only run,samples]

The cases and their expected results are in `tests/leaderboard/hostile/parsers.py`; the tests run a few of each. Each
parser runs in its own process with at most 1 GiB of address space; decompression bombs run with less. A failing case
is printed but not saved: add it to tests/leaderboard/hostile/corpus. Writes benchmarks/results/hostile.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from tabulate import tabulate

from tests.leaderboard.hostile.bombs import MEMORY
from tests.leaderboard.hostile.parsers import PARSERS, READ, REFUSED
from vrbench.core.device import processor_name

REPORT = Path(__file__).parent / "results" / "hostile.md"
SPACE = 2**30
SECONDS = 1800


def cases_of(name: str, cases: int, start: int) -> dict[str, Any]:
    """Try so many cases of one parser in this process; raises at the first that fails, with the smallest like it."""
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    parser, seen = PARSERS[name], Counter[str]()
    at_first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @seed(start)
    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(parser.cases)
    def each(case: Any) -> None:
        seen[parser.check(case)] += 1

    began = time.perf_counter()
    each()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "parser": name, "cases": seen.total(), "read": seen[READ], "refused": seen[REFUSED],
        "seconds": round(time.perf_counter() - began, 1), "MiB at first": at_first // 1024, "MiB at peak": peak // 1024,
    }  # fmt: skip


def in_a_process(*arguments: str) -> list[dict[str, Any]]:
    """The JSON lines that a module of this project prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=SECONDS, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _short(told: list[str]) -> str:
    """The first sentence without the file's name, which is a temporary one."""
    return re.sub(r"^'?[^' ]*/[^' ]*'?:? ", "", told[0])[:80] if told else "read"


def report(parsers: list[dict[str, Any]], bombs: list[dict[str, Any]], command: str) -> str:
    """The result file."""
    table = [{**bomb, "told": _short(bomb["told"])} for bomb in bombs]
    rows = [[b["name"], b["told"], b["seconds"]] for b in table]
    day = datetime.now(timezone.utc).date()
    return "\n".join(
        [
            "# Hostile input",
            "",
            f"{processor_name()}, one process each, {day}. Every case was read as it says, or refused in harmless "
            "words.",
            "",
            tabulate(parsers, headers="keys", tablefmt="github"),
            "",
            "MiB at first: what the process took before the first case (Python, the libraries and hypothesis). "
            "A parser is tried anew after a case that failed was mended; the others keep their line.",
            "",
            f"## Small files that would grow large or slow ({len(bombs)})",
            "",
            f"In one process of at most {MEMORY // 2**20} MiB of address space; "
            f"{max(b['mebibytes'] for b in bombs)} MiB of memory at the peak.",
            "",
            tabulate(rows, headers=["file", "what is said of it", "seconds"], tablefmt="github"),
            "",
            f"`{command}`",
            "",
        ]
    )


def main() -> None:
    """Parse, run every parser's cases in a process of its own, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(PARSERS), help="parsers, separated by commas")
    parser.add_argument("--rows", type=Path, help="JSON lines file of finished cases, to resume after a failed case")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given_ = parser.parse_args()
    if given_.one:
        print(json.dumps(cases_of(given_.one, given_.cases, given_.seed)))
        return
    told = given_.rows.read_text().splitlines() if given_.rows and given_.rows.exists() else []
    known = {row["parser"]: row for row in map(json.loads, told)}
    for name in given_.only.split(","):
        if name not in known:
            arguments = ("--one", name, "--cases", str(given_.cases), "--seed", str(given_.seed))
            (known[name],) = in_a_process("benchmarks.hostile", *arguments)
        print(json.dumps(known[name]), flush=True)
        if given_.rows:
            given_.rows.write_text("".join(json.dumps(row) + "\n" for row in known.values()))
    rows = [known[name] for name in given_.only.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        bombs = in_a_process("tests.leaderboard.hostile.bombs", folder)
    if given_.only == ",".join(PARSERS):
        command = f"python -m benchmarks.hostile --cases {given_.cases} --seed {given_.seed}"
        REPORT.write_text(report(rows, bombs, command), encoding="utf-8")


if __name__ == "__main__":
    main()
