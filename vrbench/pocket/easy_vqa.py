"""easy-VQA (Victor Zhou, MIT licence): small images of one shape each, with questions, from the package `easy-vqa`.

Its test split is the task `easy_vqa`; its train split is part of what the pocket family is tuned on, without any image
that the test split has too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.pocket.turns import SHORT, TrainingTurn

EXTRA_SHAPES = ("rectangle",)
EXTRA_COLOURS = ("black", "gray")
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")
DEV_IMAGES = 300
"""Images of the train split that are kept out of the training."""


@dataclass(frozen=True)
class EasyVqaImage:
    """One training image with its shape, colour and questions."""

    image: Any
    shape: str
    colour: str
    turns: tuple[TrainingTurn, ...]


def _folder(split: str) -> Path:
    found = importlib.util.find_spec("easy_vqa")
    for place in (found.submodule_search_locations or []) if found else []:
        folder = Path(place) / "data" / split
        if folder.is_dir():
            return folder
    raise VrbenchError("the package easy-vqa is not installed; install it with `pip install --no-deps easy-vqa==1.0`")


def _questions(split: str) -> list[tuple[str, str, int]]:
    """Question, answer and image number."""
    return [tuple(q) for q in json.loads((_folder(split) / "questions.json").read_text(encoding="utf-8"))]


def _image(split: str, number: int) -> Any:
    from PIL import Image

    with Image.open(_folder(split) / "images" / f"{number}.png") as image:
        return image.convert("RGB")


def question_type(question: str, answer: str) -> str:
    """Return the kind of a question: "shape", "color", "yes/no shape" or "yes/no color"."""
    if answer not in ("yes", "no"):
        return "color" if answer in COLOURS else "shape"
    return "yes/no color" if any(re.search(rf"\b{c}\b", question) for c in COLOURS) else "yes/no shape"


def rows(split: str = "test") -> list[dict[str, Any]]:
    """Return the task's rows: id, image, image_id, question, answer, question_type.

    Args:
        split: "test" (all of the package's test split), or "dev" (questions of the first `DEV_IMAGES` images of its
            train split, which training leaves out).
    """
    source = "test" if split == "test" else "train"
    image = cache(_image)
    return [
        {
            "id": f"{source}-{i}", "image": image(source, number), "image_id": f"{source}-{number}",
            "question": question, "answer": answer, "question_type": question_type(question, answer),
        }
        for i, (question, answer, number) in enumerate(_questions(source))
        if split == "test" or number < DEV_IMAGES
    ]  # fmt: skip


def training_images() -> Iterator[EasyVqaImage]:
    """Yield the images of the train split that are neither in the dev part nor, pixel by pixel, in the test split."""
    held_out = {pixel_digest(_image("test", n)) for n in {q[2] for q in _questions("test")}}
    asked: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, number in _questions("train"):
        asked[number].append((question, answer))
    for number, questions in sorted(asked.items()):
        image = _image("train", number)
        if number < DEV_IMAGES or pixel_digest(image) in held_out:
            continue
        shape = next((a for _, a in questions if a in SHAPES), None)
        colour = next((a for _, a in questions if a in COLOURS), None)
        if shape and colour:
            yield EasyVqaImage(
                image, shape, colour, tuple(TrainingTurn("open/easy", q + SHORT, a) for q, a in questions)
            )


def pixel_digest(image: Any) -> str:
    """Return the sha256 of an image's size and RGB bytes."""
    return hashlib.sha256(repr(image.size).encode() + image.convert("RGB").tobytes()).hexdigest()
