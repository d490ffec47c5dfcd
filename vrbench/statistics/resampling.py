"""Sums over rows that are drawn with replacement, for many tables and draws at a time.

Few distinct rows are drawn by how often each occurs, from a multinomial distribution; others one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MANY_ROWS = 5_000
"""Above this many rows, faster algorithms with other random draws are used: rows that are drawn one by one stay in the
order of the clusters, and several tables are summed together."""

SHORT = 100
"""Up to this many rows, several draws are counted in one call of `numpy.bincount`."""

DistinctRows = tuple[Array, NDArray[np.int64]]
"""The distinct rows of a table, and how often each is there."""

Sides = tuple[list[Array], NDArray[np.int64]]
"""The distinct rows of several tables side by side, [rows, ratios x 2] each, and how often each row is there."""


def resample(table: Array, draws: int, rng: np.random.Generator) -> Array:
    """Return sums over rows drawn with replacement: [rows, ...] -> [draws, ...]; equal rows are drawn together."""
    rows, counts = distinct_rows(table.reshape(len(table), -1))
    sums = resample_all([([rows], counts)], draws, [rng])[0]
    return sums.reshape(draws, *table.shape[1:])


def resample_all(tables: Sequence[Sides], draws: int, rngs: Sequence[np.random.Generator]) -> list[Array]:
    """Return `resample` of each table, [draws, columns], with its generator; all must be in the same state.

    Where rows are drawn one by one, which takes longer than everything else, they are drawn once for all tables of the
    same shape.
    """
    sums: dict[int, Array] = {}
    one_by_one: dict[tuple[int, int], list[int]] = {}
    for i, (sides, counts) in enumerate(tables):
        total = int(counts.sum())
        if _is_multinomial(counts):
            rows = np.concatenate(sides, axis=1)
            blocks = _blocks(total, draws)
            sums[i] = np.concatenate([rngs[i].multinomial(total, counts / total, size=n) @ rows for n in blocks])
        else:
            one_by_one.setdefault((total, sides[0].shape[1]), []).append(i)
    for (total, _), of in one_by_one.items():
        sums_of = _sums_of([tables[i] for i in of], total)
        parts = [sums_of(drawn) for drawn in _draw_one_by_one(total, draws, rngs[of[0]])]
        sums |= {i: np.concatenate(blocks) for i, blocks in zip(of, zip(*parts, strict=True), strict=True)}
    return [sums[i] for i in range(len(tables))]


def _draw_one_by_one(total: int, draws: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield how often each row is drawn, [some draws, total], in an array that the next draws overwrite.

    The random numbers of the next draws are made in a thread meanwhile.
    """
    blocks = list(_blocks(total, draws, 250_000 if total > MANY_ROWS else 4_000_000))
    drawn = np.empty((blocks[0], total))
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(_picks, total, blocks[0], rng)
        for block, after in zip(blocks, [*blocks[1:], 0], strict=True):
            picks, following = following.result(), pool.submit(_picks, total, after, rng)
            _count(picks, total, drawn)
            yield drawn[:block]


def _count(picks: NDArray[np.uint32], total: int, drawn: Array) -> None:
    """Write how often each row is picked in each draw, [draws, total]; many short draws are counted in one call."""
    if total <= SHORT:
        first = total * np.arange(len(picks))[:, None]
        drawn[: len(picks)] = np.bincount((picks + first).ravel(), minlength=picks.size).reshape(picks.shape)
        return
    for row, of in zip(drawn, picks, strict=False):
        row[:] = np.bincount(of, minlength=total)


