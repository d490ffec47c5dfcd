"""What the right answers of each scorer's data may be: the harnesses mostly call an item wrong whose answer is none."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vrbench.tasks import tabmwp

Row = Mapping[str, Any]

OPTIONS = ("options", "choices")
"""Columns in which data sets hold a list of options."""


def fault(scorer: str, target: Any, row: Row) -> str:
    """What is wrong with an item's right answer; empty if nothing is.

    Args:
        scorer: key of `SCORERS`.
        target: the right answer as the harness makes it of the row; it is there.
    """
    return GOLD.get(scorer, _any)(target, row)


def incomplete(scorer: str, rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
    """Items that the harness counts together with others that are not there: their numbers, and what is missing.

    Args:
        rows: they are gone through up to twice.
    """
    if scorer == "mme":
        pairs = [(row["category"], row["question_id"]) for row in rows]
        size = Counter(pairs)
        for number, (subtask, picture) in enumerate(pairs):
            if (n := size[subtask, picture]) != 2:
                yield number, f"MME counts pairs, but picture {picture!r} of subtask {subtask} has {n} questions"
    if scorer == "mmbench":
        first = {row["index"] for row in rows}
        for number, row in enumerate(rows):
            if row["index"] % 1_000_000 not in first:
                yield number, f"the first rotation of its question, index {row['index'] % 1_000_000}, is not there"


def is_empty(value: Any) -> bool:
    """Whether it is nothing, blank, or a list of what is nothing or blank."""
    if isinstance(value, list):
        return all(is_empty(part) for part in value)
    return value is None or (isinstance(value, str) and not value.strip())


def outside(target: Any, options: Sequence[Any]) -> str:
    """Whether a right answer, or one of several, is no option: by number from 0, or by its text."""
    for gold in target if isinstance(target, list) else [target]:
        known = 0 <= gold < len(options) if isinstance(gold, int) else gold in options
        if not known:
            return _none_of(gold, options)
    return ""


def _none_of(target: Any, options: Sequence[Any]) -> str:
    return f"the right answer, {target!r}, is none of the {len(options)} options"


def _yes_or_no(target: Any, row: Row) -> str:
    known = str(target).strip().lower() in ("yes", "no")
    return "" if known else f"the right answer, {target!r}, is neither yes nor no"


def _hallusionbench(target: Any, row: Row) -> str:
    """HallusionBench: the target is a sentence, what is scored is the column gt_answer."""
    answer = row["gt_answer"]
    return "" if answer in ("0", "1") else f"the right answer, {answer!r}, is neither '0' (no) nor '1' (yes)"


def _letter_column(target: Any, row: Row) -> str:
    """MMBench: each option in a column that its letter names."""
    here = [letter for letter in "ABCDEFGH" if str(row.get(letter) or "").strip() not in ("", "nan")]
    return "" if target in here else f"the right answer, {target!r}, is none of the options {', '.join(here)}"


def _letter_choice(target: Any, row: Row) -> str:
    """SEED-Bench: options in the columns choice_a to choice_d."""
    here = [letter for letter in "ABCD" if not is_empty(row.get(f"choice_{letter.lower()}"))]
    return "" if str(target).strip().upper() in here else f"the right answer, {target!r}, is none of {', '.join(here)}"


def _people(target: Any, row: Row) -> str:
    """TextVQA, VizWiz, DocVQA: several right answers in the column answers, whatever the harness calls the target."""
    answers = row.get("answers")
    if is_empty(answers):
        return "it has no answer (empty: answers)"
    nothing = sum(answer is None for answer in answers or ())
    return f"{nothing} of its answers are empty" if nothing else ""


def _mmmu(target: Any, row: Row) -> str:
    """MMMU: a letter of the options, which are a list written as text; or anything for an open question."""
    kind = row["question_type"]
    if kind not in ("multiple-choice", "open"):
        return f"the question's type, {kind!r}, is neither multiple-choice nor open"
    if kind == "open":
        return ""
    options = ast.literal_eval(row["options"])
    return outside(target, [chr(ord("A") + i) for i in range(len(options))])


def _tabmwp(target: Any, row: Row) -> str:
    """TabMWP: the text of an option, where there are options."""
    options, unit = row["choices"] or [], row["unit"] or ""
    known = {tabmwp.normalised(option, unit).lower() for option in options}
    return "" if not options or tabmwp.normalised(target, unit).lower() in known else _none_of(target, options)


def _any(target: Any, row: Row) -> str:
    """Any answer will do, unless the row has a list of options and the answer is a number or a letter of them."""
    options: list[Any] = next((row[name] for name in OPTIONS if isinstance(row.get(name), list)), [])
    if not options:
        return ""
    if isinstance(target, int):
        return outside(target, options)
    if isinstance(target, str) and len(target.strip()) == 1 and "A" <= target.strip() <= "Z":
        stored = row.get("answer")  # a harness may count it from the end where it is negative
        if re.fullmatch(r"-\d+", str(stored)):
            return _none_of(stored, options)
        known = ord(target.strip()) - ord("A") < len(options) or target in options
        return "" if known else _none_of(target, options)
    return ""


GOLD: dict[str, Callable[[Any, Row], str]] = {
    "mme": _yes_or_no,
    "pope": _yes_or_no,
    "hallusionbench": _hallusionbench,
    "mmbench": _letter_column,
    "seed": _letter_choice,
    "textvqa": _people,
    "anls": _people,
    "mmmu": _mmmu,
    "tabmwp": _tabmwp,
}
"""Scorer -> what a right answer of its data may be; the others take `_any`."""
