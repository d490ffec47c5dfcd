"""A text task through vrbench and through lm-eval with its own model class around the same weights, item by item."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness_models import LmEvalModel
from vrbench.evaluation.built_task import SubtaskData, harness_config
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.task_scores import TaskScores
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import ItemKey, ScoredDocument
from vrbench.tasks.spec import GenerationSettings, TaskSpec

ALLOWED = 1e-4
"""Nats by which a log-likelihood in float32 may differ, and the share by which a figure made of them may."""

GROUPS = {
    "mmlu": "mmlu/default/_mmlu.yaml",
    "mmlu_0shot": "mmlu/default/_mmlu.yaml",
    "bbh": "bbh/cot_fewshot/_bbh_cot_fewshot.yaml",
    "ceval": "ceval/_ceval-valid.yaml",
    "cmmlu": "cmmlu/_cmmlu.yaml",
}
"""Task -> lm-eval's own file on how its subtasks make one figure."""

SMOOTH = ("mc2", "perplexity", "last_word")
"""Scorers with figures that move with each log-likelihood."""


@dataclass(frozen=True)
class TextLine:
    """One text task's outcome.

    Attributes:
        parts: subtasks among the items.
        ours, theirs: the primary figure, 0 to 1 (or a perplexity), as vrbench and as lm-eval have it.
        difference: the greatest difference of a log-likelihood in nats; none where text is generated.
        flips: items whose answer (the option chosen, or the filtered text) differs.
        generations: generated texts that differ before filtering; none where nothing is generated.
        figures: aggregated metrics compared, those of subtasks and groups among them.
        unequal: names of those that differ.
        unscored: items without a usable right answer, which lm-eval counts as wrong.
        seconds: of vrbench and of lm-eval; vrbench's is 0 where some answers were there from a run that was killed.
    """

    task: str
    items: int
    parts: int
    ours: float
    theirs: float
    difference: float | None
    flips: int
    generations: int | None
    figures: int
    unequal: tuple[str, ...]
    unscored: int
    seconds: tuple[float, float]

    @property
    def equal(self) -> bool:
        """Whether nothing differs by more than is allowed in float32."""
        close = self.difference is None or self.difference <= ALLOWED
        return close and not self.flips and not self.generations and not self.unequal


def compare(
    spec: TaskSpec, parts: Sequence[SubtaskData], answerer: Any, reference: Any, fresh: bool = True
) -> TextLine:
    """Run the items both ways.

    Args:
        answerer: vrbench's side.
        reference: lm-eval's model, such as `HFLM(pretrained=<the same model>, batch_size=1)`.
        fresh: whether the answerer's store was empty, so that its seconds count.

    Raises:
        RuntimeError: lm-eval's prompts are not those that vrbench answered.
    """
    from vrbench.evaluation import lm_eval_adapter

    start = time.perf_counter()
    outcome = evaluate_task(spec, parts, answerer)
    ours_seconds = time.perf_counter() - start
    tasks = {p.config: lm_eval_adapter.LmEvalTask(harness_config(spec, p.config), p.rows, spec.fewshot) for p in parts}
    start = time.perf_counter()
    found = evaluated(spec, tasks, reference)
    theirs_seconds = time.perf_counter() - start
    asked = answerer.computed
    texts = [_texts(task, LmEvalModel(answerer)) for task in tasks.values()]
    if answerer.computed != asked:
        raise RuntimeError(f"{spec.id}: lm-eval asked {answerer.computed - asked} other requests")
    theirs = _figures(spec, tasks, found)
    differences, flips = _items(spec, tasks, found, outcome)
    primary = _primary(spec, outcome)
    return TextLine(
        task=spec.id,
        items=len(outcome.samples),
        parts=len(parts),
        ours=_whole(primary, spec, outcome.official, parts),
        theirs=_whole(primary, spec, theirs, parts),
        difference=max(differences, default=None),
        flips=flips,
        generations=sum(texts) if generates(spec) else None,
        figures=len(theirs),
        unequal=tuple(sorted(n for n in theirs | outcome.official if not _same(spec, n, outcome.official, theirs))),
        unscored=sum(bool(sample.unscored) for sample in outcome.samples),
        seconds=(ours_seconds if fresh else 0.0, theirs_seconds),
    )


def together(lines: Sequence[TextLine]) -> TextLine:
    """One line for shares of one task: figures weighted by items, the greatest difference, the rest added up."""
    if len(lines) == 1:
        return lines[0]
    items = sum(line.items for line in lines)
    texts = [line.generations for line in lines if line.generations is not None]
    return TextLine(
        task=lines[0].task,
        items=items,
        parts=sum(line.parts for line in lines),
        ours=sum(line.ours * line.items for line in lines) / items,
        theirs=sum(line.theirs * line.items for line in lines) / items,
        difference=max((line.difference for line in lines if line.difference is not None), default=None),
        flips=sum(line.flips for line in lines),
        generations=sum(texts) if texts else None,
        figures=sum(line.figures for line in lines),
        unequal=tuple(name for line in lines for name in line.unequal),
        unscored=sum(line.unscored for line in lines),
        seconds=tuple(sum(s) if all(s) else 0.0 for s in zip(*(line.seconds for line in lines), strict=True)),
    )


