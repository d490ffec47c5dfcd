"""The real steps on a pocket family made tiny, in whatever process they are done.

`VRBENCH_TEST_TINY` names the folder of a small random language model; `in_it` makes the pocket family's code take it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from vrbench.cli import reproduce_steps
from vrbench.reproduce.worker import StepFunction, StepJob

FOLDER = "VRBENCH_TEST_TINY"
DEPTH = 6
SIZES = {"LAYERS": DEPTH, "HIDDEN": 48}
TEXT = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
BASE = {
    "seed": "3", "dtype": "float32", "data.scenes": "6", "data.easy_vqa": "0.0", "data.dev": "4",
    "tower.steps": "2", "tower.batch": "4", "align.steps": "2", "align.batch": "4",
}  # fmt: skip


@contextmanager
def in_it() -> Iterator[None]:
    """The pocket family with a small tower and the small language model."""
    from vrbench.checkpoints import llava_shapes, smollm2

    folder = Path(os.environ[FOLDER])
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SIZES.items():
            patch.setattr(smollm2, name, size)
        text_config = smollm2.text_config
        patch.setattr(smollm2, "text_config", lambda: text_config() | TEXT)
        vision = {**llava_shapes.POCKET_VISION, **VISION}
        patch.setattr(llava_shapes, "POCKET_VISION", vision)
        patch.setattr(smollm2, "backbone_folder", lambda: folder)
        yield


def write_llm(folder: Path) -> None:
    """A small random language model in a folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from vrbench.checkpoints import smollm2

    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SIZES.items():
            patch.setattr(smollm2, name, size)
        torch.manual_seed(1)
        llm = LlamaForCausalLM(LlamaConfig(**smollm2.text_config() | TEXT, initializer_range=0.2))
    save_file({name: p.detach().clone() for name, p in llm.named_parameters()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": DEPTH, "model_type": "llama"}))


def _do(kind: str, job: StepJob) -> None:
    with in_it():
        reproduce_steps.FUNCTIONS[kind](job)


FUNCTIONS: dict[str, StepFunction] = {kind: partial(_do, kind) for kind in reproduce_steps.FUNCTIONS}
