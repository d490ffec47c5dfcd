"""Capital letters as pen strokes on a grid 4 wide and 6 high (y runs down), drawn by `vrbench.pocket.world`.

Our own strokes rather than a font file: the same pictures come out on every machine, whatever its font renderer.
"""

from __future__ import annotations

Stroke = tuple[tuple[float, float], ...]

STROKES: dict[str, tuple[Stroke, ...]] = {
    "a": (((0, 6), (2, 0), (4, 6)), ((0.8, 3.8), (3.2, 3.8))),
    "b": (((0, 0), (0, 6), (3, 6), (4, 5), (4, 4), (3, 3), (0, 3)), ((0, 0), (3, 0), (4, 1), (4, 2), (3, 3))),
    "c": (((4, 1), (3, 0), (1, 0), (0, 1), (0, 5), (1, 6), (3, 6), (4, 5)),),
    "d": (((0, 0), (0, 6), (2.5, 6), (4, 4.5), (4, 1.5), (2.5, 0), (0, 0)),),
    "e": (((4, 0), (0, 0), (0, 6), (4, 6)), ((0, 3), (3, 3))),
    "f": (((4, 0), (0, 0), (0, 6)), ((0, 3), (3, 3))),
    "g": (((4, 1), (3, 0), (1, 0), (0, 1), (0, 5), (1, 6), (3, 6), (4, 5), (4, 3.4), (2.2, 3.4)),),
    "h": (((0, 0), (0, 6)), ((4, 0), (4, 6)), ((0, 3), (4, 3))),
    "i": (((2, 0), (2, 6)), ((1, 0), (3, 0)), ((1, 6), (3, 6))),
    "j": (((4, 0), (4, 5), (3, 6), (1, 6), (0, 5)),),
    "k": (((0, 0), (0, 6)), ((4, 0), (0, 3.4)), ((1.4, 2.4), (4, 6))),
    "l": (((0, 0), (0, 6), (4, 6)),),
    "m": (((0, 6), (0, 0), (2, 3), (4, 0), (4, 6)),),
    "n": (((0, 6), (0, 0), (4, 6), (4, 0)),),
    "o": (((1, 0), (3, 0), (4, 1), (4, 5), (3, 6), (1, 6), (0, 5), (0, 1), (1, 0)),),
    "p": (((0, 6), (0, 0), (3, 0), (4, 1), (4, 2.4), (3, 3.4), (0, 3.4)),),
    "q": (((1, 0), (3, 0), (4, 1), (4, 5), (3, 6), (1, 6), (0, 5), (0, 1), (1, 0)), ((2.4, 4.2), (4.2, 6.4))),
    "r": (((0, 6), (0, 0), (3, 0), (4, 1), (4, 2.4), (3, 3.4), (0, 3.4)), ((1.8, 3.4), (4, 6))),
    "s": (((4, 1), (3, 0), (1, 0), (0, 1), (0, 2), (1, 3), (3, 3), (4, 4), (4, 5), (3, 6), (1, 6), (0, 5)),),
    "t": (((0, 0), (4, 0)), ((2, 0), (2, 6))),
    "u": (((0, 0), (0, 5), (1, 6), (3, 6), (4, 5), (4, 0)),),
    "v": (((0, 0), (2, 6), (4, 0)),),
    "w": (((0, 0), (1, 6), (2, 2.4), (3, 6), (4, 0)),),
    "x": (((0, 0), (4, 6)), ((4, 0), (0, 6))),
    "y": (((0, 0), (2, 3), (4, 0)), ((2, 3), (2, 6))),
    "z": (((0, 0), (4, 0), (0, 6), (4, 6)),),
}

# Words that are drawn: common, five or six letters, written down for this project.
WORDS = tuple(
    (
        "apple beach bread brick camel candle chair cherry cloud copper desert doctor dragon eagle engine "
        "farmer ferry flower forest garden ginger guitar hammer honey horse island jacket jungle kettle "
        "ladder lemon lizard magnet marble mirror monkey needle ocean olive oyster panda pepper pilot pirate "
        "pocket potato queen rabbit river rocket salmon shadow silver spider sugar temple tiger tomato "
        "turtle valley violin walnut window wizard yogurt zebra"
    ).split()
)
