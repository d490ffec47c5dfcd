"""Evaluation of the model in training on items of dev splits, by the engine that `vrbench run` uses."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vrbench.core.errors import collect_errors
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import PlannedTask, plan_task
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec
from vrbench.training.recipe import EvalSettings

if TYPE_CHECKING:
    import torch

    from vrbench.models.base_vlm import BaseVLM

DevScores = Callable[[], dict[str, float]]
"""Evaluates the model as it is; returns task -> score on the task's scale."""


def plan_dev_tasks(settings: EvalSettings, seed: int, errors: list[str]) -> tuple[PlannedTask, ...]:
    """Return the tasks of a recipe with the items that they are evaluated on in training.

    Args:
        settings: the recipe's section `eval`.
        seed: of the choice of items under a limit.
        errors: gets what is wrong: unknown tasks, splits that results are reported on, data that are not there.
    """
    root, own_tasks = settings.data_root or None, settings.include_path or None
    config = RunConfig(limit=settings.limit, seed=seed, data_root=root, include_path=own_tasks)
    planned: list[PlannedTask] = []
    with collect_errors(errors):
        found = registry.load_for(settings.tasks, own_tasks)
        errors += found.errors
        for spec in registry.select_runnable(settings.tasks, found.specs)[0]:
            dev = _with_split(spec, settings.split)
            refused = selection_errors(dev)
            errors += refused
            if not refused:
                with collect_errors(errors):
                    planned.append(plan_task(dev, config))
    return tuple(planned)


def _with_split(spec: TaskSpec, split: str | None) -> TaskSpec:
    data = spec.data.model_copy(update={"split": split} if split else {})
    return spec.model_copy(update={"data": data})


def selection_errors(spec: TaskSpec) -> list[str]:
    """Return why a task may not be looked at in training: its items are those that results are reported on."""
    data = spec.data
    scored = {
        (config, split)
        for shipped in registry.load().values() if shipped.data.name.lower() == data.name.lower()
        for config in shipped.data.configs for split in ([data.split] if data.kind == "file" else [shipped.data.split])
    }  # fmt: skip
    what = f"eval.tasks has {spec.id}, whose split {data.split!r}"
    advice = "set eval.split to a split that no task is scored on, such as 'dev' or 'validation'"
    if data.split == data.fewshot_split:
        return [f"{what} has the examples of its prompts; {advice}"]
    if any((config, data.split) in scored for config in data.configs) or data.split.startswith("test"):
        return [f"{what} is one that results are reported on, and may not be looked at in training; {advice}"]
    return []


def dev_scores(vlm: BaseVLM, tasks: Sequence[PlannedTask], dtype: str, seed: int) -> DevScores:
    """Return what evaluates a model that is in training on some tasks.

    Args:
        vlm: has the model; PEFT's adapters may be in its layers.
        tasks: from `plan_dev_tasks`.
        dtype: that the checkpoint will be written in, in which it is evaluated.
        seed: of the intervals.
    """
    from vrbench.evaluation.answer_store import AnswerStore
    from vrbench.evaluation.built_task import RequestCache
    from vrbench.evaluation.engine import InferenceEngine
    from vrbench.evaluation.evaluate import evaluate_task
    from vrbench.evaluation.failures import free_memory
    from vrbench.evaluation.task_result import score_fields
    from vrbench.evaluation.vision_features import VisionFeatureCache

    requests = RequestCache()

    def scores() -> dict[str, float]:
        found = {}
        with _in_dtype(vlm, dtype), _random_state(vlm.device), tempfile.TemporaryDirectory() as folder:
            free_memory()
            with AnswerStore(Path(folder) / "answers.sqlite", "in training") as store:
                features = VisionFeatureCache(shared=False)
                engine = InferenceEngine(vlm, store, features=features, show_progress=False)
                for task in tasks:
                    answered = evaluate_task(task.spec, task.subtasks, engine, cache=requests)
                    found[task.spec.id] = float(score_fields(task, answered, seed)["score"].value)
        free_memory()
        return found

    return scores


@contextmanager
def _in_dtype(vlm: BaseVLM, dtype: str) -> Iterator[None]:
    """Round all weights to the dtype that will be written, turn compiling and dropout off; restore all of it after."""
    import torch

    target, before = getattr(torch, dtype), vlm.dtype
    changed = [(p, p.data) for p in vlm.model.parameters() if p.is_floating_point() and p.dtype != target]
    training = {module: module.training for module in vlm.model.modules()}
    for parameter, values in changed:
        parameter.data = values.to(target)
    vlm.dtype = target
    vlm.model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):  # prompts have many lengths
            yield
    finally:
        vlm.dtype = before
        for parameter, values in changed:
            parameter.data = values
        for module, mode in training.items():
            module.training = mode


@contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    """Leave the random numbers of a training as they would be without an evaluation."""
    import torch

    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
