"""Coverage of the 95 % intervals over items and seeds of `vrbench.reproduce.seed_estimate`, by simulation.

    python -m benchmarks.seeds [--trials 1000] [--processes 2] [--out benchmarks/results/seeds.md]

Each trial draws 400 items and, for every seed, a baseline and a candidate whose accuracies vary between seeds. The
difficulty of an item is correlated between runs (correlation `AGREEMENT` between any two); items of one cluster share
`SHARED` of it. The true value is the mean retention over all items and all seeds.
"""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import scipy
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from benchmarks import report_header
from benchmarks.simulation import AGREEMENT, SHARED
from vrbench.core.schemas import Run, RunRecord, TaskResult
from vrbench.core.version import __version__
from vrbench.reproduce.joint_bootstrap import JointBootstrap
from vrbench.reproduce.run_counts import RunCounts, TaskCounts
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.statistics import bootstrap

ITEMS = 400
BASELINE = 0.8
"""The baselines' mean accuracy."""

RESULT = TaskResult(task="t", suite="visual", version="1", status="ok", metric="mean", n=ITEMS)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    seeds: int
    size: int  # items a cluster
    retention: float  # ratio of the accuracies at the centre
    scatter: float  # standard deviation between seeds of each run's accuracy, in points

    @property
    def centres(self) -> tuple[float, float]:
        """Thresholds of baseline and candidate on the scale of difficulties."""
        return float(ndtri(BASELINE)), float(ndtri(BASELINE * self.retention))

    @property
    def shifts(self) -> tuple[float, float]:
        """Standard deviations of the thresholds that scatter the accuracies by so many points."""
        first, second = (self.scatter / 100 * np.sqrt(2 * np.pi) * np.exp(c * c / 2) for c in self.centres)
        return float(first), float(second)


def settings() -> Iterator[Setting]:
    """Numbers of seeds, clustering, retention and scatter, all combined."""
    for seeds in (1, 2, 3, 5):
        for size, retention in ((1, 1.0), (1, 0.9), (4, 0.9)):
            for scatter in (0.0, 1.0, 2.0, 5.0):
                yield Setting(seeds, size, retention, scatter)


def truth(setting: Setting) -> float:
    """Mean retention over all seeds, in percent, by quadrature; candidate and baseline scatter on their own."""
    nodes, weights = hermegauss(60)
    weights = weights / weights.sum()
    base, ours = (ndtr(c + s * nodes) for c, s in zip(setting.centres, setting.shifts, strict=True))
    return float(100 * (weights @ ours) * (weights @ (1 / base)))


def trial(rng: np.random.Generator, setting: Setting, number: int) -> tuple[SeedEstimate, float]:
    """The estimate of simulated runs; and the mean retention of just these seeds over all items."""
    clusters = ITEMS // setting.size
    each = rng.standard_normal((clusters, setting.size))
    if setting.size > 1:
        each = np.sqrt(SHARED) * rng.standard_normal((clusters, 1)) + np.sqrt(1 - SHARED) * each
    runs, pairs, kept = {}, {}, []
    for seed in range(setting.seeds):
        pairs[seed] = (f"c{seed}", f"b{seed}")
        thresholds = np.array(setting.centres) + np.array(setting.shifts) * rng.standard_normal(2)
        kept.append(100 * ndtr(thresholds[1]) / ndtr(thresholds[0]))
        for name, threshold in zip((f"b{seed}", f"c{seed}"), thresholds, strict=True):
            felt = np.sqrt(AGREEMENT) * each + np.sqrt(1 - AGREEMENT) * rng.standard_normal(each.shape)
            runs[name] = counted((felt < threshold).sum(1), setting.size)
    found = JointBootstrap(runs, number).retention(pairs, ["t"])
    assert found is not None
    return found, float(np.mean(kept))


def counted(right: Array, size: int) -> RunCounts:
    """A run of one task, from how many items of each cluster were right."""
    table = np.stack([right, np.full(len(right), size)], -1)[:, None].astype(float)
    counts = TaskCounts(RESULT, table, ITEMS, ITEMS, "", frozenset())
    return RunCounts(RunRecord.model_construct(), {"t": counts}, _no_run)


