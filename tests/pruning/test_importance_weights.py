"""Scores from weights are those of numbers read from the files, matrix by matrix."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests import tiny
from tests.tiny import save_delta
from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import LineageStep
from vrbench.models.components import layer_parameters
from vrbench.models.load import load_model
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.importance_methods import angular_weights, change
from vrbench.pruning.prune import prune, restore
from vrbench.pruning.recipe import make_recipe
from vrbench.pruning.scoring_context import ScoringContext, before_tuning
from vrbench.pruning.weight_distances import adapter_norms

Matrix = NDArray[np.float64]
SCALE = 8 / 2  # alpha / r of `tiny.save_adapter`


def matrices(folder: Path) -> list[dict[str, Matrix]]:
    """The linears of each layer of a tiny LLaVA's folder."""
    found: list[dict[str, Matrix]] = [{} for _ in range(tiny.DEPTH)]
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "language_model" in name and ".layers." in name and tensor.ndim == 2:
            layer, _, rest = name.partition(".layers.")[2].partition(".")
            found[int(layer)][rest] = tensor.astype(np.float64)
    assert [len(of) for of in found] == [7] * tiny.DEPTH
    return found


def added(folder: Path) -> list[dict[str, Matrix]]:
    """What the adapter of a tiny LLaVA adds to each linear."""
    tensors = load_file(folder / "adapter_model.safetensors")
    found: list[dict[str, Matrix]] = [{} for _ in range(tiny.DEPTH)]
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            layer, _, rest = name.partition(".layers.")[2].partition(".")
            b = tensors[name.replace("lora_A", "lora_B")]
            module = rest.removesuffix(".lora_A.weight")
            found[int(layer)][f"{module}.weight"] = SCALE * b.astype(np.float64) @ a.astype(np.float64)
    return found


def ratio(new: Matrix, old: Matrix) -> float:
    return math.sqrt(float(((new - old) ** 2).sum())) / math.sqrt(float((old**2).sum()))


def angle(new: Matrix, old: Matrix) -> float:
    cosine = float((new * old).sum()) / math.sqrt(float((new**2).sum()) * float((old**2).sum()))
    return math.acos(min(1.0, cosine)) / math.pi


def direct(base: Path, changes: list[dict[str, Matrix]], of: Callable[[Matrix, Matrix], float]) -> list[float]:
    """Summed over the linears of each layer."""
    return [
        sum(of(old + layer_changes.get(name, 0), old) for name, old in layer.items())
        for layer, layer_changes in zip(matrices(base), changes, strict=True)
    ]


def changes_of(ckpt: Checkpoint, base: Checkpoint) -> list[float]:
    return list(change(ScoringContext(ckpt, base, device_name="cpu")))


def angles_of(ckpt: Checkpoint, base: Checkpoint) -> list[float]:
    return list(angular_weights(ScoringContext(ckpt, base, device_name="cpu")))


@pytest.fixture
def adapter(tiny_llava: Path, tmp_path: Path) -> Path:
    return tiny.save_adapter(tmp_path / "adapter", tiny_llava, layers=(1, 3))


def test_change_of_an_adapter_is_that_of_the_merged_weights(adapter: Path, tiny_llava: Path) -> None:
    found = changes_of(resolve_checkpoint(str(adapter)), resolve_checkpoint(str(tiny_llava)))
    assert found == pytest.approx(direct(tiny_llava, added(adapter), ratio), rel=1e-5)
    assert found[0] == found[2] == 0 and min(found[1], found[3]) > 0.01


def test_angle_between_weights(adapter: Path, tiny_llava: Path) -> None:
    found = angles_of(resolve_checkpoint(str(adapter)), resolve_checkpoint(str(tiny_llava)))
    assert found == pytest.approx(direct(tiny_llava, added(adapter), angle), abs=1e-6)
    assert found[0] == found[2] == 0 and min(found[1], found[3]) > 0.001


