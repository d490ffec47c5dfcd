"""JSON objects in files that others wrote: read, or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def read_json(path: Path) -> Json:
    """The object in a JSON file; empty when there is none (who needs it tells that)."""
    return object_in(path) or {}


def object_in(path: Path) -> Json | None:
    """The object in a JSON file; none when it is missing, broken, or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the last: brackets in brackets, too deep to be read
        return None
    return found if isinstance(found, dict) else None
