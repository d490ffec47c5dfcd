"""Tiny models of every family, and conversations with drawn images for them."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny, tiny_families
from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.prompts import Turn
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.training.conversations import Conversation, TrainingImage

FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


@cache
def loaded(family: str) -> Any:
    folder = Path(mkdtemp()) / family
    if family == "llava":
        tiny.save_llava(folder)
    else:
        tiny_families.save(family, folder)
    return load_vlm(resolve_checkpoint(str(folder)))


def picture(seed: int, width: int = 70, height: int = 40) -> TrainingImage:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return TrainingImage(f"{seed}.png", content.getvalue())


def sample(*turns: tuple[str, str, int], first: int = 0) -> Conversation:
    shown = sum(number for _, _, number in turns)
    pictures = tuple(picture(first + i, 70 - 20 * i, 40 + 9 * i) for i in range(shown))
    return Conversation("x", tuple(Turn(q, a, n) for q, a, n in turns), pictures, "x.json, sample 1")


ONE = sample(("What is it?", "A red dog.", 1))
SEVERAL = sample(("What is it?", "A dog.", 1), ("Which colour?", "It is red, or so.", 0), ("Old?", "No", 0))
TWO = sample(("Which is larger?", "The first", 2), first=3)
LATER = sample(("Hello?", "Hi.", 0), ("What is this?", "A cat", 1), ("And <image> then?", "Nothing.", 1), first=5)
WORDS = sample(("Two and two?", "Four, I think.", 0), ("Sure?", "Yes!", 0))
