"""Rows hold every sequence, and hold what is shared once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrbench.models import packing
from vrbench.models.packing import (
    MAX_ROW_TOKENS,
    PREFIXED_ROW_TOKENS,
    PackedSequence,
    common_prefix_length,
    one_row_per_sequence,
    pack,
    pack_with_prefixes,
)

# Few tokens and common beginnings, so that sequences do share something.
BEGINNINGS = [[1] * 20, [1] * 10 + [2] * 10, [3] * 9, []]
SEQUENCES = st.lists(
    st.tuples(st.sampled_from(BEGINNINGS), st.lists(st.integers(0, 2), min_size=1, max_size=12)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, st.sampled_from([16, 64, MAX_ROW_TOKENS]))
def test_each_sequence_is_a_path_from_a_root(drawn: list[tuple[list[int], list[int]]], room: int) -> None:
    sequences = [beginning + rest for beginning, rest in drawn]
    rows = pack(sequences, room)
    assert sorted(number for row in rows for number in row.paths) == list(range(len(sequences)))
    for row in rows:
        assert len(row) <= room or len(row.paths) == 1 or len(set(map(tuple, row.paths.values()))) == 1
        for number, path in row.paths.items():
            assert [row.tokens[i] for i in path] == sequences[number]
            assert [row.depths[i] for i in path] == list(range(len(path)))


def test_what_is_shared_is_held_once() -> None:
    question = list(range(40))
    rows = pack([[*question, 50], [*question, 51, 52], question])
    assert len(rows) == 1
    assert len(rows[0]) == 43
    assert not rows[0].is_causal


def test_a_short_common_beginning_is_not_worth_a_row() -> None:
    rows = pack([[1, 2, 3, 4, *range(10, 40)], [1, 2, 3, 4, *range(50, 80)]])
    assert len(rows) == 2
    assert all(row.is_causal for row in rows)
    rows = pack([[*range(10), *range(20, 70)], [*range(10), *range(70, 120)]])
    assert len(rows) == 2


@settings(max_examples=60, deadline=None)
@given(SEQUENCES)
def test_rows_apart_are_one_chain_for_each_distinct_sequence(drawn: list[tuple[list[int], list[int]]]) -> None:
    sequences = [beginning + rest for beginning, rest in drawn]
    rows = one_row_per_sequence(sequences)
    assert sorted(number for row in rows for number in row.paths) == list(range(len(sequences)))
    assert len(rows) == len(set(map(tuple, sequences)))
    for row in rows:
        assert row.is_causal
        for number, path in row.paths.items():
            assert [row.tokens[i] for i in path] == row.tokens == sequences[number]
            assert row.depths == list(range(len(row)))


def test_equal_sequences_of_different_kinds_have_rows_of_their_own() -> None:
    rows = one_row_per_sequence([[1, 2], [1, 2], [1, 2]], [0, 1, 0])
    assert [list(row.paths) for row in rows] == [[0, 2], [1]]


def check(rows: list[PackedSequence], sequences: list[list[int]]) -> None:
    """Each sequence is a prefix and a path, and each token sees the tokens of its own path alone."""
    assert sorted(number for row in rows for number in row.paths) == list(range(len(sequences)))
    for row in rows:
        for number, path in row.paths.items():
            assert [*row.prefix, *(row.tokens[i] for i in path)] == sequences[number]
            assert [row.depths[i] for i in path] == list(range(len(path)))
            for place, token in enumerate(path):
                assert {i for i in range(token + 1) if token < row.ends[i]} == set(path[: place + 1])


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, st.sampled_from([2, 8, 64]), st.sampled_from([8, 256]), st.integers(1, 5))
def test_prefixes_and_rows_hold_each_sequence(
    drawn: list[tuple[list[int], list[int]]], shortest: int, room: int, size: int
) -> None:
    sequences = [beginning + rest for beginning, rest in drawn]
    own = [max(1, len(rest) // 2) for _, rest in drawn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "MIN_PREFIX", shortest)
        patch.setattr(packing, "PREFIXED_ROW_TOKENS", room)
        rows = pack_with_prefixes(sequences, own)
    check(rows, sequences)
    assert all(len(path) >= own[number] for row in rows for number, path in row.paths.items())
    parts = [part for row in rows for part in row.split(size)]
    check(parts, sequences)
    assert all(len(part.paths) <= size for part in parts)


def test_the_prefix_that_saves_most_is_chosen() -> None:
    header = list(range(1000, 1200))
    questions = [[*header, *range(n, n + 100)] for n in (0, 200, 400)]
    sequences = [[*question, option] for question in questions for option in (1, 2)]
    assert {len(row.prefix) for row in pack_with_prefixes(sequences, [1] * 6)} == {200}
    two = [[*range(n, n + 300), option] for n in (0, 400) for option in range(9)]
    assert {row.prefix for row in pack_with_prefixes(two, [1] * 18)} == {tuple(range(300)), tuple(range(400, 700))}
    assert not any(row.prefix for row in pack_with_prefixes([[*range(50), n] for n in range(3)], [1] * 3))


def test_what_is_shared_is_found_in_any_order() -> None:
    sequences = [[subject, *range(100), n] for n in range(9) for subject in (1, 2)]
    assert [len(row.prefix) for row in pack_with_prefixes(sequences, [1] * 18)] == [101, 101]


def test_rows_behind_a_prefix_are_alike_in_length() -> None:
    header, first = list(range(100)), 1000
    rests = [[first * n + i for i in range(length)] for n, length in enumerate((70, 90, 90, 250), 1)]
    rows = pack_with_prefixes([[*header, *rest] for rest in rests], [1] * 4)
    assert [(len(row.prefix), len(row)) for row in rows] == [(100, 250), (100, 250)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), max_size=12), st.integers(2, 4))
def test_no_other_groups_save_more(sequences: list[list[int]], shortest: int) -> None:
    """A group is all neighbours in sorted order that have a prefix in common."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    prefixes = [sequences[i][:-1] for i in order]
    alike = [-1, *(common_prefix_length(a, b) for a, b in itertools.pairwise(prefixes)), -1]
    best = [0]  # number of sequences in order -> most tokens that are saved among these
    for stop in range(1, len(order) + 1):
        lengths = {start: min(alike[start + 1 : stop]) for start in range(stop - 1)}
        whole = {start: n for start, n in lengths.items() if n >= shortest and max(alike[start], alike[stop]) < n}
        best.append(max([best[-1], *(best[start] + (stop - start - 1) * n for start, n in whole.items())]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "MIN_PREFIX", shortest)
        groups = packing._prefix_groups(list(map(packing._sort_key, sequences)), [1] * len(sequences), order)
    assert sum((stop - start - 1) * length for start, stop, length in groups) == best[-1]
    ends = [end for start, stop, _ in groups for end in (start, stop)]
    assert ends == sorted(ends)


def test_sort_keys_are_in_the_order_of_tokens() -> None:
    sequences = [(-300, 1), (-1,), (-1, -1), (0,), (1,), (1, 0), (1, 255), (1, 256), (2,), (70000,)]
    assert sorted(sequences[::-1], key=packing._sort_key) == sorted(sequences)


def test_options_of_one_token_share_one_path() -> None:
    context = tuple(range(9))
    (row,) = one_row_per_sequence([context] * 3)
    assert row.paths == {n: list(context) for n in range(3)} and row.ends == [9] * 9
    (row,) = pack_with_prefixes([context] * 3, [1] * 3)
    assert len(row) == 9 and row.paths == {n: list(context) for n in range(3)} and row.ends == [9] * 9


def test_rows_have_at_most_the_tokens_that_are_allowed() -> None:
    assert pack_with_prefixes([], []) == []
    assert len(pack_with_prefixes([[*range(40), n] for n in range(2)], [1] * 2, max_tokens=41)) == 2
    rows = pack_with_prefixes([[*range(150), *[n] * 30] for n in range(10)], [80] * 10)
    assert {len(row.prefix) for row in rows} == {100} and max(map(len, rows)) <= PREFIXED_ROW_TOKENS


def test_a_row_is_shared_up_to_its_bounds() -> None:
    two = [[*range(40), n] for n in range(2)]
    assert [len(pack(two, most)) for most in (42, 41)] == [1, 2]
    assert len(pack([two[0], [99] * 40, two[1], [99] * 41])) == 2  # in any order
    assert [len(pack([[*range(n), 1], [*range(n), 2]])) for n in (8, 7)] == [1, 2]
    assert [len(pack([[*range(10), *[n] * more] for n in (1, 2)])) for more in (20, 21)] == [1, 2]
