"""Validation of a folder's generation settings, from its JSON files (no torch).

Settings that change greedy answers are followed as transformers' `generate` follows them. Sampling and beams are not,
as in lm-eval and lmms-eval, whose tasks request greedy answers. The settings refused here determine the answer in ways
that neither harness supports, or have values that transformers would refuse in the middle of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, InstanceOf, StrictBool, StrictInt, TypeAdapter, ValidationError

from vrbench.core.io import Json, read_json

FILE = "generation_config.json"

UNSUPPORTED_SETTINGS: dict[str, str] = {
    "stop_strings": "ends answers at texts of the model's choice, and `generate` needs a tokenizer for it",
    "watermarking_config": "marks answers by changing which tokens are generated",
    "guidance_scale": "evaluates the model twice for each token, with a second prompt",
    "penalty_alpha": "is contrastive search",
    "dola_layers": "is DoLa, which contrasts the layers",
    "force_words_ids": "is beam search under constraints",
    "constraints": "is beam search under constraints",
    "token_healing": "regenerates the end of the prompt",
    "max_time": "ends answers by the clock, so that they depend on the machine",
}
"""Setting -> what it does that no harness supports."""

NEUTRAL: dict[str, tuple[Any, ...]] = {"guidance_scale": (1,), "penalty_alpha": (0,), "token_healing": (False,)}
"""Values of these settings, in addition to null and an empty list, that request nothing."""


def validate_generation_config(folder: Path, trusted: bool = False) -> list[str]:
    """Return one message for each setting that cannot be followed, with file, key, value and what to do.

    Args:
        folder: of a complete model.
        trusted: whether code that comes with it may be run.
    """
    config = read_json(folder / "config.json")
    decoder = _decoder(config)
    file, settings = _read_settings(folder, config)
    vocab_size = decoder.get("vocab_size", config.get("vocab_size"))
    vocab_size = vocab_size if type(vocab_size) is int else None
    errors = [
        *_unsupported_errors(settings),
        *_value_errors(settings),
        *_token_id_errors(settings, vocab_size),
        *_image_token_errors(settings, config, vocab_size),
    ]
    own = folder / "custom_generate" / "generate.py"
    replaced = [f"{own} replaces transformers' `generate`; answers here are greedy: move it away"]
    return [f"{file}: {error}" for error in errors] + replaced * (trusted and own.is_file())


def _decoder(config: Json) -> Json:
    found = config.get("text_config")
    return found if isinstance(found, dict) else {}


def _read_settings(folder: Path, config: Json) -> tuple[Path, Json]:
    """Return the generation settings in force and their file: config.json where there is no other, as transformers."""
    if (folder / FILE).is_file():
        return folder / FILE, read_json(folder / FILE)
    stated = {key: value for key, value in config.items() if value is not None}
    return folder / "config.json", {**_decoder(config), **stated}


def score_settings(folder: Path) -> list[str]:
    """Return the settings of a complete model's folder by which another token than the likeliest may be generated."""
    _, settings = _read_settings(folder, read_json(folder / "config.json"))
    neutral = {**dict.fromkeys(PENALTIES, 1), **dict.fromkeys((*NGRAMS, "min_length", "min_new_tokens"), 0)}
    asked = [name for name in SUPPORTED_SETTINGS if name not in SAME_ANSWERS and settings.get(name) not in (None, [])]
    return [name for name in asked if settings[name] != neutral.get(name)]


def _unsupported_errors(settings: Json) -> Iterator[str]:
    for key, what in UNSUPPORTED_SETTINGS.items():
        value = settings.get(key)
        if value not in (None, [], {}, *NEUTRAL.get(key, ())):
            yield f"{key} is {value!r}, which {what}; answers here are greedy: set it to null"
    if settings.get("cache_implementation") == "quantized":
        yield "cache_implementation is 'quantized', which rounds what the model has read; set it to null"


Count = Annotated[StrictInt, Field(ge=0)]
TokenIds = Annotated[list[Count], Field(min_length=1)]
Float = InstanceOf[float]  # transformers refuses whole numbers here

