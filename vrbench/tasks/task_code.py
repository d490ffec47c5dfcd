"""User-defined scorers: a Python function in a file next to the task file, run only when the user allows it.

    scorer: my_scorer.py:score        # in the task file

    def score(answer: str, item: dict) -> float:      # in my_scorer.py; from 0 (wrong) to 1 (right)
        return float(item["answer"] in answer)

When the task file is read, `@` and a digest of the Python file are added to the scorer's name; the name is part of the
task's definition, so another source is another definition. What that file imports is not in the digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import ItemScore, ScoredDocument, Scorer, mean_of

CODE = re.compile(r"([A-Za-z_]\w*\.py):([A-Za-z_]\w*)")

_loaded: dict[str, Scorer] = {}
"""Name with digest -> scorer; what a name means never changes."""


def scorer_named(name: str) -> Scorer:
    """Return a scorer of this package, or a user-defined one that was read with its task.

    Raises:
        VrbenchError: there is none of that name.
    """
    found = SCORERS.get(name) or _loaded.get(name)
    if found is None:
        raise VrbenchError(f"scorer {name!r} is unknown; there are {', '.join(SCORERS)}")
    return found


def load_scorer(name: str, folder: Path, trusted: bool) -> str:
    """Load the function that "file.py:function" names; returns the name with the digest of the file.

    Args:
        folder: that of the task file.
        trusted: whether the user allows to run the file.

    Raises:
        VrbenchError: it is not allowed, no such file or function, or the file raises.
    """
    match = CODE.fullmatch(name)
    if match is None:
        raise VrbenchError(f"scorer {name!r} is not of the form file.py:function, with the file beside the task file")
    if not trusted:
        raise VrbenchError(
            f"scorer {name!r} is Python code beside the task file, which runs with your rights; if you trust it, allow "
            "it with --trust-task-code (leaderboards never do)"
        )
    file = folder / match[1]
    try:
        source = file.read_bytes()
    except OSError as error:
        raise VrbenchError(f"scorer {name!r}: {file} cannot be read: {error.strerror or error}") from error
    pinned = f"{name}@{hashlib.sha256(source).hexdigest()[:16]}"
    if pinned not in _loaded:
        _loaded[pinned] = _scorer(pinned, _function(name, file, source, match[2]))
    return pinned


def _function(name: str, file: Path, source: bytes, function: str) -> Callable[[str, dict[str, Any]], float]:
    namespace: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
    try:
        exec(compile(source, str(file), "exec"), namespace)
    except Exception as error:  # whatever a user's file raises
        raise VrbenchError(f"scorer {name!r}: {file} cannot be run: {type(error).__name__}: {error}") from error
    if not callable(namespace.get(function)):
        raise VrbenchError(f"scorer {name!r}: {file} has no function {function}")
    found: Callable[[str, dict[str, Any]], float] = namespace[function]
    return found


def _scorer(name: str, function: Callable[[str, dict[str, Any]], float]) -> Scorer:
    def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        value = function(results[0], dict(doc))
        if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
            raise VrbenchError(f"scorer {name!r} returned {value!r}; a score is a number from 0 to 1")
        return {"score": float(value)}

    def score(document: ScoredDocument) -> ItemScore:
        target = document.task.doc_to_target(document.doc)
        return ItemScore(document.metrics["score"], document.responses[0], str(target))

    metrics = [{"metric": "score", "aggregation": "mean", "higher_is_better": True}]
    config = {"output_type": "generate_until", "process_results": process_results, "metric_list": metrics}
    rule = "What the function returns, from 0 to 1."
    return Scorer(name, score, rule, ("lm-eval", "lmms-eval"), mean_of("score"), config=config, credits_unreadable=True)
