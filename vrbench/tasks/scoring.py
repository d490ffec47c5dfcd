"""The scorer: the score of one item from the harness's output, with the scorer's metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]

Aggregates = Sequence[tuple[int, Mapping[str, float]]]
"""For each part of a task (a config): number of documents, and the harness's aggregates by metric."""

OPTION_COLUMNS = ("options", "choices")
"""Columns in which data sets hold a list of options."""


@dataclass(frozen=True)
class ItemKey:
    """The identity of an item within its task, as in `schemas.Sample`."""

    id: str
    cluster: str
    group: str
    unit: str


@dataclass(frozen=True)
class ScoredDocument:
    """One document after the harness scored it.

    Attributes:
        task: the harness's task object.
        doc: its columns without images.
        responses: the model's answers to its requests, after the harness's filter.
        metrics: the output of the harness's `process_results`.
        key: id, cluster, group and unit of the item.
    """

    task: Any
    doc: Row
    responses: Sequence[Any]
    metrics: Mapping[str, Any]
    key: ItemKey


@dataclass(frozen=True)
class ItemScore:
    """The part of a document's score that `schemas.Sample` stores."""

    score: float
    answer: str
    target: str
    weight: float = 1.0
    loglikelihoods: tuple[float, ...] = ()
    unscored: str = ""


@dataclass(frozen=True)
class ScorerExample:
    """An item with answers that must score 1 and answers that must score 0; tests run them through the harness.

    An answer is a text, or for options a list of (log-likelihood, is greedy).
    """

    item: Row
    right: Sequence[Any]
    wrong: Sequence[Any]


@dataclass(frozen=True)
class Scorer:
    """One scoring by a harness, and which of its numbers belongs to an item.

    Attributes:
        name: what a task file calls it.
        score: document -> score of the item.
        rule: what the score of an item is, in a sentence; docs/tasks.md lists them.
        harnesses: harnesses whose tasks it can score.
        official: the harness's aggregates -> the value that `metric` must give over the items, on its scale.
        metric: key of `METRICS` for that check.
        template: YAML file of the harness that scores a task with its own prompt; none where `config` is complete.
        config: what the harness is given in addition to prompt and target, for a task with its own prompt.
        overrides: reader of the harness's YAML files -> keys that replace those of the harness's YAML.
        decimals: decimals to which the harness rounds its aggregate (0 to 1); none where it does not round.
        version: raised by one whenever some answer is scored differently (see `vrbench.versions`).
        needs: optional keys of a task file that it needs.
        columns: columns of an item that the harness's scoring reads in addition to prompt and target.
        check_target: (right answer as the harness gives it, row) -> what is wrong with it, or "".
        check_units: rows -> (number, problem) of rows whose partners in a unit are missing.
        credits_unreadable: whether an answer that cannot be read may score, so that points say nothing about reading.
        examples: see `ScorerExample`.
    """

    name: str
    score: Callable[[ScoredDocument], ItemScore]
    rule: str
    harnesses: tuple[str, ...]
    official: Callable[[Aggregates], float]
    metric: str = "mean"
    template: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    overrides: Callable[[Callable[[str], Mapping[str, Any]]], Mapping[str, Any]] | None = None
    decimals: int | None = None
    version: int = 1
    needs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    check_target: Callable[[Any, Row], str] = lambda target, row: default_target_check(target, row)
    check_units: Callable[[Iterable[Row]], Iterator[tuple[int, str]]] | None = None
    credits_unreadable: bool = False
    examples: tuple[ScorerExample, ...] = ()

    @property
    def is_generated(self) -> bool:
        """Whether it scores generated text and not log-likelihoods."""
        return "lmms-eval" in self.harnesses or self.config.get("output_type") == "generate_until"


def mean_of(name: str, scale: float = 100) -> Callable[[Aggregates], float]:
    """Return the mean of an aggregate over a task's parts, weighted by their documents."""

    def official(parts: Aggregates) -> float:
        return scale * sum(n * aggregates[name] for n, aggregates in parts) / sum(n for n, _ in parts)

    return official


def is_empty(value: Any) -> bool:
    """Return whether a value is None, blank, or a list of such values."""
    if isinstance(value, list):
        return all(is_empty(part) for part in value)
    return value is None or (isinstance(value, str) and not value.strip())


def invalid_target_message(target: Any, options: Sequence[Any]) -> str:
    """Return the error message for a right answer that is not an option."""
    return f"the right answer, {target!r}, is none of the {len(options)} options"


def check_option(target: Any, options: Sequence[Any]) -> str:
    """Check that a right answer, or each of several, is an option: by its number from 0, or by its text."""
    for gold in target if isinstance(target, list) else [target]:
        known = 0 <= gold < len(options) if isinstance(gold, int) else gold in options
        if not known:
            return invalid_target_message(gold, options)
    return ""


def default_target_check(target: Any, row: Row) -> str:
    """Accept any right answer, unless the row has a list of options and the answer is a number or letter of them."""
    options: list[Any] = next((row[name] for name in OPTION_COLUMNS if isinstance(row.get(name), list)), [])
    if not options:
        return ""
    if isinstance(target, int):
        return check_option(target, options)
    if isinstance(target, str) and len(target.strip()) == 1 and "A" <= target.strip() <= "Z":
        stored = str(row.get("answer"))  # a harness may count a negative number from the end
        if stored[:1] == "-" and stored[1:].isdecimal():
            return invalid_target_message(row["answer"], options)
        known = ord(target.strip()) - ord("A") < len(options) or target in options
        return "" if known else invalid_target_message(target, options)
    return ""
