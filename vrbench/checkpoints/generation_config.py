"""Why a folder's generation settings cannot be followed, judged from its JSON files (no torch).

Settings that change greedy answers are followed as transformers' `generate` follows them
(`vrbench.models.logits_processing`).
Sampling and beams that a generation config asks for are not, as in lm-eval and lmms-eval, whose tasks ask for greedy
answers. What is left decides the answer in ways that neither harness can carry out: it is refused here, and so are
values that transformers would refuse in the midst of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vrbench.core.io import Json, read_json

FILE = "generation_config.json"

REFUSED: dict[str, str] = {
    "stop_strings": "ends answers at texts of the model's choice, and `generate` needs a tokenizer for it",
    "watermarking_config": "marks answers by changing which tokens are said",
    "guidance_scale": "asks the model twice for each token, with a second prompt",
    "penalty_alpha": "is contrastive search",
    "dola_layers": "is DoLa, which contrasts the layers",
    "force_words_ids": "is beam search under constraints",
    "constraints": "is beam search under constraints",
    "token_healing": "says the end of the prompt anew",
    "max_time": "ends answers by the clock, so that they depend on the machine",
}
"""Setting -> what it does that no harness can carry out."""

NEUTRAL: dict[str, tuple[Any, ...]] = {"guidance_scale": (1,), "penalty_alpha": (0,), "token_healing": (False,)}
"""Values of these settings, beside null and an empty list, that ask for nothing."""


def faults(folder: Path, trusted: bool = False) -> list[str]:
    """One sentence for each setting that cannot be followed, with file, key, value and what to do.

    Args:
        folder: of a whole model.
        trusted: whether code that comes with it may be run.
    """
    config = read_json(folder / "config.json")
    file, settings = _settings(folder, config)
    words = _decoder(config).get("vocab_size", config.get("vocab_size"))
    return [
        *(f"{file}: {fault}" for fault in _refused(settings)),
        *(f"{file}: {fault}" for fault in _wrong(settings)),
        *(f"{file}: {fault}" for fault in _unknown_tokens(settings, words if type(words) is int else None)),
        *_unheard_image(file, settings, config, words),
        *(_own_generate(folder) if trusted else ()),
    ]


def _settings(folder: Path, config: Json) -> tuple[Path, Json]:
    """The file that generation settings come from, as for transformers: config.json where there is no own file."""
    if (folder / FILE).is_file():
        return folder / FILE, read_json(folder / FILE)
    outer = {key: value for key, value in config.items() if value is not None}
    return folder / "config.json", {**_decoder(config), **outer}


def _decoder(config: Json) -> Json:
    found = config.get("text_config")
    return found if isinstance(found, dict) else {}


def _refused(settings: Json) -> Iterator[str]:
    for key, what in REFUSED.items():
        value = settings.get(key)
        if value not in (None, [], {}, *NEUTRAL.get(key, ())):
            yield f"{key} is {value!r}, which {what}; answers here are greedy: set it to null"
    if settings.get("cache_implementation") == "quantized":
        yield "cache_implementation is 'quantized', which rounds what the model has read; set it to null"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_is_count(i) for i in value)


def _is_bias(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(pair, list) and len(pair) == 2 and _are_ids(pair[0]) and pair[0] and type(pair[1]) is float
            for pair in value
        )
    )


Rule = tuple[Callable[[Any], bool], str]
PENALTY: Rule = (lambda v: (type(v) is float and v > 0) or v == 1, "a number above 0 with a point, such as 1.0")
COUNT: Rule = (_is_count, "a whole number of at least 0")
IDS: Rule = (_are_ids, "a list of token ids")
ID_OR_IDS: Rule = (
    lambda v: type(v) is int or (isinstance(v, list) and all(type(i) is int for i in v)),
    "a token id or a list of token ids",
)
NGRAMS = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
FLAG: Rule = (lambda v: type(v) is bool, "true or false")

FOLLOWED: dict[str, Rule] = {
    "repetition_penalty": PENALTY,
    "encoder_repetition_penalty": PENALTY,
    "no_repeat_ngram_size": COUNT,
    "encoder_no_repeat_ngram_size": COUNT,
    "min_length": COUNT,
    "min_new_tokens": COUNT,
    "suppress_tokens": IDS,
    "begin_suppress_tokens": IDS,
    "bad_words_ids": (
        lambda v: isinstance(v, list) and bool(v) and all(_are_ids(ids) and ids for ids in v),
        "a list of lists of token ids, none empty",
    ),
    "sequence_bias": (_is_bias, "a list of pairs [token ids, number with a point]"),
    "forced_bos_token_id": (_is_count, "a token id"),
    "forced_eos_token_id": ID_OR_IDS,
    "eos_token_id": ID_OR_IDS,
    "exponential_decay_length_penalty": (
        lambda v: isinstance(v, list) and len(v) == 2 and _is_count(v[0]) and _is_number(v[1]),
        "a pair [tokens of the answer, factor]",
    ),
    "remove_invalid_values": FLAG,
    "renormalize_logits": FLAG,
}
"""Setting that is followed -> (whether a value of it can be, what it has to be). All but the last two change greedy
answers; null always means that nothing is asked for."""

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


def _wrong(settings: Json) -> Iterator[str]:
    for key, (holds, what) in FOLLOWED.items():
        value = settings.get(key)
        if value is not None and not holds(value):
            yield f"{key} is {value!r}; it has to be {what}, or null"


def _unknown_tokens(settings: Json, words: int | None) -> Iterator[str]:
    """Ids that are looked up among the scores and lie beyond them."""
    if words is None:
        return
    for key in ("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id", "eos_token_id"):
        beyond = sorted({i for i in _ids_in(settings.get(key), key) if i >= words})
        # The end of text is looked up for the decay alone.
        if beyond and (key != "eos_token_id" or settings.get("exponential_decay_length_penalty")):
            yield f"{key} names token {beyond[0]}; the model's vocab_size in config.json is {words}: take it out"


def _ids_in(value: Any, key: str) -> Iterator[int]:
    if type(value) is int:
        yield value
    elif isinstance(value, list):
        for one in [pair[:1] for pair in value if isinstance(pair, list)] if key == "sequence_bias" else value:
            yield from _ids_in(one, "")


def _unheard_image(file: Path, settings: Json, config: Json, words: Any) -> Iterator[str]:
    """Settings that change the scores of the prompt's tokens; Mllama's image token has none."""
    image = config.get("image_token_index", config.get("image_token_id"))
    if type(image) is not int or type(words) is not int or image < words:
        return
    for key in ("repetition_penalty", "encoder_repetition_penalty", *NGRAMS):
        if settings.get(key) not in (None, 0 if key in NGRAMS else 1):
            yield (
                f"{file}: {key} is {settings[key]!r}, which changes the scores of the prompt's tokens; the image token "
                f"{image} has none (vocab_size {words}), so that transformers cannot follow it: set it to null"
            )


def _own_generate(folder: Path) -> Iterator[str]:
    file = folder / "custom_generate" / "generate.py"
    if file.is_file():
        yield f"{file} takes the place of transformers' `generate`; answers here are greedy: move it away"
