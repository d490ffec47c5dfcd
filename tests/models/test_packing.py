"""Rows hold every sequence, and hold what is shared once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vrbench.models.packing import MAX_ROW_TOKENS, one_row_per_sequence, pack

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
            assert [row.parents[i] for i in path] == [-1, *path[:-1]]
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
