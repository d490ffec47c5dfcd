"""The pocket family's tasks: items that this package draws or writes, the same for the same split everywhere."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.resources import files
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.core.io import load_yaml

GENERATORS = {
    "pocket_mme": "vrbench.pocket.visual:pocket_mme",
    "pocket_mmbench": "vrbench.pocket.visual:pocket_mmbench",
    "pocket_seed": "vrbench.pocket.visual:pocket_seed",
    "pocket_textvqa": "vrbench.pocket.visual:pocket_textvqa",
    "easy_vqa": "vrbench.pocket.easy_vqa:rows",
    "pocket_facts": "vrbench.pocket.facts:rows",
    "pocket_grammar": "vrbench.pocket.grammar:rows",
    "pocket_pydoc": "vrbench.pocket.python_docs:pydoc_rows",
    "pocket_docs": "vrbench.pocket.python_docs:shared_rows",
}

SPLITS = ("test", "dev")
"""Of every generator; disjoint."""


def generate(name: str, split: str = "test") -> list[dict[str, Any]]:
    """Return the rows of a generated data set, with the columns of the benchmark that it is modelled on.

    Args:
        name: key of `GENERATORS`.
        split: "test", or "dev" (disjoint, for choosing recipes).

    Raises:
        VrbenchError: no such generator or split.
    """
    if name not in GENERATORS:
        raise VrbenchError(f"generated data {name!r} are unknown; there are {', '.join(GENERATORS)}")
    if split not in SPLITS:
        raise VrbenchError(f"split {split!r} is unknown; generated data have {' and '.join(SPLITS)}")
    module, _, function = GENERATORS[name].partition(":")
    rows: list[dict[str, Any]] = getattr(importlib.import_module(module), function)(split)
    return rows


@cache
def vocabulary() -> dict[str, Any]:
    """Return the word lists and letter shapes in `vocabulary.yaml`."""
    found: dict[str, Any] = load_yaml(files(__name__).joinpath("vocabulary.yaml").read_text(encoding="utf-8"))
    return found
