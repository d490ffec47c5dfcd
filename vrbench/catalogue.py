"""The tasks that there are, as `vrbench tasks` lists them: one row a task, and whether its data are at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vrbench import data
from vrbench.errors import VrbenchError
from vrbench.registry import TaskSpec

WHERE = {
    "generated": "generated",
    "file": "local file",
    "root": "data root",
    "cache": "hub cache",
    "hub": "hub (online)",
}


def describe(specs: Iterable[TaskSpec], data_root: str | Path | None = None) -> list[dict[str, str]]:
    """One row of text a task, in the given order; "data" says where its samples are, or that they are missing."""
    return [
        {
            "task": spec.id,
            "suites": ", ".join(spec.suites),
            "harness": spec.harness,
            "n": str(spec.n),
            "metric": spec.metric,
            "chance": "-" if spec.chance is None else f"{spec.chance:.1f}",
            "data": _where(spec, data_root),
            "title": spec.title,
        }
        for spec in specs
    ]


def _where(spec: TaskSpec, data_root: str | Path | None) -> str:
    try:
        return WHERE[data.resolve(spec, data_root).kind]
    except VrbenchError:
        return "missing"
