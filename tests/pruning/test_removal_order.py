"""One measured order gives every number of removed layers, and holds to the checkpoint that it was measured on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from vrbench.checkpoints.families import FAMILIES
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.schemas import LineageStep
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning import removal_order as orders
from vrbench.pruning.hidden_states import angles, layer_means
from vrbench.pruning.importance import importance
from vrbench.pruning.loss_evaluator import LossEvaluator
from vrbench.pruning.prune import prune
from vrbench.pruning.questions import DevQuestions
from vrbench.pruning.recipe import PruneRecipe, make_recipe
from vrbench.pruning.removal_methods import BLOCK, REMOVAL_METHODS, loss, one_shot
from vrbench.pruning.removal_order import RemovalOrder, order_layers, read_order, removal_order
from vrbench.pruning.samples import Samples

SMALL: dict[str, Any] = {"questions": DevQuestions(2, 2), "device": "cpu"}


@pytest.fixture(scope="module")
def dev(tiny_llava: Path) -> LossEvaluator:
    return LossEvaluator(load_vlm(resolve_checkpoint(str(tiny_llava))), DevQuestions(2, 2))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tuned(tiny_llava: Path, tmp_path: Path) -> Path:
    """Layers 0 and 2 are tuned."""
    step = LineageStep(kind="trained", layers="0,2", depth=tiny.DEPTH, method="lora")
    folder = tiny.save_adapter(tmp_path / "tuned", tiny_llava, layers=(0, 2))
    return tiny.mark(folder, str(tiny_llava), resolve_checkpoint(str(tiny_llava)).digest, [step])


def recipe(base: Path, **changes: Any) -> PruneRecipe:
    return make_recipe(**{"makes": "small", "base": str(base), "pictures": 2, "turns": 2, **changes})


class TestOrder:
    def test_by_loss_each_layer_goes_that_is_missed_least_then(self, dev: LossEvaluator, tiny_llava: Path) -> None:
        found = removal_order(resolve_checkpoint(str(tiny_llava)), "loss", 3, **SMALL)
        left, gone = {0, 1, 2, 3}, []
        for layer, value in zip(found.order, found.values[1:], strict=True):
            losses = {i: dev.answers([*gone, i]).mean for i in left}
            assert layer == min(losses, key=losses.__getitem__)
            assert value == pytest.approx(losses[layer], abs=1e-4)
            gone.append(layer)
            left.remove(layer)
        assert found.values[0] == pytest.approx(dev.answers().mean)
        assert found.scores == pytest.approx(loss(dev, [], range(4)), abs=1e-4)

    @pytest.mark.parametrize("by", [by for by, choice in REMOVAL_METHODS.items() if choice.search is one_shot])
    def test_at_once_it_goes_by_what_each_layer_scores_alone(
        self, dev: LossEvaluator, tiny_llava: Path, by: str
    ) -> None:
        found = removal_order(resolve_checkpoint(str(tiny_llava)), by, 4, **SMALL)
        scores = REMOVAL_METHODS[by].measure(dev, [], range(4))
        assert found.order == tuple(sorted(scores, key=scores.__getitem__))[:3]  # one layer stays
        assert found.scores == pytest.approx(scores, rel=1e-3)
        assert found.values == ()

    @pytest.mark.parametrize("by", ["loss-lazy", "divergence-lazy"])
    def test_step_by_step_the_first_choice_is_the_best_alone(
        self, dev: LossEvaluator, tiny_llava: Path, by: str
    ) -> None:
        found = removal_order(resolve_checkpoint(str(tiny_llava)), by, 2, **SMALL)
        scores = REMOVAL_METHODS[by].measure(dev, [], range(4))
        assert found.order[0] == min(scores, key=scores.__getitem__)
        assert found.values[1] == pytest.approx(min(scores.values()), rel=1e-3)

    def test_by_a_score_of_importance_the_least_important_go_first(self, dev: LossEvaluator, tiny_llava: Path) -> None:
        found = removal_order(resolve_checkpoint(str(tiny_llava)), "angular", 2, **SMALL)
        distances = layer_means(Samples(dev.vlm, DevQuestions(2, 2)), angles, "all")[0]
        assert found.order == tuple(np.argsort(distances)[:2])
        assert list(found.scores.values()) == pytest.approx(distances, abs=1e-5)

    @pytest.mark.parametrize("by", ["block-influence", "taylor", "fisher"])
    def test_every_score_of_importance_may_choose(self, tiny_llava: Path, by: str) -> None:
        base = resolve_checkpoint(str(tiny_llava))
        found = removal_order(base, by, 3, **SMALL)
        assert found.order == tuple(np.argsort(importance(by, base, **SMALL).values)[:3])

    def test_a_score_says_what_it_lacks(self, tiny_llava: Path) -> None:
        with pytest.raises(VrbenchError, match="LoRA"):
            removal_order(resolve_checkpoint(str(tiny_llava)), "lora-norm", 1, **SMALL)

    def test_tuned_layers_stay(self, tuned: Path) -> None:
        base = resolve_checkpoint(str(tuned))
        assert set(removal_order(base, "divergence", 8, **SMALL).order) == {1, 3}
        assert set(removal_order(base, "angular", 8, **SMALL).order) == {1, 3}
        assert len(removal_order(base, "angular", 8, outside_region=False, **SMALL).order) == 3

    def test_blocks_have_no_order(self, tiny_llava: Path) -> None:
        with pytest.raises(VrbenchError, match="need not contain each other"):
            removal_order(resolve_checkpoint(str(tiny_llava)), BLOCK, 2, **SMALL)


class TestFile:
    def test_every_number_of_layers_comes_from_one_measurement(
        self, dev: LossEvaluator, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = order_layers(recipe(tuned, remove=2, by="divergence"), tmp_path / "order.json", "cpu")
        order = read_order(file, resolve_checkpoint(str(tuned)))
        monkeypatch.setattr("vrbench.pruning.prune.order_of", None)  # nothing is measured again
        monkeypatch.setattr(orders, "removal_order", None)
        for count in (1, 2):
            out = prune(recipe(tuned, remove=count, order=str(file)), tmp_path / f"out{count}", "cpu")
            found = resolve_checkpoint(str(out))
            assert set(found.removed[0]) == set(order.order[:count])
            (step,) = found.lineage[0].steps
            assert step.method == "divergence"
            assert f"removed in the order {list(order.order[:count])}" in step.note

    def test_what_is_written_is_read(self, tiny_llava: Path, tmp_path: Path) -> None:
        order = removal_order(resolve_checkpoint(str(tiny_llava)), "loss", 2, **SMALL)
        assert read_order(order.save(tmp_path / "o.json"), resolve_checkpoint(str(tiny_llava))) == order
        assert f"removed: {order.values[0]:.4f}, {order.values[1]:.4f}; not healed" in order.describe(1)

    def test_faults(self, tiny_llava: Path, tuned: Path, tmp_path: Path) -> None:
        base, file = resolve_checkpoint(str(tiny_llava)), tmp_path / "o.json"
        with pytest.raises(VrbenchError, match=r"o\.json' cannot be read: No such file"):
            read_order(file, base)
        file.write_text("{")
        with pytest.raises(VrbenchError, match="was not written by `vrbench prune --save-removal-order`"):
            read_order(file, base)
        order = RemovalOrder(
            checkpoint="x", digest=base.digest, depth=4, by="loss", outside_region=False, pictures=1, turns=1,
            order=(2, 3),
        )  # fmt: skip
        order.save(file)
        with pytest.raises(VrbenchError, match=r"o\.json' was measured on x with digest .*; tuned has digest"):
            read_order(file, resolve_checkpoint(str(tuned)))
        with pytest.raises(VrbenchError, match=r"removal order '.*' has 2 layers, not 3"):
            prune(recipe(tiny_llava, remove=3, order=str(file)), tmp_path / "out", "cpu")
        file.write_text(json.dumps(order.model_dump() | {"digest": resolve_checkpoint(str(tuned)).digest}))
        with pytest.raises(VrbenchError, match="layers 2 belong to the tuned layers 0,2"):
            prune(recipe(tuned, remove=1, order=str(file)), tmp_path / "out", "cpu")
        assert not (tmp_path / "out").exists()

    def test_an_order_is_not_measured_of_named_layers(self, tiny_llava: Path, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match="the removal order is measured; omit"):
            order_layers(recipe(tiny_llava, layers="1"), tmp_path / "o.json", "cpu")
        with pytest.raises(VrbenchError, match="4 layers cannot be removed: of 4 only 3 may"):
            order_layers(recipe(tiny_llava, remove=4), tmp_path / "o.json", "cpu")


class TestNamed:
    def test_named_layers_go(self, tuned: Path, tmp_path: Path) -> None:
        found = resolve_checkpoint(str(prune(recipe(tuned, layers="1,3"), tmp_path / "out", "cpu")))
        assert found.removed[0].indices == (1, 3)
        (step,) = found.lineage[0].steps
        assert (step.method, step.note) == ("named", "named; not healed")

    def test_layers_of_the_region_go_only_when_asked_for(self, tuned: Path, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match="layers 0,2 belong to the tuned layers 0,2, which are kept"):
            prune(recipe(tuned, layers="0-2"), tmp_path / "out", "cpu")
        found = resolve_checkpoint(
            str(prune(recipe(tuned, layers="0-2", outside_region=False), tmp_path / "out", "cpu"))
        )
        assert (found.depth, found.origins.numbers, found.origins.tuned) == (1, (3,), ())

    def test_fixed_layers_and_all_layers_stay(
        self, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(
            FAMILIES, "llava", replace(FAMILIES["llava"], fixed_layers=lambda _: {1: "it is the second"})
        )
        with pytest.raises(MultipleErrors) as told:
            prune(recipe(tiny_llava, layers="all"), tmp_path / "out", "cpu")
        assert told.value.messages == (
            "layer 1 may not be removed: it is the second", "all 4 layers would be removed; at least one must be kept",
        )  # fmt: skip
        with pytest.raises(VrbenchError, match="layer 7 does not exist"):
            prune(recipe(tiny_llava, layers="7"), tmp_path / "out", "cpu")


class TestRecipe:
    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({}, "no layers to remove; give --num-layers N, or --layers"),
            ({"remove": 0}, "remove is 0: nothing would be removed; name 1 or more layers"),
            ({"remove": 1, "by": "divergense"}, "by is 'divergense': did you mean 'divergence' or"),
            ({"remove": 1, "layers": "3"}, "--layers names the layers to remove; omit --num-layers"),
            ({"layers": "3", "block": True}, "--layers names the layers to remove; omit --block"),
            ({"remove": 1, "by": "loss", "order": "f"}, "--removal-order contains the layers"),
            ({"remove": 1, "by": "loss", "block": True}, "--block uses the angular distance; omit --by loss"),
        ],
    )
    def test_faults(self, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(VrbenchError) as told:
            make_recipe(makes="x", base="y", **values)
        assert str(told.value).startswith(sentence)

    def test_only_what_is_given_is_written_and_told_apart(self) -> None:
        plain = make_recipe(makes="x", base="y", remove=2)
        assert plain.text().splitlines() == [
            "makes: x", "base: y", "remove: 2", "by: loss", "outside_region: true", "pictures: 200", "turns: 6",
        ]  # fmt: skip
        assert make_recipe(makes="x", base="y", remove=2, block=True).by == BLOCK
        assert len({plain.digest, make_recipe(makes="x", base="y", layers="2").digest,
                    make_recipe(makes="x", base="y", remove=2, order="f").digest}) == 3  # fmt: skip
