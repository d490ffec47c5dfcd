"""Coverage of the 95 % intervals of `bootstrap`, and family-wise error of Holm's correction, by simulation.

    python -m benchmarks.coverage [--trials 1000] [--processes 2] [--out benchmarks/results/coverage.md]

`benchmarks/simulation.py` describes how the runs are simulated.
"""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import scipy

from benchmarks import report_header
from benchmarks.simulation import AGREEMENT, SHARED, Setting, pair_of, truth
from vrbench.core.version import __version__
from vrbench.statistics import bootstrap
from vrbench.tasks.metrics import METRICS


def coverage(setting: Setting, trials: int, draws: int = bootstrap.DRAWS) -> tuple[float, float]:
    """Share of trials whose interval holds the true retention, and mean width in percent of retention."""
    rng = np.random.default_rng(zlib.crc32(repr(setting).encode()))
    target, held, widths = truth(setting), 0, []
    for trial in range(trials):
        drawn = [bootstrap.draw(pair_of(rng, setting), [trial, task], draws) for task in range(setting.tasks)]
        ends = bootstrap.retention_interval(drawn, METRICS[setting.metric].higher_is_better)
        if ends is not None:
            held += ends[0] <= target <= ends[1]
            widths.append(ends[1] - ends[0])
    return held / trials, float(np.mean(widths))


def family_error(size: int, n: int, tasks: int, changed: int, trials: int, test: Callable[..., float]) -> float:
    """Share of trials in which Holm calls at least one of the unchanged tasks changed, at 5 %."""
    rng = np.random.default_rng([size, n, tasks, changed])
    errors = 0
    for _ in range(trials):
        settings = [Setting("mean", n, size, 0.8, 0.85 if t < changed else 1.0) for t in range(tasks)]
        adjusted = bootstrap.holm([test(pair_of(rng, s)) for s in settings])
        errors += any(p < 0.05 for p in adjusted[changed:])
    return errors / trials


@cache
def mcnemar(lost: int, gained: int) -> float:
    """`stats.mcnemar` of so many changed items; it depends on nothing else, so it is asked once for each."""
    table = np.ones((lost + gained + 1, 2, 2))
    table[:lost, 1, 0] = 0
    table[lost : lost + gained, 0, 0] = 0
    return bootstrap.mcnemar(bootstrap.PairedCounts(METRICS["mean"], table[:, :1], table[:, 1:], len(table)))


def changes(pair: bootstrap.PairedCounts) -> tuple[int, int]:
    """Items that the candidate lost and gained (net within a cluster)."""
    change = (pair.candidate - pair.baseline)[:, 0, 0]
    return -int(change[change < 0].sum()), int(change[change > 0].sum())


def official_test(pair: bootstrap.PairedCounts) -> float:
    """What `compare` does."""
    alone = len(pair.baseline) == pair.outcomes
    return mcnemar(*changes(pair)) if alone else bootstrap.p_value([pair])[0]


def mcnemar_on_items(pair: bootstrap.PairedCounts) -> float:
    """What it does not do where clusters are larger: McNemar as if their items were independent."""
    return mcnemar(*changes(pair))


def main_settings() -> Iterator[Setting]:
    """n, clustering, accuracy and retention, all combined, for plain accuracy."""
    for size in (1, 4):
        for n in (100, 200, 500, 2000):
            for accuracy in (0.5, 0.65, 0.8, 0.9):
                for retention in (1.0, 0.95, 0.7):
                    yield Setting("mean", n, size, accuracy, retention)


