"""What `vrbench tasks` prints: a table of tasks, or one task with an example prompt."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.errors import VrbenchError
from vrbench.data.locate import is_cached, locate, require_folder
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from vrbench.checkpoints.checkpoint import Checkpoint
    from vrbench.evaluation.item_preview import ItemPreview

WIDTH = 110
MAX_CHARACTERS = 1600
"""Length of an example's text above which its middle is left out."""

MISSING, JUDGED = "missing", "needs a judge"
PLACES = {"generated": "generated", "file": "local file", "root": "data root", "cache": "hub cache", "hub": "hub cache"}


def table_rows(specs: Iterable[TaskSpec], data_root: str | Path | None = None) -> list[dict[str, str]]:
    """Return one row a task, with where its data are.

    Raises:
        VrbenchError: the data root is not a folder.
    """
    require_folder(data_root)
    return [
        {
            "task": spec.id, "suites": ", ".join(spec.suites), "n": f"{spec.n:,}", "metric": spec.metric,
            "chance": "-" if spec.chance is None else f"{spec.chance:.1f}", "few-shot": str(spec.fewshot),
            "data": data_place(spec, data_root), "title": spec.title,
        }
        for spec in specs
    ]  # fmt: skip


def data_place(spec: TaskSpec, data_root: str | Path | None = None) -> str:
    """Return where a task's data are on this machine, that they are missing, or that the task needs a judge model."""
    if spec.judge:
        return JUDGED
    try:
        kind = locate(spec, data_root).kind
    except VrbenchError:
        return MISSING
    return MISSING if kind == "hub" and not is_cached(spec.data) else PLACES[kind]


def describe_task(spec: TaskSpec, data_root: str | Path | None = None, ckpt: str | None = None) -> str:
    """Describe one task, with an example prompt where its data are available.

    Args:
        spec: the task.
        data_root: folder of downloaded data sets.
        ckpt: a checkpoint whose prompt is printed; without one it is the harness's.

    Raises:
        VrbenchError: the checkpoint is invalid, or the data root is not a folder.
    """
    from vrbench.models.resolve import resolve_checkpoint

    require_folder(data_root)
    model = None if ckpt is None else resolve_checkpoint(ckpt, offline=data_root is not None)
    facts = [f"{name + ':':24}{text.strip()}" for name, text in _facts(spec, data_root) if text]
    lines = [f"{spec.id}: {spec.title}", "", *(textwrap.fill(f, WIDTH, subsequent_indent=" " * 24) for f in facts)]
    if not spec.judge and not (spec.data.kind == "hub" and data_place(spec, data_root) == MISSING):
        from vrbench.evaluation.item_preview import example_item

        try:
            lines += ["", *_example(example_item(spec, data_root, model), spec, model)]
        except VrbenchError as error:
            lines += ["", f"no example can be shown: {error}"]
    return "\n".join(lines)


def _facts(spec: TaskSpec, data_root: str | Path | None) -> Iterator[tuple[str, str]]:
    source = spec.data
    yield "suites", ", ".join(spec.suites)
    yield "column of the paper", spec.column
    yield "judge", f"needed, so the task cannot be run: {spec.judge}" if spec.judge else "none needed"
    yield "harness", f"{spec.harness}, {spec.harness_task or 'a prompt of vrbench'}; scorer {spec.scorer}"
    yield "metric", f"{spec.metric}, {'higher' if spec.higher_is_better else 'lower'} is better"
    yield "chance", "undefined" if spec.chance is None else f"{spec.chance:g} of 100"
    yield "few-shot examples", f"{spec.fewshot}, from {source.fewshot_split}" if spec.fewshot else "none"
    yield "OCR tokens", "" if spec.ocr_tokens is None else "in the prompt" if spec.ocr_tokens else "not in the prompt"
    yield "items", f"{spec.n:,} in the full set, split {source.split}"
    yield "grouped by", spec.group or ""
    yield "cluster", spec.cluster or "each item its own"
    yield "counted together", spec.unit or ""
    yield "data", f"{source.name if source.kind != 'file' else Path(source.name).name}: {data_place(spec, data_root)}"
    yield "revision", (source.revision or "the newest") if source.kind == "hub" else ""
    yield "configs", f"{len(source.config)}: {', '.join(source.config)}" if source.config else ""
    yield "licence of the data", spec.licence
    yield "citation", spec.citation
    yield "page", spec.url
    yield "version", spec.version
    yield "note", spec.note


def _example(example: ItemPreview, spec: TaskSpec, model: Checkpoint | None) -> Iterator[str]:
    yield f"example ({example.source}):"
    yield from (f"  image: {width} x {height} pixels" for width, height in (image.size for image in example.images))
    if example.prompt:
        yield from _prompt(example, spec, model)
    for option in example.options:
        yield f"  option: {shorten(option)!r}" if example.prompt else _quoted(option)
    if example.generation:
        yield f"  generation: {example.generation}"
    if example.target:
        yield f"  target: {shorten(example.target)}"


def _prompt(example: ItemPreview, spec: TaskSpec, model: Checkpoint | None) -> Iterator[str]:
    """Yield the prompt of the harness, or the one that a checkpoint's model gets."""
    has_images, prompt, special_tokens = spec.harness == "lmms-eval", example.prompt, ""
    if model is not None:
        from vrbench.models.prompt_preview import preview_prompt

        prompt, special_tokens = preview_prompt(model, prompt, len(example.images) if has_images else None)
    if not has_images:
        yield "  prompt of the harness; no chat template is applied to tasks of lm-eval:"
    elif model is None:
        yield "  prompt of the harness, without a chat template; --ckpt prints that of a checkpoint:"
    else:
        yield f"  prompt of {model.id}:"
    if special_tokens:
        yield f"  special tokens in front, added by the tokenizer: {special_tokens}"
    yield _quoted(prompt)


def _quoted(text: str) -> str:
    return textwrap.indent(shorten(text), "  | ", lambda _: True)


def shorten(text: str, longest: int = MAX_CHARACTERS) -> str:
    """Return the text, or its first and last parts with a note on what is left out between them."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
