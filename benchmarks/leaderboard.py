"""Measure how long it takes to validate a board of 200 made-up submissions over 10 tasks of 1,000 samples.

    python -m benchmarks.leaderboard [--submissions 200] [--items 1000] [--jobs 2] [--folder DIR]

The answers are random (tests/leaderboard/made.py); tasks, scoring, records and files are real. The board is built
first, which is not timed, or read from --folder if it exists. Then `vrbench leaderboard validate` runs in its own
process: once to write leaderboard.json, once to compare with it, and once with one score changed in one submission.
Writes benchmarks/results/leaderboard.md.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

from tabulate import tabulate

from tests.leaderboard.forging import Forged
from tests.leaderboard.made import BOARD, KINDS, Made, Started, start_board
from vrbench.core.device import processor_name
from vrbench.core.provenance import commit_of

REPORT = Path(__file__).parent / "results" / "leaderboard.md"
TARGET = 120.0
"""Seconds that validating may take on two cores."""

_started: Started | None = None
"""Set before processes are forked that make submissions."""


def make(folder: Path, submissions: int, items: int, jobs: int) -> Made:
    """The board in a folder, made unless it is there."""
    global _started
    if not (folder / "whole").exists():
        _started = start_board(folder, items, tuple(KINDS))
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
            list(pool.map(_add, range(1, submissions)))
        (folder / "whole").touch()
    found = sorted((folder / "boards" / BOARD / "submissions").glob("*/*"))
    return Made(folder / "boards", folder / "tasks", tuple(found))


def _add(number: int) -> None:
    assert _started is not None
    _started.add("tiny", number)


def validate(made: Made, jobs: int, *options: str) -> tuple[float, float, str, int]:
    """Seconds of wall, seconds of processors, the last line printed, and the exit code."""
    command = [sys.executable, "-m", "vrbench", "leaderboard", "validate", str(made.root), "--jobs", str(jobs)]
    command += ["--include-path", str(made.tasks), *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 2):
        raise SystemExit(done.stderr)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent, done.stdout.strip(), done.returncode


def falsify(made: Made, copy: Made, folder: Path) -> None:
    """Change one score of one submission in a copy of the board, with digests that agree."""
    number = next(i for i, place in enumerate(made.submissions) if "full" not in str(place))
    forged = Forged(made, number, folder)
    forged.sample("made_words", forged.found("made_words", lambda sample: sample.score == 0), score=1.0)
    target = copy.root / made.submissions[number].relative_to(made.root)
    shutil.rmtree(target)
    shutil.copytree(forged.folder, target)


def steps(made: Made, jobs: int) -> list[dict[str, object]]:
    """What is validated, and what that takes and says."""
    rows: list[dict[str, object]] = []
    file = made.board / "leaderboard.json"
    file.unlink(missing_ok=True)

    def row(what: str, expected: int, board: Made, *options: str) -> None:
        wall, spent, said, code = validate(board, jobs, *options)
        if code != expected:
            raise SystemExit(f"{what}: exit code {code} after {wall:.0f} s\n{said[:5000]}")
        lines = said.splitlines()
        summary = next(line for line in reversed(lines) if "scored again" in line)
        told = [line.strip() for line in lines if line.startswith("  - ")]
        load = os.getloadavg()[0]
        rows.append({"validating": what, "wall s": round(wall, 1), "processor s": round(spent, 1),
                     "load after": round(load, 1), "exit": code, "said": " ".join([summary, *told])[:300]})  # fmt: skip

    row("every submission, leaderboard.json written", 0, made, "--write")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    row("every submission, held to leaderboard.json", 0, made, "--write")
    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise SystemExit("leaderboard.json has other bytes the second time")
    with tempfile.TemporaryDirectory() as folder:
        copy = Made(Path(shutil.copytree(made.root, Path(folder) / "boards")), made.tasks, ())
        falsify(made, copy, Path(folder) / "forged")
        row("one score changed in one submission", 2, copy)
    return rows


def report(made: Made, rows: Sequence[dict[str, object]], args: argparse.Namespace) -> str:
    """The result file."""
    commit, _ = commit_of(Path(__file__).resolve().parent.parent)
    bytes_ = sum(path.stat().st_size for path in made.board.rglob("*.gz"))
    first = float(str(rows[0]["wall s"]))
    verdict = "within" if first < TARGET else "NOT within"
    return f"""# Scoring a board again

`python -m benchmarks.leaderboard --submissions {args.submissions} --items {args.items} --jobs {args.jobs}`,
{datetime.now(timezone.utc).date()}, {processor_name()}, {args.jobs} processes, Python {platform.python_version()},
commit {commit[:7]}. {len(made.submissions)} made-up submissions over {len(KINDS)} tasks of {args.items:,} samples each
({len(made.submissions) * len(KINDS) * args.items:,} answers, {bytes_ / 2**20:.0f} MiB compressed), with the scorers of
MME, MMBench, SEED, TextVQA, exact match, multiple choice and perplexity. The first takes {first:.0f} s, {verdict}
{TARGET:.0f} s; leaderboard.json has the same bytes the second time. "load after" is the load average: above
{args.jobs}, other work shared the processors.

{tabulate(rows, headers="keys", tablefmt="github")}
"""


def main() -> None:
    """Make the board, validate it, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--items", type=int, default=1000, help="samples per task, a multiple of 8")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="folder of the board, read if it exists, else written")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as temporary:
        began = time.perf_counter()
        made = make(args.folder or Path(temporary), args.submissions, args.items, args.jobs)
        print(f"{len(made.submissions)} submissions, made in {time.perf_counter() - began:.0f} s", flush=True)
        text = report(made, steps(made, args.jobs), args)
    print(text)
    if (args.submissions, args.items) == (200, 1000):
        REPORT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
