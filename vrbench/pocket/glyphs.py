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

# Words that are drawn. Common, four to six letters, written down for this project.
WORDS = tuple(
    (
        "apple arrow baker basin beach bench berry birch blade blanket board bottle branch bread brick bridge broom "
        "brush bucket butter button cabin cable camel candle canvas carpet castle chain chair chalk cheese cherry "
        "circus clock cloud coach coast copper corner cotton cradle crane cream crown curtain dance desert dinner "
        "doctor dragon dream drum eagle earth engine fabric farmer feather fence ferry field finger flame flower "
        "forest fork fossil friend frost fruit garden garlic giant ginger glass globe glove grain grape grass guitar "
        "hammer harbor hazel heart helmet honey horse house insect island jacket jewel juice jungle kettle kitchen "
        "kitten ladder lantern lemon letter light linen lion lizard magnet maple marble market meadow medal melon "
        "metal mirror monkey month motor mouse museum music napkin needle nest night north novel oasis ocean olive "
        "onion orange orchid oven owl oyster paddle paint palace panda paper parrot pasta peach peanut pearl pebble "
        "pencil pepper piano pillow pilot pirate planet plate plum pocket pond potato prince pumpkin puppet queen "
        "quilt rabbit radio rain raven ribbon rice river robin rocket roof rope ruby saddle sailor salad salmon "
        "sand scarf school season shadow sheep shell ship shirt silver sister sketch smoke snail snow soap soup "
        "spider spoon spring square stable statue steam stone storm street sugar summer swan table tailor teapot "
        "temple tent thread throne thumb tiger timber toast tomato tower train travel tree trumpet tulip tunnel "
        "turtle uncle valley vase velvet violin wagon wallet walnut water whale wheat wheel willow window winter "
        "wizard wolf wood wool yard yogurt zebra"
    ).split()
)
