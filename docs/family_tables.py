"""Tables of docs/families.md, made from the families' entries when the site is built.

    python docs/family_tables.py

prints them. In mkdocs.yml this file is a hook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrbench.checkpoints.families import FAMILIES, REMOTE_CODE, PromptFormat
from vrbench.checkpoints.image_settings import OLD_NAMES

MARKER = "<!-- tables of all families: docs/family_tables.py -->"
FORMATS = {**{name: family.prompt_format for name, family in FAMILIES.items()}, "own code": REMOTE_CODE.prompt_format}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where a page has the marker (called by mkdocs)."""
    return markdown.replace(MARKER, tables()) if MARKER in markdown else markdown


def tables() -> str:
    """Return the three tables as Markdown, and the families of `--backend vllm`."""
    lines = ["## Prompts", "", "| family | lmms-eval's class | prompt | images |", "|---|---|---|---|"]
    lines += [f"| `{n}` | `{f.lmms_class}` | {f.description} | {f.image_placement} |" for n, f in FORMATS.items()]
    lines += ["", "## Image settings and the end of an answer", ""]
    lines += ["| family | pixels with `harness` | stop sequences | maximum length | answer |"]
    lines += ["|---|---|---|---|---|", *(_answers(name, prompt_format) for name, prompt_format in FORMATS.items())]
    lines += ["", "## Differences from lmms-eval's class", ""]
    lines += [f"- `{n}`: {'; '.join(f.differences) or 'none'}." for n, f in FORMATS.items()]
    served = ", ".join(f"`{name}`" for name, family in FAMILIES.items() if family.vllm)
    lines += ["", "## vLLM", "", f"[`--backend vllm`](evaluation.md#two-backends) is for {served}."]
    return "\n".join(lines)


def _answers(name: str, prompt_format: PromptFormat) -> str:
    stops, then = prompt_format.stop_rule.__doc__, prompt_format.postprocess.__doc__
    pixels = _pixels(prompt_format.image_settings)
    return f"| `{name}` | {pixels} | {stops} | {prompt_format.max_new_tokens:,} tokens | {then} |"


def _pixels(settings: Mapping[str, Any]) -> str:
    if not settings:
        return "the checkpoint's"
    inner = [value if isinstance(value, dict) else {name: value} for name, value in settings.items()]
    return ", ".join(f"`{OLD_NAMES.get(key, key)}` {value:,}" for part in inner for key, value in part.items())


if __name__ == "__main__":
    print(tables())
