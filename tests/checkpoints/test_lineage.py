"""Where a checkpoint's layers come from, followed through all steps."""

from __future__ import annotations

import pytest

from vrbench.checkpoints.lineage import layer_origins
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Lineage, LineageStep


def line(depth: int, *steps: LineageStep) -> Lineage:
    return Lineage(id="x", family="llava", depth=depth, steps=steps)


def trained(layers: str, depth: int) -> LineageStep:
    return LineageStep(kind="trained", layers=layers, depth=depth)


def pruned(layers: str, depth: int) -> LineageStep:
    return LineageStep(kind="pruned", layers=layers, depth=depth)


def restored(layers: str, depth: int) -> LineageStep:
    return LineageStep(kind="restored", layers=layers, depth=depth)


def test_without_steps_every_layer_is_itself() -> None:
    found = layer_origins((), 3)
    assert (found.first_depth, found.numbers, found.tuned) == (3, (0, 1, 2), ())


def test_numbers_are_those_before_any_was_removed() -> None:
    found = layer_origins((line(4, pruned("1", 5)), line(5, pruned("0,2", 7))), 4)
    assert (found.first_depth, found.numbers) == (7, (1, 4, 5, 6))


def test_tuned_layers_move_with_removals_and_go_with_restoring() -> None:
    steps = (trained("1,3,4", 6), pruned("0,3", 6), restored("2", 4))
    assert layer_origins((line(4, *steps),), 4).tuned == (0,)


def test_only_the_latest_training_counts_and_training_of_no_layer_does_not() -> None:
    lines = (line(4, trained("none", 4)), line(4, trained("1", 4)), line(4, trained("all", 4)))
    assert layer_origins(lines, 4).tuned == (1,)


def test_healing_makes_no_layer_part_of_the_region() -> None:
    healed = LineageStep(kind="trained", layers="all", depth=4, stage="heal")
    lines = (line(4, healed), line(4, pruned("1", 5)), line(5, trained("1-2", 5)))
    found = layer_origins(lines, 4)
    assert (found.tuned, found.healed) == ((1,), (0, 1, 2, 3))
    found = layer_origins((line(3, restored("1", 4), pruned("3", 4)), *lines), 3)
    assert (found.tuned, found.healed) == ((), (0, 2))
    assert layer_origins((line(4, trained("3", 4)), *lines), 4).tuned == (3,)  # tuned again, after healing


def test_steps_that_lead_elsewhere_are_refused() -> None:
    with pytest.raises(VrbenchError, match="lead to 3 decoder layers; the model has 4"):
        layer_origins((line(4, pruned("1", 4)),), 4)
    with pytest.raises(VrbenchError, match="is for 4 decoder layers; 3 are left"):
        layer_origins((line(3, pruned("1", 4), trained("2", 4)),), 3)