def test_two_whole_models_are_compared_from_their_files(tiny_llava: Path, tmp_path: Path) -> None:
    other = tiny.save_llava(tmp_path / "other", seed=5)
    ours, theirs = matrices(other), matrices(tiny_llava)
    changes = [{n: new[n] - old[n] for n in new} for new, old in zip(ours, theirs, strict=True)]
    pair = resolve_checkpoint(str(other)), resolve_checkpoint(str(tiny_llava))
    assert changes_of(*pair) == pytest.approx(direct(tiny_llava, changes, ratio), rel=1e-6)
    assert angles_of(*pair) == pytest.approx(direct(tiny_llava, changes, angle), abs=1e-6)
    assert min(angles_of(*pair)) > 7 * 0.4  # all seven linears count, each of them near a right angle


def test_layers_are_paired_by_what_they_were_before_some_went(adapter: Path, tiny_llava: Path, tmp_path: Path) -> None:
    whole = changes_of(resolve_checkpoint(str(adapter)), resolve_checkpoint(str(tiny_llava)))
    recipe = make_recipe(makes="small", base=str(adapter), remove=1, pictures=1, turns=1, outside_region=True)
    small = resolve_checkpoint(str(prune(recipe, tmp_path / "small", "cpu")))
    (gone,) = small.removed[0]
    left = [value for layer, value in enumerate(whole) if layer != gone]
    assert changes_of(small, resolve_checkpoint(str(tiny_llava))) == pytest.approx(left, rel=1e-6)
    assert adapter_norms(small) == pytest.approx(
        [v for i, v in enumerate(adapter_norms(resolve_checkpoint(str(adapter)))) if i != gone]
    )
    with pytest.raises(VrbenchError, match="small lacks layers that adapter has: "):
        changes_of(resolve_checkpoint(str(adapter)), small)


def test_models_of_other_depths_cannot_be_paired(tiny_llava: Path, tmp_path: Path) -> None:
    deeper = tiny.save_llava(tmp_path / "deeper", depth=5)
    with pytest.raises(VrbenchError, match="deeper was made with 5 decoder layers, llava with 4"):
        changes_of(resolve_checkpoint(str(deeper)), resolve_checkpoint(str(tiny_llava)))


def test_models_of_other_widths_cannot_be_compared(tiny_llava: Path, tmp_path: Path) -> None:
    wider = tiny.save_llava(tmp_path / "wider", hidden=64)
    with pytest.raises(VrbenchError, match=r"wider and llava differ in 'mlp\.down_proj\.weight' and 6 more of a layer"):
        changes_of(resolve_checkpoint(str(wider)), resolve_checkpoint(str(tiny_llava)))


class TestLoraNorm:
    def test_it_is_the_norm_of_what_is_added(self, adapter: Path) -> None:
        expected = [sum(math.sqrt(float((m**2).sum())) for m in layer.values()) for layer in added(adapter)]
        assert adapter_norms(resolve_checkpoint(str(adapter))) == pytest.approx(expected, rel=1e-6)
        assert expected[0] == expected[2] == 0

    def test_the_scale_is_the_one_that_merging_uses(self, adapter: Path, tiny_llava: Path) -> None:
        tiny.edit_json(adapter / "adapter_config.json", use_rslora=True, alpha_pattern={"q_proj": 3})
        merged, base = (
            layer_parameters(load_model(resolve_checkpoint(str(of)), tiny.torch.float32), range(tiny.DEPTH))
            for of in (adapter, tiny_llava)
        )
        expected = [0.0] * tiny.DEPTH
        for name, parameter in merged.items():
            expected[int(name.split(".")[1])] += float((parameter - base[name]).detach().norm())
        assert adapter_norms(resolve_checkpoint(str(adapter))) == pytest.approx(expected, rel=1e-4)

    def test_a_dora_s_matrices_do_not_say_what_changes(self, adapter: Path) -> None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        ckpt = resolve_checkpoint(str(adapter))
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
        with pytest.raises(VrbenchError, match="the adapter of adapter is a DoRA"):
            adapter_norms(ckpt)

    def test_a_model_without_one(self, tiny_llava: Path) -> None:
        with pytest.raises(VrbenchError, match="llava and the checkpoints below it have no LoRA adapter"):
            adapter_norms(resolve_checkpoint(str(tiny_llava)))


