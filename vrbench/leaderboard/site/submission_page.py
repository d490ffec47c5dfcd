"""The page of a submission: its scores against its baseline's, how it was made, and how to reproduce it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import Lineage, LineageStep, Score
from vrbench.leaderboard.rows import note_fields
from vrbench.leaderboard.schema import ScoreWithCI
from vrbench.leaderboard.site import drawings, pages
from vrbench.leaderboard.site.commands import commands
from vrbench.leaderboard.site.content import BoardContent, BoardEntry
from vrbench.leaderboard.site.drawings import bar_scale
from vrbench.leaderboard.site.pages import Frame, PageLink
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display


def submission_pages(content: BoardContent, frame: Frame) -> Iterator[tuple[str, str]]:
    """Yield path and content of every submission's page."""
    for entry in content.entries:
        path = pages.submission_page(content.board.id, entry.row)
        yield path, _page(content, entry, frame, path)


def _page(content: BoardContent, entry: BoardEntry, frame: Frame, path: str) -> str:
    row, board, baseline = entry.row, content.board, content.baseline_of(entry)
    tasks = list(_task_lines(content, entry, baseline))
    scales = {
        unit: bar_scale((line["ours"].difference for line in tasks if line["task"].unit == unit), 0.0)
        for unit in ("percent", "perplexity")
    }
    trail = (PageLink(board.title, pages.board_page(board.id)),)
    return frame.render(
        "submission.html.j2", path, f"{row.org}/{row.name}", trail, board=board, table=content.table, row=row,
        entry=entry, record=entry.record, submission=entry.submission, baseline=baseline, tasks=tasks,
        family=board.families[row.family].title if row.family in board.families else row.family,
        scales=scales | {"retention": bar_scale((line["ours"].retention for line in tasks), 100.0)},
        groups=list(_categories(entry, baseline, content)),
        lineage=[*map(drawn_lineage, reversed(entry.record.checkpoint.lineage))], commands=commands(content, entry),
        samples={task.id for task in content.shown_tasks(entry)},
        means=[(name, mean) for name, mean in (("visual", row.visual), ("text", row.text)) if mean],
    )  # fmt: skip


def _task_lines(content: BoardContent, entry: BoardEntry, baseline: BoardEntry | None) -> Iterator[dict[str, Any]]:
    """Yield one line per task: the task, the submission's scores, and the baseline's, if it has any."""
    known = {task.id: task for task in content.table.tasks}
    theirs = {scores.task: scores for scores in baseline.row.tasks} if baseline else {}
    for scores in entry.row.tasks:
        if scores.task in known:
            yield {"task": known[scores.task], "ours": scores, "theirs": theirs.get(scores.task)}


def _categories(entry: BoardEntry, baseline: BoardEntry | None, content: BoardContent) -> Iterator[dict[str, Any]]:
    """Yield the tasks with categories (subtasks, question types or subjects), each with its lines and scale."""
    theirs = {result.task: result.groups for result in baseline.record.results} if baseline else {}
    known = {task.id: task for task in content.table.tasks}
    for result in entry.record.results:
        if len(result.groups) < 2 or result.task not in known:
            continue
        other = theirs.get(result.task, {})
        lines: list[dict[str, Any]] = [
            {"name": name, "n": score.n, "ours": _with_ci(score), "theirs": _with_ci(other.get(name))}
            for name, score in result.groups.items()
        ]
        scale = bar_scale((score for line in lines for score in (line["ours"], line["theirs"])), result.chance)
        yield {"task": known[result.task], "rows": lines, "scale": scale, "chance": result.chance}


def _with_ci(score: Score | None) -> ScoreWithCI | None:
    return ScoreWithCI(value=score.value, low=score.low, high=score.high) if score else None


def drawn_lineage(line: Lineage) -> dict[str, Any]:
    """Return one checkpoint of a lineage with its steps drawn; layers that cannot be read are shown as text."""
    return {"line": line, "steps": [_drawn_step(step) for step in line.steps]}


def _drawn_step(step: LineageStep) -> dict[str, Any]:
    drawn: dict[str, Any] = {"step": step, "strip": "", "count": None, "note": _note(step.note)}
    if 1 <= step.depth <= limits.LAYERS and len(step.layers) <= limits.LAYERS_TEXT:
        try:
            layers, none = LayerSet.parse(step.layers, step.depth), LayerSet.none(step.depth)
        except VrbenchError:
            return drawn
        drawn["strip"] = drawings.layer_strip(*((none, layers) if step.kind == "pruned" else (layers, none)))
        drawn["count"] = len(layers)
    return drawn


def _note(text: str) -> dict[str, str]:
    """Return a note as fields: those of a training's JSON, rounded, else the text itself."""
    fields = note_fields(text)
    if fields is None:
        return {"note": sanitize_for_display(text, 600)} if text else {}
    shown = {
        str(name): f"{value:,.4g}" if isinstance(value, float) else str(value)
        for name, value in list(fields.items())[:40]
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    }
    return {sanitize_for_display(name, 40): sanitize_for_display(value, 120) for name, value in shown.items()}
