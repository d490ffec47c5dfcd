"""Questions about scenes: what the pocket visual tasks ask, and what the pocket family is tuned on.

A `Fact` is one question with its answer and its plausible wrong answers. The test tasks put facts into the columns of
the benchmark that they follow; training writes them out in the same words as that benchmark's harness does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vrbench.pocket.glyphs import WORDS
from vrbench.pocket.world import COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, draw, scene

LETTERS = "ABCD"
PLACES = ("top left", "top right", "bottom left", "bottom right")
MARGIN = 9.0  # pixels by which a place or an order must be clear before it is asked about
SHORT = "\nAnswer the question using a single word or phrase."
BY_LETTER = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Fact:
    """A question, its answer, and three wrong answers that do not give themselves away."""

    kind: str
    question: str
    answer: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two yes/no questions on one matter; the first is answered yes, the second no (MME's form)."""

    kind: str
    yes: str
    no: str


def plural(name: str) -> str:
    """Such as "crosses" or "red circles"."""
    return name + ("es" if name.endswith("s") else "s")


def _unique(things: tuple[Thing, ...], of: str) -> list[Thing]:
    """Things that share the value of an attribute ("shape", "colour" or "name") with no other."""
    counts = Counter(getattr(t, of) for t in things)
    return [t for t in things if counts[getattr(t, of)] == 1]


def _wrong(rng: random.Random, answer: str, likely: list[str], others: list[str]) -> tuple[str, ...]:
    """Three wrong answers: those in the picture first, then others."""
    near = [w for w in dict.fromkeys(likely) if w != answer]
    rng.shuffle(near)
    rest = [w for w in others if w != answer and w not in near]
    rng.shuffle(rest)
    return tuple((near + rest)[:3])


def _colour(rng: random.Random, of: Scene) -> Fact | None:
    ones = _unique(of.things, "shape")
    if not ones:
        return None
    thing = rng.choice(ones)
    wrong = _wrong(rng, thing.colour, [t.colour for t in of.things], list(COLOURS))
    return Fact("color", f"What color is the {thing.shape}?", thing.colour, wrong)


def _shape(rng: random.Random, of: Scene) -> Fact | None:
    ones = _unique(of.things, "colour")
    if not ones:
        return None
    thing = rng.choice(ones)
    wrong = _wrong(rng, thing.shape, [t.shape for t in of.things], list(SHAPES))
    return Fact("shape", f"What is the shape of the {thing.colour} object?", thing.shape, wrong)


def _countable(rng: random.Random, of: Scene) -> tuple[str, int] | None:
    """What to count and how many there are: a shape, a colour, or all; now and then nothing at all."""
    if not of.things:
        return None
    way = rng.choice(("shape", "colour", "all", "absent"))
    if way == "all":
        return "objects", len(of.things)
    if way == "absent":
        shape = rng.choice([s for s in SHAPES if s not in {t.shape for t in of.things}])
        return plural(shape), 0
    value = getattr(rng.choice(of.things), way)
    count = sum(getattr(t, way) == value for t in of.things)
    return (plural(value) if way == "shape" else f"{value} objects"), count


def _count(rng: random.Random, of: Scene) -> Fact | None:
    found = _countable(rng, of)
    if not found:
        return None
    what, count = found
    near = sorted((n for n in range(10) if n != count), key=lambda n: (abs(n - count), rng.random()))
    return Fact("count", f"How many {what} are there?", str(count), tuple(str(n) for n in near[:3]))


def _place_of(x: float, y: float) -> str | None:
    half = SIDE / 2
    if min(abs(x - half), abs(y - half)) < MARGIN:
        return None
    return f"{'top' if y < half else 'bottom'} {'left' if x < half else 'right'}"


def _place(rng: random.Random, of: Scene) -> Fact | None:
    ones = [(t, _place_of(t.x, t.y)) for t in _unique(of.things, "name")]
    clear = [(t, place) for t, place in ones if place]
    if not clear:
        return None
    thing, place = rng.choice(clear)
    return Fact("place", f"In which corner of the image is the {thing.name}?", place, _wrong(rng, place, [], list(PLACES)))


