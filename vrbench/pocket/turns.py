"""Training turns on scenes: the same words that the harnesses put before the model, with the right answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vrbench.pocket.questions import LETTERS, QUESTIONS, YES_NO_PAIRS
from vrbench.pocket.world import Scene

SHORT = "\nAnswer the question using a single word or phrase."  # after MME's, TextVQA's and easy-VQA's questions
BY_LETTER = "Answer with the option's letter from the given choices directly."  # after SEED-Bench's and MMBench's


@dataclass(frozen=True)
class TrainingTurn:
    """One training example on a picture: what is asked, what is to be answered, and of what kind it is."""

    kind: str
    prompt: str
    answer: str


def lettered(question: str, options: list[str], style: str) -> str:
    """A multiple-choice prompt as lmms-eval writes it for SEED-Bench ("seed") or MMBench ("mmbench")."""
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    if style == "seed":
        return f"{question}\n{lines}\n{BY_LETTER}"
    return f"{question} There are several options:\n{lines}\n\n{BY_LETTER}"


def turns(of: Scene, count: int) -> list[TrainingTurn]:
    """`count` training turns on a scene: yes/no pairs, letters and open answers, mixed; the same for the same scene."""
    rng = random.Random(of.seed * 17 + 3)
    made: list[TrainingTurn] = []
    for _ in range(count * 6):
        made += _one_turn(rng, of)
        if len(made) >= count:
            break
    return made[:count]


def _one_turn(rng: random.Random, of: Scene) -> list[TrainingTurn]:
    if rng.random() < 0.3:
        kind = rng.choice(list(YES_NO_PAIRS))
        pair = YES_NO_PAIRS[kind](rng, of)
        if not pair:
            return []
        question, answer = rng.choice(((pair.yes, "Yes"), (pair.no, "No")))
        return [TrainingTurn(f"yesno/{kind}", question + SHORT, answer)]
    kind = rng.choice([*QUESTIONS, "word"])  # reading is the hardest to learn: twice as often
    fact = QUESTIONS[kind](rng, of)
    if not fact or len(fact.wrong) < 3:
        return []
    if rng.random() < (0.45 if kind == "word" else 0.65):
        options = [fact.answer, *fact.wrong]
        rng.shuffle(options)
        prompt = lettered(fact.question, options, rng.choice(("seed", "mmbench")))
        return [TrainingTurn(f"letter/{kind}", prompt, LETTERS[options.index(fact.answer)])]
    return [TrainingTurn(f"open/{kind}", fact.question.capitalize() + SHORT, fact.answer)]


def caption(of: Scene) -> TrainingTurn:
    """What the projector is aligned on: everything in the picture, read from top to bottom."""
    parts = sorted([(t.y, f"a {t.size} {t.name}") for t in of.things]
                   + [(w.y, f"the word {w.text} in {w.colour}") for w in of.words])  # fmt: skip
    return TrainingTurn(
        "caption", "Describe the image from top to bottom.", ", ".join(text for _, text in parts) or "nothing"
    )
