"""What a board asks of a submission, as far as its own files show it: nothing is scored, and no data are needed.

`vrbench submit` looks at this before it packs, and `vrbench leaderboard validate` before it scores the answers again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vrbench.checkpoints.lineage import origins
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.schemas import RunRecord, RunSettings, Sample, TaskResult
from vrbench.leaderboard.board import Board, BoardFamily, BoardTask, prompts_digest
from vrbench.leaderboard.submission import Submission
from vrbench.leaderboard.untrusted_input import quoted


def faults(
    board: Board,
    submission: Submission,
    record: RunRecord,
    samples: Mapping[str, Sequence[Sample]],
    baseline: RunRecord | None = None,
) -> list[str]:
    """Why the board would refuse a submission, one sentence each.

    Args:
        samples: task -> its samples; nothing is said of the prompts of tasks that are left out.
        baseline: the record of the baseline on the board; its own for a baseline, none if it is not there.
    """
    found = [*_identity_faults(board, submission, record), *_settings_faults(board, record, baseline)]
    results = {result.task: result for result in record.results}
    found += _task_faults(board, record)
    for task, held in board.tasks.items():
        if task in results:
            found += [f"{task}: {fault}" for fault in _result_faults(held, results[task])]
    family = board.families.get(submission.family)
    old = outdated(record, samples)
    if old:
        found.append(f"an older vrbench made it, which kept no raw responses of {', '.join(old)}; run it again")
    for task in board.tasks:
        if family is not None and task in results and task in samples:
            found += [f"{task}: {fault}" for fault in _prompt_faults(family, task, samples[task])]
            found += [f"{task}: {fault}" for fault in _silent(samples[task]) if task not in old]
    return list(dict.fromkeys(found))


def outdated(record: RunRecord, samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Tasks whose results are of a vrbench that kept neither raw responses nor a digest of the definition."""
    whole = [result for result in record.results if result.status == "ok" and samples.get(result.task)]
    silent = {r.task for r in whole if not any(sample.responses for sample in samples[r.task])}
    return [r.task for r in whole if r.task in silent or not r.definition_digest]


def _identity_faults(board: Board, submission: Submission, record: RunRecord) -> Iterator[str]:
    """Who it is: board, family, checkpoint and baseline."""
    if submission.board != board.id:
        yield f"it is for board {submission.board!r}, not for {board.id!r}"
    if record.checkpoint.digest[:16] != submission.revision:
        digest = record.checkpoint.digest
        yield f"revision {submission.revision} is not the beginning of the checkpoint's digest {digest[:24]}..."
    family = board.families.get(submission.family)
    if family is None:
        yield f"family {submission.family!r} is not on board {board.id}; there are {', '.join(board.families)}"
        return
    if family.baseline is None:
        yield f"family {submission.family} of board {board.id} has no baseline yet; a maintainer pins it in board.yaml"
    elif submission.baseline != family.baseline:
        yield f"its baseline is {submission.baseline}; family {submission.family} is compared with {family.baseline}"
    yield from _checkpoint_faults(submission.family, family, record)


def _checkpoint_faults(key: str, family: BoardFamily, record: RunRecord) -> Iterator[str]:
    ref = record.checkpoint
    if ref.family != family.model:
        yield f"the checkpoint is of model family {ref.family!r}; family {key} is of {family.model!r}"
    try:
        first = origins(ref.lineage, ref.depth).first_depth
    except VrbenchError as error:
        yield from (f"the checkpoint's lineage cannot be followed: {fault}" for fault in error_messages(error))
        return
    if first != family.depth:
        yield f"the checkpoint had {first} decoder layers before any was removed; family {key} has {family.depth}"


