"""Sets of decoder layers, and strategies that select them: each is one function with `@layer_strategy` (no torch)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vrbench.core.errors import VrbenchError, suggest_names
from vrbench.core.io import parse_file


@dataclass(frozen=True)
class LayerSet:
    """Layer indices out of a stated depth; never empty by accident and never "all" by default.

    Attributes:
        indices: ascending, without repetition, each in [0, depth).
        depth: number of decoder layers of the LLM.
    """

    indices: tuple[int, ...]
    depth: int
    allow_empty: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise VrbenchError(f"depth is {self.depth}; it must be at least 1")
        wrong = [i for i in self.indices if not 0 <= i < self.depth]
        if wrong:
            raise VrbenchError(f"layers {wrong} do not exist; {_range_of(self.depth)}")
        if not self.indices and not self.allow_empty:
            raise VrbenchError("no layer was named; name at least one, or use LayerSet.none(depth) for none")
        object.__setattr__(self, "indices", tuple(sorted(set(self.indices))))

    @classmethod
    def all(cls, depth: int) -> LayerSet:
        """Return the set of every layer."""
        return cls(tuple(range(depth)), depth)

    @classmethod
    def none(cls, depth: int) -> LayerSet:
        """Return the empty set."""
        return cls((), depth, allow_empty=True)

    @classmethod
    def of(cls, indices: Iterable[int], depth: int) -> LayerSet:
        """Return the set of the given layers, in any order."""
        return cls(tuple(indices), depth)

    @classmethod
    def parse(cls, text: str, depth: int) -> LayerSet:
        """Parse "0-3,8" (inclusive ranges), "all" or "none".

        Raises:
            VrbenchError: the text is none of these, or a layer is outside [0, depth).
        """
        word = text.strip()
        if word == "all":
            return cls.all(depth)
        if word == "none":
            return cls.none(depth)
        if not re.fullmatch(r"\d+(-\d+)?(\s*,\s*\d+(-\d+)?)*", word):
            raise VrbenchError(f"layers {text!r} cannot be read; write for instance '0-3,8', 'all' or 'none'")
        indices: list[int] = []
        for part in word.split(","):
            low, _, high = part.strip().partition("-")
            first, last = int(low), int(high or low)
            if last < first:
                raise VrbenchError(f"layers {part.strip()!r} run backwards; write '{last}-{first}'")
            if last >= depth:
                raise VrbenchError(f"layer {last} does not exist; {_range_of(depth)}")
            indices += range(first, last + 1)
        return cls(tuple(indices), depth)

    def complement(self) -> LayerSet:
        """Return the layers that are not in this set."""
        return LayerSet(tuple(i for i in range(self.depth) if i not in self.indices), self.depth, allow_empty=True)

    @property
    def is_all(self) -> bool:
        """Whether every layer is in the set."""
        return len(self.indices) == self.depth

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __contains__(self, index: object) -> bool:
        return index in self.indices

    def __str__(self) -> str:
        """Return the shortest text that `parse` reads back: "all", "none", or ranges such as "0-3,8"."""
        if self.is_all:
            return "all"
        runs: list[list[int]] = []
        for i in self.indices:
            if runs and i == runs[-1][-1] + 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs) or "none"


def _range_of(depth: int) -> str:
    return f"a model of depth {depth} has layers 0 to {depth - 1}"


@dataclass(frozen=True)
class LayerStrategy:
    """A way to choose layers that is known before anything is trained.

    Attributes:
        name: for recipes and commands.
        function: (n, depth), and the seed of strategies that draw -> the layers' indices.
        seeded: whether it draws.
    """

    name: str
    function: Callable[..., Iterable[int]]
    seeded: bool = False

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return str(self.function.__doc__).partition("\n")[0]

    def __call__(self, n: int, depth: int, seed: int = 0) -> LayerSet:
        """Return n layers out of a depth.

        Raises:
            VrbenchError: n is below 1 or above the depth.
        """
        if not 1 <= n <= depth:
            raise VrbenchError(f"{n} layers were requested; a model of depth {depth} has 1 to {depth}")
        return LayerSet.of(self.function(n, depth, seed) if self.seeded else self.function(n, depth), depth)


STRATEGIES: dict[str, LayerStrategy] = {}
"""Name -> strategy; filled by the decorator."""


def layer_strategy(name: str, seeded: bool = False) -> Callable[[Callable[..., Iterable[int]]], LayerStrategy]:
    """Register a function as a layer strategy; 1 <= n <= depth when it is called.

    The name and the first line of the docstring are all that lists, help, errors and tests use. It has no version:
    recipes and lineages record the layers that it chose.
    """

    def register(function: Callable[..., Iterable[int]]) -> LayerStrategy:
        STRATEGIES[name] = LayerStrategy(name, function, seeded)
        return STRATEGIES[name]

    return register


@layer_strategy("sparse-uniform")
def sparse_uniform(n: int, depth: int) -> Iterable[int]:
    """Select n layers spread evenly over the depth, the first layer included.

    Layer k is floor(k * depth / n): equal gaps wherever n divides the depth (Visual-Region, section 3: sparse and
    uniform selection). The two sets of 8 of 32 layers that are published differ from it: docs/reproduce.md.
    """
    return (k * depth // n for k in range(n))


@layer_strategy("bottom")
def bottom(n: int, depth: int) -> Iterable[int]:
    """Select the first n layers, nearest the input."""
    return range(n)


@layer_strategy("middle-low")
def middle_low(n: int, depth: int) -> Iterable[int]:
    """Select n consecutive layers from the second quarter on, such as 8-15 for 8 of 32.

    Where fewer than n layers follow, the last n. Visual-Region compares these.
    """
    return _consecutive(depth // 4, n, depth)


@layer_strategy("middle")
def middle(n: int, depth: int) -> Iterable[int]:
    """Select n consecutive layers around the middle."""
    return _consecutive((depth - n) // 2, n, depth)


@layer_strategy("middle-high")
def middle_high(n: int, depth: int) -> Iterable[int]:
    """Select n consecutive layers from the third quarter on, such as 16-23 for 8 of 32."""
    return _consecutive(depth // 2, n, depth)


@layer_strategy("top")
def top(n: int, depth: int) -> Iterable[int]:
    """Select the last n layers, nearest the output."""
    return range(depth - n, depth)


@layer_strategy("hybrid")
def hybrid(n: int, depth: int) -> Iterable[int]:
    """Select half of the n layers from the bottom (one more if n is odd) and half from the top."""
    low = (n + 1) // 2
    return (*range(low), *range(depth - (n - low), depth))


@layer_strategy("random", seeded=True)
def random_layers(n: int, depth: int, seed: int) -> Iterable[int]:
    """Sample n layers without replacement by Python's `random.Random(seed).sample`."""
    return random.Random(seed).sample(range(depth), n)


