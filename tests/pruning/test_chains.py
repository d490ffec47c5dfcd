"""Tuned, pruned, healed, restored: each folder on the one before, and all of it equal to the same done by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.pruning import others
from tests.tiny import save_delta
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import LineageStep
from vrbench.models.components import layer_parameters, projector_parameters
from vrbench.models.load import load_model, load_vlm
from vrbench.models.overlay import remove_layers
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.prune import prune, restore
from vrbench.pruning.recipe import make_recipe

pytestmark = pytest.mark.filterwarnings("ignore:Could not find a config file")  # of a base that is layered itself

SCALE = 8 / 2  # alpha / rank of `tiny.save_adapter`


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def adapter(folder: Path, base: Path, layers: str, stage: str, seed: int = 7) -> Path:
    """A LoRA folder on a checkpoint, as `vrbench train` writes it."""
    found = resolve_checkpoint(str(base))
    chosen = LayerSet.parse(layers, found.depth)
    tiny.save_adapter(folder, base, chosen, found.depth, seed=seed)
    step = LineageStep(kind="trained", layers=layers, depth=found.depth, method="lora", stage=stage)
    return tiny.mark(folder, str(base), found.digest, [step], found.depth)


def pruned(folder: Path, base: Path, layers: str, **options: Any) -> Path:
    return prune(make_recipe(makes=folder.name, base=str(base), layers=layers, **options), folder, "cpu")


def add(model: Any, folder: Path) -> None:
    """What a LoRA folder adds to the weights, computed from its file."""
    tensors = load_file(folder / "adapter_model.safetensors")
    parameters = dict(model.named_parameters())
    for name in [n for n in tensors if n.endswith("lora_A.weight")]:
        change = tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
        target = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        parameters[target].data += SCALE * change


def same(folder: Path, expected: Any) -> bool:
    return torch.allclose(
        others.logits(load_model(resolve_checkpoint(str(folder)), torch.float32)), others.logits(expected), atol=1e-4
    )


@pytest.fixture
def chain(tiny_llava: Path, tmp_path: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Folders and models by hand: layers 0 and 2 tuned; layer 1 removed; all three that are left healed."""
    folders = {"tuned": adapter(tmp_path / "tuned", tiny_llava, "0,2", "tune")}
    folders["pruned"] = pruned(tmp_path / "pruned", folders["tuned"], "1")
    folders["healed"] = adapter(tmp_path / "healed", folders["pruned"], "all", "heal", seed=8)
    models = {"tuned": tiny.llava()}
    add(models["tuned"], folders["tuned"])
    models["pruned"] = copy.deepcopy(models["tuned"])
    remove_layers(models["pruned"], LayerSet.of((1,), 4))
    models["healed"] = copy.deepcopy(models["pruned"])
    add(models["healed"], folders["healed"])
    return folders, models


def test_each_folder_is_what_was_done_by_hand(chain: Any) -> None:
    folders, models = chain
    found = {
        stage: others.logits(load_model(resolve_checkpoint(str(of)), torch.float32)) for stage, of in folders.items()
    }
    expected = {stage: others.logits(model) for stage, model in models.items()}
    assert all(torch.allclose(found[s], expected[t], atol=1e-4) == (s == t) for s in found for t in expected)
    beside = load_vlm(resolve_checkpoint(str(folders["healed"])), merge=False).model
    assert torch.allclose(others.logits(beside), expected["healed"], atol=1e-4)
    healed = resolve_checkpoint(str(folders["healed"]))
    assert [step.kind for line in healed.lineage for step in line.steps] == ["trained", "pruned", "trained"]
    assert (healed.depth, healed.origins.numbers) == (3, (0, 2, 3))
    assert (healed.origins.tuned, healed.origins.healed) == ((0, 1), (0, 1, 2))
    assert resolve_checkpoint(str(folders["pruned"])).origins.healed == ()


def test_a_healed_checkpoint_is_pruned_again_outside_its_region(chain: Any, tmp_path: Path) -> None:
    folders, models = chain
    with pytest.raises(VrbenchError, match="layers 0 belong to the tuned layers 0-1"):
        pruned(tmp_path / "no", folders["healed"], "0")
    with pytest.raises(VrbenchError, match=r"of 3 only 1 may be; 1 are outside the tuned layers \(0-1\)"):
        prune(make_recipe(makes="x", base=str(folders["healed"]), remove=2), tmp_path / "no", "cpu")
    again = prune(
        make_recipe(makes="again", base=str(folders["healed"]), remove=1, by="divergence", pictures=1, turns=2),
        tmp_path / "again", "cpu",
    )  # fmt: skip
    remove_layers(models["healed"], LayerSet.of((2,), 3))
    assert same(again, models["healed"])
    assert resolve_checkpoint(str(again)).origins.healed == (0, 1)