def _settings_faults(board: Board, record: RunRecord, baseline: RunRecord | None) -> Iterator[str]:
    """The options in force, and the checkout that it ran from."""
    settings: RunSettings = record.settings
    if settings.limit is not None:
        yield f"it was run with limit {settings.limit}; a board takes whole tasks only"
    if settings.dtype not in board.settings.dtypes:
        yield f"it was computed in {settings.dtype}; board {board.id} takes {' or '.join(board.settings.dtypes)}"
    if baseline is not None and settings.dtype != baseline.settings.dtype:
        theirs = baseline.settings.dtype
        yield f"it was computed in {settings.dtype}, its baseline in {theirs}; run it with --dtype {theirs}"
    images = baseline.settings.image_settings if baseline else "harness"
    if settings.image_settings != images:
        yield f"its image settings are {settings.image_settings}, its baseline's {images}; run it with those"
    if settings.seed:
        yield f"its seed is {settings.seed}; intervals on a board are drawn with seed 0"
    yield from checkout_faults(record)


def checkout_faults(record: RunRecord) -> Iterator[str]:
    """Whether the run, or what computed its answers before, was code that nobody else has."""
    remedy = "commit them and run it again with another --out, so that nothing stored is reused"
    by = record.provenance
    changed = [some for some in by.answered if some.dirty]
    if by.dirty:
        yield f"it was run from a checkout with uncommitted changes; {remedy}"
    elif changed:
        count, total = (sum(some.requests for some in which) for which in (changed, by.answered))
        first, last = min(some.first for some in changed), max(some.last for some in changed)
        when = quoted(first) if first == last else f"{quoted(first)} to {quoted(last)}"
        computed = f"{count:,} of its {total:,} answers were computed from a checkout with uncommitted changes"
        yield f"{computed} ({when}); {remedy}"


def _task_faults(board: Board, record: RunRecord) -> Iterator[str]:
    """Whether its tasks are those of the board, each once and run through."""
    tasks = [result.task for result in record.results]
    named = f"run it with --tasks {','.join(board.tasks)}"
    if missing := [task for task in board.tasks if task not in tasks]:
        yield f"it lacks {', '.join(missing)}; {named}"
    if extra := sorted({task for task in tasks if task not in board.tasks}):
        yield f"it has {', '.join(extra)}, which board {board.id} has not; {named}"
    if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
        yield f"it has {', '.join(twice)} more than once"
    if sorted(record.settings.tasks) != sorted(tasks):
        yield "the tasks of its settings are not those of its results"
    dead = [result.task for result in record.results if result.status != "ok"]
    if dead or record.status != "ok":
        yield f"{', '.join(dead) or 'a task'} did not run through"


def _result_faults(held: BoardTask, result: TaskResult) -> Iterator[str]:
    """Version, completeness and digests of one task's result."""
    if result.version != held.version:
        yield f"it was run at version {result.version}; the board holds version {held.version}"
    if result.status != "ok":
        return
    if result.n + result.n_unscored != held.n or not result.complete:
        yield f"it has {result.n + result.n_unscored:,} of the task's {held.n:,} items; a board takes whole tasks only"
    for what, ours, theirs in (
        ("data", result.data_digest, held.data_digest),
        ("definition", result.definition_digest, held.definition_digest),
    ):
        if theirs is None:
            yield f"the digest of its {what} is not pinned yet; a maintainer does so with `vrbench leaderboard pin`"
        elif (ours and ours != theirs) or (not ours and what == "data"):
            yield f"its {what} is not the board's: sha256 {ours[:12]} against {theirs[:12]}"


def _prompt_faults(family: BoardFamily, task: str, samples: Sequence[Sample]) -> Iterator[str]:
    held = family.prompts.get(task)
    if held is None:
        yield "the digest of its prompts is not pinned yet; a maintainer does so with `vrbench leaderboard pin`"
    elif prompts_digest(samples) != held:
        yield "its prompts are not the board's: their sha256 differs"


def _silent(samples: Sequence[Sample]) -> Iterator[str]:
    silent = [sample.id for sample in samples if not sample.responses]
    if silent:
        yield f"{len(silent):,} samples have no raw response, such as {quoted(silent[0])}"
