"""Layers go back to a backbone's weights; what cannot be put back is told before a weight is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.tiny import checkpoint_errors
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.schemas import BaseRef, LineageStep
from vrbench.models import load
from vrbench.models.components import decoder_layers
from vrbench.models.load import load_model
from vrbench.models.resolve import resolve_backbone, resolve_checkpoint
from vrbench.pruning.prune import restore


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def language_model(folder: Path, seed: int = 1, depth: int = tiny.DEPTH, hidden: int = tiny.HIDDEN) -> Any:
    """A language model of the tiny LLaVA's shapes in a folder of its own."""
    from transformers import LlamaForCausalLM

    config = tiny.llava(0, depth, hidden).config.text_config
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def adapter(tiny_llava: Path, tmp_path: Path) -> Path:
    return tiny.save_adapter(tmp_path / "adapter", tiny_llava, layers=(0, 1, 2, 3))


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a weight was loaded")

    monkeypatch.setattr(load, "_load", refuse)
    monkeypatch.setattr("safetensors.safe_open", refuse)
    monkeypatch.setattr("safetensors.torch.load_file", refuse)


def told(fault: pytest.ExceptionInfo[VrbenchError]) -> list[str]:
    return list(fault.value.messages) if isinstance(fault.value, MultipleErrors) else [str(fault.value)]


def test_a_language_model_s_layers_come_back(adapter: Path, tmp_path: Path) -> None:
    backbone = language_model(tmp_path / "llm")
    made = load_model(
        resolve_checkpoint(str(restore(str(adapter), "1,3", str(tmp_path / "llm"), tmp_path / "out"))), torch.float32
    )
    tuned = load_model(resolve_checkpoint(str(adapter)), torch.float32)
    for i in range(tiny.DEPTH):
        source = decoder_layers(backbone if i in (1, 3) else tuned)[i]
        assert all(torch.equal(p, source.get_parameter(n)) for n, p in decoder_layers(made)[i].named_parameters()), i


def test_a_language_model_alone_is_still_no_checkpoint_to_measure(tmp_path: Path) -> None:
    language_model(tmp_path / "llm")
    assert resolve_backbone(str(tmp_path / "llm")).family == "llama"
    (fault,) = checkpoint_errors(str(tmp_path / "llm"))
    assert "'llama'" in fault


def test_the_folder_is_found_from_anywhere_and_may_be_moved_with_its_base(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model(tmp_path / "llm")
    monkeypatch.chdir(tmp_path)
    restore("adapter", "1", "llm", "out")
    step = resolve_checkpoint("out").lineage[0].steps[0]
    assert (resolve_checkpoint("out").lineage[0].base.id, step.backbone.id) == ("../adapter", "../llm")  # type: ignore[union-attr]
    digest = resolve_checkpoint("out").digest
    monkeypatch.chdir(tmp_path / "llm")
    assert resolve_checkpoint(str(tmp_path / "out")).digest == digest


@pytest.mark.usefixtures("nothing_is_loaded")
class TestFaults:
    def refused(self, base: Path, layers: str, backbone: Path, out: Path) -> list[str]:
        with pytest.raises(VrbenchError) as fault:
            restore(str(base), layers, str(backbone), out)
        assert not out.exists()
        assert not [p for p in out.parent.iterdir() if p.name.startswith(".")]
        return told(fault)

    def test_every_tensor_of_another_shape(self, adapter: Path, tmp_path: Path) -> None:
        language_model(tmp_path / "wide", hidden=64)
        found = self.refused(adapter, "1-2", tmp_path / "wide", tmp_path / "out")
        assert len(found) == 2 * 9  # all tensors of two layers: seven linears, two norms
        assert any("'layers.2.mlp.up_proj.weight': [96, 64], where the model has [96, 48]" in f for f in found)

    def test_a_backbone_of_another_depth(self, adapter: Path, tmp_path: Path) -> None:
        language_model(tmp_path / "deep", depth=5)
        (found,) = self.refused(adapter, "1", tmp_path / "deep", tmp_path / "out")
        assert "was made with 5 decoder layers" in found
        assert "with 4" in found

    def test_layers_that_the_backbone_lost_itself(self, tiny_llava: Path, tmp_path: Path) -> None:
        digest = resolve_checkpoint(str(tiny_llava)).digest
        step = LineageStep(kind="pruned", layers="2", depth=4)
        tiny.mark(tmp_path / "pruned", str(tiny_llava), digest, [step], 3)
        (found,) = self.refused(tiny_llava, "1-2", tmp_path / "pruned", tmp_path / "out")
        assert "lacks layers of llava" in found
        assert "2 (once 2)" in found

    def test_layers_out_of_range(self, adapter: Path, tiny_llava: Path, tmp_path: Path) -> None:
        (found,) = self.refused(adapter, "3-7", tiny_llava, tmp_path / "out")
        assert "layer 7 does not exist" in found

    def test_no_such_backbone(self, adapter: Path, tmp_path: Path) -> None:
        (found,) = self.refused(adapter, "1", tmp_path / "gone", tmp_path / "out")
        assert "no checkpoint" in found

    def test_a_taken_folder(self, adapter: Path, tiny_llava: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").touch()
        with pytest.raises(VrbenchError, match="is not an empty folder"):
            restore(str(adapter), "1", str(tiny_llava), tmp_path / "out")

    def test_a_backbone_that_changed_since(self, adapter: Path, tmp_path: Path) -> None:
        digest = resolve_checkpoint(str(adapter)).digest
        language_model(tmp_path / "llm")
        step = LineageStep(kind="restored", layers="1", depth=4, backbone=BaseRef(id="../llm", digest="0" * 64))
        tiny.mark(tmp_path / "r", str(adapter), digest, [step])
        (found,) = checkpoint_errors(str(tmp_path / "r"))
        assert "from another ../llm" in found
        assert "0" * 12 in found

    def test_a_step_that_names_no_backbone(self, adapter: Path, tmp_path: Path) -> None:
        step = LineageStep(kind="restored", layers="1", depth=4)
        tiny.mark(tmp_path / "r", str(adapter), resolve_checkpoint(str(adapter)).digest, [step])
        (found,) = checkpoint_errors(str(tmp_path / "r"))
        assert "step 1 (restored) of r names no backbone" in found

    def test_layers_restored_after_the_training_in_one_folder(self, tiny_llava: Path, tmp_path: Path) -> None:
        digest = resolve_checkpoint(str(tiny_llava)).digest
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        steps = [
            LineageStep(kind="trained", layers="1-2", depth=4, method="lora"),
            LineageStep(kind="restored", layers="1", depth=4, backbone=BaseRef(id=str(tiny_llava), digest=digest)),
        ]
        tiny.mark(folder, str(tiny_llava), digest, steps)
        (found,) = checkpoint_errors(str(folder))
        assert "step 2 (restored) of a comes after the training whose weights are in the same folder" in found


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_to_a_folder_elsewhere_may_be_the_goal(is_there: bool, tiny_llava: Path, tmp_path: Path) -> None:
    language_model(tmp_path / "llm")
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    out.symlink_to(elsewhere)
    if is_there:
        elsewhere.mkdir()
    restore(str(tiny_llava), "1", str(tmp_path / "llm"), out)
    assert out.is_symlink()
    assert checkpoint_errors(str(elsewhere)) == []