def _nearest(rng: random.Random, of: Scene) -> Fact | None:
    """Two steps: find one thing, then the one next to it."""
    found = []
    for thing in _unique(of.things, "name"):
        others = sorted(
            ((o.x - thing.x) ** 2 + (o.y - thing.y) ** 2, o.shape) for o in of.things if o is not thing
        )
        near = [(d**0.5, shape) for d, shape in others]
        if len(near) >= 2 and near[1][0] - near[0][0] >= MARGIN:
            found.append((thing, near[0][1]))
    if not found:
        return None
    thing, shape = rng.choice(found)
    wrong = _wrong(rng, shape, [t.shape for t in of.things], list(SHAPES))
    return Fact("nearest", f"What is the shape of the object nearest to the {thing.name}?", shape, wrong)


_EXTREMES: dict[str, Callable[[Thing], float]] = {
    "farthest to the left": lambda t: t.x,
    "farthest to the right": lambda t: -t.x,
    "closest to the top": lambda t: t.y,
    "closest to the bottom": lambda t: -t.y,
}


def _extreme(rng: random.Random, of: Scene) -> Fact | None:
    way = rng.choice(list(_EXTREMES))
    order = sorted(of.things, key=_EXTREMES[way])
    if len(order) < 2 or _EXTREMES[way](order[1]) - _EXTREMES[way](order[0]) < MARGIN / 2:
        return None
    wrong = _wrong(rng, order[0].colour, [t.colour for t in of.things], list(COLOURS))
    return Fact("extreme", f"What color is the object {way}?", order[0].colour, wrong)


def _most(rng: random.Random, of: Scene) -> Fact | None:
    counts = Counter(t.colour for t in of.things).most_common()
    if len(counts) < 2 or counts[0][1] == counts[1][1]:
        return None
    wrong = _wrong(rng, counts[0][0], [c for c, _ in counts], list(COLOURS))
    return Fact("most", "Which color has the most objects?", counts[0][0], wrong)


def _word(rng: random.Random, of: Scene) -> Fact | None:
    if not of.words:
        return None
    word = rng.choice(of.words)
    by_colour = len(of.words) > 1 or rng.random() < 0.3
    question = f"What word is written in {word.colour}?" if by_colour else "What word is written in the image?"
    same_start = [w for w in WORDS if w[0] == word.text[0] and w != word.text]
    likely = [w.text for w in of.words] + rng.sample(same_start, min(1, len(same_start)))
    return Fact("word", question, word.text, _wrong(rng, word.text, likely, rng.sample(WORDS, 8)))


FACTS: dict[str, Callable[[random.Random, Scene], Fact | None]] = {
    "color": _colour,
    "shape": _shape,
    "count": _count,
    "place": _place,
    "nearest": _nearest,
    "extreme": _extreme,
    "most": _most,
    "word": _word,
}


def _existence_pair(rng: random.Random, of: Scene) -> Pair | None:
    """One thing that is there, and one that differs from a thing that is there in size, colour or shape alone."""
    if not of.things:
        return None
    there = {(t.size, t.colour, t.shape) for t in of.things}
    one = rng.choice(of.things)
    size, colour, shape = one.size, one.colour, one.shape
    colours = [t.colour for t in of.things if t.colour != colour] or [c for c in COLOURS if c != colour]
    shapes = [t.shape for t in of.things if t.shape != shape] or [s for s in SHAPES if s != shape]
    near = [
        (next(s for s in SIZES if s != size), colour, shape),
        (size, rng.choice(colours), shape),
        (size, colour, rng.choice(shapes)),
    ]
    absent = [name for name in near if name not in there]
    if not absent:
        return None
    names = (f"{size} {one.name}", " ".join(rng.choice(absent)))
    return Pair("existence", *(f"Is there {_article(n)} {n} in the image?" for n in names))


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _count_pair(rng: random.Random, of: Scene) -> Pair | None:
    found = _countable(rng, of)
    if not found or found[1] == 0:
        return None
    what, count = found
    other = rng.choice([n for n in (count - 2, count - 1, count + 1, count + 2) if n > 0])
    return Pair("count", *(f"Is the number of {what} in the image equal to {n}?" for n in (count, other)))