def test_a_healed_checkpoint_s_layers_are_restored(chain: Any, tiny_llava: Path, tmp_path: Path) -> None:
    folders, models = chain
    restored = restore(str(folders["healed"]), "1", str(tiny_llava), tmp_path / "restored")
    for name, parameter in layer_parameters(models["healed"], (1,)).items():  # once layer 2
        parameter.data.copy_(layer_parameters(tiny.llava(), (2,))[name.replace("1", "2", 1)])
    assert same(restored, models["healed"])
    found = resolve_checkpoint(str(restored)).origins
    assert (found.tuned, found.healed) == ((0,), (0, 2))


def test_a_healed_checkpoint_as_one_whole_model(chain: Any, tmp_path: Path) -> None:
    folders, models = chain
    remove_layers(models["healed"], LayerSet.of((2,), 3))
    whole = prune(
        make_recipe(makes="whole", base=str(folders["healed"]), layers="2"), tmp_path / "whole", "cpu", whole=True
    )
    for folder in folders.values():
        folder.rename(folder.with_name(f"{folder.name}-gone"))
    assert same(whole, models["healed"])
    found = resolve_checkpoint(str(whole))
    assert (found.base, found.origins.tuned, found.origins.healed) == (None, (0, 1), (0, 1))
    again = adapter(tmp_path / "again", whole, "1", "heal", seed=9)
    add(models["healed"], again)
    assert same(again, models["healed"])
    assert resolve_checkpoint(str(again)).origins.tuned == (0, 1)


def test_whole_layers_and_the_projector_heal_as_a_delta(chain: Any, tmp_path: Path) -> None:
    folders, models = chain
    model = copy.deepcopy(models["pruned"])
    for parameter in (*layer_parameters(model, (2,)).values(), *projector_parameters(model).values()):
        parameter.data += 0.1
    step = LineageStep(kind="trained", layers="2", depth=3, method="weights", stage="heal")
    delta = save_delta(model, LayerSet.of((2,), 3), str(folders["pruned"]), tmp_path / "delta", step=step)
    assert same(delta, model)
    assert (resolve_checkpoint(str(delta)).origins.tuned, resolve_checkpoint(str(delta)).origins.healed) == (
        (0, 1),
        (2,),
    )


def test_pruned_first_and_then_tuned(tiny_llava: Path, tmp_path: Path) -> None:
    small = pruned(tmp_path / "small", tiny_llava, "1")
    tuned = adapter(tmp_path / "tuned", small, "1-2", "tune")  # counted in the three that are left
    expected = tiny.llava()
    remove_layers(expected, LayerSet.of((1,), 4))
    add(expected, tuned)
    assert same(tuned, expected)
    found = resolve_checkpoint(str(tuned)).origins
    assert (found.numbers, found.tuned) == ((0, 2, 3), (1, 2))
    last = pruned(tmp_path / "last", tuned, "0")
    remove_layers(expected, LayerSet.of((0,), 3))
    assert same(last, expected)
    with pytest.raises(VrbenchError, match="layers 2 belong to the tuned layers 1-2"):
        pruned(tmp_path / "no", tuned, "2")


def test_tuning_counts_only_layers_that_are_left(tiny_llava: Path, tmp_path: Path) -> None:
    small = pruned(tmp_path / "small", tiny_llava, "1")
    tiny.save_adapter(tmp_path / "tuned", small, (3,))
    with pytest.raises(VrbenchError, match="3"):
        resolve_checkpoint(str(tmp_path / "tuned"))


def test_sets_of_layers_of_a_model_tuned_everywhere_go_back_to_the_backbone(tiny_llava: Path, tmp_path: Path) -> None:
    full, tuned, backbone = adapter(tmp_path / "full", tiny_llava, "all", "tune"), tiny.llava(), tiny.llava()
    add(tuned, full)
    assert same(full, tuned)
    for layers in ("0", "1,3", "all"):
        restored = restore(str(full), layers, str(tiny_llava), tmp_path / f"restored-{layers}")
        chosen, expected = LayerSet.parse(layers, 4), copy.deepcopy(tuned)
        for name, parameter in layer_parameters(expected, chosen).items():
            parameter.data.copy_(layer_parameters(backbone, chosen)[name])
        assert same(restored, expected)
        assert resolve_checkpoint(str(restored)).origins.tuned == tuple(chosen.complement())


def test_layers_are_restored_one_set_after_the_other(tiny_llava: Path, tmp_path: Path) -> None:
    full = adapter(tmp_path / "full", tiny_llava, "all", "tune")
    first = restore(str(full), "0", str(tiny_llava), tmp_path / "first")
    second = restore(str(first), "2-3", str(tiny_llava), tmp_path / "second")
    at_once = load_model(
        resolve_checkpoint(str(restore(str(full), "0,2-3", str(tiny_llava), tmp_path / "once"))), torch.float32
    )
    assert same(second, at_once)
    assert resolve_checkpoint(str(second)).origins.tuned == (1,)
    small = pruned(tmp_path / "small", second, "0,2")  # restored layers are no longer of the region
    remove_layers(at_once, LayerSet.of((0, 2), 4))
    assert same(small, at_once)
