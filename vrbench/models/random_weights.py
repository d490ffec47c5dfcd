"""Random weights made on the model's device, so that a 13B model is never in the machine's own memory.

Each value depends on the seed, its tensor's name and its position alone, in integers up to one last product: every
device gives the same bits, and another dtype gives the same values rounded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.checkpoints.remote_code import LOCAL_ONLY
from vrbench.core.io import read_text
from vrbench.models.hf_folder import load_tokenizer

CHUNK = 1 << 24
"""Values made together: 128 MiB for each int64 tensor."""

# The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): an integer -> 64 bits that look random.
GOLDEN, FIRST, SECOND = (
    number - (1 << 64)
    for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # as int64
)
LANES = (0, 16, 32, 48)
LANE = 0xFFFF
SPREAD = ((2**32 - 1) / 3) ** 0.5
"""Standard deviation of the sum of four independent integers from 0 to 65,535."""


def load(folder: Path, dtype: torch.dtype, device: str | torch.device) -> tuple[Any, Any, Any]:
    """Load the model, tokenizer and image processor of a folder that has a recipe instead of weights."""
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    recipe = json.loads(read_text(folder / RANDOM_WEIGHTS))
    config = AutoConfig.from_pretrained(folder, **LOCAL_ONLY)
    with torch.device(device), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    fill(model, recipe["seed"], recipe["std"])
    return model, *load_tokenizer(folder)


def reader(folder: Path, model: torch.nn.Module) -> Callable[[str], torch.Tensor]:
    """Return a function that makes one weight of a loaded model again in float32, by its parameter's name."""
    recipe = json.loads(read_text(folder / RANDOM_WEIGHTS))
    shapes = {name: (parameter.shape, parameter.device) for name, parameter in model.named_parameters()}

    def read(name: str) -> torch.Tensor:
        shape, device = shapes[name]
        made = torch.empty(shape, device=device)
        _fill_parameter(name, made, recipe["seed"], recipe["std"])
        return made

    return read


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int, std: float) -> None:
    """Give every parameter its value: weights about 0, scales of norms 1, biases 0."""
    for name, parameter in model.named_parameters():
        _fill_parameter(name, parameter, seed, std)


def _fill_parameter(name: str, parameter: torch.Tensor, seed: int, std: float) -> None:
    if name.endswith(".bias"):
        parameter.zero_()
    elif parameter.dim() == 1 and name.endswith(".weight"):
        parameter.fill_(1)
    else:
        _fill(parameter, f"{seed} {name}", std)


def _fill(parameter: torch.Tensor, key: str, std: float) -> None:
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
    stays = parameter.is_cuda or not torch.cuda.is_available()
    values, device = parameter.view(-1), parameter.device if stays else torch.device("cuda")  # a GPU is far quicker
    for begin in range(0, len(values), CHUNK):
        part = values[begin : begin + CHUNK]
        part.copy_(_normal(start + begin, len(part), device) * (std / SPREAD))


def _normal(start: int, count: int, device: torch.device) -> torch.Tensor:
    """Return [count] float32 integers, bell-shaped about 0 with deviation `SPREAD`, for start, start + 1, ..."""
    bits = torch.arange(start, start + count, dtype=torch.int64, device=device)
    bits = bits * GOLDEN
    bits = (bits ^ _logical_shift_right(bits, 30)) * FIRST
    bits = (bits ^ _logical_shift_right(bits, 27)) * SECOND
    bits ^= _logical_shift_right(bits, 31)
    total = torch.zeros_like(bits)
    for lane in LANES:
        total += (bits >> lane) & LANE
    return (total - 2 * LANE).float()


def _logical_shift_right(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shift to the right as unsigned numbers are, filling with zeros."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