Rule = tuple[TypeAdapter[Any], str]
PENALTY: Rule = (
    TypeAdapter(Annotated[Float, Field(gt=0)] | Literal[1]),
    "a number above 0 with a point, such as 1.0",
)
COUNT: Rule = (TypeAdapter(Count), "a whole number of at least 0")
IDS: Rule = (TypeAdapter(list[Count]), "a list of token ids")
ID_OR_IDS: Rule = (TypeAdapter(StrictInt | list[StrictInt]), "a token id or a list of token ids")
FLAG: Rule = (TypeAdapter(StrictBool), "true or false")
PENALTIES = ("repetition_penalty", "encoder_repetition_penalty")
NGRAMS = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size")

SUPPORTED_SETTINGS: dict[str, Rule] = {
    **dict.fromkeys(PENALTIES, PENALTY),
    **dict.fromkeys(NGRAMS, COUNT),
    "min_length": COUNT,
    "min_new_tokens": COUNT,
    "suppress_tokens": IDS,
    "begin_suppress_tokens": IDS,
    "bad_words_ids": (
        TypeAdapter(Annotated[list[TokenIds], Field(min_length=1)]),
        "a list of lists of token ids, none empty",
    ),
    "sequence_bias": (
        TypeAdapter(Annotated[list[tuple[TokenIds, Float]], Field(min_length=1)]),
        "a list of pairs [token ids, number with a point]",
    ),
    "forced_bos_token_id": (TypeAdapter(Count), "a token id"),
    "forced_eos_token_id": ID_OR_IDS,
    "eos_token_id": ID_OR_IDS,
    "exponential_decay_length_penalty": (
        TypeAdapter(tuple[Count, StrictInt | Float]),
        "a pair [tokens of the answer, factor]",
    ),
    "remove_invalid_values": FLAG,
    "renormalize_logits": FLAG,
}
"""Setting that is followed -> (type of its values, the same in words). All but the last two change greedy
answers; null always means that nothing is requested."""

SAME_ANSWERS = ("eos_token_id", "remove_invalid_values", "renormalize_logits")
"""Settings among these by which the likeliest token is still the one that is generated."""


def _value_errors(settings: Json) -> Iterator[str]:
    for key, (kind, what) in SUPPORTED_SETTINGS.items():
        try:
            kind.validate_python(settings.get(key))
        except ValidationError:
            if settings.get(key) is not None:
                yield f"{key} is {settings[key]!r}; it has to be {what}, or null"


def _token_id_errors(settings: Json, vocab_size: int | None) -> Iterator[str]:
    """Yield an error for each token id beyond the vocabulary that a setting would look up among the scores."""
    if vocab_size is None:
        return
    for key in ("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id", "eos_token_id"):
        beyond = sorted({i for i in _ids_in(settings.get(key), key) if i >= vocab_size})
        # The end-of-text token is looked up for the length decay only.
        if beyond and (key != "eos_token_id" or settings.get("exponential_decay_length_penalty")):
            yield f"{key} names token {beyond[0]}; the model's vocab_size in config.json is {vocab_size}: take it out"


def _ids_in(value: Any, key: str) -> Iterator[int]:
    if type(value) is int:
        yield value
    elif isinstance(value, list):
        for one in [pair[:1] for pair in value if isinstance(pair, list)] if key == "sequence_bias" else value:
            yield from _ids_in(one, "")


def _image_token_errors(settings: Json, config: Json, vocab_size: int | None) -> Iterator[str]:
    """Yield an error for each setting that changes the scores of the prompt's tokens; Mllama's image token has none."""
    image = config.get("image_token_index", config.get("image_token_id"))
    if type(image) is not int or vocab_size is None or image < vocab_size:
        return
    for key in (*PENALTIES, *NGRAMS):
        if settings.get(key) not in (None, 0 if key in NGRAMS else 1):
            yield (
                f"{key} is {settings[key]!r}, which changes the scores of the prompt's tokens; the image token "
                f"{image} has none (vocab_size {vocab_size}), so that transformers cannot follow it: set it to null"
            )