def _picks(total: int, draws: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    return rng.integers(total, size=(draws, total), dtype=np.uint32)


def _sums_of(tables: Sequence[Sides], total: int) -> Callable[[Array], list[Array]]:
    """Return what sums the rows of each table: how often each is drawn, [draws, total] -> [draws, columns] each."""
    if total > MANY_ROWS:
        return _sums_by_ratio(tables)
    firsts = [np.cumsum(counts) - counts for _, counts in tables]
    rows = [np.concatenate(sides, axis=1) for sides, _ in tables]
    return lambda drawn: [
        (drawn if len(of) == total else np.add.reduceat(drawn, first, axis=1)) @ of
        for first, of in zip(firsts, rows, strict=True)
    ]


def _sums_by_ratio(tables: Sequence[Sides]) -> Callable[[Array], list[Array]]:
    whole = [_one_by_one(sides, counts) for sides, counts in tables]
    distinct = {id(side): side for sides in whole for side in sides}  # the baseline is a side of every table
    place_of, width = {name: i for i, name in enumerate(distinct)}, whole[0][0].shape[1]
    parts = list(_parts_of(list(distinct.values())))

    def sums_of(drawn: Array) -> list[Array]:
        sums = np.empty((len(drawn), len(distinct), width))
        for first, used, values, place in parts:
            of_rows = drawn if len(used) == drawn.shape[1] else drawn.take(used, axis=1)
            of_sides = (of_rows @ values)[:, place].reshape(len(drawn), len(distinct), -1)
            sums[:, :, first : first + 2] = of_sides
        return [sums[:, [place_of[id(side)] for side in sides]].reshape(len(drawn), -1) for sides in whole]

    return sums_of


def _one_by_one(sides: list[Array], counts: NDArray[np.int64]) -> list[Array]:
    return sides if (counts == 1).all() else [np.repeat(side, counts, axis=0) for side in sides]


def _parts_of(sides: Sequence[Array]) -> Iterator[tuple[int, NDArray[np.int64], Array, list[int]]]:
    """Yield, for each ratio of tables [rows, ratios x 2], what its sums are computed from.

    That is its first column; the rows where it is not zero, [used]; the distinct columns of all tables in these rows,
    [used, distinct], since tables share weights; and the index of each column among the distinct ones.
    """
    for first in range(0, sides[0].shape[1], 2):
        values = np.concatenate([side[:, first : first + 2] for side in sides], axis=1)
        used = np.flatnonzero(values.any(1))
        values, index = values[used], dict[bytes, int]()
        place = [index.setdefault(column.tobytes(), len(index)) for column in values.T]
        yield first, used, values[:, [place.index(i) for i in range(len(index))]], place


def _blocks(total: int, draws: int, numbers: int = 4_000_000) -> Iterator[int]:
    """Yield the number of draws of each block: about `numbers` random numbers, and at least 8 draws."""
    block = max(8, numbers // total)
    for first in range(0, draws, block):
        yield min(block, draws - first)


def distinct_rows(table: Array) -> DistinctRows:
    """Return the distinct rows of a table in ascending order, and how often each is there, as `numpy.unique` does."""
    rows, number = number_rows(table)
    return rows, np.bincount(number)


def number_rows(table: Array, only_if_few: bool = False) -> tuple[Array, NDArray[np.int64]]:
    """Return the distinct rows of a table in ascending order, and each row's number among them.

    It sorts a hash of each row instead of the rows, in a tenth of the time.

    Args:
        only_if_few: return the table itself if it is long and many of its rows are distinct.
    """
    odd, mixed = _odd_numbers(table.shape[1]), np.empty(len(table), np.uint64)
    parts = [slice(first, first + 1000) for first in range(0, len(table), 1000)]  # small enough for the CPU's cache
    for part in parts:
        bits = (table[part] + 0.0).view(np.uint64) * odd  # -0.0 becomes 0.0, whose bits differ
        bits ^= bits >> np.uint64(32)
        mixed[part] = (bits * odd).sum(1)
    _, first, number = np.unique(mixed, return_index=True, return_inverse=True)
    if only_if_few and len(table) > MANY_ROWS and 20 * len(first) >= len(table):
        return table, np.arange(len(table))
    rows = table[first] + 0.0
    if not all(np.array_equal(rows[number[part]], table[part]) for part in parts):  # two rows with one hash
        rows, number = np.unique(table, axis=0, return_inverse=True)
        return rows, number.ravel()
    order = np.lexsort(rows.T[::-1])
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return rows[order], place[number]


def _odd_numbers(count: int) -> NDArray[np.uint64]:
    return np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64) | np.uint64(1)


def draw_counts(rows: int, draws: int, rng: np.random.Generator) -> Array:
    """Return how often each row is drawn, [draws, rows]."""
    drawn = np.empty((draws, rows))
    _count(_picks(rows, draws, rng), rows, drawn)
    return drawn


def _is_multinomial(counts: NDArray[np.int64]) -> bool:
    return bool(20 * len(counts) < counts.sum())
