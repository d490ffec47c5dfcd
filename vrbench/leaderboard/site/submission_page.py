"""The page of a submission: what it is, its figures against its baseline's, how it was made and how to do it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import Lineage, LineageStep, Score
from vrbench.leaderboard.schema import LeaderboardTask, RowTaskScores, ScoreWithCI
from vrbench.leaderboard.site import drawings, layout
from vrbench.leaderboard.site.board import verdict_on
from vrbench.leaderboard.site.commands import commands
from vrbench.leaderboard.site.content import BoardContent, Entry
from vrbench.leaderboard.site.pages import Frame, Place
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.parsing import parse_json
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display


@dataclass(frozen=True)
class TaskRow:
    """One line of the table of tasks."""

    task: LeaderboardTask
    """What is asked."""
    ours: RowTaskScores
    """The submission's figures."""
    theirs: RowTaskScores | None
    """The baseline's; none where the row is the baseline."""


@dataclass(frozen=True)
class GroupRow:
    """One line of the breakdown of a task."""

    name: str
    """Category: subtask, question type or subject."""
    n: int
    """Items."""
    ours: ScoreWithCI
    """The submission's figure."""
    theirs: ScoreWithCI | None
    """The baseline's."""


@dataclass(frozen=True)
class DrawnStep:
    """One step of a lineage."""

    step: LineageStep
    """What was done."""
    strip: str
    """The layers that it concerns, drawn; empty where there is nothing to draw."""
    count: int | None
    """How many layers they are."""
    note: dict[str, str]
    """What the step's note says, field by field."""


@dataclass(frozen=True)
class DrawnLineage:
    """One checkpoint of a lineage."""

    line: Lineage
    """Its record."""
    steps: tuple[DrawnStep, ...]
    """What was done to its base."""


def pages(content: BoardContent, frame: Frame, samples: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Every submission's page.

    Args:
        samples: row key -> task -> path of its sample browser within the site.
    """
    for entry in content.entries:
        path = layout.submission_page(content.board.id, entry.row)
        yield path, page(content, entry, frame, path, samples.get(entry.row.key, {}))


def page(content: BoardContent, entry: Entry, frame: Frame, path: str, samples: Mapping[str, str]) -> str:
    """One submission's page.

    Args:
        path: where it will lie within the site.
        samples: task -> path of its sample browser within the site.
    """
    row, board = entry.row, content.board
    baseline = content.baseline_of(entry)
    tasks = list(_task_rows(content, entry, baseline))
    trail = (Place(board.title, layout.board_page(board.id)),)
    return frame.render(
        "submission.html.j2", path, f"{row.org}/{row.name}", trail, board=board, table=content.table, row=row,
        entry=entry, record=entry.record, submission=entry.submission, baseline=baseline, tasks=tasks,
        baseline_page=layout.submission_page(board.id, baseline.row) if baseline else "",
        family=board.families[row.family].title if row.family in board.families else row.family,
        scales=_scales(tasks), groups=list(_breakdown(entry, baseline, content)), verdict=verdict_on,
        lineage=[*map(drawn_lineage, reversed(entry.record.checkpoint.lineage))], commands=commands(content, entry),
        samples=samples, means=[(name, mean) for name, mean in (("visual", row.visual), ("text", row.text)) if mean],
    )  # fmt: skip


def _task_rows(content: BoardContent, entry: Entry, baseline: Entry | None) -> Iterator[TaskRow]:
    known = {task.id: task for task in content.table.tasks}
    theirs = {task.task: task for task in baseline.row.tasks} if baseline else {}
    for task in entry.row.tasks:
        if task.task in known:
            yield TaskRow(known[task.task], task, theirs.get(task.task))


def _scales(tasks: list[TaskRow]) -> dict[str, drawings.Scale]:
    """One scale a column of bars: differences of percentages, differences of perplexities, retention."""
    found = {
        unit: drawings.scale_of((t.ours.difference for t in tasks if t.task.unit == unit), 0.0)
        for unit in ("percent", "perplexity")
    }
    return found | {"retention": drawings.scale_of((t.ours.retention for t in tasks), 100.0)}


def _breakdown(entry: Entry, baseline: Entry | None, content: BoardContent) -> Iterator[dict[str, Any]]:
    """Tasks that have categories, each with its lines and their scale."""
    theirs = {r.task: r for r in baseline.record.results} if baseline else {}
    titles = {task.id: task for task in content.table.tasks}
    for result in entry.record.results:
        if len(result.groups) < 2 or result.task not in titles:
            continue
        other = theirs[result.task].groups if result.task in theirs else {}
        rows = [
            GroupRow(name, score.n, _figure(score), _figure(other[name]) if name in other else None)
            for name, score in result.groups.items()
        ]
        scale = drawings.scale_of((f for r in rows for f in (r.ours, r.theirs)), result.chance)
        yield {"task": titles[result.task], "rows": rows, "scale": scale, "chance": result.chance}


def _figure(score: Score) -> ScoreWithCI:
    return ScoreWithCI(value=score.value, low=score.low, high=score.high)


def drawn_lineage(line: Lineage) -> DrawnLineage:
    """One checkpoint of a lineage with its steps drawn; layers that cannot be read are left as text."""
    return DrawnLineage(line, tuple(_drawn_step(step) for step in line.steps))


def _drawn_step(step: LineageStep) -> DrawnStep:
    note = _note(step.note)
    if not 1 <= step.depth <= limits.LAYERS or len(step.layers) > limits.LAYERS_TEXT:
        return DrawnStep(step, "", None, note)
    try:
        layers = LayerSet.parse(step.layers, step.depth)
    except VrbenchError:
        return DrawnStep(step, "", None, note)
    none = LayerSet.none(step.depth)
    strip = drawings.layer_strip(none, layers) if step.kind == "pruned" else drawings.layer_strip(layers, none)
    return DrawnStep(step, strip, len(layers), note)


def _note(text: str) -> dict[str, str]:
    """A note as fields: those of a training's JSON, figures rounded, else the text itself."""
    try:
        fields = parse_json(text, "the note")
    except VrbenchError:
        fields = None
    if not isinstance(fields, dict):
        return {"note": sanitize_for_display(text, 600)} if text else {}
    shown = {
        str(name): f"{value:,.4g}" if isinstance(value, float) else str(value)
        for name, value in list(fields.items())[:40]
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    }
    return {sanitize_for_display(name, 40): sanitize_for_display(text, 120) for name, text in shown.items()}
