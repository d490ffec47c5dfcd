"""The answer to a question about a scene, worked out from its words alone: slow, direct, and not the package's code."""

from __future__ import annotations

import re

from vrbench.pocket.world import COLOURS, SHAPES, SIDE, SIZES, Scene, SceneObject


def one(of: Scene, name: str) -> SceneObject:
    """The only thing that fits a name such as "red circle", "circle" or "red"."""
    (found,) = [t for t in of.objects if set(name.split()) <= {t.size, t.colour, t.shape}]
    return found


def number(of: Scene, what: str) -> int:
    """How many "objects", "red objects" or "crosses" there are."""
    colours = [c for c in COLOURS if c in what.split()]
    shapes = [s for s in SHAPES if what in (f"{s}s", f"{s}es")]
    assert what == "objects" or len(colours) + len(shapes) == 1, what
    return sum(1 for t in of.objects if (not colours or t.colour in colours) and (not shapes or t.shape in shapes))


def corner(of: Scene, name: str) -> str:
    """Which quarter of the image the centre of a thing is in."""
    thing = one(of, name)
    return ("top" if thing.y < SIDE / 2 else "bottom") + (" left" if thing.x < SIDE / 2 else " right")


def neighbour(of: Scene, name: str) -> str:
    """Shape of the thing whose centre is nearest to that of another."""
    thing = one(of, name)
    best, shape = 1e9, ""
    for other in of.objects:
        distance = ((other.x - thing.x) ** 2 + (other.y - thing.y) ** 2) ** 0.5
        if other is not thing and distance < best:
            best, shape = distance, other.shape
    return shape


def outermost(of: Scene, way: str) -> str:
    """Colour of the thing that is the leftmost, rightmost, uppermost or lowest."""
    side = way.split()[-1]
    axis = "x" if side in ("left", "right") else "y"
    value = (max if side in ("right", "bottom") else min)(getattr(t, axis) for t in of.objects)
    (found,) = [t for t in of.objects if getattr(t, axis) == value]
    return found.colour


def commonest(of: Scene) -> str:
    """The colour that more things have than any other."""
    counts = {c: number(of, f"{c} objects") for c in COLOURS}
    (found,) = [c for c, n in counts.items() if n == max(counts.values())]
    return found


def is_where(of: Scene, name: str, way: str, other: str) -> str:
    """Whether one thing lies on the stated side of another."""
    a, b = one(of, name), one(of, other)
    sides = {"to the left of": b.x - a.x, "to the right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
    return yes(sides[way] > 0)


def is_there(of: Scene, article: str, size: str, colour: str, shape: str) -> str:
    """Whether some thing has all three."""
    assert size in SIZES and article == ("an" if size[0] in "aeiou" else "a")
    return yes(any((t.size, t.colour, t.shape) == (size, colour, shape) for t in of.objects))


def written(of: Scene, colour: str | None) -> str:
    """The only word, or the only one of a colour."""
    (found,) = [w.text for w in of.words if colour in (None, w.colour)]
    return found


def yes(fact: bool) -> str:
    """As MME writes it."""
    return "Yes" if fact else "No"


FORMS = {
    r"What color is the object ((?:farthest|closest) to the \w+)\?": outermost,
    r"What color is the (\w+|\w+ \w+)\?": lambda of, name: one(of, name).colour,
    r"What is the shape of the (\w+|\w+ \w+) object\?": lambda of, name: one(of, name).shape,
    r"What is the shape of the object nearest to the (\w+ \w+)\?": neighbour,
    r"How many (.+) are there\?": lambda of, what: str(number(of, what)),
    r"In which corner of the image is the (\w+ \w+)\?": corner,
    r"Which color has the most objects\?": commonest,
    r"What word is written in the image\?": lambda of: written(of, None),
    r"What word is written in (\w+)\?": written,
    r"Is there (an?) (\w+) (\w+) (\w+) in the image\?": is_there,
    r"Is the number of (.+) in the image equal to (\d+)\?": lambda of, what, n: yes(number(of, what) == int(n)),
    r"Is the (\w+ \w+) (to the left of|to the right of|above|below) the (\w+ \w+)\?": is_where,
    r"Is the (\w+) in the image (\w+)\?": lambda of, shape, colour: yes(one(of, shape).colour == colour),
}


def answer(question: str, of: Scene) -> str:
    """The one right answer; fails when the question cannot be understood or has none."""
    for form, work_out in FORMS.items():
        found = re.fullmatch(form, question, flags=re.IGNORECASE)
        if found:
            return work_out(of, *found.groups())
    raise AssertionError(f"no form fits {question!r}")
