"""Pruned and then trained, by the commands' own functions: a base before it is tuned, a tuned checkpoint to heal it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.training.tiny_pocket import SMALL, TUNE, tiny_pocket, trained_base, trained_tuned  # noqa: F401
from vrbench.models.components import layer_parameters
from vrbench.models.load import load_model
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.prune import prune, restore
from vrbench.pruning.recipe import make_recipe
from vrbench.training.run import train

HEAL = {**SMALL, "data.turns": "2", "tune.steps": "2", "tune.batch": "4", "tune.lr": "0.01"}


def without(folder: Path, base: Path, layers: str) -> Path:
    return prune(make_recipe(makes=folder.name, base=str(base), layers=layers), folder, "cpu")


def layers_of(folder: Path) -> list[dict[str, torch.Tensor]]:
    """Each layer's weights, without its number."""
    found = resolve_checkpoint(str(folder))
    model = load_model(found, torch.float32)
    named = [layer_parameters(model, [i]) for i in range(found.depth)]
    return [{n.split(".", 2)[2]: p.detach() for n, p in of.items()} for of in named]


def equal(first: Any, second: Any) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_tuned_then_pruned_then_healed(base: Path, tuned: Path, tmp_path: Path) -> None:
    small = without(tmp_path / "small", tuned, "1")
    healed = train("pocket-heal", tmp_path / "healed", {**HEAL, "base": str(small)}, device="cpu")
    found = resolve_checkpoint(str(healed))
    (step,) = found.lineage[0].steps
    assert (step.stage, step.layers, step.depth) == ("heal", "all", 3)
    assert (found.origins.numbers, found.origins.tuned, found.origins.healed) == ((0, 2, 3), (0, 1), (0, 1, 2))
    before, after = layers_of(small), layers_of(healed)
    assert not any(equal(b, a) for b, a in zip(before, after, strict=True))
    restored = layers_of(restore(str(healed), "1", str(base), tmp_path / "restored"))
    assert equal(restored[1], layers_of(base)[2])
    assert equal(restored[0], after[0])
    changes = {**HEAL, "base": str(small), "tune.layers": "2-2", "tune.tuning": "weights"}
    one = train("pocket-heal", tmp_path / "one", changes, device="cpu")
    assert resolve_checkpoint(str(one)).origins.healed == (2,)
    assert [equal(b, a) for b, a in zip(before, layers_of(one), strict=True)] == [True, True, False]


def test_pruned_then_tuned(base: Path, tmp_path: Path) -> None:
    small = without(tmp_path / "small", base, "1")
    out = train("pocket-region", tmp_path / "tuned", {**TUNE, "base": str(small)}, device="cpu")
    found = resolve_checkpoint(str(out))
    assert (found.depth, found.origins.numbers, found.origins.tuned) == (3, (0, 2, 3), (0, 2))
    before, after = layers_of(base), layers_of(out)
    assert equal(before[2], after[1])  # the one that is left alone
    assert not equal(before[0], after[0]) and not equal(before[3], after[2])
