"""Settings that count layers follow when layers go."""

from __future__ import annotations

from typing import Any

import pytest

from vrbench.checkpoints.model_config import prune_config, validate_layer_counts
from vrbench.core.layers import LayerSet

KEPT = LayerSet.of((0, 2, 3), 5)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("layer_types", list("abcde"), list("acd")),
        ("no_rope_layers", [1, 1, 1, 0, 1], [1, 1, 0]),
        ("sliding_window", [8, 16, 8, 32, 8], [8, 8, 32]),
        ("layer_of_my_own", (1, 2, 3, 4, 5), [1, 3, 4]),
        ("cross_attention_layers", [1, 3], [2]),
        ("max_window_layers", 3, 2),
        ("max_window_layers", 80, 3),
        ("first_k_dense_replace", 1, 1),
    ],
)
def test_what_counts_layers_changes(name: str, before: Any, after: Any) -> None:
    assert prune_config({name: before}, KEPT) == {"num_hidden_layers": 3, name: after}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eos_token_id", [1, 2, 3, 4, 5]),  # as many as layers, by chance
        ("layer_norm_eps", 1e-5),
        ("sliding_window", 4096),
        ("mrope_section", [16, 24, 24]),
        ("layer_types", None),
    ],
)
def test_what_does_not_count_layers_stays(name: str, value: Any) -> None:
    assert prune_config({name: value}, KEPT) == {"num_hidden_layers": 3}


def test_lists_of_another_length_and_layers_beyond_are_told() -> None:
    config = {"layer_types": ["full_attention"] * 28, "cross_attention_layers": [3, 26], "sliding_window": 4096}
    assert validate_layer_counts(config, 28) == []
    assert validate_layer_counts(config, 24) == [
        "layer_types has 28 entries for 24 decoder layers",
        "cross_attention_layers names layers [26]; a model of depth 24 has layers 0 to 23",
    ]
