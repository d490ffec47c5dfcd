"""The generators by name."""

from __future__ import annotations

import pytest

from vrbench import pocket
from vrbench.core.errors import VrbenchError
from vrbench.tasks import registry


def test_every_generated_task_has_its_generator() -> None:
    named = {spec.data.name for spec in registry.load().values() if spec.data.kind == "generated"}
    assert named == set(pocket.GENERATORS)


def test_generators_are_called_by_name_and_split() -> None:
    test, dev = pocket.generate("pocket_grammar"), pocket.generate("pocket_grammar", "dev")
    assert test == pocket.generate("pocket_grammar", "test") != dev


def test_an_unknown_name_or_split_is_refused() -> None:
    with pytest.raises(VrbenchError, match=r"'pocket_mm' are unknown; there are pocket_mme, "):
        pocket.generate("pocket_mm")
    with pytest.raises(VrbenchError, match="split 'train' is unknown; generated data have test and dev"):
        pocket.generate("pocket_grammar", "train")