def other_settings() -> Iterator[Setting]:
    """The other metrics, and means over tasks."""
    for n in (200, 500):
        for retention in (0.97, 0.8):
            yield Setting("macro", n, 2, 0.8, retention)
            yield Setting("mme", n, 2, 0.8, retention)
            yield Setting("circular", n, 4, 0.9, retention)
            yield Setting("perplexity", n, 1, 0.8, retention)
            yield Setting("mean", n // 2, 4, 0.8, retention, tasks=5)


def hard_settings() -> Iterator[Setting]:
    """Few items change, so that their number is a small count: no interval can have 95 % everywhere."""
    for n in (100, 500, 2000):
        yield Setting("mean", n, 1, 0.95, 1.0)
        yield Setting("mean", n, 1, 0.95, 0.99)
        yield Setting("mean", n, 1, 0.5, 0.97, only_loses=True)
        yield Setting("mean", n, 1, 0.8, 0.99, only_loses=True)
        yield Setting("mean", n, 4, 0.8, 0.97, only_loses=True)


FAMILIES: tuple[tuple[str, int, int, int, int, Callable[..., float]], ...] = (
    ("as `compare` does: McNemar, exact", 1, 400, 8, 0, official_test),
    ("as `compare` does: McNemar, exact; 4 of 8 truly changed", 1, 400, 8, 4, official_test),
    ("as `compare` does: sign flips of clusters", 4, 200, 4, 0, official_test),
    ("as `compare` does: sign flips of clusters; 2 of 4 truly changed", 4, 200, 4, 2, official_test),
    ("for comparison, not used: McNemar on items of clusters", 4, 200, 4, 0, mcnemar_on_items),
)


def _cover(job: tuple[Setting, int]) -> tuple[float, float]:
    return coverage(*job)


def _family(job: tuple[int, int]) -> float:
    _, size, n, tasks, changed, test = FAMILIES[job[0]]
    return family_error(size, n, tasks, changed, job[1], test)


def coverage_table(settings: list[Setting], found: list[tuple[float, float]]) -> list[str]:
    """Markdown rows."""
    lines = ["| metric | tasks | n a task | items a cluster | baseline | true retention | coverage | mean width |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for s, (share, width) in zip(settings, found, strict=True):
        base = "-" if s.metric == "perplexity" else f"{s.accuracy:.2f}"
        kind = s.metric + (", only loses" if s.only_loses else "")
        lines.append(
            f"| {kind} | {s.tasks} | {s.n} | {s.size} | {base} | {truth(s):.1f} % | {100 * share:.1f} % | {width:.1f} |"
        )
    return lines


def summary(found: list[tuple[float, float]]) -> str:
    """One sentence on a table."""
    shares = [100 * share for share, _ in found]
    inside = sum(93 <= s <= 97 for s in shares)
    return (
        f"{inside} of {len(shares)} settings lie within 93 to 97 %; "
        f"mean {np.mean(shares):.1f} %, lowest {min(shares):.1f} %, highest {max(shares):.1f} %."
    )


def report(trials: int, processes: int) -> str:
    """Run everything; the Markdown page."""
    start = time.time()
    parts = [list(make()) for make in (main_settings, other_settings, hard_settings)]
    with Pool(processes) as pool:
        errors = pool.map_async(_family, [(i, trials) for i in range(len(FAMILIES))], chunksize=1)
        found = [pool.map(_cover, [(s, trials) for s in part], chunksize=1) for part in parts]
        family = errors.get()
    versions = f"vrbench {__version__}, numpy {np.__version__}, scipy {scipy.__version__}, "
    versions += f"Python {platform.python_version()}"
    command = shlex.join(["python", "-m", "benchmarks.coverage", *sys.argv[1:]])
    lines = [
        "# Coverage of the 95 % intervals, and Holm's family-wise error",
        "",
        f"`{command}`, {datetime.date.today()}, {versions}, {processes} processes, {time.time() - start:.0f} s. "
        f"{trials:,} trials a setting, {bootstrap.DRAWS:,} draws a trial, agreement {AGREEMENT}, shared within clusters "  # noqa: E501
        f"{SHARED}. A coverage of exactly 95 % would be seen here with a standard error of "
        f"{100 * (0.95 * 0.05 / trials) ** 0.5:.1f} points.",
    ]
    titles = ("Retention of one task", "Other metrics, and the mean over tasks", "Where few items change")
    for title, part, result in zip(titles, parts, found, strict=True):
        lines += ["", f"## {title}", "", summary(result), "", *coverage_table(part, result)]
    lines += [
        "",
        "## Holm at 5 %",
        "",
        "| test | tasks | items a cluster | n a task | family-wise error |",
        "|---|--:|--:|--:|--:|",
    ]
    for (name, size, n, tasks, *_), error in zip(FAMILIES, family, strict=True):
        lines.append(f"| {name} | {tasks} | {size} | {n} | {100 * error:.1f} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report_header.page(__doc__, report, Path("benchmarks/results/coverage.md"))
