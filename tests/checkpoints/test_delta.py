"""Delta folders whose tensors, base or lineage do not fit are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.tiny import checkpoint_errors, save_delta
from vrbench.core.cache import file_digest
from vrbench.core.layers import LayerSet
from vrbench.models.load import load_model
from vrbench.models.resolve import inspect_checkpoint, resolve_checkpoint


@pytest.fixture
def delta(tiny_llava: Path, tmp_path: Path) -> Path:
    model = tiny.llava()
    for layer in (1, 2):
        model.model.language_model.layers[layer].mlp.up_proj.weight.data += 1
    return save_delta(model, LayerSet.of((1, 2), 4), str(tiny_llava), tmp_path / "delta")


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


class TestFaults:
    def test_every_tensor_that_is_wrong(self, delta: Path) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            del tensors["layers.1.mlp.up_proj.weight"], tensors["multi_modal_projector.linear_1.bias"]
            tensors["layers.3.mlp.up_proj.weight"] = torch.zeros(96, 48)
            tensors["layers.2.mlp.down_proj.weight"] = torch.zeros(48, 95)

        rewrite(delta, change)
        found = checkpoint_errors(str(delta))
        assert len(found) == 4
        assert "lacks 'layers.1.mlp.up_proj.weight'" in found[0]
        assert "lacks 'multi_modal_projector.linear_1.bias'" in found[1]
        assert "has 'layers.3.mlp.up_proj.weight'" in found[2]
        assert "'layers.2.mlp.down_proj.weight': [48, 95], where the model has [48, 96]" in found[3]

    def test_a_name_that_is_not_canonical(self, delta: Path) -> None:
        name = "layers.1.mlp.up_proj.weight"
        rewrite(delta, lambda tensors: tensors.update({f"model.{name}": tensors.pop(name)}))
        (fault,) = checkpoint_errors(str(delta))
        assert "'model.layers.1.mlp.up_proj.weight', which is not a canonical name" in fault

    def test_a_base_that_changed_since(self, tiny_llava: Path, delta: Path, tmp_path: Path) -> None:
        tiny.save_llava(tmp_path / "other", seed=4)
        tiny.edit_json(delta / "vrbench.json", base={"id": "../other", "digest": "0" * 64})
        (fault,) = checkpoint_errors(str(delta))
        assert "delta was made on another ../other" in fault

    def test_a_base_of_other_shapes(self, delta: Path, tmp_path: Path) -> None:
        folder = tiny.save_llava(tmp_path / "wide", hidden=64)
        digest = resolve_checkpoint(str(folder)).digest
        tiny.edit_json(delta / "vrbench.json", base={"id": str(folder), "digest": digest})
        assert len(checkpoint_errors(str(delta))) == 2 * 9 + 4

    def test_a_lineage_without_the_layers(self, delta: Path) -> None:
        tiny.edit_json(delta / "vrbench.json", steps=[])
        (fault,) = checkpoint_errors(str(delta))
        assert "no step with layers trained by method 'weights'" in fault

    def test_embeddings_that_the_lineage_does_not_name(self, delta: Path) -> None:
        rewrite(delta, lambda tensors: tensors.update({"norm.weight": torch.zeros(48)}))
        (fault,) = checkpoint_errors(str(delta))
        assert "has 'norm.weight', which its model does not have" in fault

    def test_an_adapter_beside_it(self, tiny_llava: Path, delta: Path) -> None:
        tiny.save_adapter(delta, tiny_llava)
        files = {p.name: file_digest(p) for p in delta.glob("*.safetensors")}
        tiny.edit_json(delta / "vrbench.json", weights=files)
        assert any("their order is unknown" in fault for fault in checkpoint_errors(str(delta)))

    def test_without_its_lineage_it_is_half_made(self, delta: Path) -> None:
        (delta / "vrbench.json").unlink()
        (fault,) = checkpoint_errors(str(delta))
        assert "is incomplete" in fault
        assert "delta.safetensors" in fault

    def test_a_quantized_base(self, tiny_llava: Path, tmp_path: Path) -> None:
        base = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
        tiny.edit_json(base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
        folder = tiny.save_adapter(tmp_path / "a", base)
        assert any("quantized (bitsandbytes, 4 bits)" in fault for fault in checkpoint_errors(str(folder)))


class TestWholeLLM:
    """A delta of layers, embeddings, final norm and head, as LISA writes it."""

    @pytest.fixture
    def base(self, tmp_path: Path) -> Path:
        """A model whose file holds its embedding a second time, as the head."""
        folder = tiny.save_llava(tmp_path / "base")
        file = folder / "model.safetensors"
        tensors = load_file(file)
        (name,) = (name for name in tensors if name.endswith("embed_tokens.weight"))
        save_file({**tensors, "lm_head.weight": tensors[name].clone()}, file, {"format": "pt"})
        return folder

    @pytest.fixture
    def whole(self, base: Path, tmp_path: Path) -> Path:
        model = tiny.llava()
        model.model.language_model.embed_tokens.weight.data += 1
        return save_delta(model, LayerSet.of((1,), 4), str(base), tmp_path / "delta", method="weights+embeddings")

    def test_a_tied_head_follows_the_embedding(self, base: Path, whole: Path) -> None:
        assert {"embed_tokens.weight", "norm.weight"} < load_file(whole / "delta.safetensors").keys()
        model, before = (load_model(resolve_checkpoint(str(f)), torch.float32) for f in (whole, base))
        assert torch.equal(model.lm_head.weight, before.lm_head.weight + 1)
        assert model.lm_head.weight is model.get_input_embeddings().weight
        told = inspect_checkpoint(str(whole))
        assert told.against is not None and told.against.others == ("embeddings",)
        assert told.parameters == inspect_checkpoint(str(base)).parameters

    def test_none_of_them_may_be_missing(self, whole: Path) -> None:
        rewrite(whole, lambda tensors: tensors.pop("norm.weight"))
        (fault,) = checkpoint_errors(str(whole))
        assert "lacks 'norm.weight'" in fault