def _position_pair(rng: random.Random, of: Scene) -> Pair | None:
    ones = _unique(of.things, "name")
    found = []
    for one in ones:
        for other in ones:
            if other.x - one.x >= MARGIN:
                found.append(("to the left of", "to the right of", one, other))
            if other.y - one.y >= MARGIN:
                found.append(("above", "below", one, other))
    if not found:
        return None
    right, opposite, one, other = rng.choice(found)
    if rng.random() < 0.5:
        right, opposite, one, other = opposite, right, other, one
    texts = (f"Is the {one.name} {way} the {other.name}?" for way in (right, opposite))
    return Pair("position", *texts)


def _colour_pair(rng: random.Random, of: Scene) -> Pair | None:
    fact = _colour(rng, of)
    if not fact:
        return None
    shape = fact.question.split()[-1].rstrip("?")
    return Pair("color", *(f"Is the {shape} in the image {c}?" for c in (fact.answer, rng.choice(fact.wrong))))


PAIRS: dict[str, Callable[[random.Random, Scene], Pair | None]] = {
    "existence": _existence_pair,
    "count": _count_pair,
    "position": _position_pair,
    "color": _colour_pair,
}


# The test tasks: columns as in the benchmark that each follows.

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
        pairs = [make(rng, of) for make in PAIRS.values()]
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


def _color_by_size(rng: random.Random, of: Scene) -> Fact | None:
    """Several of one shape, one of them small or large: a question that is not in the tuning data in this form."""
    thing = _only_one_of_its_size(rng, of, "shape")
    if not thing:
        return None
    wrong = _wrong(rng, thing.colour, [t.colour for t in of.things], list(COLOURS))
    return Fact("color by size", f"What color is the {thing.size} {thing.shape}?", thing.colour, wrong)


def _shape_by_size(rng: random.Random, of: Scene) -> Fact | None:
    """Several of one colour, one of them small or large; not in the tuning data in this form either."""
    thing = _only_one_of_its_size(rng, of, "colour")
    if not thing:
        return None
    wrong = _wrong(rng, thing.shape, [t.shape for t in of.things], list(SHAPES))
    return Fact("shape by size", f"What is the shape of the {thing.size} {thing.colour} object?", thing.shape, wrong)


def _only_one_of_its_size(rng: random.Random, of: Scene, attribute: str) -> Thing | None:
    """A thing whose attribute others share, but none of its size."""
    counts = Counter(getattr(t, attribute) for t in of.things)
    sized = Counter((getattr(t, attribute), t.size) for t in of.things)
    found = [
        t for t in of.things if counts[getattr(t, attribute)] > 1 and sized[getattr(t, attribute), t.size] == 1
    ]
    return rng.choice(found) if found else None


# Kinds asked with lettered options in the test tasks. Chosen on the dev split with pocket/full: "color" and "shape" of
# a thing that is alone in its kind are too easy (100 and 98 %), and of four words it picks the right one in 37 %, hardly
# better than by guessing, so that reading is asked in the open only, where one has to spell.
LETTERED: dict[str, Callable[[random.Random, Scene], Fact | None]] = {
    "color by size": _color_by_size,
    "shape by size": _shape_by_size,
    **{kind: make for kind, make in FACTS.items() if kind not in ("color", "shape", "word")},
}


def _balanced(task: str, split: str, count: int) -> Iterator[tuple[int, Scene, Fact, random.Random]]:
    """`count` facts, one a scene, the kinds in turn."""
    kinds = list(LETTERED)
    made = 0
    for index, of, rng in _scenes(task, split):
        fact = LETTERED[kinds[made % len(kinds)]](rng, of)
        if fact and len(fact.wrong) == 3:
            yield index, of, fact, rng
            made += 1
            if made == count:
                return


