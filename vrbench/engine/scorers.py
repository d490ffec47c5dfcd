"""How each official scoring is read: which harness YAML it comes from, and what of it is an item's score.

The scoring itself is the harness's own. A scorer here only says which of its numbers belongs to an item, and which
aggregate of the harness our figure must equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Aggregates = Sequence[tuple[int, Mapping[str, float]]]
"""Of each part of a task (a config): number of documents, and the harness's aggregates by metric."""


@dataclass(frozen=True)
class Document:
    """One document after the harness scored it.

    Attributes:
        task: the harness's task object.
        doc: its columns, pictures left out.
        responses: the model's answers to its requests, filtered as the harness does.
        metrics: what the harness's `process_results` gave.
    """

    task: Any
    doc: Mapping[str, Any]
    responses: Sequence[Any]
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Mark:
    """What `records.Sample` keeps of a document."""

    score: float
    answer: str
    target: str
    weight: float = 1.0
    loglikelihoods: tuple[float, ...] = ()
    unscored: str = ""


@dataclass(frozen=True)
class Scorer:
    """One official scoring.

    Attributes:
        mark: document -> its mark.
        check: key of `vrbench.metrics.METRICS` whose figure over the marks is the harness's own figure.
        official: that figure, from the harness's aggregates, on the scale of the metric.
        template: the harness's YAML whose scoring a task with its own prompt takes; none where `config` says it all.
        config: what the harness is told, besides prompt and target, of a task with its own prompt.
    """

    mark: Callable[[Document], Mark]
    check: str
    official: Callable[[Aggregates], float]
    template: str = ""
    config: Mapping[str, Any] | None = None


def _mme(document: Document) -> Mark:
    (result,) = document.metrics.values()
    return Mark(result["score"], document.responses[0], document.doc["answer"])


def _mme_official(parts: Aggregates) -> float:
    """Sum over subtasks of acc + acc+, as a share of 200 each; `subtasks` is what the engine counted."""
    ((_, aggregates),) = parts
    points = sum(v for name, v in aggregates.items() if name in ("mme_perception_score", "mme_cognition_score"))
    return points / (200 * aggregates["subtasks"]) * 100


def _mmbench(document: Document) -> Mark:
    """Right or wrong of one rotation, by the harness's own static matching; the harness only tells whole questions."""
    import pandas as pd
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    row = document.metrics["gpt_eval_score"]
    rows = pd.DataFrame([{**row, "prediction": str(row["prediction"])}])
    right = MMBench_Evaluator().eval_sub_data(rows, {row["index"]: row["answer"]}, static_only=True)
    return Mark(float(right), document.responses[0], row["answer"])


def _seed(document: Document) -> Mark:
    result = document.metrics["seed_all"]
    right = result["pred"].lower().strip() == result["answer"].lower().strip()
    return Mark(float(right), document.responses[0], result["answer"])


def _textvqa(document: Document) -> Mark:
    """The target that is shown is the answer that most people gave."""
    answers = Counter(document.doc.get("answers") or [""])
    return Mark(document.metrics["exact_match"], document.responses[0], answers.most_common(1)[0][0])


def _exact_match(document: Document) -> Mark:
    target = document.task.doc_to_target(document.doc)
    return Mark(float(document.metrics["exact_match"]), document.responses[0], str(target))


def _multiple_choice(document: Document) -> Mark:
    """The likeliest option is the answer, the first of several equally likely ones, as lm-eval takes it."""
    options = [str(option) for option in document.task.doc_to_choice(document.doc)]
    logs = tuple(log for log, _ in document.responses)
    gold = document.task.doc_to_target(document.doc)
    index = options.index(gold) if isinstance(gold, str) and gold in options else gold
    known = isinstance(index, int) and 0 <= index < len(options)
    return Mark(
        score=float(document.metrics["acc"]),
        answer=options[logs.index(max(logs))],
        target=options[index] if known else str(gold),
        loglikelihoods=logs,
        unscored="" if known else f"the right answer, {gold!r}, is none of the {len(options)} options",
    )


def _perplexity(document: Document) -> Mark:
    log, words = document.metrics["word_perplexity"]
    return Mark(log, "", "", weight=float(words))


def _mean_of(name: str, scale: float) -> Callable[[Aggregates], float]:
    """Mean of an aggregate over a task's parts, weighted by their documents."""

    def official(parts: Aggregates) -> float:
        return scale * sum(n * aggregates[name] for n, aggregates in parts) / sum(n for n, _ in parts)

    return official


SCORERS: dict[str, Scorer] = {
    "mme": Scorer(_mme, "mme", _mme_official, template="mme/mme.yaml"),
    "mmbench": Scorer(
        _mmbench, "circular", _mean_of("gpt_eval_score", 1), template="mmbench/mmbench_en_dev_static.yaml"
    ),
    "seed": Scorer(_seed, "mean", _mean_of("seed_all", 100), template="seedbench/seedbench.yaml"),
    "textvqa": Scorer(_textvqa, "mean", _mean_of("exact_match", 100), template="textvqa/textvqa_val.yaml"),
    "exact_match": Scorer(
        _exact_match,
        "mean",
        _mean_of("exact_match", 100),
        config={
            "output_type": "generate_until",
            "metric_list": [
                {
                    "metric": "exact_match",
                    "aggregation": "mean",
                    "higher_is_better": True,
                    "ignore_case": True,
                    "ignore_punctuation": True,
                }
            ],
        },
    ),
    "multiple_choice": Scorer(
        _multiple_choice,
        "mean",
        _mean_of("acc", 100),
        config={
            "output_type": "multiple_choice",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
    ),
    "perplexity": Scorer(
        _perplexity,
        "perplexity",
        _mean_of("word_perplexity", 1),
        config={
            "output_type": "loglikelihood_rolling",
            "metric_list": [
                {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
            ],
        },
    ),
}
