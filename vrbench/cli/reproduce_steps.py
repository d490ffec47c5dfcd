"""What each kind of step of a plan is: one call of what the other commands call.

`vrbench.paper` plans and executes, and knows neither training nor surgery nor evaluation; here they meet. A step that a
killed process left whole, but for its mark, is not done again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from vrbench.errors import VrbenchError
from vrbench.lineage import MARKER, read_lineage
from vrbench.paper.execute_worker import Function, Job
from vrbench.paper.families import Value


def train(job: Job) -> None:
    """Train after a recipe; all other arguments are keys of it."""
    from vrbench import train as training

    keys = dict(job.arguments)
    recipe = training.load(str(keys.pop("recipe")), {**as_overrides(keys), "makes": job.step})
    if _is_whole(job.target, recipe.digest):
        return
    training.train(recipe, job.target, device=job.device)


def as_overrides(keys: dict[str, Value]) -> dict[str, str]:
    """Recipe keys as `--set` has them."""
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in keys.items()}


def _is_whole(target: Path, recipe_digest: str) -> bool:
    """Whether a checkpoint folder is there whole.

    Raises:
        VrbenchError: it is, but another recipe made it.
    """
    lineage = read_lineage(target) if (target / MARKER).is_file() else None
    if lineage is None:
        return False
    if recipe_digest and recipe_digest not in {step.recipe_digest for step in lineage.steps}:
        raise VrbenchError(f"{target} was made by another recipe; remove it")
    return True


def restore(job: Job) -> None:
    """Put layers back to the backbone's weights."""
    from vrbench.surgery import restore as restore_layers

    if _is_whole(job.target, ""):
        return
    ckpt, layers, backbone = (str(job.arguments[key]) for key in ("ckpt", "layers", "from"))
    restore_layers(ckpt, layers, backbone, job.target, job.step)


def run(job: Job) -> None:
    """Measure a checkpoint, and keep its record and samples."""
    from transformers.utils.logging import disable_progress_bar

    from vrbench.evaluate import run_all
    from vrbench.plan import Options
    from vrbench.records import save_run

    disable_progress_bar()
    limit = job.arguments.get("limit")
    options = Options(
        limit=None if limit is None else int(limit), device=job.device, dtype=str(job.arguments["dtype"]),
        data_root=job.data_root or None, out=job.scratch, command=job.command,
    )  # fmt: skip
    (done,) = run_all([str(job.arguments["ckpt"])], str(job.arguments["tasks"]), options=options)
    died = [f"{result.task}: {result.error}" for result in done.record.results if result.status == "error"]
    if died:
        raise VrbenchError(f"tasks died: {'; '.join(died)}")
    shutil.rmtree(job.target, ignore_errors=True)
    save_run(job.target, done.record, done.samples, compressed=True)


FUNCTIONS: dict[str, Function] = {
    "train": train,
    "restore": restore,
    "run": run,
}
"""Kind of a step -> what does it."""
