"""One task through its harness: the harness builds the requests, the engine answers, the harness scores.

Both harnesses have the same task object (`build_all_requests`, `apply_filters`, `process_results`, `aggregation`), so
that one walk does for both. It is what their `simple_evaluate` does for one task in one process, without its
import time, bootstrap and files; `benchmarks/parity.py` and the tests hold it against the real one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample
from vrbench.data import loading
from vrbench.evaluation import aggregates
from vrbench.evaluation.built_task import adapter_of
from vrbench.evaluation.built_task import harness_config as harness_config
from vrbench.evaluation.built_task import task_of as task_of
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import Unanswered
from vrbench.tasks.registry import TaskSpec
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import ItemScore, ScoredDocument, copied

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

TALKATIVE = ("lmms_eval", "utils", "en_utils")
"""Loggers of lmms-eval; the names of its tasks' modules are those that its YAML files give them."""


@dataclass(frozen=True)
class SubtaskData:
    """The items of one config of a task that are used.

    Attributes:
        config: name of the config, "default" where there is none.
        positions: places of the items in the whole split.
        rows: split -> rows; the scored split holds the items at the positions alone.
    """

    config: str
    positions: Sequence[int]
    rows: DatasetDict


@dataclass(frozen=True)
class TaskScores:
    """What came out of a task.

    Attributes:
        samples: one an item, in the order of configs and positions.
        official: the harness's aggregates; named "config/metric" where a task has several configs, and beside them
            the group's "metric" where the harness has one; named "metric,filter" where it has several filters.
    """

    samples: tuple[Sample, ...]
    official: dict[str, float]


@dataclass(frozen=True)
class BuiltTask:
    """A task with its requests, which can be answered and scored any number of times.

    Attributes:
        spec: the task.
        parts: the items that are used.
        tasks: the harness's task object of each part, its requests built.
        documents: of each part, the rows that are scored and what each is within its task.
        requests: of each part, the requests of each row.
    """

    spec: TaskSpec
    parts: Sequence[SubtaskData]
    tasks: Sequence[Any]
    documents: Sequence[Sequence[tuple[loading.ItemKey, Any]]]
    requests: Sequence[Mapping[int, Sequence[Any]]]


class Marking:
    """How one document is scored: by the harness, every time anew."""

    def metrics(self, task: Any, identity: loading.ItemKey, doc: Any, responses: Sequence[Any]) -> Mapping[str, Any]:
        """What the harness's `process_results` gives for filtered responses."""
        random.seed(identity.id)  # what is drawn depends on the item alone: MMMU's guesses where no letter can be read
        # A scorer may change the document it is given (TextVQA's does), so it gets a copy.
        scored: Mapping[str, Any] = task.process_results(copied(doc), list(responses))
        return scored

    def mark(self, spec: TaskSpec, document: ScoredDocument) -> ItemScore:
        """What a sample keeps of a scored document."""
        return SCORERS[spec.scorer].mark(document)


def build_task(spec: TaskSpec, parts: Sequence[SubtaskData], model_name: str = "") -> BuiltTask:
    """Build a task's requests; nothing is asked.

    Args:
        parts: the items that are used, at least one.
        model_name: as in `task_of`; it decides prompts, and no score of an answer.
    """
    with quiet():
        tasks = [task_of(spec, part, model_name) for part in parts]
        for task in tasks:
            task.build_all_requests()
        documents = [_documents(spec, part, task) for part, task in zip(parts, tasks, strict=True)]
    return BuiltTask(spec, parts, tasks, documents, [requests_of(task) for task in tasks])


def evaluate_task(
    spec: TaskSpec, parts: Sequence[SubtaskData], answerer: InferenceEngine, title: str = ""
) -> TaskScores:
    """Run one task.

    Args:
        parts: the items that are used, at least one.
        title: what the progress bar says; the task's id if left out.

    Raises:
        RuntimeError: our figure over the samples is not the harness's aggregate.
    """
    prepared = build_task(spec, parts, answerer.vlm.prompt_format.lmms_model_name)
    adapter = adapter_of(spec)
    kind = adapter.LmEvalModel if spec.harness == "lm-eval" else adapter.LmmsEvalModel
    model = kind(answerer, title or spec.id)
    model.tasks = {task.config.task: task for task in prepared.tasks}
    model.task_dict = {task.config.task: task.dataset for task in prepared.tasks}
    answer_all(model, [instance for task in prepared.tasks for instance in task.instances])
    return score_task(prepared, model.prompt_digest)


def score_task(prepared: BuiltTask, prompt_digest: Callable[[Any], str], marking: Marking | None = None) -> TaskScores:
    """Score a task whose requests are answered.

    Args:
        prompt_digest: request -> sha256 over what the model was shown.
        marking: how each document is scored, if not plainly by the harness.

    Raises:
        RuntimeError: our figure over the samples is not the harness's aggregate.
    """
    spec, marking = prepared.spec, marking or Marking()
    samples: list[Sample] = []
    scored: list[tuple[int, dict[str, float]]] = []
    shown: list[tuple[int, dict[str, float]]] = []
    with quiet(), preserve_rng():
        for number, task in enumerate(prepared.tasks):
            not_asked = _not_asked(prepared.requests[number])
            by_filter = _score(prepared, number, marking, not_asked)
            primary = _primary(spec, list(by_filter))
            marks = {row: marking.mark(spec, document) for row, document in by_filter[primary].items()}
            marks |= {row: ItemScore(0.0, "", "", unscored=reason) for row, reason in not_asked.items()}
            samples += _samples(prepared, number, marks, prompt_digest)
            whole = _in_whole_units(prepared.documents[number], not_asked)
            kept = {name: [found[row] for row in whole] for name, found in by_filter.items()}
            figures = {name: aggregates.aggregate(task, documents) for name, documents in kept.items()}
            scored.append((len(whole), figures[primary]))
            shown.append((len(whole), aggregates.named(figures)))
    configs = [part.config for part in prepared.parts]
    outcome = TaskScores(tuple(samples), aggregates.official(adapter_of(spec), configs, shown))
    if SCORERS[spec.scorer].check == "mme":
        scored[0][1]["subtasks"] = len({sample.group for sample in samples})
    aggregates.check(spec, samples, scored)
    return outcome