def pocket_mmbench(split: str = "test", base_questions: int = 196) -> list[dict[str, Any]]:
    """Rows with MMBench's columns: each base question once for every rotation of its four options."""
    rows = []
    for index, of, fact, rng in _balanced("pocket_mmbench", split, base_questions):
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
    for index, of, fact, rng in _balanced("pocket_seed", split, questions):
        options = _shuffled(rng, fact)
        rows.append(
            {
                "question_id": f"{split}-{index}",
                "question": fact.question,
                **{f"choice_{letter.lower()}": o for letter, o in zip(LETTERS, options, strict=True)},
                "answer": LETTERS[options.index(fact.answer)],
                "data_type": "image",
                "question_type_id": list(LETTERED).index(fact.kind) + 1,
                "question_type": fact.kind,
                "image": [_image(of)],
            }
        )
    return rows


def pocket_textvqa(split: str = "test", questions: int = 600) -> list[dict[str, Any]]:
    """Rows with TextVQA's columns: read the written word; ten equal answers."""
    rows = []
    for index, of, rng in _scenes("pocket_textvqa", split):
        fact = _word(rng, of)
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


def _shuffled(rng: random.Random, fact: Fact) -> list[str]:
    options = [fact.answer, *fact.wrong]
    rng.shuffle(options)
    return options


def _image(of: Scene) -> Any:
    from PIL import Image

    return Image.fromarray(draw(of))


# Training: the same words that the harnesses put before the model.


def lettered(question: str, options: list[str], style: str) -> str:
    """A multiple-choice prompt as lmms-eval writes it for SEED-Bench ("seed") or MMBench ("mmbench")."""
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    if style == "seed":
        return f"{question}\n{lines}\n{BY_LETTER}"
    return f"{question} There are several options:\n{lines}\n\n{BY_LETTER}"


@dataclass(frozen=True)
class Turn:
    """One training example on a picture: what is asked, what is to be answered, and of what kind it is."""

    kind: str
    prompt: str
    answer: str


def turns(of: Scene, count: int) -> list[Turn]:
    """`count` training turns on a scene: yes/no pairs, letters and open answers, mixed; the same for the same scene."""
    rng = random.Random(of.seed * 17 + 3)
    made: list[Turn] = []
    for _ in range(count * 6):
        made += _one_turn(rng, of)
        if len(made) >= count:
            break
    return made[:count]


def _one_turn(rng: random.Random, of: Scene) -> list[Turn]:
    if rng.random() < 0.3:
        kind = rng.choice(list(PAIRS))
        pair = PAIRS[kind](rng, of)
        if not pair:
            return []
        question, answer = rng.choice(((pair.yes, "Yes"), (pair.no, "No")))
        return [Turn(f"yesno/{kind}", question + SHORT, answer)]
    kind = rng.choice([*FACTS, "word"])  # reading is the hardest to learn: twice as often
    fact = FACTS[kind](rng, of)
    if not fact or len(fact.wrong) < 3:
        return []
    if rng.random() < (0.45 if kind == "word" else 0.65):
        options = _shuffled(rng, fact)
        prompt = lettered(fact.question, options, rng.choice(("seed", "mmbench")))
        return [Turn(f"letter/{kind}", prompt, LETTERS[options.index(fact.answer)])]
    return [Turn(f"open/{kind}", fact.question.capitalize() + SHORT, fact.answer)]


def caption(of: Scene) -> Turn:
    """What the projector is aligned on: everything in the picture, read from top to bottom."""
    parts = sorted([(t.y, f"a {t.size} {t.name}") for t in of.things]
                   + [(w.y, f"the word {w.text} in {w.colour}") for w in of.words])  # fmt: skip
    return Turn("caption", "Describe the image from top to bottom.", ", ".join(text for _, text in parts) or "nothing")
