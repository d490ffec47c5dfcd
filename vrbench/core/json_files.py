"""JSON objects in files that others wrote: read, or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.text_files import read_text

Json = dict[str, Any]


def read_json(path: Path) -> Json:
    """The object in a JSON file; empty when there is none (who needs it tells that)."""
    return object_in(path) or {}


def object_in(path: Path) -> Json | None:
    """The object in a JSON file; none when it is missing, broken, or holds something else."""
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError, VrbenchError) as error:  # brackets in brackets are too deep to be read
        os_errors.pass_on(error)
        return None
    return found if isinstance(found, dict) else None
