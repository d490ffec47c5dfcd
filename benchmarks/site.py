"""Measure how fast the pages of a board of 200 submissions open in Chromium.

    python -m benchmarks.site [--folder DIR] [--submissions 200] [--items 1000] [--rounds 7]

The board is that of `benchmarks.leaderboard` (give the same --folder to reuse it, with its leaderboard.json); the site
is built by `vrbench leaderboard build`. Each page is opened in turn, from `file://` and over HTTP, each time in a new
browser context without cache. Writes benchmarks/results/site.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from benchmarks.leaderboard import make
from tests.leaderboard.browser.chromium import MISSING, chromium, started
from vrbench.core.device import processor_name
from vrbench.core.provenance import commit_of
from vrbench.leaderboard.site.serve import served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPORT = Path(__file__).parent / "results" / "site.md"
TARGET = 1.0
"""Seconds that a page may take to open."""

PAGES = {  # what it is: its path, and what is true when it can be used
    "the board": ("made/index.html", "document.getElementById('count').textContent.startsWith('All')"),
    "a submission": ("made/lab1__*/*/index.html", "document.querySelector('table') !== null"),
    "a task": ("made/tasks/made_mme.html", "document.querySelector('table') !== null"),
    "samples with images": ("made/lab1__*/*/samples/made_mme.html", "document.querySelector('.sample') !== null"),
    "samples of text": ("made/lab1__*/*/samples/made_pydoc.html", "document.querySelector('.sample') !== null"),
}
READ = """() => {
  const page = performance.getEntriesByType('navigation')[0];
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  return {load: page.loadEventEnd, paint: paint ? paint.startTime : null};
}"""


def open_page(browser: Browser, address: str, ready: str) -> dict[str, float]:
    """Seconds from asking for a page until it paints, until all it needs is loaded, and until it can be used."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_function(f"() => {ready}")
    usable = time.perf_counter() - began
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    told = page.evaluate(READ)
    context.close()
    return {"first paint s": told["paint"] / 1000, "loaded s": told["load"] / 1000, "usable s": usable}


def measure(folder: Path, rounds: int) -> list[dict[str, object]]:
    """A row per page and way of opening it: medians of the rounds, and the slowest time until it can be used."""
    rows: list[dict[str, object]] = []
    with served(folder) as (address, server), started() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        places = [(way, name) for way in ("file", "http") for name in PAGES]
        found: dict[tuple[str, str], list[dict[str, float]]] = {place: [] for place in places}
        for _ in range(rounds + 1):  # the first warms the disk's cache and is left out
            for way, name in places:
                pattern, ready = PAGES[name]
                path = sorted(folder.glob(pattern))[0].relative_to(folder).as_posix()
                base = address if way == "http" else f"file://{folder}/"
                found[way, name].append(open_page(browser, base + path, ready))
        server.shutdown()
    for (way, name), times in found.items():
        medians = {key: round(statistics.median(t[key] for t in times[1:]), 3) for key in times[0]}
        slowest = round(max(t["usable s"] for t in times[1:]), 3)
        rows.append({"page": name, "from": way, **medians, "slowest usable s": slowest})
    return rows


def version() -> str:
    """Chromium's own words for what it is."""
    return subprocess.run([chromium(), "--version"], capture_output=True, text=True, check=False).stdout.strip()


def report(folder: Path, built: float, rows: Sequence[dict[str, object]], args: argparse.Namespace) -> str:
    """The result file."""
    commit, _ = commit_of(Path(__file__).resolve().parent.parent)
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    slowest = max(float(str(row["slowest usable s"])) for row in rows)
    verdict = "within" if slowest < TARGET else "NOT within"
    board = (folder / PAGES["the board"][0]).stat().st_size / 1024
    return f"""# Opening the leaderboard's pages

`python -m benchmarks.site --submissions {args.submissions} --items {args.items} --rounds {args.rounds}`,
{datetime.now(timezone.utc).date()}, {processor_name()}, {os.cpu_count()} cores, {version()}, Python
{platform.python_version()}, commit {commit[:7]}. A board of {args.submissions} made-up submissions over 10 tasks of
{args.items:,} samples; `vrbench leaderboard build` took {built:.0f} s and wrote {len(files):,} files, {size:.0f} MiB;
the board's page has {board:.0f} KiB.

Medians of {args.rounds} rounds, each in a new context without a cache. "Usable" is from asking for the page until its
table or samples are drawn and their controls answer, as seen from outside of the browser. The slowest of all took
{slowest:.2f} s, {verdict} {TARGET:.0f} s.

{tabulate(rows, headers="keys", tablefmt="github")}
"""


def main() -> None:
    """Make the board and its site, open the pages, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--items", type=int, default=1000, help="samples per task, a multiple of 8")
    parser.add_argument("--jobs", type=int, default=2, help="processes that build the board")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="folder of the board, read if it exists, else written")
    args = parser.parse_args()
    if not chromium():
        raise SystemExit(MISSING)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as temporary:
        made = make(args.folder or Path(temporary), args.submissions, args.items, args.jobs)
        vrbench = [sys.executable, "-m", "vrbench", "leaderboard"]
        given = ["--include-path", str(made.tasks)]
        if not (made.board / "leaderboard.json").exists():
            subprocess.run([*vrbench, "validate", str(made.root), *given, "--write"], check=True)
        folder = Path(temporary) / "site"
        began = time.perf_counter()
        subprocess.run([*vrbench, "build", "--boards", str(made.root), "--out", str(folder), *given], check=True)
        built = time.perf_counter() - began
        text = report(folder, built, measure(folder, args.rounds), args)
    print(text)
    if (args.submissions, args.items) == (200, 1000):
        REPORT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
