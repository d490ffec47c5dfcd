"""The recipes of the paper's four models: its figures, and a rehearsal on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from tests import tiny
from tests.training.conversation_samples import ONE
from tests.training.test_families_tuned import conversations
from vrbench.checkpoints.checkpoint import ADAPTER
from vrbench.checkpoints.prompts import vicuna_template
from vrbench.checkpoints.safetensors_index import read_header
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.layers import select_layers
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.training import load, names
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.prepare import dry_run, padding_errors
from vrbench.training.recipe import ConversationFile
from vrbench.training.run import train

DEPTH_AND_TUNED = {
    "llava-1.5-7b": (32, 8), "llava-1.5-13b": (40, 9), "bunny-llama-3-8b": (32, 8), "bunny-phi3-mini": (32, 8),
}  # fmt: skip
KNOWN = {"bunny-llama-3-8b": (0, 4, 8, 12, 18, 22, 26, 30), "llava-1.5-7b": (1, 5, 9, 13, 19, 23, 27, 31)}


@pytest.mark.parametrize("model", DEPTH_AND_TUNED)
def test_they_agree_with_the_paper_s_figures(model: str) -> None:
    depth, tuned = DEPTH_AND_TUNED[model]
    full, region = load(f"{model}-full"), load(f"{model}-region")
    assert full.tune is not None and region.tune is not None
    for recipe, settings in ((full, full.tune), (region, region.tune)):
        assert (settings.rank, settings.alpha, settings.dropout) == (128, 256, 0.05)
        assert (settings.lr, settings.lr_projector, settings.schedule, recipe.warmup) == (2e-4, 2e-5, "cosine", 0.03)
        assert (settings.batch, settings.epochs, settings.checkpointing) == (128, 1, True)
        assert settings.beta2 == 0.999  # what transformers' Trainer takes where a script says nothing
        assert (settings.tuning, settings.modules, settings.sampling) == ("lora", "all", None)
        assert isinstance(recipe.data, ConversationFile) and recipe.dtype == "bfloat16"
        assert (settings.average, settings.micro_batch, recipe.data.grouping) == ("micro-batches", 8, "none")
        assert recipe.warmup_from_zero and recipe.tf32  # of the paper's script
        assert (recipe.data.length, recipe.data.pad_square, recipe.data.share) == (2048, True, 1)
    assert select_layers(full.tune.layers, depth).is_all
    layers = select_layers(region.tune.layers, depth)
    assert len(layers) == tuned and layers.indices == KNOWN.get(model, layers.indices)
    assert max(b - a for a, b in zip(layers.indices, layers.indices[1:], strict=False)) <= 6  # sparse and uniform
    same = {"name": "", "makes": "", "tune": full.tune.model_copy(update={"layers": ""})}
    both = full.model_copy(update=same), region.model_copy(update=same)
    assert both[0] == both[1] and region.tune.model_copy(update={"layers": "all"}) == full.tune


def test_what_is_left_to_be_set_is_told(tmp_path: Path) -> None:
    recipes = [name for name in names() if name.startswith(("llava", "bunny"))]
    assert len(recipes) == 8
    for name in recipes:
        with pytest.raises(VrbenchError) as found:
            train(name, tmp_path / "out", device="cpu")
        told = error_messages(found.value)
        keys = ("base", "data.conversations")
        assert all(f"--set {key}=PATH" in line for key, line in zip(keys, told, strict=True))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny LLaVA that is prompted, and shown images padded to squares, as converted LLaVA-1.5 and Bunny are."""
    folder = tiny.save_llava(tmp_path / "base")
    (folder / "chat_template.jinja").write_text(vicuna_template("</s>"))
    side = {"height": tiny.SIDE, "width": tiny.SIDE}
    LlavaImageProcessorPil(do_pad=True, size=side, crop_size=side).save_pretrained(folder)
    return folder


def test_pictures_are_padded_in_training_as_when_the_model_is_measured(tmp_path: Path, base: Path) -> None:
    vlm = load_vlm(resolve_checkpoint(str(base)))
    row = ConversationEncoder(vlm, pad_square=True).encode(ONE)
    assert row is not None
    shown = vlm.image_processor(images=ONE.open_images(), return_tensors="pt")["pixel_values"]
    assert torch.equal(row["pixel_values"], shown)
    plain = tiny.save_llava(tmp_path / "plain")
    assert padding_errors(resolve_checkpoint(str(base))) == padding_errors(resolve_checkpoint("random/tiny")) == []
    assert "SiglipImageProcessorPil" in padding_errors(resolve_checkpoint(str(plain)))[0]
    file, images = conversations(tmp_path)
    given = {"base": str(plain), "data.conversations": str(file), "data.images": str(images), "tune.layers": "1"}
    with pytest.raises(VrbenchError, match=r"or data\.pad_square to false"):
        train("llava-1.5-7b-region", tmp_path / "out", given, device="cpu")


def test_a_rehearsal_of_three_steps(tmp_path: Path, base: Path) -> None:
    file, images = conversations(tmp_path)
    given = {
        "base": str(base), "data.conversations": str(file), "data.images": str(images), "tune.layers": "1,3",
        "tune.steps": "3", "tune.batch": "8", "tune.accumulate": "4",
        "data.most_left_out": "0.5",  # the paper's code takes one image a sample
    }  # fmt: skip
    told = dry_run(load("llava-1.5-7b-region", given | {"tune.steps": "null", "tune.epochs": "2"}), tmp_path / "out")
    assert (
        "mix.json: 3 of 5 samples; skipped: 2 several images" in told and "# steps: about 1, of 8 samples each" in told
    )
    out = train("llava-1.5-7b-region", tmp_path / "out", given, device="cpu")
    made = resolve_checkpoint(str(out))
    step = made.lineage[0].steps[-1]
    assert (step.layers, step.method, step.recipe, made.depth) == ("1,3", "lora", "llava-1.5-7b-region", 4)
    assert json.loads(step.note)["steps"] == 3 and json.loads(step.note)["samples"] == 3
    tuned = read_header(out / ADAPTER)
    assert len(tuned) == 2 * 7 * 2 and all(128 in tensor.shape for tensor in tuned.values())  # seven linears a layer
    assert all(".layers.1." in name or ".layers.3." in name for name in tuned)
