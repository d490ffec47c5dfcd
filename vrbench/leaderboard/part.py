"""The part of a run that a board asks for: what is left is the run of the board's tasks alone."""

from __future__ import annotations

from collections.abc import Collection

from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Run
from vrbench.evaluation.run_plan import inputs_digest, task_inputs, with_code
from vrbench.tasks import registry


def part_of(run: Run, tasks: Collection[str]) -> Run:
    """A run's results on some tasks, with the settings and the digest that a run of these alone has.

    No answer depends on which other tasks are run. Seconds and command stay those of the whole run.

    Raises:
        VrbenchError: the run's own digest is not that of its tasks as they are defined here, so that none can be made.
    """
    record = run.record
    kept = tuple(result for result in record.results if result.task in tasks)
    if {result.task for result in kept} != set(tasks) or len(kept) == len(record.results):
        return run  # whole, or lacking some, which is told of the whole of it
    known = registry.load(record.settings.include_path or None)
    unknown = [result.task for result in record.results if result.task not in known]
    if unknown:
        raise VrbenchError(
            f"there is no task file here for {', '.join(unknown)}; run it with --tasks {','.join(tasks)}"
        )
    deciding = {r.task: with_code(task_inputs(known[r.task], r.data_digest, r.harness), r.code) for r in record.results}
    if record.inputs_digest != inputs_digest(record.checkpoint.digest, deciding, record.settings):
        raise VrbenchError(
            f"the run has {', '.join(r.task for r in record.results)}, of which the board takes a part, but its "
            f"inputs_digest is not that of these tasks as they are defined here; run it with --tasks {','.join(tasks)}"
        )
    names = tuple(sorted(result.task for result in kept))
    update = {
        "results": kept,
        "status": "error" if any(result.status == "error" for result in kept) else "ok",
        "settings": record.settings.model_copy(update={"tasks": names}),
        "inputs_digest": inputs_digest(record.checkpoint.digest, {n: deciding[n] for n in names}, record.settings),
    }
    samples = {task: rows for task, rows in run.samples.items() if task in tasks}
    return Run(record=record.model_copy(update=update), samples=samples, path=run.path)
