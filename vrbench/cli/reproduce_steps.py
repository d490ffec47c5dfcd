"""The function of each kind of step in a plan, and the validation of a plan before anything is done.

`vrbench.reproduce` plans and executes without knowing training, pruning or evaluation; they are called here. A step
whose output a killed process left complete, without its record, is not done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrbench.checkpoints.lineage import LINEAGE_FILE, read_lineage
from vrbench.core.device import device_kind, resolve_device, validate_device
from vrbench.core.errors import VrbenchError, collect_errors
from vrbench.data.locate import locate_all, missing_messages
from vrbench.reproduce.families import Value, family_named
from vrbench.reproduce.plan import Plan
from vrbench.reproduce.plan_builder import REFERENCE
from vrbench.reproduce.worker import StepFunction, StepJob
from vrbench.tasks import registry


def validate_plan(plan: Plan, device: str, data_root: str) -> list[str]:
    """Return the errors of recipes, training data, base, task data and device."""
    from vrbench.models.resolve import resolve_checkpoint

    errors = validate_device(device)
    profiles = any(step.kind == "profile" for step in plan.steps)
    if not errors and profiles and device_kind(resolve_device(device)) != "cuda":
        errors.append("table profile measures true shapes on a GPU, and there is none; name the other tables")
    base = plan.overrides.get("base", family_named(plan.family).base)
    errors += _recipe_errors(plan, base)
    hint = "" if "base" in plan.overrides else "; give it with --set base=FOLDER"
    base_errors: list[str] = []
    with collect_errors(base_errors):
        resolve_checkpoint(base, offline=bool(data_root))
    errors += (f"base: {error}{hint}" for error in base_errors)
    data = locate_all(registry.select_runnable(plan.tasks, registry.load())[0], data_root or None)
    return list(dict.fromkeys([*errors, *data.errors, *missing_messages(data.missing)]))


def _recipe_errors(plan: Plan, base: str) -> list[str]:
    """Return errors of every recipe, without outputs that do not exist yet; each kind of training is read once."""
    from vrbench.training import load

    trainings: dict[str, dict[str, Value]] = {}
    for step in (step for step in plan.steps if step.kind == "train"):
        keys = {k: v for k, v in step.arguments.items() if k != "seed" and not REFERENCE.fullmatch(str(v))}
        keys["base"] = base  # or what is made of it
        trainings[str(sorted(keys.items()))] = keys
    errors: list[str] = []
    for keys in trainings.values():
        with collect_errors(errors):
            recipe = load(str(keys.pop("recipe")), as_overrides(keys))
            errors += [*recipe.unset_paths(), *_missing_files(recipe.data)]
    return errors


def _missing_files(section: Any) -> Iterator[str]:
    for key in ("conversations", "images"):
        path = getattr(section, key, None)
        if path and not Path(path).expanduser().exists():
            yield f"data.{key} is {path!r}, which does not exist; give it with --set data.{key}=PATH"


def as_overrides(keys: dict[str, Value]) -> dict[str, str]:
    """Return recipe keys as `--set` has them."""
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in keys.items()}


def train(job: StepJob) -> None:
    """Train a recipe; all other arguments are keys of it."""
    from vrbench.training import load
    from vrbench.training.run import train as train_recipe

    keys = dict(job.step.arguments)
    recipe = load(str(keys.pop("recipe")), {**as_overrides(keys), "makes": job.step.name})
    if not _is_complete(job.output, recipe.digest):
        train_recipe(recipe, job.output, device=job.options.device)


def _is_complete(checkpoint: Path, recipe_digest: str) -> bool:
    """Return whether a checkpoint folder is complete.

    Raises:
        VrbenchError: it is, but another recipe made it.
    """
    lineage = read_lineage(checkpoint) if (checkpoint / LINEAGE_FILE).is_file() else None
    if lineage is None:
        return False
    if recipe_digest and recipe_digest not in {step.recipe_digest for step in lineage.steps}:
        raise VrbenchError(f"{checkpoint} was made by another recipe; remove it")
    return True


def layers(job: StepJob) -> None:
    """Select layers to tune by a score, or measure a removal order."""
    arguments, device = job.step.arguments, job.options.device
    num_images, by = int(arguments["pictures"]), str(arguments["by"])
    if "most" not in arguments:
        from vrbench.pruning.choose import choose

        choose(
            by, int(arguments["n"]), ckpt=str(arguments["ckpt"]), base=str(arguments["base"]), num_images=num_images,
            device=device, out=job.output,
        )  # fmt: skip
        return
    from vrbench.models.resolve import resolve_checkpoint
    from vrbench.pruning.questions import DevQuestions
    from vrbench.pruning.removal_order import removal_order

    found = removal_order(
        resolve_checkpoint(str(arguments["ckpt"])), by, int(arguments["most"]),
        outside_region=bool(arguments["outside_region"]), questions=DevQuestions(num_images, 6), device=device,
    )  # fmt: skip
    found.save(job.output)


def prune(job: StepJob) -> None:
    """Remove the first layers of a removal order, or those that a score selects; only the lineage is written."""
    from vrbench.pruning.prune import prune as prune_layers
    from vrbench.pruning.recipe import make_recipe

    keys: dict[str, Any] = dict(job.step.arguments)
    recipe = make_recipe(makes=job.step.name, base=keys.pop("ckpt"), **keys)
    if not _is_complete(job.output, recipe.digest):
        prune_layers(recipe, job.output, job.options.device)


def restore(job: StepJob) -> None:
    """Restore layers to the backbone's weights."""
    from vrbench.pruning.prune import restore as restore_layers

    if not _is_complete(job.output, ""):
        ckpt, layers, backbone = (str(job.step.arguments[key]) for key in ("ckpt", "layers", "from"))
        restore_layers(ckpt, layers, backbone, job.output, job.step.name)


def run(job: StepJob) -> None:
    """Evaluate a checkpoint, and keep its record and its items' scores."""
    from transformers.utils.logging import disable_progress_bar

    from vrbench.core.run_storage import save_run, scores_only
    from vrbench.evaluation.evaluate import run_all
    from vrbench.evaluation.run_config import RunConfig

    disable_progress_bar()
    arguments, options = job.step.arguments, job.options
    limit = arguments.get("limit")
    config = RunConfig(
        limit=None if limit is None else int(limit), device=options.device, dtype=str(arguments["dtype"]),
        data_root=options.data_root or None, out=job.scratch, command=options.command,
    )  # fmt: skip
    (done,) = run_all([str(arguments["ckpt"])], str(arguments["tasks"]), options=config)
    failed = [f"{result.task}: {result.error}" for result in done.record.results if result.status == "error"]
    if failed:
        raise VrbenchError(f"tasks failed: {'; '.join(failed)}")
    shutil.rmtree(job.output, ignore_errors=True)
    kept = scores_only(done.record, done.samples)
    save_run(job.output, kept.record, kept.samples, compressed=True)


def profile(job: StepJob) -> None:
    """Measure time and memory of training steps at the paper's shapes; measured rows are kept."""
    from vrbench.training.profile import profile as measure

    measure(out=job.output, device=job.options.device)


FUNCTIONS: dict[str, StepFunction] = {f.__name__: f for f in (train, layers, prune, restore, run, profile)}
"""Kind of a step -> its function."""
