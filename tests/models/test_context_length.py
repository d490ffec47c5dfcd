"""The context of a model, as configs of real checkpoints state it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vrbench.models.context_length import full_context, text_context

TOKENIZER = SimpleNamespace(model_max_length=2048)
UNSET = SimpleNamespace(model_max_length=10**30)


def contexts(tokenizer: Any = TOKENIZER, **text: Any) -> tuple[int, int]:
    config = SimpleNamespace(**text)
    return text_context(config, SimpleNamespace(), tokenizer), full_context(config, SimpleNamespace(), tokenizer)


@pytest.mark.parametrize(
    ("said", "text", "full"),
    [
        ({"max_position_embeddings": 4096}, 4096, 4096),  # LLaVA-1.5, whose tokenizer says 2,048
        ({"n_positions": 1024, "max_position_embeddings": 4096}, 1024, 1024),  # in lm-eval's order
        ({"max_position_embeddings": 131072, "rope_parameters": {"rope_type": "llama3", "factor": 8.0,
          "original_max_position_embeddings": 8192}}, 131072, 131072),
        ({"max_position_embeddings": 32768, "rope_parameters": {"rope_type": "yarn", "factor": 4.0,
          "original_max_position_embeddings": 32768}}, 32768, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 4096, 8192),
        ({"max_position_embeddings": 131072, "sliding_window": 1024, "rope_parameters": {
          "full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_type": "default"}}},
         131072, 131072),  # Gemma 3
        ({"max_position_embeddings": 128000, "rope_parameters": {"rope_type": "default", "mrope_section": [16, 8, 8]}},
         128000, 128000),  # Qwen2.5-VL
    ],
)  # fmt: skip
def test_the_context_is_the_decoder_s(said: dict[str, Any], text: int, full: int) -> None:
    assert contexts(**said) == (text, full)


def test_the_tokenizer_counts_only_where_no_config_says_it() -> None:
    assert contexts() == (2048, 2048)
    assert contexts(UNSET) == (2048, 2048)  # lm-eval's default
    assert contexts(SimpleNamespace(model_max_length=512)) == (512, 512)
    outer = SimpleNamespace(max_position_embeddings=1200)
    assert text_context(SimpleNamespace(max_position_embeddings=None), outer, TOKENIZER) == 1200
