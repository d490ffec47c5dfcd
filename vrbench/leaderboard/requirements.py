"""A board's requirements that a submission's own files show to be met: no scoring, no data of the tasks.

`vrbench submit` checks this before it packs, and `vrbench leaderboard validate` before it scores the answers again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from vrbench.checkpoints.lineage import layer_origins
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.provenance import VRBENCH
from vrbench.core.schemas import RunRecord, Sample, TaskResult
from vrbench.leaderboard.board import Board, BoardFamily, PinnedTask, prompts_digest
from vrbench.leaderboard.schema import Submission
from vrbench.leaderboard.untrusted_input.text import sanitize_for_message

NOT_PINNED = "is not pinned yet; a maintainer does so with `vrbench leaderboard pin`"


def validate_requirements(
    board: Board,
    submission: Submission,
    record: RunRecord,
    samples: Mapping[str, Sequence[Sample]],
    baseline: RunRecord | None = None,
) -> list[str]:
    """Return why the board would refuse a submission, one message each.

    Args:
        samples: task -> its samples; prompts of tasks that are left out are not checked.
        baseline: the record of the baseline on the board; its own for a baseline, None if it is not there.
    """
    errors = [*_validate_identity(board, submission, record), *_validate_settings(board, record, baseline)]
    errors += _validate_tasks(board, record)
    results = {result.task: result for result in record.results}
    for task, pinned in board.tasks.items():
        if task in results:
            errors += [f"{task}: {error}" for error in _validate_result(pinned, results[task])]
    family = board.families.get(submission.family)
    old = tasks_without_responses(record, samples)
    if old:
        errors.append(f"an older vrbench made it, which kept no raw responses of {', '.join(old)}; run it again")
    for task in board.tasks:
        if family is not None and task in results and task in samples:
            errors += [f"{task}: {error}" for error in _validate_prompts(family, task, samples[task], task not in old)]
    return list(dict.fromkeys(errors))


def tasks_without_responses(record: RunRecord, samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Return the tasks run by an old vrbench, which stored neither raw responses nor a digest of the definition."""
    done = [result for result in record.results if result.status == "ok" and samples.get(result.task)]
    return [r.task for r in done if not r.definition_digest or not any(s.responses for s in samples[r.task])]


def _validate_identity(board: Board, submission: Submission, record: RunRecord) -> Iterator[str]:
    """Yield an error for each mismatch of board, family, checkpoint or baseline."""
    ref, key = record.checkpoint, submission.family
    if submission.board != board.id:
        yield f"it is for board {submission.board!r}, not for {board.id!r}"
    if ref.digest[:16] != submission.revision:
        yield f"revision {submission.revision} is not the start of the checkpoint's digest {ref.digest[:24]}..."
    family = board.families.get(key)
    if family is None:
        yield f"family {key!r} is not on board {board.id}; there are {', '.join(board.families)}"
        return
    if family.baseline is None:
        yield f"family {key} of board {board.id} has no baseline yet; a maintainer pins it in board.yaml"
    elif submission.baseline != family.baseline:
        yield f"its baseline is {submission.baseline}; family {key} is compared with {family.baseline}"
    if ref.family != family.model:
        yield f"the checkpoint is of model family {ref.family!r}; family {key} is of {family.model!r}"
    try:
        depth = layer_origins(ref.lineage, ref.depth).first_depth
    except VrbenchError as error:
        yield from (f"the checkpoint's lineage is inconsistent: {message}" for message in error_messages(error))
    else:
        if depth != family.depth:
            yield f"the checkpoint had {depth} decoder layers before any was removed; family {key} has {family.depth}"


