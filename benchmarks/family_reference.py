"""Writes the tables of docs/families.md from the families' entries: how each is asked, and what differs from its class.

    python -m benchmarks.family_reference

tests/models/test_family_reference.py holds the page to what this makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrbench.checkpoints.families import FAMILIES, REMOTE_CODE
from vrbench.checkpoints.image_settings import OLD_NAMES
from vrbench.models.manner import PromptFormat, all_but_blank_lines, as_generated, no_stop_text

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
START, END = "<!-- made by python -m benchmarks.family_reference -->", "<!-- end -->"
STOPS = {
    no_stop_text: "none: the class takes them and uses none",
    all_but_blank_lines: "all but a blank line",
}
ENTRIES = {**{name: family.manner for name, family in FAMILIES.items()}, "own code": REMOTE_CODE.manner}


def tables() -> str:
    """The generated part of the page."""
    lines = ["## How each family is asked", "", "| family | lmms-eval's class | prompt | images |", "|---|---|---|---|"]
    lines += [f"| `{name}` | `{m.follows}` | {m.written} | {m.placed} |" for name, m in ENTRIES.items()]
    lines += ["", "## Image settings, and where an answer ends", ""]
    lines += ["| family | pixels with `harness` | stop texts of a harness's task | longest answer | then |"]
    lines += ["|---|---|---|---|---|", *(_ends(name, m) for name, m in ENTRIES.items())]
    lines += ["", "## What is not as in the class, and why", ""]
    for name, manner in ENTRIES.items():
        lines += [f"- `{name}`: {'; '.join(manner.differs) or 'nothing'}."]
    return "\n".join(lines)


def whole(page: str) -> str:
    """A page with its generated part made anew."""
    before, rest = page.split(START)
    return f"{before}{START}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


def _ends(name: str, manner: PromptFormat) -> str:
    then = "as generated" if manner.finish is as_generated else "by lmms-eval's `parse_reasoning_model_answer`"
    return f"| `{name}` | {_pixels(manner.pictures)} | {STOPS[manner.stops]} | {manner.longest:,} tokens | {then} |"


def _pixels(pictures: Mapping[str, Any]) -> str:
    if not pictures:
        return "the checkpoint's"
    flat = {
        k: v
        for name, value in pictures.items()
        for k, v in (value if isinstance(value, dict) else {name: value}).items()
    }
    return ", ".join(f"`{OLD_NAMES.get(key, key)}` {value:,}" for key, value in flat.items())


if __name__ == "__main__":
    PAGE.write_text(whole(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
