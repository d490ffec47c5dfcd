"""A small training as a program of its own, to be killed or to be one of several: python small_training.py OUT [...].

What it prints is nothing; what it writes is OUT/losses.safetensors and OUT/weights.safetensors, last.
"""

from __future__ import annotations

import argparse
import os
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from tests import tiny
from tests.training import packed
from tests.training.conversation_samples import ONE, TWO, WORDS, loaded
from tests.training.packed import CPU, TURNS
from vrbench.core.layers import select_layers
from vrbench.training.checkpoint_folder import is_first
from vrbench.training.conversation_batches import EncodedConversations, answer_loss
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.packing import EncodedImages
from vrbench.training.pocket_data import packed_data
from vrbench.training.recipe import GeneratedScenes, TrainRecipe, TuneStage
from vrbench.training.stages import tune
from vrbench.training.trainable import add_lora
from vrbench.training.trainer import TrainingData, gather_shards


class Killing(TrainerCallback):
    """Kills its own process, as kill -9 does, when a number of steps is done and before they can be saved."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def recipe(**changes: Any) -> TrainRecipe:
    """Eight steps of LoRA with dropout, saved every third."""
    settings: dict[str, Any] = {
        "layers": "1-3", "rank": 2, "alpha": 4.0, "dropout": 0.2, "steps": 8, "batch": 4, "lr": 1e-2,
        "lr_projector": 1e-3, "save_every": 3, **changes,
    }  # fmt: skip
    data = GeneratedScenes(scenes=3)
    return TrainRecipe(name="t", makes="t", base="t", dtype="float32", data=data, tune=TuneStage(**settings))


def train(out: Path, of: TrainRecipe, callbacks: list[TrainerCallback]) -> tuple[Any, list[float]]:
    """The trained tiny model and its losses."""
    assert of.tune is not None and of.tune.steps is not None
    torch.manual_seed(0)
    layers = select_layers(of.tune.layers, tiny.DEPTH)
    model = tiny.llava()
    images = EncodedImages(packed.features(model, packed.pixels()), packed.packer().rows(TURNS))
    model = add_lora(model, layers, of.tune) if of.tune.tuning == "lora" else model
    data = packed_data(packed.packed_llava(model), images, None, of, of.tune.steps, of.tune.batch)
    return model, tune(model, layers, data, of, CPU, out / "state", callbacks)


def train_mixed(of: TrainRecipe) -> tuple[Any, list[float]]:
    """A tiny LLaVA that is trained on conversations, of which some in each step have no image, and its losses."""
    assert of.tune is not None
    torch.manual_seed(0)
    vlm = loaded("llava")
    layers = select_layers(of.tune.layers, tiny.DEPTH)
    model = add_lora(deepcopy(vlm.model), layers, of.tune)
    samples = EncodedConversations([ONE, WORDS, TWO], ConversationEncoder(vlm, 4000))
    order = np.array([0, 1, 1, 2] * 3)
    data = TrainingData(samples, samples.collate, answer_loss, order, has_unused_parameters=True)
    return model, tune(model, layers, data, of, CPU)


def shard_on_cpus() -> None:
    """Let accelerate shard (FSDP2) without GPUs by making its processes believe that they have some."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def begun(self: Any, *args: Any, **given: Any) -> None:
        begin(self, *args, **given)
        if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = begun  # type: ignore[method-assign]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(words)
    if os.environ.get("ACCELERATE_USE_FSDP"):
        shard_on_cpus()
    changes = dict(change.split("=") for change in given.set)
    of = recipe(**changes)
    killing: list[TrainerCallback] = [Killing(given.kill_at)] if given.kill_at else []
    model, losses = train_mixed(of) if given.mixed else train(given.out, of, killing)
    weights = gather_shards(model) or {name: p.detach().clone() for name, p in model.named_parameters()}
    if is_first():
        save_file({"losses": torch.tensor(losses)}, given.out / "losses.safetensors")
        save_file(weights, given.out / "weights.safetensors")


if __name__ == "__main__":
    main()
