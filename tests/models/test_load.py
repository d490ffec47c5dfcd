"""Loaded models have the weights that their folder says, in the type that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import LineageStep
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.models.overlay import remove_layers
from vrbench.models.resolve import resolve_checkpoint

IDS = torch.tensor([[5, 60, 71, 33, 90, 12, 44]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def load(folder: Path, dtype: str | torch.dtype = "float32") -> LlavaModel:
    return load_vlm(resolve_checkpoint(str(folder)), dtype=dtype)


def layered(folder: Path, base: Path, *steps: LineageStep, depth: int = tiny.DEPTH) -> Path:
    return tiny.mark(folder, str(base), resolve_checkpoint(str(base)).digest, steps, depth)


def test_a_whole_folder_gives_the_model_that_was_saved(tiny_llava: Path) -> None:
    vlm = load(tiny_llava)
    assert torch.equal(logits(vlm.model), logits(tiny.llava()))
    assert (vlm.depth, vlm.family, vlm.dtype) == (tiny.DEPTH, "llava", torch.float32)
    assert vlm.image_processor_name.endswith("Pil")


def test_mkl_chooses_its_kernels_in_one_thread_before_a_model_is_made(tiny_llava: Path) -> None:
    with tiny.VectorMathSizes() as seen:
        logits(load(tiny_llava).model)
    assert seen.sizes[0] == 1 < max(seen.sizes)


def test_float32_is_float32_even_when_the_files_hold_half_precision(tmp_path: Path) -> None:
    folder = tiny.save_llava(tmp_path / "half")
    tiny.llava().to(torch.float16).save_pretrained(folder)
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
    tiny.edit_json(folder / "config.json", dtype="float16", text_config=_text_config(folder, "float16"))
    assert {p.dtype for p in load(folder).model.parameters()} == {torch.float32}


def _text_config(folder: Path, dtype: str) -> dict[str, object]:
    import json

    return json.loads((folder / "config.json").read_text())["text_config"] | {"dtype": dtype}


def test_bfloat16_converts_weights_and_leaves_rotary_frequencies(tiny_llava: Path, tmp_path: Path) -> None:
    tiny.save_adapter(tmp_path / "a", tiny_llava)
    for folder in (tiny_llava, tmp_path / "a"):
        vlm = load(folder, "bfloat16")
        assert {p.dtype for p in vlm.model.parameters()} == {torch.bfloat16}
        assert vlm.model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.supports("llava", "adapter")
def test_a_merged_adapter_equals_low_rank_matrices_added_by_hand(tiny_llava: Path, tmp_path: Path) -> None:
    tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(1, 3))
    expected = tiny.llava()
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    for name, a in tensors.items():
        if ".lora_A." in name:
            module = expected.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            module.weight.data += 8 / 2 * tensors[name.replace("lora_A", "lora_B")] @ a
    vlm = load(tmp_path / "a")
    assert torch.allclose(logits(vlm.model), logits(expected), atol=1e-4)
    assert not torch.allclose(logits(vlm.model), logits(tiny.llava()), atol=0.1)
    assert not [name for name, _ in vlm.model.named_modules() if "lora" in name]


def test_merging_loses_nothing_to_bfloat16(tiny_llava: Path, tmp_path: Path) -> None:
    tiny.save_adapter(tmp_path / "a", tiny_llava)
    exact = load(tmp_path / "a").model.state_dict()
    for name, value in load(tmp_path / "a", "bfloat16").model.state_dict().items():
        assert torch.equal(value, exact[name].to(value.dtype)), name


@pytest.mark.parametrize("layers", [[], [0]])
def test_patterns_of_the_adapter_config_reach_nothing_but_what_has_tensors(
    tiny_llava: Path, tmp_path: Path, layers: list[int]
) -> None:
    exact, loose = tiny.save_adapter(tmp_path / "a", tiny_llava), tiny.save_adapter(tmp_path / "b", tiny_llava)
    # q_proj alone also names the vision tower's, and an empty list names every layer.
    tiny.edit_json(loose / "adapter_config.json", target_modules=["q_proj", "up_proj"], layers_to_transform=layers)
    exact_model, loose_model = load(exact).model, load(loose).model
    assert torch.equal(logits(exact_model), logits(loose_model))
    tower = tiny.llava().model.vision_tower.state_dict()
    assert all(torch.equal(v, tower[n]) for n, v in loose_model.model.vision_tower.state_dict().items())


def test_another_projector_replaces_the_base_s(tiny_llava: Path, tmp_path: Path) -> None:
    file = tiny.save_projector(tmp_path / "p")
    layered(tmp_path / "p", tiny_llava)
    found = load(tmp_path / "p").projector.state_dict()
    assert all(torch.equal(found[name], value) for name, value in load_file(file).items())


@pytest.mark.supports("llava", "pruned")
@pytest.mark.supports("llava", "adapter")
def test_layers_are_removed_before_the_adapter_that_was_trained_without_them(tiny_llava: Path, tmp_path: Path) -> None:
    tiny.save_adapter(tmp_path / "p", tiny_llava, layers=(1,), depth=3)
    steps = (
        LineageStep(kind="pruned", layers="1", depth=4),
        LineageStep(kind="trained", layers="1", depth=3, method="lora", stage="heal"),
    )
    layered(tmp_path / "p", tiny_llava, *steps, depth=3)
    expected = tiny.llava()
    remove_layers(expected, LayerSet.of((1,), 4))
    tensors = load_file(tmp_path / "p" / "adapter_model.safetensors")
    for name, a in tensors.items():
        if ".lora_A." in name:
            module = expected.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            module.weight.data += 8 / 2 * tensors[name.replace("lora_A", "lora_B")] @ a
    vlm = load(tmp_path / "p")
    assert vlm.depth == 3
    assert torch.allclose(logits(vlm.model), logits(expected), atol=1e-4)


@pytest.mark.supports("llava", "pruned")
def test_a_chain_of_bases_is_followed_to_its_end(tiny_llava: Path, tmp_path: Path) -> None:
    tiny.save_adapter(tmp_path / "tuned", tiny_llava)
    layered(tmp_path / "tuned", tiny_llava, LineageStep(kind="trained", layers="1-2", depth=4))
    layered(tmp_path / "pruned", tmp_path / "tuned", LineageStep(kind="pruned", layers="0,3", depth=4), depth=2)
    expected = load(tmp_path / "tuned").model
    remove_layers(expected, LayerSet.of((0, 3), 4))
    assert torch.equal(logits(load(tmp_path / "pruned").model), logits(expected))


def test_weights_that_went_missing_after_the_check_are_not_made_up(tmp_path: Path) -> None:
    folder = tiny.save_llava(tmp_path / "whole")
    found = resolve_checkpoint(str(folder))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if "mlp.up_proj" in name))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(VrbenchError, match="no weights for"):
        load_vlm(found)


def test_an_unknown_dtype_is_refused(tiny_llava: Path) -> None:
    with pytest.raises(VrbenchError, match=r"'int3' is unknown.* float32, bfloat16"):
        load(tiny_llava, "int3")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_diverged_is_refused(value: float, tiny_llava: Path, tmp_path: Path) -> None:
    folder = tiny.save_adapter(tmp_path / "adapter", tiny_llava)
    tensors = load_file(folder / "adapter_model.safetensors")
    next(tensor for name, tensor in tensors.items() if "lora_B" in name)[0, 0] = value
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(VrbenchError, match=r"adapter_model\.safetensors cannot be merged: NaNs detected"):
        load_vlm(resolve_checkpoint(str(folder)))


def test_a_gpu_is_selected_by_its_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.cuda._utils import _get_device_index

    from vrbench.models.load import select_gpu

    selected: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: selected.append(_get_device_index(device)))
    for name in ("cpu", "cuda", "cuda:1"):
        select_gpu(torch.device(name))
    assert selected == [1]
