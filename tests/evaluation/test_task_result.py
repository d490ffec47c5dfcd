"""Answers that look like no right answer of the task are told; those of honest runs are not."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import pytest

from vrbench.core.schemas import Sample
from vrbench.evaluation.task_result import warn_of_unmatched_targets
from vrbench.tasks import registry

PUBLISHED = Path(__file__).parents[2] / "leaderboards"


def samples(answers: Iterable[str], targets: Iterable[str], score: float = 0.0) -> tuple[Sample, ...]:
    return tuple(
        Sample(id=str(i), cluster=str(i), score=score, answer=a, target=t, responses=(a,))
        for i, (a, t) in enumerate(zip(answers, targets, strict=True))
    )


def test_true_and_false_against_yes_and_no_is_told_with_examples() -> None:
    said = warn_of_unmatched_targets(samples(["True.", "false"] * 8, ["Yes", "No"] * 8), "mme")
    assert said.startswith(
        "none of the 16 answers looks like any right answer of the task: answers are such as 'True.', "
    )
    assert "right ones such as 'Yes', 'No';" in said
    assert (
        warn_of_unmatched_targets(samples(["False"] * 16, ["yes", "no"] * 8, 1.0), "hallusionbench") != ""
    )  # which takes it for "no"


@pytest.mark.parametrize(
    "answers",
    [
        ["True."] * 15 + ["no, it is not"],  # one of them does, though it is wrong
        ["The answer is (A)"] * 16,
    ],
)
def test_one_answer_that_looks_like_any_right_answer_is_enough(answers: list[str]) -> None:
    targets = ["A", "B"] * 8 if "(A)" in answers[0] else ["Yes", "Yes", "Yes", "No"] * 4
    assert warn_of_unmatched_targets(samples(answers, targets), "mme") == ""


def test_a_point_or_few_answers_or_unscored_ones_say_nothing() -> None:
    assert warn_of_unmatched_targets(samples(["Y"] * 16, ["Yes"] * 16, 1.0), "mme") == ""
    assert warn_of_unmatched_targets(samples(["True"] * 9, ["Yes"] * 9), "mme") == ""
    gone = tuple(s.model_copy(update={"unscored": "too long"}) for s in samples([""] * 16, ["Yes"] * 16))
    assert warn_of_unmatched_targets(gone, "mme") == ""


def test_words_of_any_script_and_in_long_answers_are_found() -> None:
    assert warn_of_unmatched_targets(samples(["答案是B。"] * 12, ["A", "B"] * 6), "mmbench") == ""
    assert warn_of_unmatched_targets(samples(["so it says New  York city"] * 12, ["new york"] * 12), "textvqa") == ""
    assert warn_of_unmatched_targets(samples(["Yesterday"] * 12, ["Yes", "No"] * 6), "mme") != ""


def test_it_says_nothing_of_the_published_answers() -> None:
    specs, looked = registry.load(), 0
    for file in sorted(PUBLISHED.glob("pocket/submissions/*/*/samples/*.jsonl.gz")):
        task = file.name.partition(".")[0]
        if task not in ("pocket_mme", "pocket_textvqa"):  # two scorers' kinds; all 45 were looked at once
            continue
        rows = [Sample.model_validate_json(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        assert warn_of_unmatched_targets(rows, specs[task].scorer) == "", file
        looked += 1
    assert looked >= 10
