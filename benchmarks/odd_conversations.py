"""Made samples in LLaVA's layout, of the usual kinds and of odd ones that published sets may contain."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from vrbench.checkpoints.prompts import IMAGE

WORDS = (
    "the a red dog old house is on street two three cars many people what which colour shape left right near small "
    'large answer question picture sign text says naïve 漢字 x=1, (b) 3.5 "quoted" it\'s user assistant'
).split()

Record = dict[str, Any]
Make = Callable[[random.Random], Record]


def text(rng: random.Random, longest: int = 8) -> str:
    """A sentence of some words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(1, longest))).capitalize() + rng.choice(["", ".", "?", "!\n- it"])


def turns(rng: random.Random, first: str = "", number: int = 0) -> list[list[str]]:
    """Questions and answers by turns, the first question as given."""
    found = [[text(rng), text(rng)] for _ in range(number or rng.randint(1, 4))]
    found[0][0] = first or found[0][0]
    return found


def record(said: Sequence[Sequence[str]] | Sequence[str], image: str | list[str] | None = "a.png") -> Record:
    """A record of pairs of messages, or of messages of which a human's is the first."""
    flat = [message for part in said for message in ([part] if isinstance(part, str) else part)]
    messages = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(flat)]
    return {"id": "made", **({"image": image} if image else {}), "conversations": messages}


def shown(rng: random.Random) -> str:
    """A question with its image as most samples have it, before or behind a line end."""
    return rng.choice([f"{IMAGE}\n{text(rng)}", f"{text(rng)}\n{IMAGE}"])


def _several(rng: random.Random, number: int = 3) -> list[list[str]]:
    return turns(rng, shown(rng), number)


def _changed(rng: random.Random, change: Callable[[random.Random, list[list[str]]], Any], number: int = 3) -> Record:
    said = _several(rng, number)
    change(rng, said)
    return record(said)


def _set(turn: int, part: int, make: Callable[[random.Random], str]) -> Make:
    """A record of three turns, in which the question (0) or answer (1) of a turn is as made."""

    def change(rng: random.Random, said: list[list[str]]) -> None:
        said[turn][part] = make(rng)

    return lambda rng: _changed(rng, change)


def _gpt_first(rng: random.Random) -> Record:
    made = record(_several(rng))
    made["conversations"].insert(0, {"from": "gpt", "value": text(rng)})
    return made


def _human_twice(rng: random.Random) -> Record:
    made = record(_several(rng))
    made["conversations"].insert(0, {"from": "human", "value": text(rng)})
    return made


def _padded(rng: random.Random) -> str:
    return rng.choice([" ", "\n", "  "]) + text(rng) + rng.choice([" ", "\n\n", "  ", ""])


KINDS: dict[str, Make] = {
    "one turn": lambda rng: record(turns(rng, shown(rng), 1)),
    "several turns": lambda rng: record(_several(rng, rng.randint(2, 5))),
    "text only": lambda rng: record(turns(rng), None),
    "image in mid-question": lambda rng: record(turns(rng, f"{text(rng)} {IMAGE} {text(rng)}")),
    "image in front, on the same line": lambda rng: record(turns(rng, f"{IMAGE}{rng.choice(['', ' '])}{text(rng)}")),
    "image in front, much white space": lambda rng: record(turns(rng, f"{IMAGE} \n\n {text(rng)} \n")),
    "nothing but an image": lambda rng: record(turns(rng, rng.choice([IMAGE, f"{IMAGE}\n", f" {IMAGE}"]))),
    "image in a later turn": lambda rng: record([[text(rng), text(rng)], *_several(rng, 2)]),
    "two marks in a question": lambda rng: record(
        turns(rng, rng.choice([f"{IMAGE}\n{IMAGE}\n{text(rng)}", f"{text(rng)} {IMAGE} {text(rng)} {IMAGE}"]))
    ),
    "a mark in each of two questions": lambda rng: _changed(rng, lambda r, s: s[1].__setitem__(0, shown(r))),
    "a mark in an answer": _set(1, 1, lambda rng: f"{text(rng)} {IMAGE}"),
    "an image without a mark": lambda rng: record(turns(rng)),
    "a literal <image> in text only": lambda rng: record(turns(rng, f"{text(rng)} {IMAGE} tag {text(rng)}"), None),
    "an empty answer among several": _set(1, 1, lambda _: ""),
    "the last answer empty": _set(2, 1, lambda _: ""),
    "an answer of white space": _set(1, 1, lambda rng: rng.choice([" ", "\n"])),
    "an empty question": _set(1, 0, lambda _: ""),
    "gpt first": _gpt_first,
    "gpt alone": lambda rng: {"id": "made", "conversations": [{"from": "gpt", "value": text(rng)}]},
    "a question without an answer": lambda rng: record([*_several(rng, 2), [text(rng)]]),
    "white space around answers": _set(1, 1, _padded),
    "white space around questions": _set(1, 0, _padded),
    "'ASSISTANT: ' in an answer": _set(1, 1, lambda rng: f"{text(rng)} ASSISTANT: {text(rng)}"),
    "an end token in an answer": _set(1, 1, lambda rng: f"{text(rng)}</s><|end_of_text|><|endoftext|> {text(rng)}"),
    "special tokens in a question": _set(1, 0, lambda rng: f"<s> <unk> <|begin_of_text|> {text(rng)}"),
    "about as long as the maximum, text": lambda rng: record([["a", "b"]] * rng.randint(25, 28), None),
    "longer than the maximum, text": lambda rng: record([[text(rng, 30), text(rng, 40)] for _ in range(6)], None),
    "longer than the maximum, image": lambda rng: record([[shown(rng), text(rng)], *turns(rng, text(rng, 40), 6)]),
    "images up to the maximum and beyond": lambda rng: record([[shown(rng), "Yes"] for _ in range(30)]),
    "human twice": _human_twice,
    "several images": lambda rng: record(turns(rng, f"{IMAGE}\n{IMAGE}\n{text(rng)}"), ["a.png", "b.png"]),
}  # fmt: skip
"""Kind -> makes a sample of it."""


def samples(number: int, seed: int = 0) -> list[tuple[str, Record]]:
    """As many samples with their kinds, the kinds in turns."""
    rng = random.Random(seed)
    names = list(KINDS)
    return [(names[i % len(names)], KINDS[names[i % len(names)]](rng)) for i in range(number)]
