"""Generation settings that cannot be followed are told from JSON files alone, each with file, key, value and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vrbench.checkpoints import generation_config
from vrbench.checkpoints.generation_config import (
    SUPPORTED_SETTINGS,
    UNSUPPORTED_SETTINGS,
    validate_generation_config,
)

CONFIG = {"model_type": "llava", "image_token_index": 50, "text_config": {"model_type": "llama", "vocab_size": 100}}

IGNORED = (
    # sampling and beams: answers are greedy, as both harnesses ask for
    "do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping", "num_return_sequences",
    "low_memory",
    # the longest answer is the task's
    "max_length", "max_new_tokens",
    # how fast the same answer is found
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "compile_config",
    "disable_compile", "continuous_batching_config", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind",
    "assistant_ensemble_weight", "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size", "use_mtp",
    "speculation_type",
    # what is given beside the answer
    "output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate",
    # which tokens there are
    "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version",
)  # fmt: skip
"""All other settings that transformers 5.17 to 5.23 know: they decide no greedy answer."""


def told(folder: Path, settings: dict[str, Any] | None, config: dict[str, Any] | None = None) -> list[str]:
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    if settings is not None:
        (folder / "generation_config.json").write_text(json.dumps(settings))
    return [fault.removeprefix(f"{folder}/") for fault in validate_generation_config(folder)]


def test_every_setting_that_transformers_knows_has_its_place() -> None:
    from transformers import GenerationConfig

    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert known <= {*SUPPORTED_SETTINGS, *UNSUPPORTED_SETTINGS, *IGNORED}
    assert not {*SUPPORTED_SETTINGS} & {*UNSUPPORTED_SETTINGS} and not {*SUPPORTED_SETTINGS, *UNSUPPORTED_SETTINGS} & {
        *IGNORED
    }


GOOD = {
    "repetition_penalty": 1.05, "encoder_repetition_penalty": 1, "no_repeat_ngram_size": 3, "min_new_tokens": 1,
    "suppress_tokens": [], "bad_words_ids": [[3], [4, 5]], "sequence_bias": [[[3], -2.0]], "forced_eos_token_id": [2],
    "eos_token_id": [2, 3], "exponential_decay_length_penalty": [5, 1.1], "renormalize_logits": True,
    "do_sample": True, "num_beams": 4, "temperature": 0.6, "stop_strings": [], "guidance_scale": 1.0, "max_time": None,
}  # fmt: skip


def test_what_is_followed_or_means_nothing_is_no_fault(tmp_path: Path) -> None:
    assert told(tmp_path, GOOD) == []
    assert told(tmp_path, None, {"model_type": "llava"}) == []


@pytest.mark.parametrize("key, value, says", [
    ("stop_strings", ["\n"], r"stop_strings is ['\n'], which ends"),
    ("guidance_scale", 1.5, "set it to null"),
    ("penalty_alpha", 0.6, "contrastive search"),
    ("dola_layers", "high", "DoLa"),
    ("watermarking_config", {"greenlist_ratio": 0.5}, "watermarking_config is {'greenlist_ratio': 0.5}"),
    ("cache_implementation", "quantized", "rounds what the model has read"),
    ("repetition_penalty", -1.0, "above 0"),
    ("repetition_penalty", 2, "with a point"),
    ("min_new_tokens", -1, "at least 0"),
    ("bad_words_ids", [3], "a list of lists of token ids"),
    ("bad_words_ids", [], "none empty"),
    ("sequence_bias", {"3": 1.0}, "a list of pairs"),
    ("sequence_bias", [[[3, 100], 1.0]], "names token 100; the model's vocab_size in config.json is 100"),
    ("forced_bos_token_id", 1000, "names token 1000"),
    ("exponential_decay_length_penalty", 3, "a pair"),
])  # fmt: skip
def test_what_cannot_be_followed_is_told(tmp_path: Path, key: str, value: Any, says: str) -> None:
    (fault,) = told(tmp_path, {key: value})
    assert fault.startswith(f"generation_config.json: {key} ") or key == "cache_implementation"
    assert says in fault


def test_all_are_told_at_once_and_from_config_json_where_there_is_no_other_file(tmp_path: Path) -> None:
    config = CONFIG | {"penalty_alpha": 0.6, "text_config": {"vocab_size": 100, "min_length": "3"}}
    found = told(tmp_path, None, config)
    assert [fault.split(" is ")[0] for fault in found] == ["config.json: penalty_alpha", "config.json: min_length"]
    assert told(tmp_path, {}, config) == []  # transformers reads config.json only where the other file is missing


def test_a_penalty_on_an_image_token_beyond_the_vocabulary_is_told(tmp_path: Path) -> None:
    mllama = {"model_type": "mllama", "image_token_index": 100, "text_config": {"vocab_size": 100}}
    (fault,) = told(tmp_path, {"repetition_penalty": 1.1, "no_repeat_ngram_size": 0}, mllama)
    assert "image token 100 has none (vocab_size 100)" in fault


def test_a_folders_own_generate_is_told_where_it_would_run(tmp_path: Path) -> None:
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text("")
    assert told(tmp_path, {}) == []
    assert "move it away" in generation_config.validate_generation_config(tmp_path, trusted=True)[0]