def _consecutive(start: int, n: int, depth: int) -> Iterable[int]:
    """Return n consecutive layers from a start on, or the last n where they would not fit."""
    first = min(start, depth - n)
    return range(first, first + n)


def select_layers(text: str, depth: int) -> LayerSet:
    """Return a LayerSet from indices ("0-3,8"), "all", "none", a strategy, or a file written by `vrbench layers`.

    Strategies are written "sparse-uniform:8", and "random:8@3" with a seed (default 0).

    Raises:
        VrbenchError: unknown strategy, n below 1 or above the depth, unreadable indices, or a file that is missing, of
            another depth, or no layer set.
    """
    word = text.strip()
    if word.endswith(".json"):
        return read_layer_file(Path(word).expanduser(), depth)
    name, colon, count = word.partition(":")
    if not colon:
        return LayerSet.parse(text, depth)
    if name not in STRATEGIES:
        hint = "for layers chosen by importance, give the file of `vrbench layers --out`"
        raise VrbenchError(f"strategy {name!r} is unknown; {suggest_names(name, STRATEGIES)}; {hint}")
    strategy = STRATEGIES[name]
    count, at, seed = count.partition("@")
    if not count.isdigit() or (at and not seed.isdigit()):
        raise VrbenchError(f"layers {text!r} cannot be read; write for instance '{name}:8{'@3' * strategy.seeded}'")
    if at and not strategy.seeded:
        seeded = ", ".join(each.name for each in STRATEGIES.values() if each.seeded)
        raise VrbenchError(f"layers {text!r} cannot be read; {name} has no seed, only {seeded} has one")
    return strategy(int(count), depth, int(seed or 0))


def read_layer_file(file: Path, depth: int) -> LayerSet:
    """Read the file that `vrbench layers --out` wrote: a JSON object with "depth" and "indices".

    Raises:
        VrbenchError: it cannot be read, is not a layer set, or is for a model of another depth.
    """
    where = f"layer set {str(file)!r}"
    found = parse_file(file, where)
    stated, indices = (found.get("depth"), found.get("indices")) if isinstance(found, dict) else (None, None)
    if type(stated) is not int or not isinstance(indices, list) or not all(type(i) is int for i in indices):
        raise VrbenchError(f"{where} states no depth and list of indices, as `vrbench layers` saves them")
    if stated != depth:
        raise VrbenchError(f"{where} is for a model of depth {stated}; this one has depth {depth}")
    if not indices:
        raise VrbenchError(f"{where} has no layers; write 'none' where none are meant")
    return LayerSet.of(indices, depth)
