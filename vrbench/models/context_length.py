"""How many tokens a model's decoder was made for, read from its config and tokenizer (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

CONFIG_KEYS = ("n_positions", "max_position_embeddings", "n_ctx")
"""Names that configs give it, in the order in which lm-eval looks for them (`lm_eval/models/utils.py`)."""

DEFAULT = 2048
"""Where neither config nor tokenizer says it, as in lm-eval."""

UNSET = 10**29
"""A tokenizer's `model_max_length` from here on means that nobody set it; transformers writes 10^30."""


def text_context(text_config: Any, config: Any, tokenizer: Any) -> int:
    """Tokens up to which lm-eval's `HFLM` gives a text to the model: its `resolve_max_length`.

    The tokenizer's `model_max_length` counts only where no config says a length: LLaVA-1.5's tokenizer says 2,048 in
    some copies, and its decoder takes 4,096.

    Args:
        text_config: the decoder's part of the config.
        config: the whole config.
        tokenizer: of the model.
    """
    found = (getattr(part, name, None) for part in (text_config, config) for name in CONFIG_KEYS)
    stated = next((int(value) for value in found if value is not None), None)
    if stated is not None:
        return stated
    said = getattr(tokenizer, "model_max_length", None)
    return DEFAULT if said is None or said >= UNSET else int(said)


def stated_context(decoder: Mapping[str, Any]) -> int | None:
    """Tokens of a text that the decoder's part of a config.json states; none where it leaves them to a default."""
    return next((int(decoder[name]) for name in CONFIG_KEYS if isinstance(decoder.get(name), int)), None)


def full_context(text_config: Any, config: Any, tokenizer: Any) -> int:
    """Tokens that the decoder's positions reach: `text_context`, or more where rotary scaling stretches them.

    YaRN and its kind state the length before stretching (`original_max_position_embeddings`, times `factor`); "dynamic"
    stretches `max_position_embeddings` itself. "linear" without an original length is taken as stretched already, as
    Gemma 3 writes it. A sliding window limits what a layer sees, not how long a prompt may be.
    """
    stated = text_context(text_config, config, tokenizer)
    return max([stated, *(int(length) for length in _stretched(text_config, stated))])


def _stretched(text_config: Any, stated: int) -> Iterator[float]:
    """Lengths that rotary scaling reaches, of each kind of layer that has its own."""
    for rope in _ropes(text_config):
        factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if factor and kind == "dynamic":
            yield float(factor) * float(original or stated)
        elif factor and original and kind != "default":
            yield float(factor) * float(original)


def _ropes(text_config: Any) -> Iterator[Mapping[str, Any]]:
    """What a config says of rotary positions; a mapping of layer kinds in newer models, else one for all layers."""
    for name in ("rope_parameters", "rope_scaling"):
        said = getattr(text_config, name, None)
        if isinstance(said, Mapping):
            inner = [value for value in said.values() if isinstance(value, Mapping)]
            yield from inner or [said]
