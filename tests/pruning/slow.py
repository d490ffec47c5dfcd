"""A tiny LLaVA's samples, one at a time from the pixels, everything kept: what streamed scores are held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from vrbench.models.llava_model import LlavaModel
from vrbench.pruning.importance_methods import IMPORTANCE_METHODS
from vrbench.pruning.questions import ImageQuestion
from vrbench.pruning.samples import Samples

IMAGE_TOKENS = 4


def scores(by: str, samples: Samples) -> list[float]:
    """An importance score of some samples, whatever checkpoint they belong to."""
    context: Any = SimpleNamespace(samples=samples)
    return list(IMPORTANCE_METHODS[by].compute(context))


@dataclass(frozen=True)
class Seen:
    """One sample with all that the model makes of it.

    Attributes:
        ids: [tokens] as the model reads them.
        is_image: [tokens] whether a token is the picture's.
        entering, leaving: [layers, tokens, hidden] float64.
        attention: [layers, heads, tokens, tokens], as transformers gives it.
    """

    ids: torch.Tensor
    is_image: torch.Tensor
    entering: torch.Tensor
    leaving: torch.Tensor
    attention: torch.Tensor


def inputs_of(vlm: LlavaModel, question: ImageQuestion, end: bool = False) -> tuple[dict[str, torch.Tensor], int]:
    """A model's inputs for one sample alone, and how many tokens its answer has."""
    prompt = vlm.prompt(question.prompt, 1).replace("<image>", "<image>" * IMAGE_TOKENS)
    asked = vlm.tokenizer(prompt)["input_ids"]
    said = vlm.tokenizer(question.answer, add_special_tokens=False)["input_ids"] if question.answer else []
    said = [*said, vlm.tokenizer.eos_token_id] if end else said
    pixels = vlm.image_processor(images=[question.image], return_tensors="pt")["pixel_values"]
    return {"input_ids": torch.tensor([asked + said]), "pixel_values": pixels}, len(said)


def seen(vlm: LlavaModel, questions: Sequence[list[ImageQuestion]]) -> list[Seen]:
    """Every sample through the model, one after the other."""
    return [_seen(vlm, question) for of in questions for question in of]


@torch.inference_mode()
def _seen(vlm: LlavaModel, question: ImageQuestion) -> Seen:
    inputs, _ = inputs_of(vlm, question)
    entering: list[torch.Tensor] = []
    leaving: list[torch.Tensor] = []

    def keep(_: Any, args: Any, output: torch.Tensor) -> None:
        entering.append(args[0][0].double())
        leaving.append(output[0].double())

    handles = [layer.register_forward_hook(keep) for layer in vlm.decoder_layers]
    vlm.model.set_attn_implementation("eager")
    found = vlm.model(**inputs, use_cache=False, output_attentions=True)
    vlm.model.set_attn_implementation("sdpa")
    for handle in handles:
        handle.remove()
    ids = inputs["input_ids"][0]
    is_image = ids == vlm.tokenizer.convert_tokens_to_ids("<image>")
    return Seen(ids, is_image, torch.stack(entering), torch.stack(leaving), torch.stack(found.attentions)[:, 0])


def mean(values: Sequence[Sequence[float]]) -> list[float]:
    """Layer by layer, over the samples."""
    return [sum(column) / len(values) for column in zip(*values, strict=True)]


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    """Of two vectors; 0 where one of them is all zeros."""
    lengths = float(x.norm() * y.norm())
    return float(x @ y) / lengths if lengths else 0.0


def answer_loss(model: Any, inputs: dict[str, torch.Tensor], said: int) -> torch.Tensor:
    """The loss of the last tokens, token by token, in nats."""
    logs = model(**inputs, use_cache=False).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    return -sum(logs[place - 1, ids[place]] for place in range(len(ids) - said, len(ids)))


@contextmanager
def faded(layer: torch.nn.Module, gate: float) -> Iterator[None]:
    """The layer's own contribution, what leaves less what enters, times a gate."""

    def fade(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return args[0] + gate * (output - args[0])

    handle = layer.register_forward_hook(fade)
    try:
        yield
    finally:
        handle.remove()
