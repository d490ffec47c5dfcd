"""Write the tables of task keys, scorers and metrics in docs/tasks.md.

    python -m benchmarks.task_reference

tests/tasks/test_task_reference.py checks that the page is current.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vrbench.tasks.metrics import METRICS
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.spec import TaskSpec

PAGE = Path(__file__).parents[1] / "docs" / "tasks.md"
SCHEMA = PAGE.parents[1] / "leaderboards" / "schemas" / "task.schema.json"
START, END = "<!-- made by python -m benchmarks.task_reference -->", "<!-- end -->"
PARTS = {"GenerationSettings": "generation", "DataSource": "data", "Join": "data.join"}
"""Model of a part of a task file -> the key under which it stands."""
KINDS = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`",
    "array": "list of texts", "object": "text for text", "null": "null",
}  # fmt: skip
"""Type of a JSON schema -> its name on the page."""
LISTED = {"scorer": "a [scorer](#scorers)", "metric": "a [metric](#metrics)"}
"""Keys whose values have a table of their own."""


def tables() -> str:
    """Return the generated part of the page."""
    schema = TaskSpec.model_json_schema()
    lines = ["### Keys of a task file", "", *_keys(schema["properties"], set(schema["required"]))]
    for name, key in PARTS.items():
        part = schema["$defs"][name]
        lines += ["", f"### Keys under `{key}`", "", *_keys(part["properties"], set(part.get("required", ())))]
    lines += ["", "### Scorers", "", "| scorer | score of an item | metric | columns that it reads |"]
    lines += ["|---|---|---|---|", *_scorers()]
    lines += ["", "### Metrics", "", "| metric | figure |", "|---|---|"]
    lines += [f"| `{name}` | {metric.rule} |" for name, metric in METRICS.items()]
    return "\n".join(lines)


def whole(page: str) -> str:
    """Return a page with its generated part rebuilt."""
    before, rest = page.split(START)
    return f"{before}{START}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


def _keys(properties: Mapping[str, Any], required: set[str]) -> Iterator[str]:
    yield "| key | value | default | what it means |"
    yield "|---|---|---|---|"
    for name, field in properties.items():
        default = "required" if name in required else _default(field.get("default"))
        yield f"| `{name}` | {LISTED.get(name) or _kind(field)} | {default} | {field['description']} |"


def _default(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    return f"`{json.dumps(value)}`"


def _kind(field: Mapping[str, Any]) -> str:
    """What a value may be, in words, of a property of a JSON schema."""
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"])
    if "$ref" in field:
        key = PARTS[field["$ref"].rpartition("/")[2]]
        return f"[keys](#keys-under-{key.replace('.', '')})"
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    kind = KINDS[field["type"]]
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None or high is not None:
        kind += f" from {low:g}" + (f" to {high:g}" if high is not None else "")
    if "pattern" in field:
        kind += f" of the form `{field['pattern']}`"
    return kind


def _scorers() -> Iterator[str]:
    for name, scorer in SCORERS.items():
        columns = ", ".join(f"`{column}`" for column in scorer.columns) or "none"
        where = f", as `{scorer.template}` of {scorer.harnesses[0]}" if scorer.template else ""
        yield f"| `{name}` | {scorer.rule} | `{scorer.metric}`{where} | {columns} |"


def main() -> None:
    """Write the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(whole(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
