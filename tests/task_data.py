"""A task's items, located and loaded, as tests want them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.data import loading
from vrbench.data.locate import locate
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from datasets import DatasetDict


def load_task(spec: TaskSpec, data_root: str | Path | None = None) -> dict[str, DatasetDict]:
    """Return the splits of a task."""
    return loading.load(spec, locate(spec, data_root))
