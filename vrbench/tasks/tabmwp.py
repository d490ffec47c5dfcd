"""TabMWP's published rule: what is read out of an answer, and when that is right.

Lu et al. 2023, arXiv:2209.14610; the rule is that of their repository, lupantech/PromptPG, folder run_gpt3. It
differs in two places where that code draws at random or stops: a letter beyond the options is wrong here (their code
draws an option), and something like "1/0" or "1.2.3" is a text here (their code ends with an error).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = "ABCDEF"
ANSWER_PREFIX = "[Th]he answer is "  # as published
FIGURES = r"[\d$.,/:]+"
NUMBER = r"[-\d$.,/:]*\d"

LETTER_FORMS = (
    r"^\(([A-Za-z])\)$",  # "(b)"
    r"^([A-Za-z])$",  # "B"
    r"^([A-Za-z]). ",  # "B. a dog", "B) a dog"
    rf"{ANSWER_PREFIX}([A-Z])",
    r"^\(([A-Za-z])\) [\s\S]",  # "(B) a dog"
    rf"{ANSWER_PREFIX}\(([A-Za-z])\) [\s\S]",  # "The answer is (B) a dog"
)
"""How an option's letter may be given; the first form that names an option counts."""

NUMBER_FORMS = (
    rf"{ANSWER_PREFIX}(.+)$",
    rf"The table shows that ({FIGURES}) ",
    rf" = ({FIGURES})",
    rf" (?:be|is) ({NUMBER})",
    rf" (?:are|was) ({NUMBER})",
    rf" were ({NUMBER})",
    rf" ({FIGURES} [AP]\.M\.)",  # 7:25 P.M.
    rf"(?<![-\d$.,/:])({NUMBER})",  # from where a run of such signs begins, so that a long one is read once
)
"""Forms of an answer to a question without options; of the first form that matches, the last match counts."""


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 for a right answer, else 0, as lmms-eval wants it; `doc` has answer, choices and unit."""
    unit = doc["unit"] or ""
    answer = normalise(read_answer(results[0].strip(), doc["choices"] or ()), unit)
    return {"accuracy": float(answer.lower() == normalise(doc["answer"], unit).lower())}


def read_answer(text: str, options: Sequence[str]) -> str:
    """Return the answer in a text: one of the options if there are any, else a number, a time or the text itself."""
    text = re.sub(r"\$?\\frac\{([\d.,-]+)\}\{([\d.,]+)\}\$?", r"\1/\2", text)  # LaTeX's fractions
    text = re.sub(r"(?<![AP]\.M)\.$", "", text)
    text = re.sub(r"(?<=\d)=(?=[-$\d])", " = ", text).replace("\u2212", "-")
    if options:
        return _option(text, options)
    for form in NUMBER_FORMS:
        found = re.findall(form, text, re.DOTALL)
        if found:
            last = str(found[-1]).strip()
            return last if ".M." in last else last.removesuffix(".")
    return text


def normalise(text: str, unit: str) -> str:
    """A number to three places without its dollar sign and commas, also of a fraction; a text without its unit."""
    text = re.sub(r"[,./]$", "", text.removeprefix("$"))
    if not re.fullmatch(r"[-+]?[\d,./]+", text):
        return text.replace(unit, "").strip() if unit else text
    plain = text.replace(",", "")
    try:
        return _format_number(plain)
    except (ValueError, ZeroDivisionError):
        return text


def _option(text: str, options: Sequence[str]) -> str:
    for form in LETTER_FORMS:
        found = re.search(form, text)
        place = LETTERS.find(found.group(1).upper()) if found else -1
        if place >= 0:
            return options[place] if place < len(options) else ""
    return max(options, key=lambda option: _similarity(option, text))  # the first of several that are alike


def _similarity(text: str, other: str) -> float:
    """Share of words in common, 2 for the same text; single words are alike only if they are the same."""
    if text == other:
        return 2.0
    if " " not in text and " " not in other:
        return 0.0
    words, others = text.split(" "), other.split(" ")
    return len(set(words) & set(others)) / max(len(words), len(others))


def _format_number(number: str) -> str:
    if re.fullmatch(r"[-+]?\d+", number):
        return str(int(number))
    above, below, *_ = (*number.split("/"), 1)
    return re.sub(r"\.0+$", "", str(round(float(above) / float(below), 3)))
