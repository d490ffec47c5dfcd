"""What each kind of step of a plan is: one call of what the other commands call.

`vrbench.reproduce` plans and executes, and knows neither training nor surgery nor evaluation; here they meet. A step
that a
killed process left whole, but for its mark, is not done again.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from vrbench.checkpoints.lineage import MARKER, read_lineage
from vrbench.core.errors import VrbenchError
from vrbench.reproduce.families import Value
from vrbench.reproduce.worker import StepFunction, StepJob


def train(job: StepJob) -> None:
    """Train after a recipe; all other arguments are keys of it."""
    from vrbench import training

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


def layers(job: StepJob) -> None:
    """Choose layers to tune by a score, or measure the order in which layers go."""
    arguments = job.arguments
    if "most" in arguments:
        _measure_order(job)
        return
    from vrbench.pruning.choose import choose

    choose(
        str(arguments["by"]), int(arguments["n"]), ckpt=str(arguments["ckpt"]), base=str(arguments["base"]),
        pictures=int(arguments["pictures"]), device=job.device, out=job.target,
    )  # fmt: skip


def _measure_order(job: StepJob) -> None:
    from vrbench.checkpoints.resolve import resolve
    from vrbench.pruning.removal_order import removal_order, save_order

    arguments = job.arguments
    found = removal_order(
        resolve(str(arguments["ckpt"])), str(arguments["by"]), int(arguments["most"]),
        outside_region=bool(arguments["outside_region"]), pictures=int(arguments["pictures"]), device=job.device,
    )  # fmt: skip
    save_order(found, job.target)


def prune(job: StepJob) -> None:
    """Remove the first layers of an order, or those that a score says; only the lineage is written."""
    from vrbench.pruning import prune as prune_layers
    from vrbench.pruning import recipe_of

    keys: dict[str, Any] = dict(job.arguments)
    recipe = recipe_of(makes=job.step, base=keys.pop("ckpt"), **keys)
    if not _is_whole(job.target, recipe.digest):
        prune_layers(recipe, job.target, job.device)


def restore(job: StepJob) -> None:
    """Put layers back to the backbone's weights."""
    from vrbench.pruning import restore as restore_layers

    if _is_whole(job.target, ""):
        return
    ckpt, layers, backbone = (str(job.arguments[key]) for key in ("ckpt", "layers", "from"))
    restore_layers(ckpt, layers, backbone, job.target, job.step)


def run(job: StepJob) -> None:
    """Measure a checkpoint, and keep its record and its items' scores."""
    from transformers.utils.logging import disable_progress_bar

    from vrbench.core.run_storage import save_run, scores_only
    from vrbench.evaluation.evaluate import run_all
    from vrbench.evaluation.run_plan import RunConfig

    disable_progress_bar()
    limit = job.arguments.get("limit")
    options = RunConfig(
        limit=None if limit is None else int(limit), device=job.device, dtype=str(job.arguments["dtype"]),
        data_root=job.data_root or None, out=job.scratch, command=job.command,
    )  # fmt: skip
    (done,) = run_all([str(job.arguments["ckpt"])], str(job.arguments["tasks"]), options=options)
    died = [f"{result.task}: {result.error}" for result in done.record.results if result.status == "error"]
    if died:
        raise VrbenchError(f"tasks died: {'; '.join(died)}")
    shutil.rmtree(job.target, ignore_errors=True)
    kept = scores_only(done.record, done.samples)
    save_run(job.target, kept.record, kept.samples, compressed=True)


def profile(job: StepJob) -> None:
    """Time and memory of training steps at the paper's shapes; rows that are there are not measured again."""
    from vrbench.training.profile import profile as measure

    measure(out=job.target, device=job.device)


FUNCTIONS: dict[str, StepFunction] = {
    "train": train,
    "layers": layers,
    "prune": prune,
    "restore": restore,
    "run": run,
    "profile": profile,
}
"""Kind of a step -> what does it."""
