"""How lm-eval's scorings of text tasks are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vrbench.tasks.scoring import ItemScore, ScoredDocument, Scorer, mean_of


def _exact_match(document: ScoredDocument) -> ItemScore:
    """Generated text: the answer that is shown is what the filter left of it."""
    target = document.task.doc_to_target(document.doc)
    return ItemScore(float(document.metrics["exact_match"]), document.responses[0], str(target))


def _multiple_choice(document: ScoredDocument) -> ItemScore:
    """The likeliest option is the answer, the first of several equally likely ones, as lm-eval takes it."""
    options, logs = _options(document), _logs(document)
    return _chosen(document, "acc", options, logs.index(max(logs)))


def _multiple_choice_norm(document: ScoredDocument) -> ItemScore:
    """The option with the highest log-likelihood a character is the answer."""
    import numpy as np

    options, logs = _options(document), _logs(document)
    with np.errstate(divide="ignore", invalid="ignore"):
        index = int(np.argmax(np.array(logs) / np.array([float(len(option)) for option in options])))
    return _chosen(document, "acc_norm", options, index)


def _chosen(document: ScoredDocument, metric: str, options: Sequence[str], index: int) -> ItemScore:
    """A mark whose right answer is one option; where it names none, the item is unscored (lm-eval calls it wrong)."""
    task = document.task
    gold = task.doc_to_text(document.doc) if task.multiple_input else task.doc_to_target(document.doc)
    right = options.index(gold) if isinstance(gold, str) and gold in options else gold
    known = isinstance(right, int) and 0 <= right < len(options)
    return ItemScore(
        score=float(document.metrics[metric]),
        answer=options[index],
        target=options[right] if known else str(gold),
        loglikelihoods=_logs(document),
        unscored="" if known else f"the right answer, {gold!r}, is none of the {len(options)} options",
    )


def _mc2(document: ScoredDocument) -> ItemScore:
    """Share of the probability that lies on the true options; the target that is shown is the first of them."""
    options, logs = _options(document), _logs(document)
    labels = list(document.doc["mc2_targets"]["labels"])
    score = float(document.metrics["acc"])
    fault = ""
    if 1 not in labels:
        fault = "no option is marked as true"
    elif not math.isfinite(score):
        fault = "the probabilities of all options are too small to be told apart"
    return ItemScore(
        score=0.0 if fault else score,
        answer=options[logs.index(max(logs))],
        target=options[labels.index(1)] if 1 in labels else "",
        loglikelihoods=logs,
        unscored=fault,
    )


def _last_word(document: ScoredDocument) -> ItemScore:
    """Whether greedy decoding says the last word; the harness does not tell what it says instead."""
    target = str(document.task.doc_to_target(document.doc)).strip()
    right = float(document.metrics["acc"])
    return ItemScore(right, target if right else "", target, loglikelihoods=_logs(document))


def _perplexity(document: ScoredDocument) -> ItemScore:
    log, words = document.metrics["word_perplexity"]
    return ItemScore(log, "", "", weight=float(words))


def _options(document: ScoredDocument) -> list[str]:
    return [str(option) for option in document.task.doc_to_choice(document.doc)]


def _logs(document: ScoredDocument) -> tuple[float, ...]:
    return tuple(log for log, _ in document.responses)


def _mean(metric: str, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True, **more}


TEXT: dict[str, Scorer] = {
    "exact_match": Scorer(
        _exact_match,
        "mean",
        mean_of("exact_match", 100),
        config={
            "output_type": "generate_until",
            "metric_list": [_mean("exact_match", ignore_case=True, ignore_punctuation=True)],
        },
        rule="The generated text, as the harness's filter leaves it, must be the target; with a prompt of one's "
        "own without regard to case and punctuation.",
    ),
    "multiple_choice": Scorer(
        _multiple_choice,
        "mean",
        mean_of("acc", 100),
        config={"output_type": "multiple_choice", "metric_list": [_mean("acc")]},
        rule="The option with the highest log-likelihood, the first of equal ones, must be the target.",
    ),
    "multiple_choice_norm": Scorer(
        _multiple_choice_norm,
        "mean",
        mean_of("acc_norm", 100),
        config={"output_type": "multiple_choice", "metric_list": [_mean("acc"), _mean("acc_norm")]},
        rule="As multiple_choice, each log-likelihood divided by the option's length in characters.",
    ),
    "mc2": Scorer(
        _mc2,
        "mean",
        mean_of("acc", 100),
        template="truthfulqa/truthfulqa_mc2.yaml",
        rule="Share of the options' probability that lies on those that `mc2_targets` marks as true.",
        columns=("mc2_targets",),
    ),
    "last_word": Scorer(
        _last_word,
        "mean",
        mean_of("acc", 100),
        template="lambada/lambada_openai.yaml",
        rule="Greedy decoding after the prompt must give exactly the target.",
    ),
    "perplexity": Scorer(
        _perplexity,
        "perplexity",
        mean_of("word_perplexity", 1),
        config={
            "output_type": "loglikelihood_rolling",
            "metric_list": [
                {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
            ],
        },
        rule="Log-likelihood of the whole text, and its number of words.",
    ),
}
