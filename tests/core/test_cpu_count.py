"""Processes and threads are as many as the processors that the process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from vrbench.core import cpu_count
from vrbench.core.cpu_count import usable_cores


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/job/step", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ("0::/", {"cpu.max": "6400000 100000"}, 8),
        ("0::/", {"cpu.max": "1000 100000"}, 1),
        ("4:cpu,cpuacct:/x\n3:memory:/x", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (None, {}, 8),
    ],
)
def test_cores_are_limited_by_affinity_and_quotas(
    own: str | None, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_count.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cpu_count, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(cpu_count, "OWN_CGROUPS", tmp_path / "own")
    if own is not None:
        (tmp_path / "own").write_text(own)
    for name, content in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    assert usable_cores() == expected


def test_without_affinity_the_machine_s_processors_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(cpu_count.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cpu_count.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(cpu_count, "OWN_CGROUPS", tmp_path / "none")
    assert usable_cores() == 3