class TestBeforeTuning:
    def test_it_is_what_the_latest_training_of_layers_began_with(
        self, adapter: Path, tiny_llava: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(makes="small", base=str(adapter), remove=1, pictures=1, turns=1)
        small = resolve_checkpoint(str(prune(recipe, tmp_path / "small", "cpu")))
        back = resolve_checkpoint(str(restore(str(adapter), "1", str(tiny_llava), tmp_path / "back")))
        for ckpt in (resolve_checkpoint(str(adapter)), small, back):
            assert before_tuning(ckpt).digest == resolve_checkpoint(str(tiny_llava)).digest

    def test_a_second_training_began_with_the_first(self, adapter: Path, tmp_path: Path) -> None:
        model = load_model(resolve_checkpoint(str(adapter)), tiny.torch.float32)
        for parameter in layer_parameters(model, [0]).values():
            parameter.data += 0.1
        delta = save_delta(model, LayerSet.of((0,), tiny.DEPTH), str(adapter), tmp_path / "delta")
        assert before_tuning(resolve_checkpoint(str(delta))).id == "adapter"

    def test_healing_does_not_count(self, adapter: Path, tiny_llava: Path, tmp_path: Path) -> None:
        tiny.save_projector(tmp_path / "healed")
        step = LineageStep(kind="trained", layers="all", depth=tiny.DEPTH, method="lora", stage="heal")
        folder = tiny.mark(tmp_path / "healed", str(adapter), resolve_checkpoint(str(adapter)).digest, [step])
        assert before_tuning(resolve_checkpoint(str(folder))).digest == resolve_checkpoint(str(tiny_llava)).digest

    def test_training_that_left_the_layers_alone_does_not_count(
        self, adapter: Path, tiny_llava: Path, tmp_path: Path
    ) -> None:
        tiny.save_projector(tmp_path / "projected")
        step = LineageStep(kind="trained", layers="none", depth=tiny.DEPTH, method="projector")
        folder = tiny.mark(tmp_path / "projected", str(adapter), resolve_checkpoint(str(adapter)).digest, [step])
        assert before_tuning(resolve_checkpoint(str(folder))).digest == resolve_checkpoint(str(tiny_llava)).digest

    @pytest.mark.parametrize(
        ("name", "digest", "fault"),
        [
            ("", "", ""),
            ("../nowhere", "", "not available; name it with --base .*nowhere"),
            ("", "abc", "recorded digest abc, .* now has"),
        ],
    )
    def test_a_whole_model_says_it_by_name(
        self, tiny_llava: Path, tmp_path: Path, name: str, digest: str, fault: str
    ) -> None:
        folder = tiny.save_llava(tmp_path / "tuned", seed=3)
        step = LineageStep(kind="trained", layers="all", depth=tiny.DEPTH, method="weights")
        base = resolve_checkpoint(str(tiny_llava))
        tiny.mark(folder, name or str(tiny_llava), digest or base.digest, [step])
        if not fault:
            assert before_tuning(resolve_checkpoint(str(folder))).digest == base.digest
            return
        with pytest.raises(VrbenchError, match=fault):
            before_tuning(resolve_checkpoint(str(folder)))

    def test_a_model_that_says_nothing(self, tiny_llava: Path) -> None:
        with pytest.raises(
            VrbenchError, match="llava does not record what its layers were tuned from; name it with --base"
        ):
            before_tuning(resolve_checkpoint(str(tiny_llava)))
