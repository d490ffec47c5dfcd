"""Measure how fast a checkpoint's files are hashed, compared with a plain loop over them.

    python benchmarks/digest.py [--gigabytes 2] [--shards 4] [--folder SCRATCH]

Random bytes are written as shards, read once so that they are in the page cache, and hashed in turn, `--rounds` times;
the best time of each method counts. The shards are then deleted. Writes benchmarks/results/digest.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from unittest import mock

from tabulate import tabulate

from benchmarks import report_header
from vrbench.core import cache
from vrbench.core.cpu_count import usable_cores
from vrbench.core.device import processor_name

REPORT = Path(__file__).parent / "results" / "digest.md"


def plain_loop(files: Sequence[Path]) -> list[str]:
    """What vrbench did before: blocks of 1 MiB read and hashed in turn, file after file."""
    found = []
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        found.append(digest.hexdigest())
    return found


def standard_library(files: Sequence[Path]) -> list[str]:
    """`hashlib.file_digest`, file after file."""
    found = []
    for path in files:
        with path.open("rb") as stream:
            found.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return found


def one_by_one(files: Sequence[Path]) -> list[str]:
    """`cache.file_digest`, file after file, into one buffer."""
    return [cache.file_digest(path) for path in files]


def side_by_side(files: Sequence[Path]) -> list[str]:
    """`cache.file_digests`, as a checkpoint's digest is made."""
    return list(cache.file_digests(files).values())


WAYS: dict[str, Callable[[Sequence[Path]], list[str]]] = {
    "plain loop (before)": plain_loop,
    "hashlib.file_digest": standard_library,
    "vrbench, one file after the other": one_by_one,
    "vrbench, shards side by side": side_by_side,
}


def write_shards(folder: Path, total: int, count: int) -> list[Path]:
    """`count` files of random bytes, `total` bytes in all; read once."""
    block = os.urandom(1 << 24)
    files = [folder / f"shard-{i}" for i in range(count)]
    for number, path in enumerate(files):
        with path.open("wb") as stream:
            for _ in range(total // count // len(block)):
                stream.write(block)
            stream.write(bytes([number]))  # so that no two are alike
        plain_loop([path])
    return files


def seconds(way: Callable[[Sequence[Path]], list[str]], files: Sequence[Path]) -> tuple[float, float, list[str]]:
    """Wall time and CPU time with no digest remembered, and the digests."""
    start, used = time.perf_counter(), time.process_time()
    found = way(files)
    return time.perf_counter() - start, time.process_time() - used, found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for the shards; default: a temporary folder")
    given = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch, mock.patch.object(cache, "_remember"):
        files = write_shards(Path(scratch), int(given.gigabytes * 1e9), given.shards)
        size = sum(path.stat().st_size for path in files)
        for _ in range(given.rounds):
            done = {name: seconds(way, files) for name, way in WAYS.items()}
            if len({tuple(found) for _, _, found in done.values()}) != 1:
                raise SystemExit("the ways do not agree on the digests")
            for name, (took, used, _) in done.items():
                times[name].append((took, used))
    best = {name: tuple(min(column) for column in zip(*all_, strict=True)) for name, all_ in times.items()}
    before = best["plain loop (before)"][0]
    rows = [[name, took, size / took / 1e9, before / took, size / used / 1e9] for name, (took, used) in best.items()]
    head = ["way", "seconds", "GB/s", "times as fast", "GB per second of CPU time"]
    table = tabulate(rows, head, tablefmt="github", floatfmt=".2f")
    about = (
        f"{size / 1e9:.2f} GB in {given.shards} shards, in the page cache; {processor_name()}, "
        f"{usable_cores()} cores, "
        f"{datetime.now(timezone.utc):%Y-%m-%d}. The best of {given.rounds} rounds, all in one run. A file whose path, "
        "size, times and inode are those of a digest already made is not read again."
    )
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(
        f"# Digests\n\n{about}\n\n{table}\n\n`{report_header.command()}`\n\n{report_header.versions()}\n",
        encoding="utf-8",
    )
    print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
