"""A delta is all that sets a tuned model apart from its base, or it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from vrbench.checkpoints import resolve
from vrbench.core.cache import file_digest
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import LineageStep
from vrbench.models.load import load_model
from vrbench.pruning import write_delta


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def delta(tiny_llava: Path, tmp_path: Path) -> Path:
    model = tiny.llava()
    for layer in (1, 2):
        model.model.language_model.layers[layer].mlp.up_proj.weight.data += 1
    return write_delta(model, LayerSet.of((1, 2), 4), str(tiny_llava), tmp_path / "delta")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors, and the digest in the lineage with them."""
    file = folder / "delta.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    tiny.edit_json(folder / "vrbench.json", weights={file.name: file_digest(file)})


def test_the_folder_holds_one_file_and_its_lineage(delta: Path) -> None:
    assert sorted(p.name for p in delta.iterdir()) == ["delta.safetensors", "vrbench.json"]
    assert len(load_file(delta / "delta.safetensors")) == 2 * 9 + 4


def test_what_the_training_says_of_itself_is_kept(tiny_llava: Path, tmp_path: Path) -> None:
    about = LineageStep(kind="trained", layers="all", depth=9, stage="tune", recipe="mine", note="a card")
    folder = write_delta(tiny.llava(), LayerSet.of((0,), 4), str(tiny_llava), tmp_path / "d", id_="x/y", step=about)
    line = resolve.resolve(str(folder)).lineage[0]
    expected = about.model_copy(update={"layers": "0", "depth": 4, "method": "weights"})
    assert (line.id, line.steps) == ("x/y", (expected,))


def test_a_model_tuned_in_half_precision_keeps_its_type(tiny_llava: Path, tmp_path: Path) -> None:
    model = tiny.llava().to(torch.bfloat16)
    model.model.language_model.layers[0].mlp.up_proj.weight.data += 1
    folder = write_delta(model, LayerSet.of((0,), 4), str(tiny_llava), tmp_path / "d")
    assert {t.dtype for t in load_file(folder / "delta.safetensors").values()} == {torch.bfloat16}
    made = load_model(resolve.resolve(str(folder)), torch.bfloat16)
    assert all(torch.equal(p, dict(made.named_parameters())[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize(
    "place", ["model.language_model.layers.3.mlp.up_proj.weight", "model.vision_tower.encoder.layers.1.mlp.fc1.weight"]
)
def test_a_model_that_was_tuned_elsewhere_too_is_refused(tiny_llava: Path, tmp_path: Path, place: str) -> None:
    model = tiny.llava()
    dict(model.named_parameters())[place].data += 1
    with pytest.raises(VrbenchError, match=f"differs from llava in '{place}', which no delta of layers 1 holds"):
        write_delta(model, LayerSet.of((1,), 4), str(tiny_llava), tmp_path / "d")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_diverged_is_refused(value: float, tiny_llava: Path, tmp_path: Path) -> None:
    model = tiny.llava()
    model.model.language_model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    with pytest.raises(VrbenchError, match=r"not finite in 'layers\.1\.mlp\.up_proj\.weight'"):
        write_delta(model, LayerSet.of((1,), 4), str(tiny_llava), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_model_of_other_shapes_is_refused_with_all_of_them(tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(MultipleErrors) as fault:
        write_delta(tiny.llava(hidden=64), LayerSet.of((1,), 4), str(tiny_llava), tmp_path / "d")
    assert len(fault.value.messages) > 9 * 4
    with pytest.raises(VrbenchError, match=r"out of 5; .* has 4 decoder layers"):
        write_delta(tiny.llava(), LayerSet.of((1,), 5), str(tiny_llava), tmp_path / "d")


class TestFaults:
    def test_every_tensor_that_is_wrong(self, delta: Path) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            del tensors["layers.1.mlp.up_proj.weight"], tensors["multi_modal_projector.linear_1.bias"]
            tensors["layers.3.mlp.up_proj.weight"] = torch.zeros(96, 48)
            tensors["layers.2.mlp.down_proj.weight"] = torch.zeros(48, 95)

        rewrite(delta, change)
        found = resolve.faults(str(delta))
        assert len(found) == 4
        assert "lacks 'layers.1.mlp.up_proj.weight'" in found[0]
        assert "lacks 'multi_modal_projector.linear_1.bias'" in found[1]
        assert "has 'layers.3.mlp.up_proj.weight'" in found[2]
        assert "'layers.2.mlp.down_proj.weight': [48, 95], where the model has [48, 96]" in found[3]

    def test_a_name_that_is_not_canonical(self, delta: Path) -> None:
        name = "layers.1.mlp.up_proj.weight"
        rewrite(delta, lambda tensors: tensors.update({f"model.{name}": tensors.pop(name)}))
        (fault,) = resolve.faults(str(delta))
        assert "'model.layers.1.mlp.up_proj.weight', which is no canonical name" in fault

    def test_a_base_that_changed_since(self, tiny_llava: Path, delta: Path, tmp_path: Path) -> None:
        tiny.save_llava(tmp_path / "other", seed=4)
        tiny.edit_json(delta / "vrbench.json", base={"id": "../other", "digest": "0" * 64})
        (fault,) = resolve.faults(str(delta))
        assert "delta was made on another ../other" in fault

    def test_a_base_of_other_shapes(self, delta: Path, tmp_path: Path) -> None:
        folder = tiny.save_llava(tmp_path / "wide", hidden=64)
        digest = resolve.resolve(str(folder)).digest
        tiny.edit_json(delta / "vrbench.json", base={"id": str(folder), "digest": digest})
        assert len(resolve.faults(str(delta))) == 2 * 9 + 4

    def test_a_lineage_without_the_layers(self, delta: Path) -> None:
        tiny.edit_json(delta / "vrbench.json", steps=[])
        (fault,) = resolve.faults(str(delta))
        assert "no step with layers trained by method 'weights'" in fault

    def test_an_adapter_beside_it(self, tiny_llava: Path, delta: Path) -> None:
        tiny.save_adapter(delta, tiny_llava)
        files = {p.name: file_digest(p) for p in delta.glob("*.safetensors")}
        tiny.edit_json(delta / "vrbench.json", weights=files)
        assert any("which goes on last cannot be told" in fault for fault in resolve.faults(str(delta)))

    def test_without_its_lineage_it_is_half_made(self, delta: Path) -> None:
        (delta / "vrbench.json").unlink()
        (fault,) = resolve.faults(str(delta))
        assert "is half made" in fault
        assert "delta.safetensors" in fault

    def test_a_quantised_base(self, tiny_llava: Path, tmp_path: Path) -> None:
        base = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
        tiny.edit_json(base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
        folder = tiny.save_adapter(tmp_path / "a", base)
        assert any("quantised (bitsandbytes, 4 bits)" in fault for fault in resolve.faults(str(folder)))
