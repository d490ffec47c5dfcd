"""The pocket visual tasks: questions on scenes, in the columns of the benchmark that each follows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from vrbench.pocket.questions import ASKED_ONCE, LETTERS, ROTATED, YES_NO_PAIRS, Makers, VisualQuestion, word
from vrbench.pocket.world import Scene, draw, scene

# No two tasks share a scene.
_OFFSETS = {"pocket_mme": 0, "pocket_mmbench": 1_000_000, "pocket_seed": 2_000_000, "pocket_textvqa": 3_000_000}


def _scenes(task: str, split: str) -> Iterator[tuple[int, Scene, random.Random]]:
    """Endless scenes of a task, each with the random source of its questions; no two tasks share a scene."""
    index = _OFFSETS[task]
    while True:
        of = scene(split, index)
        yield index, of, random.Random(of.seed * 31 + 7)
        index += 1


def pocket_mme(split: str = "test", images: int = 160) -> list[dict[str, Any]]:
    """Rows with MME's columns: four categories an image, each with one question for yes and one for no."""
    rows: list[dict[str, Any]] = []
    for index, of, rng in _scenes("pocket_mme", split):
        pairs = [make(rng, of) for make in YES_NO_PAIRS.values()]
        if not all(pairs):
            continue
        image = _image(of)
        for pair in pairs:
            assert pair is not None
            for question, answer in ((pair.yes, "Yes"), (pair.no, "No")):
                rows.append(
                    {
                        "question_id": f"{split}-{index}.png",
                        "image": image,
                        "question": f"{question} Please answer yes or no.",
                        "answer": answer,
                        "category": pair.kind,
                    }
                )
        if len(rows) >= images * 8:
            return rows
    raise AssertionError("unreachable")


def _balanced(
    task: str, split: str, count: int, makers: Makers
) -> Iterator[tuple[int, Scene, VisualQuestion, random.Random]]:
    """`count` facts, one a scene, the kinds in turn."""
    kinds = list(makers)
    made = 0
    for index, of, rng in _scenes(task, split):
        fact = makers[kinds[made % len(kinds)]](rng, of)
        if fact and len(fact.wrong) == 3:
            yield index, of, fact, rng
            made += 1
            if made == count:
                return


def pocket_mmbench(split: str = "test", base_questions: int = 196) -> list[dict[str, Any]]:
    """Rows with MMBench's columns: each base question once for every rotation of its four options."""
    rows = []
    for index, of, fact, rng in _balanced("pocket_mmbench", split, base_questions, ROTATED):
        options = _shuffled(rng, fact)
        image = _image(of)
        for turn in range(4):
            turned = options[turn:] + options[:turn]
            rows.append(
                {
                    "index": index % 1_000_000 + turn * 1_000_000,
                    "question": fact.question,
                    "hint": "nan",
                    "answer": LETTERS[turned.index(fact.answer)],
                    **dict(zip(LETTERS, turned, strict=True)),
                    "category": fact.kind,
                    "L2-category": fact.kind,
                    "source": "pocket",
                    "comment": "nan",
                    "split": split,
                    "image": image,
                }
            )
    return rows


def pocket_seed(split: str = "test", questions: int = 700) -> list[dict[str, Any]]:
    """Rows with SEED-Bench's columns: four choices, one question a picture, the kinds in equal shares."""
    rows = []
    for index, of, fact, rng in _balanced("pocket_seed", split, questions, ASKED_ONCE):
        options = _shuffled(rng, fact)
        rows.append(
            {
                "question_id": f"{split}-{index}",
                "question": fact.question,
                **{f"choice_{letter.lower()}": o for letter, o in zip(LETTERS, options, strict=True)},
                "answer": LETTERS[options.index(fact.answer)],
                "data_type": "image",
                "question_type_id": list(ASKED_ONCE).index(fact.kind) + 1,
                "question_type": fact.kind,
                "image": [_image(of)],
            }
        )
    return rows


def pocket_textvqa(split: str = "test", questions: int = 600) -> list[dict[str, Any]]:
    """Rows with TextVQA's columns: read the written word; ten equal answers."""
    rows = []
    for index, of, rng in _scenes("pocket_textvqa", split):
        fact = word(rng, of)
        if not fact:
            continue
        rows.append(
            {
                "question_id": index,
                "image_id": f"{split}-{index}",
                "question": fact.question,
                "answers": [fact.answer] * 10,
                "ocr_tokens": [w.text for w in of.words],
                "words": len(of.words),
                "image": _image(of),
            }
        )
        if len(rows) == questions:
            return rows
    raise AssertionError("unreachable")


def _shuffled(rng: random.Random, fact: VisualQuestion) -> list[str]:
    options = [fact.answer, *fact.wrong]
    rng.shuffle(options)
    return options


def _image(of: Scene) -> Any:
    from PIL import Image

    return Image.fromarray(draw(of))
