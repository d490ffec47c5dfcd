"""One task through its harness: the harness builds the requests, the engine answers, the harness scores.

Both harnesses have the same task object (`build_all_requests`, `apply_filters`, `process_results`, `aggregation`), so
that one walk does for both. It is what their `simple_evaluate` does for one task in one process, without its
import time, bootstrap and files; `benchmarks/parity.py` and the tests hold it against the real one.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import math
import random
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench import data, metrics
from vrbench.engine.answering import Answerer
from vrbench.engine.harness_tasks import adapter_of
from vrbench.engine.harness_tasks import config_of as config_of
from vrbench.engine.harness_tasks import task_of as task_of
from vrbench.engine.scorers import SCORERS
from vrbench.engine.scoring import Document
from vrbench.errors import VrbenchError
from vrbench.records import Sample
from vrbench.registry import TaskSpec

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

TOLERANCE = 1e-9
"""Relative difference up to which our figure is the harness's."""

TALKATIVE = ("lmms_eval", "utils", "en_utils")
"""Loggers of lmms-eval; the names of its tasks' modules are those that its YAML files give them."""


@dataclass(frozen=True)
class Part:
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
class Outcome:
    """What came out of a task.

    Attributes:
        samples: one an item, in the order of configs and positions.
        official: the harness's aggregates; named "config/metric" where a task has several configs, and beside them
            the group's "metric" where the harness has one; named "metric,filter" where it has several filters.
    """

    samples: tuple[Sample, ...]
    official: dict[str, float]


def run(spec: TaskSpec, parts: Sequence[Part], answerer: Answerer, title: str = "") -> Outcome:
    """Run one task.

    Args:
        parts: the items that are used, at least one.
        title: what the progress bar says; the task's id if left out.

    Raises:
        RuntimeError: our figure over the samples is not the harness's aggregate.
    """
    adapter = adapter_of(spec)
    with quiet():
        tasks = [task_of(spec, part) for part in parts]
        for task in tasks:
            task.build_all_requests()
    model = adapter.Model(answerer, title or spec.id)
    model.task_dict = {task.config.task: task.dataset for task in tasks}
    answer_all(model, [instance for task in tasks for instance in task.instances])
    samples: list[Sample] = []
    aggregates: list[tuple[int, dict[str, float]]] = []
    shown: list[tuple[int, dict[str, float]]] = []
    with quiet():
        for task, part in zip(tasks, parts, strict=True):
            by_filter = _score(task, _identities(spec, part, task))
            primary = _primary(spec, list(by_filter))
            documents = by_filter[primary]
            samples += _samples(spec, documents, model)
            figures = {name: _aggregate(task, scored) for name, scored in by_filter.items()}
            aggregates.append((len(documents), figures[primary]))
            shown.append((len(documents), _named(figures)))
    outcome = Outcome(tuple(samples), _official(adapter, [part.config for part in parts], shown))
    if SCORERS[spec.scorer].check == "mme":
        aggregates[0][1]["subtasks"] = len({sample.group for sample in samples})
    _check(spec, outcome, aggregates)
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


def _identities(spec: TaskSpec, part: Part, task: Any) -> list[data.Identity]:
    return [
        data.identify(spec, doc, part.config, position)
        for position, doc in zip(part.positions, documents_of(task), strict=True)
    ]


def _score(task: Any, identities: Sequence[data.Identity]) -> dict[str, list[Document]]:
    """Filter the answers and score each document under each of the task's filters, as the harness's evaluator does."""
    task.apply_filters()
    requests = requests_of(task)
    docs = list(zip(identities, documents_of(task), strict=True))
    return {name: _filtered(task, docs, requests, name) for name in task.instances[0].filtered_resps}


