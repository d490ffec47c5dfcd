"""The pocket family's base: tower and projector of a folder before the real LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from vrbench.checkpoints import smollm2
from vrbench.checkpoints.checkpoint import PROJECTOR, TOWER
from vrbench.models import pocket


@pytest.fixture
def tiny_llm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A two-layer LLM with the real width in the place of the real one, and an empty cache."""
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "LAYERS", 2)
    text_config = smollm2.text_config
    monkeypatch.setattr(smollm2, "text_config", lambda: text_config() | {"vocab_size": 64})
    folder = tmp_path / "llm"
    folder.mkdir()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**smollm2.text_config()))
    save_file({n: p.detach().clone() for n, p in model.named_parameters()}, folder / "model.safetensors")
    monkeypatch.setattr(smollm2, "backbone_folder", lambda: folder)
    monkeypatch.setattr(pocket, "save_processor", lambda folder: None)
    return folder


def random_parts(folder: Path, seed: int = 0) -> Path:
    """A folder with a random tower and projector, in bfloat16 as they are published."""
    folder.mkdir()
    torch.manual_seed(seed)
    model = pocket.new_llava().model
    for name, module in ((TOWER, model.vision_tower), (PROJECTOR, model.multi_modal_projector)):
        save_file({n: v.bfloat16().contiguous() for n, v in module.state_dict().items()}, folder / name)
    return folder


def test_assembled_is_the_llm_with_the_folder_s_tower_and_projector(tiny_llm: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import LlavaForConditionalGeneration

    weights = random_parts(tmp_path / "weights")
    made = LlavaForConditionalGeneration.from_pretrained(pocket.assemble(weights))
    inner = made.model
    for module, file, prefix in (
        (inner.vision_tower, weights / TOWER, ""),
        (inner.multi_modal_projector, weights / PROJECTOR, ""),
        (inner.language_model, tiny_llm / "model.safetensors", "model."),
    ):
        expected = load_file(file)
        state = module.state_dict()
        assert {prefix + name for name in state} == set(expected)
        assert all(torch.equal(value, expected[prefix + name].float()) for name, value in state.items())
    assert made.lm_head.weight is inner.language_model.embed_tokens.weight
    assert next(made.parameters()).dtype == torch.float32


def test_it_is_made_once_for_the_same_weights(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = random_parts(tmp_path / "a"), random_parts(tmp_path / "b", seed=1)
    made = pocket.assemble(first)
    assert pocket.assemble(other) != made
    monkeypatch.setattr(pocket, "new_llava", None)  # making one again would fail
    assert pocket.assemble(first) == made


def test_what_fails_leaves_nothing_behind(tiny_llm: Path, tmp_path: Path) -> None:
    weights = random_parts(tmp_path / "weights")
    save_file({"linear_1.weight": torch.zeros(2, 2)}, weights / PROJECTOR)
    with pytest.raises(RuntimeError, match="Missing key"):
        pocket.assemble(weights)
    assert [p.name for p in (tmp_path / "cache").iterdir() if "pocket" in p.name] == []


def test_a_processor_that_cannot_be_written_leaves_nothing_behind(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: Path) -> None:
        (folder / "tokenizer.json").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pocket, "save_processor", die)
    with pytest.raises(OSError, match="disk full"):
        pocket.processor_folder()
    assert [p.name for p in (tmp_path / "cache").iterdir() if "processor" in p.name] == []


def test_every_patch_is_an_image_token(tiny_llm: Path) -> None:
    model = pocket.new_llava()
    side = pocket.IMAGE_SIDE
    features = model.get_image_features(pixel_values=torch.zeros(1, 3, side, side)).pooler_output
    assert [tuple(f.shape) for f in features] == [(pocket.IMAGE_TOKENS, smollm2.HIDDEN)]


def test_the_processor_resizes_as_the_tower_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of the world's size reach the tower as value / 255 in [-1, 1], nothing resampled."""
    import numpy as np
    from PIL import Image
    from transformers import SiglipImageProcessorPil

    from vrbench.pocket.drawing import draw
    from vrbench.pocket.world import scene
    from vrbench.training.tower import scale_pixels

    picture = draw(scene("dev", 1))
    seen: Any = SiglipImageProcessorPil.from_pretrained(pocket.processor_folder())(
        images=[Image.fromarray(picture)], return_tensors="pt"
    )["pixel_values"]
    assert torch.allclose(seen, scale_pixels(torch.from_numpy(picture[np.newaxis])), atol=1e-6)
    assert AutoTokenizer.from_pretrained(pocket.processor_folder()).convert_tokens_to_ids("<image>") == 16
