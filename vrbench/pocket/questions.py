"""Questions about scenes: what the pocket visual tasks ask, and what the pocket family is tuned on.

A `VisualQuestion` has an answer and plausible wrong answers, a `YesNoPair` is two questions for yes and no.
`vrbench.pocket.visual` puts them into the columns of a benchmark, `vrbench.pocket.turns` into training turns.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from vrbench.pocket.world import COLOURS, SHAPES, SIDE, SIZES, WORDS, Scene, SceneObject

LETTERS = "ABCD"  # before the options of a multiple-choice question
PLACES = ("top left", "top right", "bottom left", "bottom right")
MARGIN = 9.0  # pixels by which a place or an order must be clear before it is asked about


@dataclass(frozen=True)
class VisualQuestion:
    """A question, its answer, and three wrong answers that do not give themselves away."""

    kind: str
    question: str
    answer: str
    wrong: tuple[str, ...]


QuestionMaker = Callable[[random.Random, Scene], VisualQuestion | None]
QuestionMakers = dict[str, QuestionMaker]


@dataclass(frozen=True)
class YesNoPair:
    """Two yes/no questions on one matter; the first is answered yes, the second no (MME's form)."""

    kind: str
    yes: str
    no: str


def plural(name: str) -> str:
    """Such as "crosses" or "red circles"."""
    return name + ("es" if name.endswith("s") else "s")


def _unique(objects: tuple[SceneObject, ...], attribute: str) -> list[SceneObject]:
    """Objects that share the value of an attribute ("shape", "colour" or "name") with no other."""
    counts = Counter(getattr(t, attribute) for t in objects)
    return [t for t in objects if counts[getattr(t, attribute)] == 1]


def _wrong(rng: random.Random, answer: str, likely: list[str], others: list[str]) -> tuple[str, ...]:
    """Three wrong answers: those in the image first, then others."""
    near = [w for w in dict.fromkeys(likely) if w != answer]
    rng.shuffle(near)
    rest = [w for w in others if w != answer and w not in near]
    rng.shuffle(rest)
    return tuple((near + rest)[:3])


def _about(attribute: str, kind: str, question: str, answer: str, rng: random.Random, scene: Scene) -> VisualQuestion:
    """A question whose answer is the value of an attribute ("shape" or "colour") of an object."""
    every = list(SHAPES if attribute == "shape" else COLOURS)
    wrong = _wrong(rng, answer, [getattr(t, attribute) for t in scene.objects], every)
    return VisualQuestion(kind, question, answer, wrong)


def _about_one(
    kind: str, attribute: str, question: str, find: Callable[[tuple[SceneObject, ...]], list[SceneObject]]
) -> QuestionMaker:
    """Ask about an attribute of one of the objects that `find` returns; {0} in the question is the object."""

    def make(rng: random.Random, scene: Scene) -> VisualQuestion | None:
        found = find(scene.objects)
        if not found:
            return None
        obj = rng.choice(found)
        return _about(attribute, kind, question.format(obj), getattr(obj, attribute), rng, scene)

    return make


def _countable(rng: random.Random, scene: Scene) -> tuple[str, int] | None:
    """What to count and how many there are: a shape, a colour, or all; now and then nothing at all."""
    if not scene.objects:
        return None
    way = rng.choice(("shape", "colour", "all", "absent"))
    if way == "all":
        return "objects", len(scene.objects)
    if way == "absent":
        shape = rng.choice([s for s in SHAPES if s not in {t.shape for t in scene.objects}])
        return plural(shape), 0
    value = getattr(rng.choice(scene.objects), way)
    count = sum(getattr(t, way) == value for t in scene.objects)
    return (plural(value) if way == "shape" else f"{value} objects"), count


def _count(rng: random.Random, scene: Scene) -> VisualQuestion | None:
    found = _countable(rng, scene)
    if not found:
        return None
    what, count = found
    near = sorted((n for n in range(10) if n != count), key=lambda n: (abs(n - count), rng.random()))
    return VisualQuestion("count", f"How many {what} are there?", str(count), tuple(str(n) for n in near[:3]))


def _place_of(x: float, y: float) -> str | None:
    half = SIDE / 2
    if min(abs(x - half), abs(y - half)) < MARGIN:
        return None
    return f"{'top' if y < half else 'bottom'} {'left' if x < half else 'right'}"


def _place(rng: random.Random, scene: Scene) -> VisualQuestion | None:
    ones = [(t, _place_of(t.x, t.y)) for t in _unique(scene.objects, "name")]
    clear = [(t, place) for t, place in ones if place]
    if not clear:
        return None
    obj, place = rng.choice(clear)
    return VisualQuestion(
        "place", f"In which corner of the image is the {obj.name}?", place, _wrong(rng, place, [], list(PLACES))
    )


def _nearest(rng: random.Random, scene: Scene) -> VisualQuestion | None:
    """Two steps: find one object, then the one nearest to it."""
    found = []
    for obj in _unique(scene.objects, "name"):
        others = sorted(((o.x - obj.x) ** 2 + (o.y - obj.y) ** 2, o.shape) for o in scene.objects if o is not obj)
        near = [(d**0.5, shape) for d, shape in others]
        if len(near) >= 2 and near[1][0] - near[0][0] >= MARGIN:
            found.append((obj, near[0][1]))
    if not found:
        return None
    obj, shape = rng.choice(found)
    question = f"What is the shape of the object nearest to the {obj.name}?"
    return _about("shape", "nearest", question, shape, rng, scene)


_EXTREMES: dict[str, Callable[[SceneObject], float]] = {
    "farthest to the left": lambda t: t.x,
    "farthest to the right": lambda t: -t.x,
    "closest to the top": lambda t: t.y,
    "closest to the bottom": lambda t: -t.y,
}


def _extreme(rng: random.Random, scene: Scene) -> VisualQuestion | None:
    way = rng.choice(list(_EXTREMES))
    order = sorted(scene.objects, key=_EXTREMES[way])
    if len(order) < 2 or _EXTREMES[way](order[1]) - _EXTREMES[way](order[0]) < MARGIN / 2:
        return None
    return _about("colour", "extreme", f"What color is the object {way}?", order[0].colour, rng, scene)


def _most(rng: random.Random, scene: Scene) -> VisualQuestion | None:
    counts = Counter(t.colour for t in scene.objects).most_common()
    if len(counts) < 2 or counts[0][1] == counts[1][1]:
        return None
    wrong = _wrong(rng, counts[0][0], [c for c, _ in counts], list(COLOURS))
    return VisualQuestion("most", "Which color has the most objects?", counts[0][0], wrong)


def word(rng: random.Random, scene: Scene) -> VisualQuestion | None:
    """What is written, in the image or in one of its colours."""
    if not scene.words:
        return None
    one = rng.choice(scene.words)
    by_colour = len(scene.words) > 1 or rng.random() < 0.3
    question = f"What word is written in {one.colour}?" if by_colour else "What word is written in the image?"
    same_start = [w for w in WORDS if w[0] == one.text[0] and w != one.text]
    likely = [w.text for w in scene.words] + rng.sample(same_start, min(1, len(same_start)))
    return VisualQuestion("word", question, one.text, _wrong(rng, one.text, likely, rng.sample(WORDS, 8)))


QUESTIONS: QuestionMakers = {
    "color": _about_one("color", "colour", "What color is the {0.shape}?", partial(_unique, attribute="shape")),
    "shape": _about_one(
        "shape", "shape", "What is the shape of the {0.colour} object?", partial(_unique, attribute="colour")
    ),
    "count": _count,
    "place": _place,
    "nearest": _nearest,
    "extreme": _extreme,
    "most": _most,
    "word": word,
}


def _only_ones_of_their_size(objects: tuple[SceneObject, ...], attribute: str) -> list[SceneObject]:
    """Objects whose attribute others share, but none of their size."""
    counts = Counter(getattr(t, attribute) for t in objects)
    sized = Counter((getattr(t, attribute), t.size) for t in objects)
    return [t for t in objects if counts[getattr(t, attribute)] > 1 and sized[getattr(t, attribute), t.size] == 1]


def _just_most(rng: random.Random, scene: Scene) -> VisualQuestion | None:
    """The most frequent colour where there are four or more of it and only one less of the next."""
    counts = [count for _, count in Counter(t.colour for t in scene.objects).most_common(2)]
    if len(counts) < 2 or counts[0] < 4 or counts[0] - counts[1] != 1:
        return None
    return _most(rng, scene)


# Kinds asked with lettered options in the test tasks; those "by size" are not in the tuning data in this form. Chosen
# on the dev split with pocket/full: "color" and "shape" of an object that is alone in its kind are too easy (100 and
# 98 %), and of four words it picks the right one in 37 %, hardly better than by guessing, so that reading is asked
# without options, where one has to spell.
ROTATED: QuestionMakers = {
    "color by size": _about_one(
        "color by size",
        "colour",
        "What color is the {0.size} {0.shape}?",
        partial(_only_ones_of_their_size, attribute="shape"),
    ),
    "shape by size": _about_one(
        "shape by size",
        "shape",
        "What is the shape of the {0.size} {0.colour} object?",
        partial(_only_ones_of_their_size, attribute="colour"),
    ),
    **{kind: make for kind, make in QUESTIONS.items() if kind not in ("color", "shape", "word")},
}
# Asked once and not in all rotations, "most" is too easy (98 %) unless it is close (91 %).
ASKED_ONCE: QuestionMakers = {**ROTATED, "most": _just_most}


def _existence_pair(rng: random.Random, scene: Scene) -> YesNoPair | None:
    """One object in the image, and one that differs from an object in the image in size, colour or shape alone."""
    if not scene.objects:
        return None
    there = {(t.size, t.colour, t.shape) for t in scene.objects}
    one = rng.choice(scene.objects)
    size, colour, shape = one.size, one.colour, one.shape
    colours = [t.colour for t in scene.objects if t.colour != colour] or [c for c in COLOURS if c != colour]
    shapes = [t.shape for t in scene.objects if t.shape != shape] or [s for s in SHAPES if s != shape]
    near = [
        (next(s for s in SIZES if s != size), colour, shape),
        (size, rng.choice(colours), shape),
        (size, colour, rng.choice(shapes)),
    ]
    absent = [name for name in near if name not in there]
    if not absent:
        return None
    names = (f"{size} {one.name}", " ".join(rng.choice(absent)))
    return YesNoPair("existence", *(f"Is there {_article(n)} {n} in the image?" for n in names))


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _count_pair(rng: random.Random, scene: Scene) -> YesNoPair | None:
    found = _countable(rng, scene)
    if not found or found[1] == 0:
        return None
    what, count = found
    other = rng.choice([n for n in (count - 2, count - 1, count + 1, count + 2) if n > 0])
    return YesNoPair("count", *(f"Is the number of {what} in the image equal to {n}?" for n in (count, other)))


def _position_pair(rng: random.Random, scene: Scene) -> YesNoPair | None:
    ones = _unique(scene.objects, "name")
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
    return YesNoPair("position", *texts)


def _colour_pair(rng: random.Random, scene: Scene) -> YesNoPair | None:
    found = QUESTIONS["color"](rng, scene)
    if not found:
        return None
    shape = found.question.split()[-1].rstrip("?")
    return YesNoPair("color", *(f"Is the {shape} in the image {c}?" for c in (found.answer, rng.choice(found.wrong))))


YES_NO_PAIRS: dict[str, Callable[[random.Random, Scene], YesNoPair | None]] = {
    "existence": _existence_pair,
    "count": _count_pair,
    "position": _position_pair,
    "color": _colour_pair,
}