def _filtered(
    task: Any, docs: Sequence[tuple[data.Identity, Any]], requests: Mapping[int, list[Any]], name: str
) -> list[Document]:
    """The documents as they are scored under one filter."""
    documents = []
    for number, (identity, doc) in enumerate(docs):
        responses = [instance.filtered_resps[name] for instance in requests[number]]
        # A scorer may change the document it is given (TextVQA's does), so it gets a copy.
        with drawing(identity.id):
            scored = task.process_results(copy.deepcopy(doc), list(responses))
        documents.append(Document(task, doc, responses, scored, identity))
    return documents


def _primary(spec: TaskSpec, filters: Sequence[str]) -> str:
    """The filter that scores: the one that the task names, or the harness's first."""
    if spec.filter and spec.filter not in filters:
        raise VrbenchError(f"task {spec.id!r}: there is no filter {spec.filter!r}; there are {', '.join(filters)}")
    return spec.filter or filters[0]


def _named(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Filter -> metric -> figure, as one mapping; named "metric,filter" as the harnesses do where filters are many."""
    several = len(figures) > 1
    return {
        f"{metric},{name}" if several else metric: value
        for name, found in figures.items()
        for metric, value in found.items()
    }


def _aggregate(task: Any, documents: Sequence[Document]) -> dict[str, float]:
    """The harness's aggregates by metric."""
    values: dict[str, list[Any]] = {}
    for document in documents:
        for name, value in document.metrics.items():
            values.setdefault(name, []).append(value)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, function in task.aggregation().items():
            if name in values:
                takes_args = "args" in inspect.signature(function).parameters
                more = {"args": Namespace(output_path=folder)} if takes_args else {}  # it may write a report there
                found[name] = float(function(values[name], **more))
    return found


@contextlib.contextmanager
def drawing(seed: str) -> Iterator[None]:
    """What a scorer draws at random depends on the item alone: MMMU's guesses where no letter can be read."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _samples(spec: TaskSpec, documents: Sequence[Document], model: Any) -> Iterator[Sample]:
    scorer = SCORERS[spec.scorer]
    asked = requests_of(documents[0].task)
    for number, document in enumerate(documents):
        identity, mark = document.identity, scorer.mark(document)
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
            responses=tuple(instance.resps[0] for instance in asked[number]),
            prompt_digest=model.prompt_digest(asked[number][0]),
            unscored=mark.unscored,
        )


def _official(
    adapter: Any, configs: Sequence[str], aggregates: Sequence[tuple[int, Mapping[str, float]]]
) -> dict[str, float]:
    """Each config's figures, and before them those of the whole where the harness has a group for it."""
    if len(configs) == 1:
        return dict(aggregates[0][1])
    each = {
        f"{config}/{name}": value
        for config, (_, found) in zip(configs, aggregates, strict=True)
        for name, value in found.items()
    }
    return {**adapter.group_figures(aggregates), **each}


def _check(spec: TaskSpec, outcome: Outcome, aggregates: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Our figure must be the harness's own; with unscored items it cannot be, since the harness calls them wrong."""
    if any(sample.unscored for sample in outcome.samples):
        return
    scorer = SCORERS[spec.scorer]
    metric = metrics.METRICS[scorer.check]
    ours = float(metric.value(metric.statistics(outcome.samples).sum(0)))
    theirs = scorer.official(aggregates)
    if scorer.decimals is not None:
        ours = 100 * round(ours / 100, scorer.decimals)
    if not math.isclose(ours, theirs, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise RuntimeError(f"task {spec.id}: {scorer.check} is {ours!r}, but {spec.harness} says {theirs!r}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The harnesses print, log and draw progress bars; only what they raise is wanted."""
    from loguru import logger

    for name in TALKATIVE:
        logger.disable(name)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def used(spec: TaskSpec, loaded: Mapping[str, DatasetDict], limit: int | None, seed: int) -> list[Part]:
    """The items of a task that are used under a limit."""
    from datasets import DatasetDict

    parts = []
    for config, positions in data.select(loaded, spec, limit, seed).items():
        rows: dict[str, Dataset] = dict(loaded[config])
        rows[spec.data.split] = rows[spec.data.split].select(positions)
        parts.append(Part(config, tuple(positions), DatasetDict(rows)))
    return parts
