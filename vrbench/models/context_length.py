"""How many tokens a model's decoder can read, from its config and tokenizer (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

CONFIG_KEYS = ("n_positions", "max_position_embeddings", "n_ctx")
"""Config keys of the length, in the order in which lm-eval tries them (`lm_eval/models/utils.py`)."""

DEFAULT = 2048
"""Length where neither config nor tokenizer states one, as in lm-eval."""

UNSET = 10**29
"""From here on, a tokenizer's `model_max_length` means that nobody set it; transformers writes 10^30."""


def text_context(text_config: Any, config: Any, tokenizer: Any) -> int:
    """Return how many tokens of a text lm-eval's `HFLM` gives to the model: its `resolve_max_length`.

    The tokenizer's `model_max_length` counts only where no config states a length: LLaVA-1.5's tokenizer has 2,048 in
    some copies, while its decoder takes 4,096.

    Args:
        text_config: the decoder's part of the config.
        config: the whole config.
        tokenizer: of the model.
    """
    found = (getattr(part, name, None) for part in (text_config, config) for name in CONFIG_KEYS)
    stated = next((int(value) for value in found if value is not None), None)
    if stated is not None:
        return stated
    length = getattr(tokenizer, "model_max_length", None)
    return DEFAULT if length is None or length >= UNSET else int(length)


def stated_context(decoder: Mapping[str, Any]) -> int | None:
    """Return the length that the decoder's part of a config.json states; None where it leaves it to a default."""
    return next((int(decoder[name]) for name in CONFIG_KEYS if isinstance(decoder.get(name), int)), None)


def full_context(text_config: Any, config: Any, tokenizer: Any) -> int:
    """Return how many tokens the decoder's positions reach: `text_context`, or more with rotary scaling.

    YaRN and similar scalings state the original length (`original_max_position_embeddings`, times `factor`); "dynamic"
    scales `max_position_embeddings` itself. "linear" without an original length is taken as scaled already, as Gemma 3
    writes it. A sliding window limits what a layer attends to, not how long a prompt may be.
    """
    stated = text_context(text_config, config, tokenizer)
    return max([stated, *(int(length) for length in _scaled(text_config, stated))])


def _scaled(text_config: Any, stated: int) -> Iterator[float]:
    for rope in _rope_settings(text_config):
        factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if factor and kind == "dynamic":
            yield float(factor) * float(original or stated)
        elif factor and original and kind != "default":
            yield float(factor) * float(original)


def _rope_settings(text_config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of rotary positions: one mapping, or one for each kind of layer in newer models."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = getattr(text_config, name, None)
        if isinstance(settings, Mapping):
            yield from [value for value in settings.values() if isinstance(value, Mapping)] or [settings]
