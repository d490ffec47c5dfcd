"""The tasks that there are, as `vrbench tasks` lists them: one row a task, and whether its data are at hand."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.errors import VrbenchError
from vrbench.data.locate import in_cache, locate, require_folder
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from vrbench.checkpoints.checkpoint import Checkpoint
    from vrbench.evaluation.item_preview import ItemPreview

WIDTH = 110
LONGEST_TEXT = 1600
"""Characters of an example's text that are shown; what is longer is cut in the middle."""

MISSING = "missing"
JUDGED = "needs a judge"
WHERE = {"generated": "generated", "file": "local file", "root": "data root", "cache": "hub cache", "hub": "hub cache"}


def describe(specs: Iterable[TaskSpec], data_root: str | Path | None = None) -> list[dict[str, str]]:
    """One row of text a task, in the given order; "data" says where its samples are, or that they are missing.

    Raises:
        VrbenchError: the data root is not a folder.

    Missing data are fetched when a task is run without a data root and HF_HUB_OFFLINE.
    """
    require_folder(data_root)
    return [
        {
            "task": spec.id,
            "suites": ", ".join(spec.suites),
            "n": f"{spec.n:,}",
            "metric": spec.metric,
            "chance": "-" if spec.chance is None else f"{spec.chance:.1f}",
            "few-shot": str(spec.fewshot),
            "data": where(spec, data_root),
            "title": spec.title,
        }
        for spec in specs
    ]


def where(spec: TaskSpec, data_root: str | Path | None = None) -> str:
    """Where a task's samples are on this machine, that they are missing, or that the task needs a judge."""
    if spec.judge:
        return JUDGED
    try:
        kind = locate(spec, data_root).kind
    except VrbenchError:
        return MISSING
    return MISSING if kind == "hub" and not in_cache(spec.data) else WHERE[kind]


def in_full(spec: TaskSpec, data_root: str | Path | None = None, ckpt: str | None = None) -> str:
    """All that is known of one task, with an example prompt where its data are at hand.

    Args:
        ckpt: a checkpoint, as which the example is asked; without one the prompt is the harness's.

    Raises:
        VrbenchError: the checkpoint has faults, or the data root is not a folder.
    """
    from vrbench.models.resolve import resolve_checkpoint

    require_folder(data_root)
    model = None if ckpt is None else resolve_checkpoint(ckpt, offline=data_root is not None)
    told = [f"{spec.id}: {spec.title}", "", *(_field(name, text) for name, text in _facts(spec, data_root) if text)]
    if spec.judge or (spec.data.kind == "hub" and where(spec, data_root) == MISSING):
        return "\n".join(told)
    try:
        from vrbench.evaluation.item_preview import example_item

        return "\n".join([*told, "", *_shown(example_item(spec, data_root, model), spec, model)])
    except VrbenchError as error:
        return "\n".join([*told, "", f"no example can be shown: {error}"])


def _facts(spec: TaskSpec, data_root: str | Path | None) -> Iterator[tuple[str, str]]:
    source = spec.data
    yield "suites", ", ".join(spec.suites)
    yield "column of the paper", spec.column
    yield "judge", f"needed, so the task is not run: {spec.judge}" if spec.judge else "none needed"
    yield "harness", f"{spec.harness}, {spec.harness_task or 'a prompt of vrbench'}; scorer {spec.scorer}"
    yield "metric", f"{spec.metric}, {'higher' if spec.higher_is_better else 'lower'} is better"
    yield "chance", "undefined" if spec.chance is None else f"{spec.chance:g} of 100"
    yield "examples in the prompt", f"{spec.fewshot}, from {source.fewshot_split}" if spec.fewshot else "none"
    yield "OCR tokens", "" if spec.ocr_tokens is None else "in the prompt" if spec.ocr_tokens else "not in the prompt"
    yield "items", f"{spec.n:,} in the full set, split {source.split}"
    yield "grouped by", spec.group or ""
    yield "cluster", spec.cluster or "each item its own"
    yield "counted together", spec.unit or ""
    yield "data", f"{source.name if source.kind != 'file' else Path(source.name).name}: {where(spec, data_root)}"
    yield "revision", (source.revision or "the newest") if source.kind == "hub" else ""
    yield "configs", f"{len(source.config)}: {', '.join(source.config)}" if source.config else ""
    yield "licence of the data", spec.licence
    yield "citation", spec.citation
    yield "page", spec.url
    yield "version", spec.version
    yield "note", spec.note


def _field(name: str, text: str) -> str:
    return textwrap.fill(f"{name + ':':24}{text.strip()}", WIDTH, subsequent_indent=" " * 24)


def _shown(example: ItemPreview, spec: TaskSpec, model: Checkpoint | None) -> Iterator[str]:
    yield f"example ({example.source}):"
    for width, height in (image.size for image in example.images):
        yield f"  picture: {width} x {height} pixels"
    if example.prompt:
        yield from _prompt(example, spec, model)
    for answer in example.options:
        yield f"  option: {cut(answer)!r}" if example.prompt else textwrap.indent(cut(answer), "  | ", lambda _: True)
    if example.generation:
        yield f"  generated with: {example.generation}"
    if example.target:
        yield f"  right answer: {cut(example.target)}"


def _prompt(example: ItemPreview, spec: TaskSpec, model: Checkpoint | None) -> Iterator[str]:
    """The prompt as the harness makes it, or as a checkpoint's model is given it."""
    seeing = spec.harness == "lmms-eval"
    prompt, front = example.prompt, ""
    if model is not None:
        from vrbench.models.prompt_preview import preview_prompt

        prompt, front = preview_prompt(model, prompt, len(example.images) if seeing else None)
    if not seeing:
        yield "  text of the task; no chat template is applied to tasks of lm-eval:"
    elif model is None:
        yield "  text of the task; no chat template is applied here, --ckpt shows that of a checkpoint:"
    else:
        yield f"  prompt that {model.id} is given:"
    if front:
        yield f"  in front, put there by the tokenizer: {front}"
    yield textwrap.indent(cut(prompt), "  | ", lambda _: True)


def cut(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, or its first and last parts with a note on what is left out between them."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