def _no_run() -> Run:
    raise AssertionError("simulated counts have no run to be read again")


def holds(found: SeedEstimate, target: float) -> dict[str, tuple[bool, float]]:
    """Whether each kind of interval holds the target, and its width."""
    assert found.ends is not None and found.items is not None
    kinds = {"both": found.ends, "items alone": found.items}
    if len(found.each) > 1:
        half = float(stdtrit(len(found.each) - 1, 0.975) * np.std(list(found.each.values()), ddof=1))
        half /= len(found.each) ** 0.5
        kinds["seeds alone"] = (found.value - half, found.value + half)
    return {name: (low <= target <= high, high - low) for name, (low, high) in kinds.items()}


Row = dict[str, tuple[float, float]]
"""Kind of interval -> coverage in percent, mean width in percent of retention."""


def coverage(job: tuple[Setting, int]) -> Row:
    """One setting's row; 'these seeds' is how often the interval holds the retention of just the seeds drawn."""
    setting, trials = job
    rng = np.random.default_rng(zlib.crc32(repr(setting).encode()))
    target = truth(setting)
    seen: dict[str, list[tuple[bool, float]]] = {}
    for number in range(trials):
        found, own = trial(rng, setting, number)
        for name, value in {**holds(found, target), "these seeds": holds(found, own)["both"]}.items():
            seen.setdefault(name, []).append(value)
    return {
        name: (100 * float(np.mean([v[0] for v in s])), float(np.mean([v[1] for v in s]))) for name, s in seen.items()
    }


def report(trials: int, processes: int) -> str:
    """Run everything; the Markdown page."""
    start = time.time()
    rows = list(settings())
    with Pool(processes) as pool:
        found = pool.map(coverage, [(row, trials) for row in rows], chunksize=1)
    many = [f["both"][0] for row, f in zip(rows, found, strict=True) if row.seeds > 1]
    versions = f"vrbench {__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
    command = shlex.join(["python", "-m", "benchmarks.seeds", *sys.argv[1:]])
    lines = [
        "# Coverage of the 95 % intervals over items and seeds",
        "",
        f"`{command}`, {datetime.date.today()}, {versions}, Python {platform.python_version()}, {processes} processes, "
        f"{time.time() - start:.0f} s. {trials:,} trials a setting, {bootstrap.DRAWS:,} draws a trial, {ITEMS} items, "
        f"baseline {100 * BASELINE:.0f}, agreement {AGREEMENT}, shared within clusters {SHARED}. A coverage of exactly "
        f"95 % would be seen here with a standard error of {100 * (0.95 * 0.05 / trials) ** 0.5:.1f} points.",
        "",
        f"With two seeds or more: lowest {min(many):.1f} %, mean {np.mean(many):.1f} %, highest {max(many):.1f} %. "
        "*Scatter* is the standard deviation between seeds of each run's accuracy, in points. *Both* is what the "
        "report shows, over items and seeds. *Items alone* is the interval that takes the seeds for given, as a "
        "comparison of two single runs does; *seeds alone* is Student's interval of the seeds' figures. With one seed "
        "there is only the items' interval: it holds the retention of *these seeds*, not that of another training, and "
        "the report says so.",
        "",
        "| seeds | items a cluster | retention | scatter | **both** | width | items alone | width | seeds alone "
        "| width | both, of these seeds |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*lines, *(_line(row, f) for row, f in zip(rows, found, strict=True))]) + "\n"


def _line(row: Setting, found: Row) -> str:
    def cells(name: str, bold: bool = False) -> str:
        if name not in found:
            return "- | -"
        share = f"{found[name][0]:.1f} %"
        return f"{f'**{share}**' if bold else share} | {found[name][1]:.1f}"

    start = f"| {row.seeds} | {row.size} | {truth(row):.1f} % | {row.scatter:.0f} "
    kinds = f"| {cells('both', True)} | {cells('items alone')} | {cells('seeds alone')} "
    return f"{start}{kinds}| {found['these seeds'][0]:.1f} % |"


if __name__ == "__main__":
    report_header.page(__doc__, report, Path("benchmarks/results/seeds.md"))
