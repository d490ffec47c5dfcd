"""What `--backend vllm` cannot do, found before any weights are loaded; nothing goes to another backend instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.families import FAMILIES, family_of
from vrbench.checkpoints.generation_config import score_settings
from vrbench.checkpoints.image_settings import PAD
from vrbench.core.device import device_kind
from vrbench.core.provenance import VLLM, package_version
from vrbench.evaluation.built_task import SubtaskData, build_requests
from vrbench.evaluation.requests import LogLikelihoodRequest
from vrbench.evaluation.run_config import RunConfig
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named

OWN = "leave out --backend vllm for it"
SEVERAL_TOKENS = (
    "it needs log-likelihoods of several tokens, which vLLM does not compute at a useful speed; leave out "
    "--backend vllm for this task"
)
DEVICES = ("cuda", "cuda:0")
LEAST_VERSION = (0, 21)
"""The first with `logprob_token_ids`."""

ITEMS = 4
"""Items of a task whose options are looked at before the run; the others are when the task is reached."""


def option_errors(config: RunConfig, checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Yield why vLLM cannot be used here, or not for a checkpoint, one sentence each.

    Args:
        config: with a real device and dtype.
    """
    if config.backend != VLLM:
        return
    version = package_version("vllm")
    if not version:
        yield "backend is vllm, which is not installed; pip install 'vrbench[vllm]'"
    elif tuple(int(part) for part in version.split(".")[:2]) < LEAST_VERSION:
        yield f"backend is vllm, of which version {version} is installed; at least 0.21 is needed"
    if config.device not in DEVICES:
        other = "CUDA_VISIBLE_DEVICES chooses its GPU" if device_kind(config.device) == "cuda" else "it needs a GPU"
        yield f"backend is vllm and device is {config.device}; {other}"
    if config.dtype == "float32":
        yield "backend is vllm and dtype is float32, in which only vrbench's own engine is exact; use bfloat16"
    if config.device_map or config.tp:
        yield "backend is vllm, which uses one GPU here; leave out --device-map and --tp"
    if config.deterministic:
        yield "backend is vllm, whose answers depend on what else is in the batch; --deterministic is for vrbench's own"
    if config.image_settings == PAD:
        yield "backend is vllm and image settings are 'pad', which it does not have; use checkpoint or harness"
    for checkpoint in checkpoints:
        yield from _checkpoint_errors(checkpoint)


def _checkpoint_errors(checkpoint: Checkpoint) -> Iterator[str]:
    if not family_of(checkpoint).vllm:
        kind = "needs code of its own" if checkpoint.root.code else f"is of family {checkpoint.family!r}"
        served = ", ".join(name for name, family in FAMILIES.items() if family.vllm)
        yield f"{checkpoint.id} {kind}; --backend vllm is for {served}: {OWN}"
    elif settings := score_settings(checkpoint.root.path):
        yield f"the generation config of {checkpoint.id} sets {', '.join(settings)}, which vLLM does otherwise: {OWN}"


def task_errors(
    config: RunConfig, checkpoints: Sequence[Checkpoint], tasks: Sequence[tuple[TaskSpec, Sequence[SubtaskData]]]
) -> Iterator[str]:
    """Yield the tasks that vLLM cannot answer for a checkpoint: a text's log-likelihood, options of several tokens.

    Args:
        checkpoints: without errors.
        tasks: each with the items that are used.
    """
    likely = [(spec, subtasks) for spec, subtasks in tasks if not scorer_named(spec.scorer).is_generated]
    if config.backend != VLLM or not likely:
        return
    from vrbench.models.load import load_without_weights

    found: dict[str, list[str]] = {}
    for checkpoint in checkpoints:
        vlm = load_without_weights(checkpoint)
        for spec, subtasks in likely:
            *_, requests = build_requests(spec, [_first_items(spec, subtasks[0])], vlm)
            if any(len(r.continuation) > 1 for of in requests for r in of if isinstance(r, LogLikelihoodRequest)):
                found.setdefault(spec.id, []).append(checkpoint.id)
    yield from _messages(found)


def _messages(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for task, names in found.items():
        yield f"task {task!r} with {', '.join(names)}: {SEVERAL_TOKENS}"


def _first_items(spec: TaskSpec, subtask: SubtaskData) -> SubtaskData:
    from datasets import DatasetDict

    from vrbench.data import tables

    count = range(min(ITEMS, len(subtask.positions)))
    rows = {**subtask.rows, spec.data.split: tables.select(subtask.rows[spec.data.split], count)}
    return SubtaskData(subtask.config, subtask.positions[: len(count)], DatasetDict(rows))