def _validate_settings(board: Board, record: RunRecord, baseline: RunRecord | None) -> Iterator[str]:
    settings = record.settings
    if settings.limit is not None:
        yield f"it was run with limit {settings.limit}; a board takes whole tasks only"
    if settings.dtype not in board.settings.dtypes:
        yield f"it was computed in {settings.dtype}; board {board.id} takes {' or '.join(board.settings.dtypes)}"
    if baseline is not None and settings.dtype != baseline.settings.dtype:
        expected = baseline.settings.dtype
        yield f"it was computed in {settings.dtype}, its baseline in {expected}; run it with --dtype {expected}"
    if settings.backend != VRBENCH:
        yield f"it was computed by {settings.backend}; a board takes answers of vrbench's own engine (no --backend)"
    images = baseline.settings.image_settings if baseline else "harness"
    if settings.image_settings != images:
        yield f"its image settings are {settings.image_settings}, its baseline's {images}; run it with those"
    if settings.seed:
        yield f"its seed is {settings.seed}; intervals on a board are drawn with seed 0"
    yield from validate_checkout(record)


def validate_checkout(record: RunRecord) -> Iterator[str]:
    """Yield an error if the run, or what computed its stored answers, was code with uncommitted changes."""
    remedy = "commit them and run it again with another --out, so that nothing stored is reused"
    answered = record.provenance.answered
    changed = [some for some in answered if some.dirty]
    if record.provenance.dirty:
        yield f"it was run from a checkout with uncommitted changes; {remedy}"
    elif changed:
        count, total = (sum(some.requests for some in which) for which in (changed, answered))
        first, last = min(some.first for some in changed), max(some.last for some in changed)
        ends = dict.fromkeys(map(sanitize_for_message, (first, last)))
        computed = f"{count:,} of its {total:,} answers were computed from a checkout with uncommitted changes"
        yield f"{computed} ({' to '.join(ends)}); {remedy}"


def _validate_tasks(board: Board, record: RunRecord) -> Iterator[str]:
    """Yield an error unless the tasks are those of the board, each once and finished."""
    tasks = Counter(result.task for result in record.results)
    advice = f"run it with --tasks {','.join(board.tasks)}"
    if missing := [task for task in board.tasks if task not in tasks]:
        yield f"it lacks {', '.join(missing)}; {advice}"
    if extra := sorted(task for task in tasks if task not in board.tasks):
        yield f"it has {', '.join(extra)}, which board {board.id} has not; {advice}"
    if twice := sorted(task for task, times in tasks.items() if times > 1):
        yield f"it has {', '.join(twice)} more than once"
    if sorted(record.settings.tasks) != sorted(tasks.elements()):
        yield "the tasks of its settings are not those of its results"
    failed = [result.task for result in record.results if result.status != "ok"]
    if failed or record.status != "ok":
        yield f"{', '.join(failed) or 'a task'} did not finish"


def _validate_result(pinned: PinnedTask, result: TaskResult) -> Iterator[str]:
    """Yield errors in version, completeness and digests of one task's result."""
    if result.version != pinned.version:
        yield f"it was run at version {result.version}; the board has version {pinned.version}"
    if result.status != "ok":
        return
    if result.n + result.n_unscored != pinned.n or not result.complete:
        items = f"{result.n + result.n_unscored:,} of the task's {pinned.n:,} items"
        yield f"it has {items}; a board takes whole tasks only"
    for what, ours, theirs in (
        ("data", result.data_digest, pinned.data_digest),
        ("definition", result.definition_digest, pinned.definition_digest),
    ):
        if theirs is None:
            yield f"the digest of its {what} {NOT_PINNED}"
        elif (ours and ours != theirs) or (not ours and what == "data"):
            yield f"its {what} is not the board's: sha256 {ours[:12]} against {theirs[:12]}"


def _validate_prompts(family: BoardFamily, task: str, samples: Sequence[Sample], answered: bool) -> Iterator[str]:
    pinned = family.prompts.get(task)
    if pinned is None:
        yield f"the digest of its prompts {NOT_PINNED}"
    elif prompts_digest(samples) != pinned:
        yield "its prompts are not the board's: their sha256 differs"
    silent = [sample.id for sample in samples if not sample.responses] if answered else []
    if silent:
        yield f"{len(silent):,} samples have no raw response, such as {sanitize_for_message(silent[0])}"
