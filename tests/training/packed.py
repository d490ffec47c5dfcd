"""A tiny model under training: images, questions and features that fit it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests import tiny
from vrbench.pocket.turns import TrainingTurn
from vrbench.training.packing import PackedLlava, Packer
from vrbench.training.tower import encode, scale_pixels

CPU = torch.device("cpu")
IMAGE_TOKENS = 4
TURNS = [
    [
        TrainingTurn("open/a", "What is it?", "cat"),
        TrainingTurn("yesno/b", "Is it a dog?", "No"),
        TrainingTurn("letter/c", "Which?\nA. x", "A"),
    ],
    [TrainingTurn("open/a", "Where?", "top left")],
    [TrainingTurn("letter/c", "Which one of them is it?", "B"), TrainingTurn("open/a", "Who?", "me")],
]


def pixels(count: int = len(TURNS), seed: int = 0) -> NDArray[np.uint8]:
    """Random images of the tiny tower's size: [count, side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, tiny.SIDE, tiny.SIDE, 3), dtype=np.uint8)


def features(model: Any, of: NDArray[np.uint8]) -> torch.Tensor:
    """What the tiny tower makes of images."""
    return encode(model.model.vision_tower, of, CPU).clone()  # out of inference mode, as a file's are


def packer() -> Packer:
    """Writes questions in the tiny chat."""
    return Packer(tiny.tokenizer(), IMAGE_TOKENS)


def packed_llava(model: Any) -> PackedLlava:
    """Trains in float32."""
    words = tiny.tokenizer()
    first = packer().prefix.index(words.convert_tokens_to_ids("<image>"))
    return PackedLlava(model, first, words.pad_token_id, "float32")


def alone(model: Any, picture: NDArray[np.uint8], turn: TrainingTurn) -> tuple[torch.Tensor, list[int]]:
    """Logits of a turn's answer, computed by the whole model from the pixels with nothing else in the row.

    Returns:
        Logits [answer tokens and end, vocabulary], and the tokens of the answer and its end.
    """
    words = tiny.tokenizer()
    message = [{"role": "user", "content": f"<image>\n{turn.prompt}"}]
    text = words.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    asked = words.encode(text.replace("<image>", "<image>" * IMAGE_TOKENS), add_special_tokens=False)
    said = [*words.encode(turn.answer, add_special_tokens=False), words.eos_token_id]
    with torch.inference_mode():
        ids = torch.tensor([asked + said])
        logits = model(input_ids=ids, pixel_values=scale_pixels(torch.from_numpy(picture[None]))).logits[0]
    return logits[len(asked) - 1 : -1], said
