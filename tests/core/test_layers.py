"""Sets of layers: never empty by accident, always out of a stated depth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrbench.core.errors import VrbenchError
from vrbench.core.layers import STRATEGIES, LayerSet, layer_strategy, random_layers, select_layers, sparse_uniform

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
        assert (list(every), every.is_all) == ([0, 1, 2, 3, 4], True)
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
            ("middle-low", [7, 8, 9, 10, 11, 12, 13, 14]),
            ("middle", [11, 12, 13, 14, 15, 16, 17, 18]),
            ("middle-high", [15, 16, 17, 18, 19, 20, 21, 22]),
            ("top", [22, 23, 24, 25, 26, 27, 28, 29]),
            ("hybrid", [0, 1, 2, 3, 26, 27, 28, 29]),
        ],
    )
    def test_eight_of_thirty(self, name: str, expected: list[int]) -> None:
        assert list(select_layers(f"{name}:8", 30)) == expected

    def test_the_middle_quarters_are_the_paper_s(self) -> None:
        assert (str(select_layers("middle-low:8", 32)), str(select_layers("middle-high:8", 32))) == ("8-15", "16-23")

    @pytest.mark.parametrize("name", ["middle-low", "middle-high"])
    def test_a_run_that_would_not_fit_is_the_last_one(self, name: str) -> None:
        assert str(select_layers(f"{name}:28", 30)) == "2-29"

    def test_one_function_is_a_strategy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vrbench.core.layers.STRATEGIES", registry := dict(STRATEGIES))

        @layer_strategy("every-other")
        def every_other(n: int, depth: int) -> range:
            """Every other layer."""
            return range(0, 2 * n, 2)

        assert str(select_layers("every-other:3", 8)) == "0,2,4"
        assert registry["every-other"].summary == "Every other layer."
        with pytest.raises(VrbenchError, match="strategy 'every-othre' is unknown; did you mean 'every-other'"):
            select_layers("every-othre:3", 8)

    @given(st.sampled_from(sorted(STRATEGIES)), st.integers(1, 40), st.data())
    def test_each_gives_as_many_as_were_asked_for(self, name: str, depth: int, data: st.DataObject) -> None:
        n = data.draw(st.integers(1, depth))
        assert len(STRATEGIES[name](n, depth)) == n

    def test_gaps_are_equal_where_the_number_divides_the_depth(self) -> None:
        assert list(sparse_uniform(4, 32)) == [0, 8, 16, 24]

    @pytest.mark.parametrize("n", [0, 31])
    def test_as_many_as_there_are_not(self, n: int) -> None:
        for name in STRATEGIES:
            with pytest.raises(VrbenchError, match=f"{n} layers were requested; a model of depth 30 has 1 to 30"):
                select_layers(f"{name}:{n}", 30)

    def test_select_reads_indices_too(self) -> None:
        assert select_layers("1,4-5", 8) == LayerSet.of([1, 4, 5], 8)
        assert select_layers("all", 8).is_all

    def test_unknown_strategies_and_counts_are_refused(self) -> None:
        with pytest.raises(VrbenchError, match="strategy 'best' is unknown; there are sparse-uniform, bottom"):
            select_layers("best:3", 8)
        with pytest.raises(VrbenchError, match=r"did you mean 'hybrid'.* give the file of `vrbench layers --out`"):
            select_layers("hybird:3", 8)
        with pytest.raises(VrbenchError, match="write for instance 'top:8'"):
            select_layers("top:few", 8)


class TestDrawn:
    def test_the_seed_decides(self) -> None:
        assert select_layers("random:8@3", 30) == select_layers("random:8@3", 30) == random_layers(8, 30, 3)
        assert select_layers("random:8", 30) == select_layers("random:8@0", 30)
        assert len({str(select_layers(f"random:8@{seed}", 30)) for seed in range(20)}) > 15

    def test_no_machine_draws_otherwise(self) -> None:
        assert str(select_layers("random:4@0", 30)) == "12,24,27-28"

    def test_each_layer_is_drawn_as_often(self) -> None:
        counts = [0] * 10
        for seed in range(2000):
            for layer in random_layers(3, 10, seed):
                counts[layer] += 1
        assert all(500 < count < 700 for count in counts)  # 600 expected, 6 standard deviations are 123

    @pytest.mark.parametrize("text", ["random:8@", "random:8@x", "random:@3", "random:8@-1"])
    def test_what_cannot_be_read_is_refused(self, text: str) -> None:
        with pytest.raises(VrbenchError, match="write for instance 'random:8@3'"):
            select_layers(text, 30)

    def test_others_have_no_seed(self) -> None:
        with pytest.raises(VrbenchError, match="top has no seed, only random has one"):
            select_layers("top:8@3", 30)


class TestFile:
    def test_layers_are_read_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "set.json"
        file.write_text(json.dumps({"depth": 8, "indices": [5, 1], "strategy": "by hand", "scores": [0.5]}))
        assert select_layers(str(file), 8) == LayerSet.of([1, 5], 8)
        assert select_layers(f" {file} ", 8) == LayerSet.of([1, 5], 8)

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ('{"depth": 9, "indices": [1]}', "is for a model of depth 9; this one has depth 8"),
            ('{"depth": 8, "indices": [8]}', r"layers \[8\] do not exist"),
            ('{"depth": 8, "indices": []}', "has no layers; write 'none' where none are meant"),
            ('{"depth": 8}', "states no depth and list of indices"),
            ('{"indices": [1]}', "states no depth and list of indices"),
            ('{"depth": 8, "indices": "all"}', "states no depth and list of indices"),
            ('{"depth": 8, "indices": [true]}', "states no depth and list of indices"),
            ("[1, 2]", "states no depth and list of indices"),
            ("0-3", "is not JSON"),
        ],
    )
    def test_what_is_no_layer_set_is_refused(self, tmp_path: Path, text: str, fault: str) -> None:
        (tmp_path / "set.json").write_text(text)
        with pytest.raises(VrbenchError, match=fault):
            select_layers(str(tmp_path / "set.json"), 8)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match=r"layer set '.*none.json' cannot be read: No such file"):
            select_layers(str(tmp_path / "none.json"), 8)
