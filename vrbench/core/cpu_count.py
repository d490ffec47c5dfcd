"""CPU cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return how many CPU cores this process may use, by its CPU affinity and cgroup quotas; at least 1.

    A batch system or a container often grants fewer than `os.cpu_count()`, which counts those of the machine.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield the processors that the process's control groups (Linux, version 1 or 2) and their parents allow."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = CGROUPS / "cpu" if controllers else CGROUPS
        for group in (folder / path.lstrip("/"), *(folder / path.lstrip("/")).parents):
            if group.is_relative_to(folder):
                yield from _quota(group)


def _quota(group: Path) -> Iterator[float]:
    """Yield the processors that a control group allows, if it limits them."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and int(quota) and int(period):
            yield int(quota) / int(period)
