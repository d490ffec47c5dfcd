"""JSON Schemas (draft 2020-12) of the files that vrbench writes, as in `leaderboards/schemas`."""

from __future__ import annotations

import json
from pkgutil import resolve_name

from pydantic import BaseModel

from vrbench.core.errors import VrbenchError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMAS = {
    "run": "vrbench.core.schemas:RunRecord",
    "sample": "vrbench.core.schemas:Sample",
    "submission": "vrbench.leaderboard.schema:Submission",
    "reproduction": "vrbench.leaderboard.schema:Reproduction",
    "board": "vrbench.leaderboard.board:Board",
    "leaderboard": "vrbench.leaderboard.schema:Leaderboard",
    "comparison": "vrbench.statistics.schema:Comparison",
    "task": "vrbench.tasks.registry:TaskSpec",
}
"""Name -> module and class of the record; a module is imported when its schema is asked for."""


def schema_text(name: str) -> str:
    """Return the schema of a kind of file, by its key in `SCHEMAS`.

    Raises:
        VrbenchError: there is no such kind.
    """
    if name not in SCHEMAS:
        raise VrbenchError(f"there is no schema {name!r}; there are {', '.join(SCHEMAS)}")
    record: type[BaseModel] = resolve_name(SCHEMAS[name])
    return json.dumps({"$schema": DIALECT, **record.model_json_schema()}, indent=1, ensure_ascii=False) + "\n"