def generates(spec: TaskSpec) -> bool:
    """Whether the answers to the task's items are generated texts."""
    return harness_config(spec, spec.data.configs[0])["output_type"] == "generate_until"


def limited(spec: TaskSpec, tokens: int | None) -> TaskSpec:
    """The task with shorter generated answers, the same for both sides; the texts that end them stay the harness's."""
    if tokens is None or not generates(spec):
        return spec
    until = harness_config(spec, spec.data.configs[0])["generation_kwargs"]["until"]
    ends = (until,) if isinstance(until, str) else tuple(until)
    return spec.model_copy(update={"generation": GenerationSettings(max_new_tokens=tokens, until=ends)})


def evaluated(spec: TaskSpec, tasks: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """What lm-eval's evaluator says of the tasks, and of their group where lm-eval has one."""
    from lm_eval.api.group import Group
    from lm_eval.evaluator import evaluate

    from vrbench.evaluation.lm_eval_adapter import LmEvalAdapter

    groups = {}
    if len(tasks) > 1 and spec.id in GROUPS:
        told = LmEvalAdapter().read_config(GROUPS[spec.id])
        group = Group.from_config({**told, "group": spec.id, "task": []})
        for task in tasks.values():
            group.add(task)
        groups[spec.id] = group
    named = {task.config.task: task for task in tasks.values()}
    return dict(evaluate(model, {"tasks": named, "groups": groups}, bootstrap_iters=0))


def _items(
    spec: TaskSpec, tasks: Mapping[str, Any], found: Mapping[str, Any], outcome: TaskScores
) -> tuple[list[float], int]:
    """Differences of all log-likelihoods, and items whose answers differ; both sides' answers are read alike."""
    marks = []
    for task in tasks.values():
        filters = list(task.instances[0].filtered_resps)
        name = spec.filter or filters[0]
        for said in (s for s in found["samples"][task.config.task] if s["filter"] == name):
            metrics = {metric: said[metric] for metric in said["metrics"]}
            identity = ItemKey(str(said["doc_id"]), "", "", "")
            scored = ScoredDocument(task, said["doc"], said["filtered_resps"], metrics, identity)
            marks.append(SCORERS[spec.scorer].score(scored))
    pairs = list(zip(outcome.samples, marks, strict=True))
    differences = [
        abs(our - their)
        for sample, mark in pairs
        for our, their in zip(sample.loglikelihoods, mark.loglikelihoods, strict=True)
    ]
    return differences, sum(sample.answer != mark.answer for sample, mark in pairs)


def _texts(task: Any, model: Any) -> int:
    """Generated texts that differ before filtering."""
    instances = [instance for instance in task.instances if instance.request_type == "generate_until"]
    if not instances:
        return 0
    ours = model.generate_until(instances)
    return sum(text != instance.resps[0] for text, instance in zip(ours, instances, strict=True))


def _figures(spec: TaskSpec, tasks: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """lm-eval's aggregates, named as `harness.Outcome.official` names them."""
    several_filters = len(next(iter(tasks.values())).instances[0].filtered_resps) > 1
    places = {task.config.task: f"{config}/" if len(tasks) > 1 else "" for config, task in tasks.items()}
    if len(tasks) > 1:
        places[spec.id] = ""
    figures = {}
    for name, prefix in places.items():
        for key, value in found["results"].get(name, {}).items():
            if "," in key and "_stderr," not in key:
                figures[prefix + (key if several_filters else key.split(",")[0])] = float(value)
    return figures


def _primary(spec: TaskSpec, outcome: TaskScores) -> str:
    metric = {"exact_match": "exact_match", "multiple_choice_norm": "acc_norm", "perplexity": "word_perplexity"}
    name = metric.get(spec.scorer, "acc")
    several = f"{name},{spec.filter}"
    return several if any(key.endswith(several) for key in outcome.official) else name


def _whole(name: str, spec: TaskSpec, figures: Mapping[str, float], parts: Sequence[SubtaskData]) -> float:
    """The figure of all parts together; weighted here where lm-eval has no group."""
    if name in figures:
        return figures[name]
    sizes = {part.config: len(part.positions) for part in parts}
    return sum(n * figures[f"{config}/{name}"] for config, n in sizes.items()) / sum(sizes.values())


def _same(spec: TaskSpec, name: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> bool:
    if name not in ours or name not in theirs:
        return False
    tolerance = ALLOWED if spec.scorer in SMOOTH else 1e-12
    return math.isclose(ours[name], theirs[name], rel_tol=tolerance, abs_tol=tolerance)
