"""Edits of decoder layers, planned from lineages and shapes alone: which layer gets which weights, and every error."""

from __future__ import annotations

from pathlib import Path

import pytest

from vrbench.checkpoints import layer_edits
from vrbench.checkpoints.checkpoint import Checkpoint, LayerEdit
from vrbench.checkpoints.layer_edits import base_digests, plan_restore, resolve_edits
from vrbench.checkpoints.lineage import AppliedSteps
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep

Shapes = dict[str, tuple[int, ...]]


def layers(*indices: int, depth: int = 5) -> LayerSet:
    return LayerSet(indices, depth)


def checkpoint(name: str, depth: int = 5, pruned: str = "") -> Checkpoint:
    """A checkpoint of so many layers, from which some were pruned; its digest is its first letter again and again."""
    step = LineageStep(kind="pruned", layers=pruned, depth=depth)
    left = depth - len(pruned.replace(",", ""))
    lineage = (Lineage(id=name, family="llava", depth=left, steps=(step,)),) if pruned else ()
    return Checkpoint(name, Path(name), "", name[0] * 64, "llava", left, lineage)


def shapes(*numbers: int) -> Shapes:
    """Layers whose shapes show which layer of the first model each was."""
    return {"embed": (9, 9), **{f"layers.{i}.mlp": (number, 2) for i, number in enumerate(numbers)}}


BASE, DONOR = checkpoint("base"), checkpoint("donor", pruned="0")
PRUNED = LayerEdit("pruned", layers(1))
RESTORED = LayerEdit("restored", layers(0), DONOR, (0,))
BEFORE = (RESTORED, PRUNED)
LATER = layers(1, 3, depth=4)  # counted after layer 1 is gone: once layers 2 and 4


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Shapes]:
    """Name of a checkpoint -> its shapes."""
    found = {"base": shapes(0, 1, 2, 3, 4), "donor": shapes(1, 2, 3, 4)}
    monkeypatch.setattr(layer_edits, "checkpoint_shapes", lambda of: dict(found[of.id]))
    return found


@pytest.mark.usefixtures("known")
def test_restored_layers_get_the_weights_of_the_layers_that_they_once_were() -> None:
    expected = LayerEdit("restored", LATER, DONOR, (1, 3))
    assert plan_restore(BASE, BEFORE, LATER, DONOR) == (expected, [])


def test_only_the_first_prefix_of_a_tensor_s_name_is_the_layer(known: dict[str, Shapes]) -> None:
    known["donor"] = {"layers.2.mlp": (2, 2), "layers.2.layers.2.norm": (2,)}
    known["base"] = {"layers.1.mlp": (2, 2), "layers.1.layers.2.norm": (2,)}
    pruned, whole, layer = checkpoint("base", pruned="0"), checkpoint("donor"), layers(1, depth=4)
    assert plan_restore(pruned, (), layer, whole) == (LayerEdit("restored", layer, whole, (2,)), [])


def test_every_tensor_that_does_not_fit_is_an_error(known: dict[str, Shapes]) -> None:
    known["base"] = {f"layers.{i}.{name}": (8,) for i in range(5) for name in ("q", "k", "v")}
    known["donor"] = {f"layers.{i}.{name}": (9,) for i in range(4) for name in ("k", "v", "extra")}
    edit, errors = plan_restore(BASE, BEFORE, LATER, DONOR)
    assert edit == LayerEdit("restored", LATER, DONOR, (1, 3))
    assert [(e.split(" lacks ")[0].split(" has ")[0], e.count("layers.1."), e.count("layers.3.")) for e in errors] == [
        *[("layer 1 of donor", 1, 0)] * 4,
        *[("layer 3 of donor", 0, 1)] * 4,
    ]


@pytest.mark.usefixtures("known")
def test_layers_that_the_backbone_lacks_cannot_be_restored() -> None:
    lost = layers(0, 2, depth=4)
    edit, (error,) = plan_restore(BASE, BEFORE, lost, DONOR)
    assert edit == LayerEdit("restored", lost, DONOR)
    assert "donor" in error and "0 (once 0)" in error and "2 (once 3)" not in error
    deep = checkpoint("deep", 6, "5")
    edit, (error,) = plan_restore(BASE, (), layers(0), deep)
    assert edit == LayerEdit("restored", layers(0), deep)
    assert "6 decoder layers" in error and "5; which" in error


def test_each_step_is_resolved_and_every_error_reported(known: dict[str, Shapes]) -> None:
    known["donor"]["layers.1.mlp"] = (7, 7)
    known["donor"]["layers.3.mlp"] = (7, 7)
    found = {"gone": (None, ["gone: not there"]), "donor": (DONOR, ["donor: a warning"])}

    def restored(name: str, digest: str) -> LineageStep:
        return LineageStep(kind="restored", layers="1,3", depth=4, backbone=BaseRef(id=name, digest=digest * 64))

    pruned = LineageStep(kind="pruned", layers="1", depth=5)
    steps = (
        (pruned, layers(1)), (restored("gone", "g"), LATER), (restored("donor", "x"), LATER),
        (restored("donor", "d"), LATER), (pruned, layers(0, depth=4)), (restored("gone", "g"), LATER),
    )  # fmt: skip
    edits, errors = resolve_edits(AppliedSteps(steps, 3, ()), BASE, lambda name: found[name])
    assert edits == (PRUNED, LayerEdit("restored", LATER, DONOR, (1, 3)), LayerEdit("pruned", layers(0, depth=4)))
    assert [errors[0], errors[1], errors[3], errors[-1]] == [
        "gone: not there", "donor: a warning", "donor: a warning", "gone: not there",
    ]  # fmt: skip
    assert "another donor" in errors[2] and errors[2].endswith(f" {'x' * 12}, now {'d' * 12}")
    assert ["another shape" in error for error in errors[4:-1]] == [True, True]
    assert errors[4].startswith("layer 1 of donor") and errors[5].startswith("layer 3 of donor")
    edits, errors = resolve_edits(AppliedSteps(steps[:1], 4, ()), BASE, lambda name: found[name])
    assert (edits, errors) == ((PRUNED,), [])


def test_the_digest_covers_the_base_and_every_edit() -> None:
    assert base_digests(BASE, ()) == {"base": "b" * 64, "removed": []}
    assert base_digests(BASE, (PRUNED,)) == {"base": "b" * 64, "removed": ["1"]}
    assert base_digests(BASE, (PRUNED, LayerEdit("restored", LATER, DONOR, (1, 3)), RESTORED)) == {
        "base": "b" * 64, "removed": ["1"], "restored": [[1, "1,3", "d" * 64], [2, "0", "d" * 64]],
    }  # fmt: skip
