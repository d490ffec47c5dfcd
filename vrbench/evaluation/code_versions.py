"""Versions of the code that determines a checkpoint's answers to a task; see `vrbench.checkpoints.code_versions`."""

from __future__ import annotations

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.code_versions import COMPONENTS, model_versions
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named


def task_versions(checkpoint: Checkpoint, spec: TaskSpec) -> dict[str, int]:
    """Return name -> version, if above 1, of the code that determines a checkpoint's answers to a task and scores."""
    parts = ["requests", "context", "metrics"]
    if spec.harness == "lmms-eval":
        parts += ["images", "decoding"]
    else:
        parts.append("decoding" if scorer_named(spec.scorer).is_generated else "loglikelihood")
    found = {**model_versions(checkpoint), "scorer": scorer_named(spec.scorer).version}
    found |= {name: COMPONENTS[name] for name in parts}
    return {name: version for name, version in sorted(found.items()) if version > 1}
