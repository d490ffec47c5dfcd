"""The pocket visual tasks: questions on scenes, in the columns of the benchmark that each follows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

from vrbench.pocket.drawing import draw
from vrbench.pocket.questions import ASKED_ONCE, LETTERS, ROTATED, YES_NO_PAIRS, QuestionMakers, VisualQuestion, word
from vrbench.pocket.world import Scene, scene

_OFFSETS = {"pocket_mme": 0, "pocket_mmbench": 1_000_000, "pocket_seed": 2_000_000, "pocket_textvqa": 3_000_000}


def _scenes(task: str, split: str) -> Iterator[tuple[int, Scene, random.Random]]:
    """Endless scenes of a task, each with the random source of its questions; no two tasks share a scene."""
    for index in count(_OFFSETS[task]):
        drawn = scene(split, index)
        yield index, drawn, random.Random(drawn.seed * 31 + 7)


def _balanced(
    task: str, split: str, total: int, makers: QuestionMakers
) -> Iterator[tuple[int, Scene, VisualQuestion, list[str]]]:
    """So many questions, one a scene, the kinds in turn; each with its options shuffled."""
    kinds, made = list(makers), 0
    for index, drawn, rng in _scenes(task, split):
        question = makers[kinds[made % len(kinds)]](rng, drawn)
        if question and len(question.wrong) == 3:
            options = [question.answer, *question.wrong]
            rng.shuffle(options)
            yield index, drawn, question, options
            made += 1
            if made == total:
                return


def pocket_mme(split: str = "test", images: int = 160) -> list[dict[str, Any]]:
    """Return rows with MME's columns: four categories an image, each with one question for yes and one for no."""
    rows: list[dict[str, Any]] = []
    for index, drawn, rng in _scenes("pocket_mme", split):
        pairs = [make(rng, drawn) for make in YES_NO_PAIRS.values()]
        known = [pair for pair in pairs if pair]
        if len(known) < len(pairs):
            continue
        common = {"question_id": f"{split}-{index}.png", "image": _image(drawn)}
        for pair in known:
            for question, answer in ((pair.yes, "Yes"), (pair.no, "No")):
                text = f"{question} Please answer yes or no."
                rows.append({**common, "question": text, "answer": answer, "category": pair.kind})
        if len(rows) >= images * 8:
            break
    return rows


def pocket_mmbench(split: str = "test", base_questions: int = 196) -> list[dict[str, Any]]:
    """Return rows with MMBench's columns: each base question once for every rotation of its four options."""
    rows = []
    for index, drawn, question, options in _balanced("pocket_mmbench", split, base_questions, ROTATED):
        image = _image(drawn)
        for turn in range(4):
            rotated = options[turn:] + options[:turn]
            rows.append(
                {
                    "index": index % 1_000_000 + turn * 1_000_000, "question": question.question, "hint": "nan",
                    "answer": LETTERS[rotated.index(question.answer)], **dict(zip(LETTERS, rotated, strict=True)),
                    "category": question.kind, "L2-category": question.kind, "source": "pocket", "comment": "nan",
                    "split": split, "image": image,
                }
            )  # fmt: skip
    return rows


def pocket_seed(split: str = "test", questions: int = 700) -> list[dict[str, Any]]:
    """Return rows with SEED-Bench's columns: four choices, one question an image, the kinds in equal shares."""
    rows = []
    for index, drawn, question, options in _balanced("pocket_seed", split, questions, ASKED_ONCE):
        choices = {f"choice_{letter.lower()}": o for letter, o in zip(LETTERS, options, strict=True)}
        rows.append(
            {
                "question_id": f"{split}-{index}", "question": question.question, **choices,
                "answer": LETTERS[options.index(question.answer)], "data_type": "image",
                "question_type_id": list(ASKED_ONCE).index(question.kind) + 1, "question_type": question.kind,
                "image": [_image(drawn)],
            }
        )  # fmt: skip
    return rows


def pocket_textvqa(split: str = "test", questions: int = 600) -> list[dict[str, Any]]:
    """Return rows with TextVQA's columns: read the written word; ten equal answers."""
    rows: list[dict[str, Any]] = []
    for index, drawn, rng in _scenes("pocket_textvqa", split):
        question = word(rng, drawn)
        if question:
            rows.append(
                {
                    "question_id": index, "image_id": f"{split}-{index}", "question": question.question,
                    "answers": [question.answer] * 10, "ocr_tokens": [w.text for w in drawn.words],
                    "words": len(drawn.words), "image": _image(drawn),
                }
            )  # fmt: skip
        if len(rows) == questions:
            break
    return rows


def _image(drawn: Scene) -> Any:
    from PIL import Image

    return Image.fromarray(draw(drawn))
