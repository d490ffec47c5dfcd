"""Which decoder layers of an LLM are meant: `LayerSet` and the heuristic strategies (no torch)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from vrbench.errors import VrbenchError


@dataclass(frozen=True)
class LayerSet:
    """Layer indices out of a stated depth; never empty by accident and never "all" by default.

    Attributes:
        indices: ascending, without repetition, each in [0, depth).
        depth: number of decoder layers of the LLM.
    """

    indices: tuple[int, ...]
    depth: int
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise VrbenchError(f"depth is {self.depth}; it must be at least 1")
        wrong = [i for i in self.indices if not 0 <= i < self.depth]
        if wrong:
            raise VrbenchError(
                f"layers {wrong} do not exist; a model of depth {self.depth} has layers 0 to {self.depth - 1}"
            )
        if not self.indices and not self.allow_empty:
            raise VrbenchError("no layer was named; name at least one, or use LayerSet.none(depth) for none")
        object.__setattr__(self, "indices", tuple(sorted(set(self.indices))))
        object.__setattr__(self, "allow_empty", False)  # so that equality looks at the layers alone

    @classmethod
    def all(cls, depth: int) -> LayerSet:
        """Every layer."""
        return cls(tuple(range(depth)), depth)

    @classmethod
    def none(cls, depth: int) -> LayerSet:
        """No layer, said on purpose."""
        return cls((), depth, allow_empty=True)

    @classmethod
    def of(cls, indices: Iterable[int], depth: int) -> LayerSet:
        """The given layers, in any order."""
        return cls(tuple(indices), depth)

    @classmethod
    def parse(cls, text: str, depth: int) -> LayerSet:
        """Read "0-3,8" (inclusive ranges), "all" or "none".

        Raises:
            VrbenchError: the text is none of these, or a layer lies outside [0, depth).
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
                raise VrbenchError(f"layer {last} does not exist; a model of depth {depth} has layers 0 to {depth - 1}")
            indices += range(first, last + 1)
        return cls(tuple(indices), depth)

    def complement(self) -> LayerSet:
        """The layers that are not in this set."""
        rest = tuple(i for i in range(self.depth) if i not in self.indices)
        return LayerSet(rest, self.depth, allow_empty=True)

    @property
    def is_all(self) -> bool:
        """Whether every layer is in the set."""
        return len(self.indices) == self.depth

    @property
    def share(self) -> float:
        """Share of the layers, 0 to 1."""
        return len(self.indices) / self.depth

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __contains__(self, index: object) -> bool:
        return index in self.indices

    def __str__(self) -> str:
        """Shortest text that `parse` reads back: "all", "none", or ranges such as "0-3,8"."""
        if self.is_all:
            return "all"
        runs: list[list[int]] = []
        for i in self.indices:
            if runs and i == runs[-1][-1] + 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs) or "none"


def sparse_uniform(n: int, depth: int) -> LayerSet:
    """n layers spread evenly over the depth, first layer included.

    Layer k is floor(k * depth / n): equal gaps wherever n divides the depth (Visual-Region, section 3: sparse and
    uniform selection).
    """
    return LayerSet(tuple(k * depth // n for k in range(_checked(n, depth))), depth)


def bottom(n: int, depth: int) -> LayerSet:
    """The first n layers, nearest the input."""
    return LayerSet(tuple(range(_checked(n, depth))), depth)


def top(n: int, depth: int) -> LayerSet:
    """The last n layers, nearest the output."""
    return LayerSet(tuple(range(depth - _checked(n, depth), depth)), depth)


def middle(n: int, depth: int) -> LayerSet:
    """n consecutive layers around the middle."""
    start = (depth - _checked(n, depth)) // 2
    return LayerSet(tuple(range(start, start + n)), depth)


def hybrid(n: int, depth: int) -> LayerSet:
    """Half of the n layers from the bottom (one more if n is odd) and half from the top."""
    low = (_checked(n, depth) + 1) // 2
    return LayerSet(tuple(range(low)) + tuple(range(depth - (n - low), depth)), depth)


STRATEGIES: dict[str, Callable[[int, int], LayerSet]] = {
    "sparse-uniform": sparse_uniform,
    "bottom": bottom,
    "middle": middle,
    "top": top,
    "hybrid": hybrid,
}


def select(text: str, depth: int) -> LayerSet:
    """A LayerSet from text: indices ("0-3,8"), "all", "none", or "STRATEGY:N" such as "sparse-uniform:8".

    Raises:
        VrbenchError: unknown strategy, n below 1 or above the depth, or unreadable indices.
    """
    name, colon, count = text.strip().partition(":")
    if not colon:
        return LayerSet.parse(text, depth)
    if name not in STRATEGIES:
        raise VrbenchError(f"strategy {name!r} is unknown; there are {', '.join(STRATEGIES)}")
    if not count.isdigit():
        raise VrbenchError(f"layers {text!r} cannot be read; write for instance '{name}:8'")
    return STRATEGIES[name](int(count), depth)


def _checked(n: int, depth: int) -> int:
    if not 1 <= n <= depth:
        raise VrbenchError(f"{n} layers were asked for; a model of depth {depth} gives 1 to {depth}")
    return n
