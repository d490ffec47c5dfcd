"""The pocket family with a tiny LLM and tower, and its base and a tuned checkpoint, trained once in a process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny import own_cache
from vrbench.checkpoints import llava_shapes, smollm2
from vrbench.pocket import easy_vqa
from vrbench.training import load, pocket_data
from vrbench.training.run import train

DEPTH = 4
TUNED = (0, 2)
SIZES = {"LAYERS": DEPTH, "HIDDEN": 48}
TEXT = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = {"data.scenes": "6", "data.dev": "3", "seed": "3", "dtype": "float32"}
BASE = {
    **SMALL, "tower.steps": "2", "tower.batch": "4", "align.steps": "2", "align.batch": "4", "data.easy_vqa": "0.25",
}  # fmt: skip
TUNE = {**SMALL, "data.turns": "2", "tune.layers": "0,2", "tune.steps": "2", "tune.batch": "4", "tune.lr": "0.01"}


@cache
def folder() -> Path:
    """Where all of it lies: LLM, cache and checkpoints."""
    return Path(mkdtemp())


@pytest.fixture(scope="module", autouse=True)
def tiny_pocket() -> Iterator[None]:
    """The pocket family with a small random LLM and tower, few dev images, and a cache of its own."""
    few = list(itertools.islice(easy_vqa.training_images(), 4))
    with pytest.MonkeyPatch.context() as patch:
        own_cache(folder() / "cache", patch)
        for name, size in SIZES.items():
            patch.setattr(smollm2, name, size)
        text_config = smollm2.text_config
        patch.setattr(smollm2, "text_config", lambda: text_config() | TEXT)
        patch.setattr(llava_shapes, "POCKET_VISION", {**llava_shapes.POCKET_VISION, **VISION})
        patch.setattr(smollm2, "backbone_folder", lambda: folder() / "llm")
        patch.setattr(pocket_data, "DEV_IMAGES", 4)
        patch.setattr(pocket_data, "DEV_PASSAGES", 1)
        patch.setattr(easy_vqa, "training_images", lambda: iter(few))
        if not (folder() / "llm").is_dir():
            _save_llm(folder() / "llm")
        yield


def _save_llm(where: Path) -> None:
    torch.manual_seed(1)
    llm = LlamaForCausalLM(LlamaConfig(**smollm2.text_config(), initializer_range=0.2))
    where.mkdir()
    save_file({name: p.detach().clone() for name, p in llm.named_parameters()}, where / "model.safetensors")
    (where / "config.json").write_text(json.dumps({"num_hidden_layers": DEPTH, "model_type": "llama"}))


@pytest.fixture(scope="module", name="base")
def trained_base(tiny_pocket: None) -> Path:
    made = folder() / "base"
    return made if made.is_dir() else train(load("pocket-base", BASE), made, device="cpu")


@pytest.fixture(scope="module", name="tuned")
def trained_tuned(base: Path) -> Path:
    made = folder() / "tuned"
    return made if made.is_dir() else train("pocket-region", made, {**TUNE, "base": str(base)}, device="cpu")
