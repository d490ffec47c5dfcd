"""Whole folders: the names that checkpoints have on the hub, which vLLM reads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from tests import tiny, tiny_families
from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.safetensors_index import read_headers
from vrbench.models.resolve import resolve_checkpoint
from vrbench.models.whole_folder import has_published_names, save_whole, whole_folder

IN_LAYER = r"layers\.\d+\.(input_layernorm|post_attention_layernorm|self_attn\.\w+|mlp\.\w+)"
DECODER = rf"(embed_tokens|norm|{IN_LAYER})\.(weight|bias)"
LLAVA = (
    rf"language_model\.model\.{DECODER}",
    r"language_model\.lm_head\.weight",
    r"multi_modal_projector\.linear_[12]\.(weight|bias)",
    r"vision_tower\.vision_model\.embeddings\.(class_embedding|(patch|position)_embedding\.(weight|bias))",
    r"vision_tower\.vision_model\.(encoder\.layers\.\d+|post_layernorm|pre_layrnorm)\..+",
)
READ_BY_VLLM = {
    "llava": LLAVA,
    "llava_next": (*LLAVA, "image_newline"),
    "llava_onevision": (*LLAVA, "image_newline"),
    "qwen2_5_vl": (
        rf"model\.{DECODER}", r"lm_head\.weight", r"visual\.(blocks\.\d+|merger\.(ln_q|mlp\.\d)|patch_embed\.proj)\..+",
    ),
    "qwen3_vl": (
        rf"model\.language_model\.{DECODER}", r"lm_head\.weight",
        r"model\.visual\.(blocks\.\d+|(deepstack_merger_list\.\d+|merger)\.(norm|linear_fc[12])|patch_embed\.proj|pos_embed)\..+",
    ),
}  # fmt: skip
"""Family -> the names of weights that vLLM 0.21.0 reads, in the layouts of the hub."""

SHAPES = [
    *(f"random/{name}" for name in ("tiny", "tiny-qwen2.5-vl", "tiny-qwen3-vl")), "siglip", "siglip, tied",
    "llava_next", "llava_onevision",
]  # fmt: skip


def saved(name: str, folder: Path) -> Path:
    """A folder as transformers saves it, or the name of random weights."""
    if name.startswith("random/"):
        return Path(name)
    if not name.startswith("siglip"):
        return tiny_families.save(name, folder)
    path = tiny.save_llava(folder)
    if "tied" not in name:
        model = AutoModelForImageTextToText.from_pretrained(path, tie_word_embeddings=False)
        torch.nn.init.normal_(model.lm_head.weight)
        model.save_pretrained(path)
    return path


def weights(folder: Path) -> dict[str, Any]:
    """Weights as transformers loads them; none is missing or left over."""
    model, found = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    return dict(model.state_dict())


def test_every_family_of_vllm_is_here() -> None:
    assert READ_BY_VLLM.keys() == {name for name, family in FAMILIES.items() if family.vllm}


@pytest.mark.parametrize("name", SHAPES)
def test_vllm_reads_the_names_and_transformers_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "cache"))
    checkpoint = resolve_checkpoint(str(saved(name, tmp_path / "saved")))
    folder = whole_folder(checkpoint, torch.float32)
    names = read_headers(folder)
    known = READ_BY_VLLM[checkpoint.family]
    assert [n for n in names if not any(re.fullmatch(one, n) for one in known)] == []
    assert "image_newline" not in known or "image_newline" in names
    for setting in ("tokenizer.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        if (checkpoint.path / setting).is_file():
            assert (folder / setting).read_bytes() == (checkpoint.path / setting).read_bytes()
    first = weights(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    save_whole(model, folder, tmp_path / "again")  # names that transformers has read already
    assert read_headers(tmp_path / "again") == names
    again = weights(tmp_path / "again")
    assert first.keys() == again.keys() and all(torch.equal(first[n], again[n]) for n in first)
    if not name.startswith("random/"):
        original = weights(checkpoint.path)
        assert original.keys() == first.keys() and all(torch.equal(original[n], first[n]) for n in first)


def test_a_folder_with_the_names_of_the_hub_is_used_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "cache"))
    other = resolve_checkpoint(str(tiny.save_llava(tmp_path / "saved")))
    published = whole_folder(other, torch.float32)
    assert published.parent == tmp_path / "cache" and not has_published_names(other.path)
    assert whole_folder(resolve_checkpoint(str(published)), torch.float32) == published
    for more in ("vision_tower.vision_model.embeddings.position_ids", "image_newline"):  # of older files
        older = Path(shutil.copytree(published, tmp_path / more))
        tensors = load_file(older / "model.safetensors") | {more: torch.zeros(1, 4)}
        save_file(tensors, older / "model.safetensors", {"format": "pt"})
        written = whole_folder(resolve_checkpoint(str(older)), torch.float32)
        assert read_headers(written) == read_headers(published)
    qwen = resolve_checkpoint(str(tiny_families.save("qwen2_5_vl", tmp_path / "qwen")))
    assert whole_folder(qwen, torch.float32) == qwen.path
