"""A tokenizer of any size for checkpoints with random weights: SmolLM2's, reduced to its first merges.

It is not the tokenizer of the model whose shape is used, but its tokens have about the same length, so that prompts
have about as many of them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from vrbench.checkpoints.smollm2 import bpe_tokenizer, checked_gguf, read_merges

SPECIAL = ("<unk>", "<s>", "</s>", "<image>")


def write_tokenizer(folder: Path, vocabulary: int, longest: int) -> dict[str, int]:
    """Write tokenizer.json and tokenizer_config.json; return token -> id.

    Args:
        vocabulary: maximum number of tokens.
        longest: context length of the model.

    Raises:
        VrbenchError: the package that carries the vocabulary is not installed.
    """
    from tokenizers import processors

    ids, merges = _first_merges(_merges(checked_gguf()), vocabulary)
    tokenizer = bpe_tokenizer(ids, merges, SPECIAL, unk_token="<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "</s>", "model_max_length": longest, "clean_up_tokenization_spaces": False,
        "additional_special_tokens": ["<image>"],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return ids


@cache
def _merges(source: Path) -> list[tuple[str, str]]:
    from gguf import GGUFReader

    return read_merges(GGUFReader(source))


def _first_merges(merges: list[tuple[str, str]], vocabulary: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return token -> id of special tokens, the 256 bytes and as many merges as fit, and these merges."""
    from tokenizers import pre_tokenizers

    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {word: number for number, word in enumerate(words)}
    kept = []
    for pair in merges:
        if len(ids) >= vocabulary:
            break
        ids.setdefault("".join(pair), len(ids))
        kept.append(pair)
    return ids, kept
