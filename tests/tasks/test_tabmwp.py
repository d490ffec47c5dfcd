"""TabMWP's published rule, as a table of cases worked out by hand from its description and code."""

from __future__ import annotations

import pytest

from vrbench.tasks import tabmwp

FOUR = ["a red cup", "12", "two old dogs", "7:25 P.M."]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("C", "two old dogs"),
        ("c", "two old dogs"),
        ("(C)", "two old dogs"),
        ("C.", "two old dogs"),
        ("B. two old dogs", "12"),  # the letter counts, not the text
        ("B) two old dogs", "12"),
        ("B\n two old dogs", "two old dogs"),  # a letter at the end of a line is none
        ("(Z) 1. The answer is (B) a.", "12"),  # what is not an option's letter does not count
        ("(C) 12", "two old dogs"),
        ("The answer is B", "12"),
        ("The answer is (C) 12.", "two old dogs"),
        ("7:25 P.M.", "7:25 P.M."),
        ("two dogs", "two old dogs"),  # two of three words
        ("I see a cup", "a red cup"),
        ("F", ""),  # an option that is not there is wrong
        ("nothing of the kind", "a red cup"),  # the first of those that are alike
        ("", "a red cup"),
        ("**B**", "a red cup"),
        ("答案是B", "a red cup"),
    ],
)
def test_an_option_is_read(said: str, read: str) -> None:
    assert tabmwp.read_answer(said, FOUR) == read


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("14", "14"),
        ("14.", "14"),
        ("$1.40", "$1.40"),
        ("The answer is about ten.", "about ten"),
        ("The table shows that 7,250 of them came", "7,250"),
        ("3+4=7", "7"),
        ("3 + 4 = 7, so it is 8", "7,"),  # the comma falls when it is normalised
        ("It will be $1.40 then", "$1.40"),
        ("There are 3, later 4", "3"),
        ("There were -5", "-5"),
        ("It starts at 7:25 P.M.", "7:25 P.M."),
        ("between 3 and 14.5 cups", "14.5"),
        ("\u22125 degrees", "-5"),
        (r"$\frac{16}{95}$", "16/95"),
        ("none", "none"),
        ("", ""),
    ],
)
def test_a_number_is_read(said: str, read: str) -> None:
    assert tabmwp.read_answer(said, []) == read


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("1,000", "", "1000"),
        ("$56.40", "", "56.4"),
        ("56.456", "", "56.456"),
        ("56.4564", "", "56.456"),
        ("8.00", "", "8"),
        ("007", "", "7"),
        ("+3", "", "3"),
        ("-3/2", "", "-1.5"),
        ("1/3", "", "0.333"),
        ("12.", "", "12"),
        ("12 pounds", "pounds", "12"),
        ("12 pounds", "", "12 pounds"),
        ("1/0", "", "1/0"),
        ("1.2.3", "", "1.2.3"),
        ("", "", ""),
        ("7:25 P.M.", "", "7:25 P.M"),  # on both sides alike
    ],
)
def test_a_number_is_normalised(text: str, unit: str, number: str) -> None:
    assert tabmwp.normalise(text, unit) == number


@pytest.mark.parametrize(
    ("answer", "unit", "choices", "said", "score"),
    [
        ("8.20", "$", [], "It costs $8.2", 1),
        ("8.20", "$", [], "8.25", 0),
        ("3/4", "", [], "0.75", 1),
        ("1250", "games per year", [], "1,250 games per year", 1),
        ("linear", "", ["linear", "nonlinear"], "A", 1),
        ("linear", "", ["linear", "nonlinear"], "b", 0),
        ("linear", "", ["linear", "nonlinear"], "LINEAR", 1),  # by being the first: no word is the same
        ("nonlinear", "", ["linear", "nonlinear"], "NONLINEAR", 0),
        ("nonlinear", None, ["linear", "nonlinear"], "nonlinear.", 1),
        ("nonlinear", "", ["linear", "nonlinear"], " B\n", 1),
    ],
)
def test_an_answer_is_right_or_wrong(answer: str, unit: str | None, choices: list[str], said: str, score: int) -> None:
    doc = {"answer": answer, "unit": unit, "choices": choices}
    assert tabmwp.process_results(doc, [said]) == {"accuracy": score}
