"""Sets of layers: never empty by accident, always out of a stated depth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrbench.errors import VrbenchError
from vrbench.layers import STRATEGIES, LayerSet, select, sparse_uniform

SETS = st.integers(1, 40).flatmap(lambda depth: st.tuples(st.sets(st.integers(0, depth - 1)), st.just(depth)))


class TestLayerSet:
    def test_empty_is_never_an_accident(self) -> None:
        with pytest.raises(VrbenchError, match="no layer was named"):
            LayerSet((), 4)
        with pytest.raises(VrbenchError, match="no layer was named"):
            LayerSet.of([], 4)
        assert list(LayerSet.none(4)) == []

    def test_all_is_all(self) -> None:
        every = LayerSet.all(5)
        assert (list(every), every.is_all, every.share) == ([0, 1, 2, 3, 4], True, 1.0)
        assert not LayerSet.none(5).is_all

    @pytest.mark.parametrize("index", [-1, 4, 99])
    def test_layers_that_do_not_exist_are_refused(self, index: int) -> None:
        with pytest.raises(VrbenchError, match=f"{index}.* has layers 0 to 3"):
            LayerSet.of([0, index], 4)

    def test_a_model_has_layers(self) -> None:
        with pytest.raises(VrbenchError, match="depth is 0"):
            LayerSet.none(0)

    def test_order_and_repetition_do_not_matter(self) -> None:
        assert LayerSet.of([3, 1, 3], 4) == LayerSet.of([1, 3], 4)
        assert LayerSet.of([1], 4) != LayerSet.of([1], 5)
        assert len(LayerSet.of([3, 1, 3], 4)) == 2 and 3 in LayerSet.of([3], 4)

    def test_how_it_was_made_does_not_matter(self) -> None:
        assert LayerSet.all(4).complement() == LayerSet.none(4)

    @given(SETS)
    def test_text_reads_back(self, drawn: tuple[set[int], int]) -> None:
        indices, depth = drawn
        layers = LayerSet.of(indices, depth) if indices else LayerSet.none(depth)
        assert LayerSet.parse(str(layers), depth) == layers

    @given(SETS)
    def test_complement(self, drawn: tuple[set[int], int]) -> None:
        indices, depth = drawn
        layers = LayerSet.of(indices, depth) if indices else LayerSet.none(depth)
        assert set(layers.complement()) == set(range(depth)) - indices
        assert layers.complement().complement() == layers


class TestText:
    def test_ranges_include_their_ends(self) -> None:
        assert list(LayerSet.parse("0-3, 8,5-5", 10)) == [0, 1, 2, 3, 5, 8]
        assert str(LayerSet.of([8, 0, 1, 2, 3], 10)) == "0-3,8"

    @pytest.mark.parametrize("text", ["", "a", "1,,2", "1-", "-1", "1 2", "0x1"])
    def test_what_cannot_be_read_is_refused(self, text: str) -> None:
        with pytest.raises(VrbenchError, match="cannot be read; write for instance '0-3,8'"):
            LayerSet.parse(text, 10)

    def test_backwards_and_beyond_are_refused(self) -> None:
        with pytest.raises(VrbenchError, match="run backwards; write '2-5'"):
            LayerSet.parse("5-2", 10)
        with pytest.raises(VrbenchError, match="layer 10 does not exist; a model of depth 10 has layers 0 to 9"):
            LayerSet.parse("8-10", 10)


class TestStrategies:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("sparse-uniform", [0, 3, 7, 11, 15, 18, 22, 26]),
            ("bottom", [0, 1, 2, 3, 4, 5, 6, 7]),
            ("middle", [11, 12, 13, 14, 15, 16, 17, 18]),
            ("top", [22, 23, 24, 25, 26, 27, 28, 29]),
            ("hybrid", [0, 1, 2, 3, 26, 27, 28, 29]),
        ],
    )
    def test_eight_of_thirty(self, name: str, expected: list[int]) -> None:
        assert list(select(f"{name}:8", 30)) == expected

    @given(st.sampled_from(sorted(STRATEGIES)), st.integers(1, 40), st.data())
    def test_each_gives_as_many_as_were_asked_for(self, name: str, depth: int, data: st.DataObject) -> None:
        n = data.draw(st.integers(1, depth))
        assert len(STRATEGIES[name](n, depth)) == n

    def test_gaps_are_equal_where_the_number_divides_the_depth(self) -> None:
        assert list(sparse_uniform(4, 32)) == [0, 8, 16, 24]

    @pytest.mark.parametrize("n", [0, 31])
    def test_as_many_as_there_are_not(self, n: int) -> None:
        for name in STRATEGIES:
            with pytest.raises(VrbenchError, match=f"{n} layers were asked for; a model of depth 30 gives 1 to 30"):
                select(f"{name}:{n}", 30)

    def test_select_reads_indices_too(self) -> None:
        assert select("1,4-5", 8) == LayerSet.of([1, 4, 5], 8)
        assert select("all", 8).is_all

    def test_unknown_strategies_and_counts_are_refused(self) -> None:
        with pytest.raises(VrbenchError, match="strategy 'best' is unknown; there are sparse-uniform, bottom"):
            select("best:3", 8)
        with pytest.raises(VrbenchError, match="write for instance 'top:8'"):
            select("top:few", 8)