def answer_all(model: Any, instances: Sequence[Any]) -> None:
    """Ask a harness's model all requests, those of one type together, and hand each its answer."""
    by_type: dict[str, list[Any]] = {}
    for instance in instances:
        by_type.setdefault(instance.request_type, []).append(instance)
    for kind, asked in by_type.items():
        for instance, answer in zip(asked, getattr(model, kind)(asked), strict=True):
            instance.resps.append(answer)


def requests_of(task: Any) -> dict[int, list[Any]]:
    """Document's number -> its requests, in the harness's order."""
    requests: dict[int, list[Any]] = {}
    for instance in task.instances:
        requests.setdefault(instance.doc_id, []).append(instance)
    return {number: sorted(asked, key=lambda instance: instance.idx) for number, asked in requests.items()}


def documents_of(task: Any) -> Any:
    """The rows of a task that are scored, without their pictures where the harness has them so."""
    return getattr(task, "eval_docs_no_media", None) or task.eval_docs


def _documents(spec: TaskSpec, part: SubtaskData, task: Any) -> list[tuple[loading.ItemKey, Any]]:
    return [
        (loading.identify(spec, doc, part.config, position), doc)
        for position, doc in zip(part.positions, documents_of(task), strict=True)
    ]


def _score(
    prepared: BuiltTask, number: int, marking: Marking, not_asked: Container[int]
) -> dict[str, dict[int, ScoredDocument]]:
    """Filter the answers and score each document under each of the task's filters, as the harness's evaluator does.

    Returns:
        Filter -> row -> document; rows that were not asked are left out.
    """
    task = prepared.tasks[number]
    task.apply_filters()
    names = list(task.instances[0].filtered_resps)
    rows = [row for row in range(len(prepared.documents[number])) if row not in not_asked]
    return {name: {row: _filtered(prepared, number, row, name, marking) for row in rows} for name in names}


def _filtered(prepared: BuiltTask, number: int, row: int, name: str, marking: Marking) -> ScoredDocument:
    """A document of one part as it is scored under one filter."""
    task, (identity, doc) = prepared.tasks[number], prepared.documents[number][row]
    responses = [instance.filtered_resps[name] for instance in prepared.requests[number][row]]
    return ScoredDocument(task, doc, responses, marking.metrics(task, identity, doc, responses), identity)


def _not_asked(requests: Mapping[int, Sequence[Any]]) -> dict[int, str]:
    """Row -> why one of its requests was not put to the model; of the rows that have such a request."""
    found = {}
    for row, asked in requests.items():
        given = (instance.resps[0] for instance in asked)
        reason = next((answer.reason for answer in given if isinstance(answer, Unanswered)), "")
        if reason:
            found[row] = reason
    return found


def _in_whole_units(documents: Sequence[tuple[loading.ItemKey, Any]], not_asked: Container[int]) -> list[int]:
    """Rows that the harness can put together: not those of a unit (pair, rotations) that was not asked as a whole."""
    homes = [(identity.group, identity.unit or identity.id) for identity, _ in documents]
    torn = {home for row, home in enumerate(homes) if row in not_asked}
    return [row for row, home in enumerate(homes) if home not in torn]


def _primary(spec: TaskSpec, filters: Sequence[str]) -> str:
    """The filter that scores: the one that the task names, or the harness's first."""
    if spec.filter and spec.filter not in filters:
        raise VrbenchError(f"task {spec.id!r}: there is no filter {spec.filter!r}; there are {', '.join(filters)}")
    return spec.filter or filters[0]


@contextlib.contextmanager
def preserve_rng() -> Iterator[None]:
    """What is drawn at random within changes nothing of what is drawn afterwards."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _samples(
    prepared: BuiltTask, number: int, marks: Mapping[int, ItemScore], prompt_digest: Callable[[Any], str]
) -> Iterator[Sample]:
    for row, (identity, _) in enumerate(prepared.documents[number]):
        mark, asked = marks[row], prepared.requests[number][row]
        yield Sample(
            id=identity.id,
            cluster=identity.cluster,
            group=identity.group,
            unit=identity.unit,
            score=mark.score,
            weight=mark.weight,
            answer=mark.answer,
            target=mark.target,
            loglikelihoods=mark.loglikelihoods,
            responses=tuple(instance.resps[0] for instance in asked),
            prompt_digest=prompt_digest(asked[0]),
            unscored=mark.unscored,
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The harnesses print, log and draw progress bars; only what they raise is wanted."""
    from loguru import logger

    for name in TALKATIVE:
        logger.disable(name)
    lm_eval = logging.getLogger("lm_eval")
    if lm_eval.level != logging.ERROR:  # setting it anew empties the caches of all loggers, slow for every single item
        lm_eval.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def select_items(spec: TaskSpec, loaded: Mapping[str, DatasetDict], limit: int | None, seed: int) -> list[SubtaskData]:
    """The items of a task that are used under a limit."""
    from datasets import DatasetDict

    parts = []
    for config, positions in loading.select(loaded, spec, limit, seed).items():
        rows: dict[str, Dataset] = dict(loaded[config])
        rows[spec.data.split] = rows[spec.data.split].select(positions)
        parts.append(SubtaskData(config, tuple(positions), DatasetDict(rows)))
    return parts
