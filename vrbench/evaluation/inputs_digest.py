"""Digests over what determines a run's answers and scores, as records hold them; no data and no model are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrbench.checkpoints.image_settings import HARNESS
from vrbench.core.io import digest_of
from vrbench.core.provenance import VRBENCH
from vrbench.core.schemas import SCHEMA_VERSION, RunSettings
from vrbench.tasks.spec import TaskSpec

DESCRIPTIVE = {"title", "licence", "citation", "url", "note", "suites", "n", "chance", "groups", "judge", "column"}
"""Fields of a task that affect neither an answer nor a score."""

DEFINING = (
    "harness", "harness_task", "scorer", "fewshot", "description", "prompt", "choices", "target", "delimiter",
    "generation", "ocr_tokens",
)  # fmt: skip
"""Fields of a task that determine what is asked over given data, and how answers are generated and scored."""


def definition_digest(spec: TaskSpec) -> str:
    """Return the sha256 over a task's prompt, examples, generation and scoring, without its data."""
    return digest_of(spec.model_dump(mode="json", include=set(DEFINING)))


def task_inputs(
    spec: TaskSpec, data_digest: str, harness: str, code: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return the fields of a task that determine answers and scores.

    Args:
        data_digest: sha256 over the items used.
        harness: name and version.
        code: versions of our own code, as in `TaskResult.code`; without any, as in vrbench 0.2.0, nothing is added.
    """
    definition = spec.model_dump(mode="json", exclude=DESCRIPTIVE)
    if spec.data.kind == "file":
        del definition["data"]["name"]  # the path of a file is not part of the task; its items are
    return {"spec": definition, "data": data_digest, "harness": harness, **({"code": dict(code)} if code else {})}


def inputs_digest(checkpoint_digest: str, tasks: Mapping[str, Mapping[str, Any]], settings: RunSettings) -> str:
    """Return the sha256 over everything that determines a checkpoint's answers and scores.

    Args:
        tasks: id -> `task_inputs`.
        settings: limit, seed, dtype, environment, image settings, `deterministic` and backend are used.
    """
    inputs: dict[str, Any] = {"checkpoint": checkpoint_digest, "tasks": tasks}
    inputs |= {"limit": settings.limit, "seed": settings.seed, "dtype": settings.dtype}
    if settings.environment:  # runs of vrbench before 0.3 have none
        inputs["environment"] = settings.environment
    if settings.image_settings != HARNESS:
        inputs["image_settings"] = settings.image_settings
    if settings.deterministic:
        inputs["deterministic"] = True
    if settings.backend != VRBENCH:
        inputs["backend"] = settings.backend
    return digest_of({"schema": SCHEMA_VERSION, **inputs})
