"""Training turns on scenes: prompts as the harnesses write them, with the right answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vrbench.pocket.questions import LETTERS, QUESTIONS, YES_NO_PAIRS
from vrbench.pocket.world import Scene

SHORT = "\nAnswer the question using a single word or phrase."  # after MME's, TextVQA's and easy-VQA's questions
BY_LETTER = "Answer with the option's letter from the given choices directly."  # after SEED-Bench's and MMBench's


@dataclass(frozen=True)
class TrainingTurn:
    """One training example on an image."""

    kind: str
    prompt: str
    answer: str


def lettered(question: str, options: list[str], style: str) -> str:
    """Return a multiple-choice prompt as lmms-eval writes it for SEED-Bench ("seed") or MMBench ("mmbench")."""
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    if style == "seed":
        return f"{question}\n{lines}\n{BY_LETTER}"
    return f"{question} There are several options:\n{lines}\n\n{BY_LETTER}"


def turns(scene: Scene, count: int) -> list[TrainingTurn]:
    """Return `count` training turns on a scene: yes/no, letters and open answers, mixed; the same every time."""
    rng = random.Random(scene.seed * 17 + 3)
    made: list[TrainingTurn] = []
    for _ in range(count * 6):
        made += _one_turn(rng, scene)
        if len(made) >= count:
            break
    return made[:count]


def _one_turn(rng: random.Random, scene: Scene) -> list[TrainingTurn]:
    if rng.random() < 0.3:
        kind = rng.choice(list(YES_NO_PAIRS))
        pair = YES_NO_PAIRS[kind](rng, scene)
        if not pair:
            return []
        question, answer = rng.choice(((pair.yes, "Yes"), (pair.no, "No")))
        return [TrainingTurn(f"yesno/{kind}", question + SHORT, answer)]
    kind = rng.choice([*QUESTIONS, "word"])  # reading is the hardest to learn: twice as often
    asked = QUESTIONS[kind](rng, scene)
    if not asked or len(asked.wrong) < 3:
        return []
    if rng.random() < (0.45 if kind == "word" else 0.65):
        options = [asked.answer, *asked.wrong]
        rng.shuffle(options)
        prompt = lettered(asked.question, options, rng.choice(("seed", "mmbench")))
        return [TrainingTurn(f"letter/{kind}", prompt, LETTERS[options.index(asked.answer)])]
    return [TrainingTurn(f"open/{kind}", asked.question.capitalize() + SHORT, asked.answer)]


def caption(scene: Scene) -> TrainingTurn:
    """Return what the projector is aligned on: everything in the image, from top to bottom."""
    parts = sorted([(t.y, f"a {t.size} {t.name}") for t in scene.objects]
                   + [(w.y, f"the word {w.text} in {w.colour}") for w in scene.words])  # fmt: skip
    answer = ", ".join(text for _, text in parts) or "nothing"
    return TrainingTurn("caption", "Describe the image from top to bottom.", answer)
