"""How lm-eval's scorings of text tasks are read."""

from __future__ import annotations

from vrbench.engine.scoring import Document, Mark, Scorer, mean_of


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


TEXT: dict[str, Scorer] = {
    "exact_match": Scorer(
        _exact_match,
        "mean",
        mean_of("exact_match", 100),
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
        mean_of("acc", 100),
        config={
            "output_type": "multiple_choice",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
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
    ),
}
