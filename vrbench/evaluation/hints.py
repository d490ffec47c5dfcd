"""Signs that answers were not understood: none of them looks like any right answer of the task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from vrbench.core.schemas import Sample
from vrbench.tasks.task_code import scorer_named

FEWEST = 10
"""Answers below which nothing is said: a few may all be wrong."""

LONGEST_READ = 2_000
"""Characters of an answer that are looked at."""

MOST_WORDS = 8
"""Words of a right answer; longer ones are not looked for."""

SHOWN = 3
"""Answers and right answers that are named."""


def unlike(samples: Sequence[Sample], scorer: str) -> str:
    """One sentence if no generated answer of a task has the words of any of its right answers; else nothing.

    A scorer may be more lenient than words are ("Y" for "Yes", a number within 5 %), so a task with a point is passed
    over, where the scorer gives points only to what it can read.

    Args:
        samples: of one task.
        scorer: as `TaskSpec.scorer`.
    """
    asked = [s for s in samples if not s.unscored and s.target and s.responses and isinstance(s.responses[0], str)]
    if len(asked) < FEWEST or (not scorer_named(scorer).credits_unreadable and any(s.score > 0 for s in asked)):
        return ""
    wanted = {words for s in asked if 0 < len(words := _words(s.target)) <= MOST_WORDS}
    longest = max(map(len, wanted), default=0)
    answers = [str(s.responses[0])[:LONGEST_READ] for s in asked]
    if not wanted or any(_has(answer, wanted, longest) for answer in answers):
        return ""
    said, right = (_named(texts) for texts in (answers, [s.target for s in asked]))
    return (
        f"none of the {len(asked):,} answers looks like any right answer of the task: answers are such as {said}, "
        f"right ones such as {right}; look at the prompt, the chat template and what the model was trained to say"
    )


def _words(text: str) -> tuple[str, ...]:
    """Words in lower case; a sign of a script without spaces is a word of its own."""
    return tuple(re.findall(r"[a-z0-9]+|\w", text.lower()))


def _has(answer: str, wanted: set[tuple[str, ...]], longest: int) -> bool:
    words = _words(answer)
    return any(words[i : i + n] in wanted for i in range(len(words)) for n in range(1, longest + 1))


def _named(texts: Sequence[str]) -> str:
    """The most common texts, shortened."""
    return ", ".join(
        repr(text if len(text) <= 40 else f"{text[:40]}...") for text, _ in Counter(texts).most_common(SHOWN)
    )
