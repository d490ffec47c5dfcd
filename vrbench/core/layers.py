"""Which decoder layers of an LLM are meant: `LayerSet` and the heuristic strategies (no torch)."""

from __future__ import annotations

import difflib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError
from vrbench.core.text_files import read_text


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
    return _run((depth - _checked(n, depth)) // 2, n, depth)


def middle_low(n: int, depth: int) -> LayerSet:
    """n consecutive layers from the second quarter on: 8-15 for 8 of 32, as Visual-Region compares them.

    Where so few layers follow that n do not fit, the last n.
    """
    return _run(depth // 4, _checked(n, depth), depth)


def middle_high(n: int, depth: int) -> LayerSet:
    """n consecutive layers from the third quarter on: 16-23 for 8 of 32; else as `middle_low`."""
    return _run(depth // 2, _checked(n, depth), depth)


def hybrid(n: int, depth: int) -> LayerSet:
    """Half of the n layers from the bottom (one more if n is odd) and half from the top."""
    low = (_checked(n, depth) + 1) // 2
    return LayerSet(tuple(range(low)) + tuple(range(depth - (n - low), depth)), depth)


def drawn(n: int, depth: int, seed: int = 0) -> LayerSet:
    """n layers drawn without replacement by Python's `random.Random(seed).sample`, every set as likely as another."""
    return LayerSet(tuple(random.Random(seed).sample(range(depth), _checked(n, depth))), depth)


RANDOM = "random"
"""The one strategy that has a seed."""

STRATEGIES: dict[str, Callable[[int, int], LayerSet]] = {
    "sparse-uniform": sparse_uniform,
    "bottom": bottom,
    "middle-low": middle_low,
    "middle": middle,
    "middle-high": middle_high,
    "top": top,
    "hybrid": hybrid,
    RANDOM: drawn,
}
"""Name -> (n, depth) -> the layers, known before anything is trained."""


def select(text: str, depth: int) -> LayerSet:
    """A LayerSet from text: indices ("0-3,8"), "all", "none", a strategy, or a file of `vrbench layers`.

    Strategies are written "sparse-uniform:8", and "random:8@3" with a seed (else 0).

    Raises:
        VrbenchError: unknown strategy, n below 1 or above the depth, unreadable indices, or a file that is missing, of
            another depth, or no layer set.
    """
    word = text.strip()
    if word.endswith(".json"):
        return read(Path(word).expanduser(), depth)
    name, colon, count = word.partition(":")
    if not colon:
        return LayerSet.parse(text, depth)
    if name not in STRATEGIES:
        raise VrbenchError(f"strategy {name!r} is unknown; {nearest(name, STRATEGIES)}. {BY_SCORE}")
    count, at, seed = count.partition("@")
    if not count.isdigit() or (at and not seed.isdigit()):
        example = f"{name}:8@3" if name == RANDOM else f"{name}:8"
        raise VrbenchError(f"layers {text!r} cannot be read; write for instance '{example}'")
    if at and name != RANDOM:
        raise VrbenchError(f"layers {text!r} cannot be read; {name} has no seed, only {RANDOM} has one")
    return drawn(int(count), depth, int(seed or 0)) if name == RANDOM else STRATEGIES[name](int(count), depth)


BY_SCORE = "Layers by the scores of a tuned model are given as the file that `vrbench layers` saves"


def read(file: Path, depth: int) -> LayerSet:
    """The layers in a file that `vrbench layers --out` wrote: a JSON object with "depth" and "indices".

    Raises:
        VrbenchError: it cannot be read, is no layer set, or is for a model of another depth.
    """
    try:
        found = json.loads(read_text(file))
    except OSError as error:
        raise VrbenchError(f"layer set {str(file)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise VrbenchError(f"layer set {str(file)!r} is not JSON: {error}") from error
    stated = found.get("depth") if isinstance(found, dict) else None
    indices = found.get("indices") if isinstance(found, dict) else None
    if type(stated) is not int or not isinstance(indices, list) or not all(type(i) is int for i in indices):
        raise VrbenchError(
            f"layer set {str(file)!r} states no depth and list of indices, as `vrbench layers` saves them"
        )
    if stated != depth:
        raise VrbenchError(f"layer set {str(file)!r} is for a model of depth {stated}; this one has depth {depth}")
    if not indices:
        raise VrbenchError(f"layer set {str(file)!r} has no layers; write 'none' where none are meant")
    return LayerSet.of(indices, depth)


def nearest(name: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown name: the names like it, or all that there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=2)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"there are {', '.join(names)}"


def _run(start: int, n: int, depth: int) -> LayerSet:
    """n consecutive layers from a start on, or the last n where they would not fit."""
    first = min(start, depth - n)
    return LayerSet(tuple(range(first, first + n)), depth)


def _checked(n: int, depth: int) -> int:
    if not 1 <= n <= depth:
        raise VrbenchError(f"{n} layers were asked for; a model of depth {depth} gives 1 to {depth}")
    return n
